"""Which documents are for validation.

A document's side is decided by a hash of its text alone, so that exact duplicates never stand on
both, adding documents moves no other, and neither tokenizer nor order matters.
"""

import hashlib
from collections.abc import Sequence

from pydantic import Field

from stages.params import Section

TEXT_HASH_BYTES = 16


class SplitParams(Section):
    """The section `split`, read by `shard`, and by `tokenize` to learn from training text only."""

    val_fraction: float = Field(gt=0, lt=1)
    seed: int = Field(ge=0, lt=2**63)


def text_hash(text: bytes | memoryview) -> bytes:
    """16 bytes that name a text, given in UTF-8."""
    return hashlib.sha256(text).digest()[:TEXT_HASH_BYTES]


def split_documents(hashes: Sequence[bytes], params: SplitParams) -> list[bool]:
    """Whether each document, given by its text hash, is for validation.

    When chance gives all documents to one side, the next nearest text goes to the other. Raises
    ValueError when there are not two different texts.
    """
    if len(set(hashes)) < 2:
        raise ValueError(
            "the corpus is one document, and a document is never cut between training and "
            "validation; give more files, or set corpus.separator (for example to a blank line, "
            '"\\n\\n") to cut the text into documents'
        )
    draws = [draw(text, params.seed) for text in hashes]
    threshold = min(max(params.val_fraction, min(draws)), below(max(draws), draws))
    return [value <= threshold for value in draws]


def draw(text: bytes, seed: int) -> float:
    """A number in [0, 1) that is a function of seed and text."""
    digest = hashlib.sha256(seed.to_bytes(8, "big") + text).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def below(limit: float, values: Sequence[float]) -> float:
    """The largest of the values under `limit`."""
    return max(value for value in values if value < limit)
