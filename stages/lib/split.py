"""The split of documents into training and validation.

Only a hash of its text decides which split a document is in. So exact duplicates are never in both,
adding documents moves none of the others, and neither the tokenizer nor the order matters.
"""

from hashlib import sha256
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.lib.params import Section
from stages.lib.text_hash import TEXT_HASH_BYTES, Hashes

BLOCK = 1 << 16  # documents whose digests are in memory at a time


class SplitParams(Section):
    """The section `split`: which documents are held out for validation."""

    heading: ClassVar[str] = "which documents are held out for validation"

    val_fraction: float = Field(
        gt=0,
        lt=1,
        description="approximate fraction held out, by a hash of each document's text",
    )
    seed: int = Field(ge=0, lt=2**63, description="random seed of the split")


def split_documents(hashes: Hashes, params: SplitParams) -> NDArray[np.bool_]:
    """Return whether each document, given by its text hash, is for validation (documents,).

    If chance puts all documents into one split, the text closest to the threshold goes to the
    other. Raises ValueError unless there are two different texts.
    """
    if not len(hashes) or (hashes == hashes[0]).all():
        raise ValueError(
            "the corpus is one document, and a document is never cut between training and "
            "validation; give more files, or set corpus.separator (for example to two empty lines, "
            '"\\n\\n\\n") to cut the text into documents'
        )
    values = draws(hashes, params.seed)
    highest_but_one = float(values.max(where=values < values.max(), initial=0))
    threshold = min(max(params.val_fraction, float(values.min())), highest_but_one)
    is_val: NDArray[np.bool_] = values <= threshold
    return is_val


def draws(hashes: Hashes, seed: int, purpose: bytes = b"") -> NDArray[np.float64]:
    """Return a number in [0, 1) for each document (documents,), by seed, text and purpose."""
    prefix, values = seed.to_bytes(8, "big"), np.empty(len(hashes))
    for first in range(0, len(hashes), BLOCK):
        rows = np.ascontiguousarray(hashes[first : first + BLOCK]).view(f"V{TEXT_HASH_BYTES}")
        digests = [sha256(prefix + row + purpose).digest() for row in rows.ravel().tolist()]
        words = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 4)
        values[first : first + BLOCK] = (words[:, 0] >> 8) / 2**56  # 7 bytes
    return values
