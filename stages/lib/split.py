"""Which documents are for validation.

A document's side is decided by a hash of its text alone, so that exact duplicates are never on
both, adding documents moves no other, and neither tokenizer nor order matters.
"""

from hashlib import sha256
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.lib.params import Section
from stages.lib.text_hash import TEXT_HASH_BYTES, Hashes

BLOCK = 1 << 16  # hashes whose digests are held at a time


class SplitParams(Section):
    """The section `split`, read by `shard`, and by `tokenize` to learn from training text only."""

    heading: ClassVar[str] = "which documents are held back to measure on"

    val_fraction: float = Field(
        gt=0, lt=1, description="about this share, chosen by a hash of each document's text"
    )
    seed: int = Field(ge=0, lt=2**63, description="another seed chooses others")


def split_documents(hashes: Hashes, params: SplitParams) -> NDArray[np.bool_]:
    """(documents,) whether each, given by its text hash, is for validation.

    When chance gives all documents to one side, the next nearest text goes to the other. Raises
    ValueError when there are not two different texts.
    """
    if not len(hashes) or (hashes == hashes[0]).all():
        raise ValueError(
            "the corpus is one document, and a document is never cut between training and "
            "validation; give more files, or set corpus.separator (for example to a blank line, "
            '"\\n\\n") to cut the text into documents'
        )
    values = draws(hashes, params.seed)
    highest_but_one = float(values.max(where=values < values.max(), initial=0))
    threshold = min(max(params.val_fraction, float(values.min())), highest_but_one)
    is_val: NDArray[np.bool_] = values <= threshold
    return is_val


def draws(hashes: Hashes, seed: int, purpose: bytes = b"") -> NDArray[np.float64]:
    """(documents,) a number in [0, 1) for each, a function of seed, text and purpose."""
    before, found = seed.to_bytes(8, "big"), np.empty(len(hashes))
    for first in range(0, len(hashes), BLOCK):
        rows = np.ascontiguousarray(hashes[first : first + BLOCK]).view(f"V{TEXT_HASH_BYTES}")
        digests = [sha256(before + row + purpose).digest() for row in rows.ravel().tolist()]
        words = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 4)
        found[first : first + BLOCK] = (words[:, 0] >> 8) / 2**56  # 7 bytes
    return found
