"""Mixing corpora by weight: how often each document occurs in the training stream.

A corpus that is too small for its share is repeated, and one that is too large is only used in
part. Which documents occur once more than the others depends on their text and the seed alone.
"""

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from stages.lib.split import draws
from stages.lib.text_hash import Hashes


def check_weights(weights: Mapping[str, float], corpora: set[str]) -> None:
    """Raise ValueError unless each corpus has a weight and each weight a corpus."""
    if missing := sorted(corpora - set(weights)):
        raise ValueError(
            f"shard.weights has no weight for {', '.join(missing)}; every corpus needs one, or "
            "set shard.weights to null to use each corpus once"
        )
    if unknown := sorted(set(weights) - corpora):
        known = ", ".join(sorted(corpora))
        raise ValueError(f"shard.weights names {', '.join(unknown)}; the corpora are {known}")


def corpus_repeats(
    tokens: Mapping[str, int], weights: Mapping[str, float], max_repetition: int
) -> dict[str, Fraction]:
    """Return how often each corpus occurs in the stream, given the training tokens of each.

    The stream is the longest in which corpus i has the share w_i and none is repeated more than
    max_repetition times: T = max_repetition * min(n_i / w_i) tokens, r_i = w_i * T / n_i. The
    result is in fractions, so that the scarcest corpus is repeated exactly max_repetition times.
    Raises ValueError if all documents of a corpus are for validation.
    """
    if empty := [name for name, n in tokens.items() if not n]:
        raise ValueError(
            f"all documents of corpus {empty[0]} are held out, so it cannot be mixed into the "
            "training data; try another split.seed, or a smaller split.val_fraction"
        )
    shares = {name: Fraction(weights[name]) for name in tokens}
    total = max_repetition * min(n / shares[name] for name, n in tokens.items())
    return {name: shares[name] * total / n for name, n in tokens.items()}


def document_copies(hashes: Hashes, repeats: Fraction, seed: int) -> NDArray[np.uint8]:
    """Return how often each document occurs in the stream (documents,), on average `repeats`."""
    copies, remainder = divmod(repeats, 1)
    return np.uint8(copies) + (draws(hashes, seed, b"repetition") < float(remainder))
