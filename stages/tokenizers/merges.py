"""Pieces of text to ids by tiktoken, each piece in time that grows with its length alone.

tiktoken takes longer for a byte the longer the piece it is in: four times as long in 30 MB without
a blank as in a few kilobytes. So a long piece is encoded by overlapping parts. Their ids are those
of the whole, by two facts about merging the pair of the lowest rank, the leftmost of equals, until
none is left:

- Any run of the ids of a text are the ids of the bytes they stand for: no merge crossed an end of
  the run, so what happened inside was the same as it is alone.
- Ids of which each two neighbours are the ids of their bytes together are the ids of all their
  bytes: the first merge to cross a boundary would have crossed it in those two alone.

A part that starts where an id of the part before it starts, and has this very id first, therefore
continues it.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import tiktoken
from numpy.typing import NDArray

from stages.tokenizers.ids import Ids, Tokens, token_dtype

MARK = "\n0\n"  # after each piece, in none: where a line end is, no number is
PART_BYTES = 4096  # of a long piece, or more where tokens are long
OVERLAP = 4  # so many of the longest token: a part that is a token itself would not be merged


class Merger:
    """Encodes pieces, which no pattern splits any further."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        n_vocab = len(ranks) + 1
        self.dtype = np.dtype(token_dtype(n_vocab))
        self.mark = n_vocab
        self.whole = tiktoken.Encoding(
            "whole pieces",
            pat_str=r"[\s\S]+",
            mergeable_ranks=ranks,
            special_tokens={MARK: self.mark},
        )
        self.lengths = np.zeros(n_vocab, np.int64)  # bytes of each id
        self.lengths[list(ranks.values())] = list(map(len, ranks))
        self.overlap = OVERLAP * int(self.lengths.max())
        self.part = max(PART_BYTES, 4 * self.overlap)

    def merged(self, pieces: Sequence[bytes]) -> Ids:
        """Return the ids of each piece (UTF-8)."""
        long = [number for number, piece in enumerate(pieces) if len(piece) > 2 * self.part]
        if not long:
            return self.by_one_call(pieces)
        left = list(pieces)
        for number in long:
            left[number] = b""
        found = self.by_one_call(left)
        between = np.split(found.values, found.ends[long])
        added = [self.by_parts(pieces[number]) for number in long]
        values = [between[0], *chain.from_iterable(zip(added, between[1:], strict=True))]
        counts = np.diff(found.ends)
        counts[long] = list(map(len, added))
        return Ids(np.concatenate(values), np.append(0, np.cumsum(counts)))

    def by_one_call(self, pieces: Sequence[bytes]) -> Ids:
        """Return the ids of each piece from one call of tiktoken."""
        text = MARK.encode().join([*pieces, b""]).decode()
        found = self.whole.encode_to_numpy(text, allowed_special={MARK})
        is_mark = found == self.mark
        ends = np.append(0, np.flatnonzero(is_mark) - np.arange(len(pieces)))
        return Ids(found[~is_mark].astype(self.dtype), ends)

    def by_parts(self, piece: bytes) -> Tokens:
        """Return the ids of a long piece; of all of it at once only if two parts disagree."""
        content = np.frombuffer(piece, np.uint8)
        starts_character = (content & 0xC0) != 0x80
        done: list[Tokens] = []
        start, end = 0, self.part_end(starts_character, 0)
        ids = self.ids_of(piece[:end])
        while end < len(piece):
            starts = start + np.cumsum(self.lengths[ids]) - self.lengths[ids]
            fit = np.flatnonzero(starts_character[starts] & (starts <= end - self.overlap))
            last = int(fit[-1])
            start = int(starts[last])
            end = self.part_end(starts_character, start)
            following = self.ids_of(piece[start:end])
            if not last or following[0] != ids[last]:
                return self.ids_of(piece)
            done.append(ids[:last])
            ids = following
        return np.concatenate([*done, ids])

    def part_end(self, starts_character: NDArray[np.bool_], start: int) -> int:
        """Return where the part ends that starts there: not inside a character."""
        end = start + self.part
        while end < len(starts_character) and not starts_character[end]:
            end -= 1
        return min(end, len(starts_character))

    def ids_of(self, text: bytes) -> Tokens:
        """Return the ids of one piece, or part of one, from tiktoken."""
        found = self.whole.encode_to_numpy(text.decode(), disallowed_special=())
        return np.asarray(found).astype(self.dtype)
