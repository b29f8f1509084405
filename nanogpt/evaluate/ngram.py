"""Uniform, unigram and bigram baselines, which a model must beat.

Counts come from the training split, losses from the full validation split, in nats per token.
Both are read in chunks: memory depends on the validation split and the vocabulary, never on the
size of the training split.
"""

import math

import numpy as np
from numpy.typing import NDArray

from nanogpt.data.stream import TokenStream

CHUNK_TOKENS = 1 << 22
CONCENTRATIONS = tuple(2.0**k for k in range(-4, 21))


def uniform_loss(vocab_size: int) -> float:
    """Return the loss when every token is equally likely."""
    return math.log(vocab_size)


def count_tokens(stream: TokenStream, vocab_size: int) -> NDArray[np.int64]:
    """Count how often each token occurs, (V,)."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(stream), CHUNK_TOKENS):
        chunk = stream.read(start, min(start + CHUNK_TOKENS, len(stream)))
        counts += np.bincount(chunk, minlength=vocab_size)
    return counts


def unigram_probabilities(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the frequencies (V,), smoothed by adding one to each count (Laplace)."""
    smoothed: NDArray[np.float64] = (counts + 1) / (counts.sum() + len(counts))
    return smoothed


def unigram_loss(counts: NDArray[np.int64], val: TokenStream) -> float:
    """Return the loss when each token is as likely as it is frequent in training, counts (V,)."""
    log_p = np.log(unigram_probabilities(counts))
    return float(-(count_tokens(val, len(counts)) @ log_p) / len(val))


def bigram_loss(
    token_counts: NDArray[np.int64], train: TokenStream, val: TokenStream, eot_token: int
) -> float:
    """Return the loss of bigrams, smoothed with a Dirichlet prior around the unigrams.

    p(w|h) = (c(h,w) + m p(w)) / (c(h) + m), MacKay and Peto 1995. The one free parameter m is
    chosen on the validation split itself, in the baseline's favor. c(h) counts h wherever it
    occurs, so the training stream should end with the end-of-text token, as ours do.
    """
    vocab_size = len(token_counts)
    pairs, val_counts = np.unique(
        pair_keys(val, 0, len(val), vocab_size, eot_token), return_counts=True
    )
    counts = np.zeros(len(pairs), dtype=np.int64)
    for start in range(0, len(train), CHUNK_TOKENS):
        stop = min(start + CHUNK_TOKENS, len(train))
        keys = pair_keys(train, start, stop, vocab_size, eot_token)
        indices = np.minimum(np.searchsorted(pairs, keys), len(pairs) - 1)
        counts += np.bincount(indices[pairs[indices] == keys], minlength=len(pairs))
    before, after = np.divmod(pairs, vocab_size)
    prior = unigram_probabilities(token_counts)[after]
    losses = [
        -(val_counts @ np.log((counts + m * prior) / (token_counts[before] + m))) / len(val)
        for m in CONCENTRATIONS
    ]
    return float(min(losses))


def pair_keys(
    stream: TokenStream, start: int, stop: int, vocab_size: int, eot_token: int
) -> NDArray[np.int64]:
    """Return tokens [start, stop), each combined with the one before it into one number.

    The first of a stream is preceded by the end-of-text token.
    """
    tokens = stream.read(max(start - 1, 0), stop)
    if start == 0:
        tokens = np.concatenate(([eot_token], tokens))
    return tokens[:-1] * vocab_size + tokens[1:]
