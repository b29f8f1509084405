"""PPMd as a baseline: the size to which a compressor of 2001 compresses the validation text.

Prediction by partial matching (Cleary and Witten 1984) in Dmitry Shkarin's variant H, as in 7-Zip.
It mixes the predictions of contexts of up to ORDER bytes and learns from each byte it has encoded.
The training text and the validation text are encoded as one stream; the bytes that the validation
text adds are its loss. Buffering between the two and the final flush cost at most ten bytes in all.
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
TEXT_BYTES = 64 << 20  # of training text at most: half a minute, and all that fits in MAX_MEMORY
MEMORY_PER_BYTE = 32  # three times what prose needs; more does not compress better, less does worse
MIN_MEMORY, MAX_MEMORY = 1 << 24, 1 << 30
CHUNK_TOKENS = 1 << 18  # decoded at a time
END_OF_TEXT = b"\0"  # encodes the end-of-text token; no text document contains it otherwise


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Bytes of training text used, with end-of-text bytes, and bits of the validation text."""

    train_bytes: int
    val_bits: int


def encode(shards: Shards) -> Encoded:
    """Encode the last TEXT_BYTES of the training text, then the validation text."""
    pieces = [*load_tokenizer(shards.tokenizer_folder).pieces, END_OF_TEXT]
    train, val = shards.stream("train"), shards.stream("val")
    encoder = Ppmd7Encoder(ORDER, memory_limit(shards))
    train_bytes = 0
    for text in text_chunks(train, first_token(train, pieces, TEXT_BYTES), pieces):
        train_bytes += len(text)
        encoder.encode(text)
    val_bytes = sum(len(encoder.encode(text)) for text in text_chunks(val, 0, pieces))
    return Encoded(train_bytes=train_bytes, val_bits=8 * (val_bytes + len(encoder.flush())))


def memory_limit(shards: Shards) -> int:
    """Return the memory limit of the encoder in bytes; when it is full, the model restarts."""
    splits = shards.split("train"), shards.split("val")
    n_bytes = sum(split.bytes + split.documents for split in splits)
    return int(min(max(MEMORY_PER_BYTE * n_bytes, MIN_MEMORY), MAX_MEMORY))


def first_token(stream: TokenStream, pieces: Sequence[bytes], n_bytes: int) -> int:
    """Return where the longest suffix of a stream with at most `n_bytes` of text starts."""
    sizes: NDArray[np.int64] = np.array([len(piece) for piece in pieces])
    for stop in range(len(stream), 0, -CHUNK_TOKENS):
        tokens = stream.read(max(stop - CHUNK_TOKENS, 0), stop)
        totals = sizes[tokens[::-1]].cumsum()
        if totals[-1] > n_bytes:
            return stop - int(np.searchsorted(totals, n_bytes, side="right"))
        n_bytes -= int(totals[-1])
    return 0


def text_chunks(stream: TokenStream, start: int, pieces: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the text of the tokens from `start` on, CHUNK_TOKENS at a time."""
    for first in range(start, len(stream), CHUNK_TOKENS):
        tokens = stream.read(first, min(first + CHUNK_TOKENS, len(stream)))
        yield b"".join(map(pieces.__getitem__, tokens.tolist()))
