"""Encode pieces of text by tiktoken in time linear in their length.

tiktoken takes longer per byte the longer the piece is: four times as long in 30 MB without a space
as in a few kilobytes. So a long piece is encoded in overlapping parts. Joined, their tokens are
those of the whole piece. This follows from two facts about byte-pair encoding, which merges the
pair of the lowest rank, the leftmost among equals, until there is none left:

- Any run of consecutive tokens of a text is the encoding of its own bytes: no merge crossed an end
  of the run, so the merges inside it were the same as they are without the rest.
- If every two neighbors in a sequence of tokens are the encoding of their joint bytes, then the
  sequence is the encoding of all its bytes: the first merge to cross a boundary would also have
  crossed it with those two alone.

So a part that starts where a token of the part before it starts, and whose first token is that
same token, continues it.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import tiktoken
from numpy.typing import NDArray

from stages.tokenizers.tokens import RaggedTokens, Tokens, token_dtype

DELIMITER = "\n0\n"  # follows each piece, never in one: no piece has a line end and a number
PART_BYTES = 4096  # of a long piece; more if the vocabulary has long tokens
OVERLAP = 4  # in lengths of the longest token: a part that is itself a token would not be merged


class Merger:
    """Encodes pieces: text that the pattern does not split any further."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        n_vocab = len(ranks) + 1
        self.dtype = np.dtype(token_dtype(n_vocab))
        self.delimiter = n_vocab
        self.encoding = tiktoken.Encoding(
            "whole pieces",
            pat_str=r"[\s\S]+",
            mergeable_ranks=ranks,
            special_tokens={DELIMITER: self.delimiter},
        )
        self.lengths = np.zeros(n_vocab, np.int64)  # bytes of each token
        self.lengths[list(ranks.values())] = list(map(len, ranks))
        self.overlap_bytes = OVERLAP * int(self.lengths.max())
        self.part_bytes = max(PART_BYTES, 4 * self.overlap_bytes)

    def encode(self, pieces: Sequence[bytes]) -> RaggedTokens:
        """Return the tokens of each piece (UTF-8)."""
        long = [number for number, piece in enumerate(pieces) if len(piece) > 2 * self.part_bytes]
        if not long:
            return self.encode_together(pieces)
        short = list(pieces)
        for number in long:
            short[number] = b""
        encoded = self.encode_together(short)
        between = np.split(encoded.values, encoded.offsets[long])
        inserted = [self.encode_in_parts(pieces[number]) for number in long]
        values = [between[0], *chain.from_iterable(zip(inserted, between[1:], strict=True))]
        counts = np.diff(encoded.offsets)
        counts[long] = list(map(len, inserted))
        return RaggedTokens(np.concatenate(values), np.append(0, np.cumsum(counts)))

    def encode_together(self, pieces: Sequence[bytes]) -> RaggedTokens:
        """Return the tokens of each piece, by one call of tiktoken."""
        text = DELIMITER.encode().join([*pieces, b""]).decode()
        tokens = self.encoding.encode_to_numpy(text, allowed_special={DELIMITER})
        is_delimiter = tokens == self.delimiter
        offsets = np.append(0, np.flatnonzero(is_delimiter) - np.arange(len(pieces)))
        return RaggedTokens(tokens[~is_delimiter].astype(self.dtype), offsets)

    def encode_in_parts(self, piece: bytes) -> Tokens:
        """Return the tokens of a long piece; encode it at once only if two parts disagree."""
        content = np.frombuffer(piece, np.uint8)
        starts_character = (content & 0xC0) != 0x80
        done: list[Tokens] = []
        start, end = 0, self.part_end(starts_character, 0)
        tokens = self.encode_piece(piece[:end])
        while end < len(piece):
            starts = start + np.cumsum(self.lengths[tokens]) - self.lengths[tokens]
            fit = np.flatnonzero(starts_character[starts] & (starts <= end - self.overlap_bytes))
            last = int(fit[-1])
            start = int(starts[last])
            end = self.part_end(starts_character, start)
            following = self.encode_piece(piece[start:end])
            if not last or following[0] != tokens[last]:
                return self.encode_piece(piece)
            done.append(tokens[:last])
            tokens = following
        return np.concatenate([*done, tokens])

    def part_end(self, starts_character: NDArray[np.bool_], start: int) -> int:
        """Return the end of the part that begins at `start`, never inside a character."""
        end = start + self.part_bytes
        while end < len(starts_character) and not starts_character[end]:
            end -= 1
        return min(end, len(starts_character))

    def encode_piece(self, piece: bytes) -> Tokens:
        """Return the tokens of one piece, or of part of one, by tiktoken alone."""
        tokens = self.encoding.encode_to_numpy(piece.decode(), disallowed_special=())
        return np.asarray(tokens).astype(self.dtype)
