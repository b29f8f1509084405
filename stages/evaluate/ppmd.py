"""PPMd, a text compressor, as a baseline: what a program of 2001 needs for the same text.

Prediction by partial matching (Cleary and Witten 1984) in Dmitry Shkarin's variant H, as 7-Zip has
it. It mixes what followed contexts of up to ORDER bytes and learns from each byte it has coded. The
training text and the validation text are coded as one stream; the bytes that the second adds are
its loss. The coder holds back a few bytes between the two and ends with some: ten at most in all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyppmd import Ppmd7Encoder

from nanogpt.data.stream import TokenStream
from stages.artifacts.shards import Shards
from stages.tokenizers.tokenizer import load_tokenizer

ORDER = 8  # the best of 5, 6, 8 and 12 on Shakespeare
TEXT_BYTES = 64 << 20  # of training text at most: half a minute, and all that MOST_MEMORY holds
MEMORY_PER_BYTE = 32  # three times what prose fills; the same size with more, a greater with less
LEAST_MEMORY, MOST_MEMORY = 1 << 24, 1 << 30
CHUNK_TOKENS = 1 << 18  # whose text is held at a time
SEPARATOR = b"\0"  # stands for the token; no text document has another use for it


@dataclass(frozen=True, kw_only=True)
class Coded:
    """How many bytes of training text were read, separators included, and val_bits for the rest."""

    train_bytes: int
    val_bits: int


def code(shards: Shards) -> Coded:
    """Code the end of the training text, TEXT_BYTES of it at most, then the validation text."""
    pieces = [*load_tokenizer(shards.tokenizer_folder).pieces, SEPARATOR]
    train, val = shards.stream("train"), shards.stream("val")
    encoder = Ppmd7Encoder(ORDER, memory_for(shards))
    train_bytes = 0
    for text in texts(train, first_token(train, pieces, TEXT_BYTES), pieces):
        train_bytes += len(text)
        encoder.encode(text)
    added = sum(len(encoder.encode(text)) for text in texts(val, 0, pieces))
    return Coded(train_bytes=train_bytes, val_bits=8 * (added + len(encoder.flush())))


def memory_for(shards: Shards) -> int:
    """Return the bytes of memory that the coder may fill; when they are full, it forgets all."""
    splits = shards.manifest["splits"].values()
    n_bytes = sum(split["bytes"] + split["documents"] for split in splits)
    return int(min(max(MEMORY_PER_BYTE * n_bytes, LEAST_MEMORY), MOST_MEMORY))


def first_token(stream: TokenStream, pieces: Sequence[bytes], n_bytes: int) -> int:
    """Return the first token of the longest end of a stream that is at most n_bytes of text."""
    sizes: NDArray[np.int64] = np.array([len(piece) for piece in pieces])
    for stop in range(len(stream), 0, -CHUNK_TOKENS):
        tokens = stream.read(max(stop - CHUNK_TOKENS, 0), stop)
        totals = sizes[tokens[::-1]].cumsum()
        if totals[-1] > n_bytes:
            return stop - int(np.searchsorted(totals, n_bytes, side="right"))
        n_bytes -= int(totals[-1])
    return 0


def texts(stream: TokenStream, start: int, pieces: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the text of tokens [start, end), a chunk at a time."""
    for first in range(start, len(stream), CHUNK_TOKENS):
        tokens = stream.read(first, min(first + CHUNK_TOKENS, len(stream)))
        yield b"".join(map(pieces.__getitem__, tokens.tolist()))
