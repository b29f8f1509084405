r"""Where the pieces of a text lie, by operations on whole arrays: no regular expression is matched.

A tokenizer's pattern splits a text into pieces, and each piece is merged alone. tiktoken matches
the pattern by backtracking, and gives up at a million white spaces in a row; here a run of any
length costs what its bytes cost. Both patterns of this project are known:

    GPT-2:   '(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

That is runs of letters, of numbers, of white space and of anything else, but for three rules: a
space before a run belongs to it; of several white spaces the last is a piece apart from the others
where something follows; and an apostrophe where a piece begins takes one of seven endings with it.

    learned: '(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}
             | ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+

The same runs by other rules: letters take any one character but a line end or a number with them
(of something else only where it is alone); numbers go by twos; something else takes the space
before it and the line ends after it; and white space is cut after its last line end as well.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tiktoken_ext.openai_public import r50k_pat_str

GPT2_PATTERN: str = r50k_pat_str

# Splits text as GPT-4 does (tiktoken's cl100k_base), but numbers after two digits, not three.
# Against GPT-2's pattern it puts 7 % more bytes of Shakespeare into a token at 1,024 ids.
BPE_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
DIGITS = 2  # of a number in one piece

UNKNOWN, LETTER, NUMBER, SPACE, OTHER = range(5)
CLASSES = {LETTER: r"\p{L}", NUMBER: r"\p{N}", SPACE: r"\s"}

LONG_CONTRACTIONS = [int.from_bytes(ending) for ending in (b"ll", b"ve", b"re")]
LONG_S = int.from_bytes("ſ".encode())  # is an s where case is ignored
LOWER = np.array([*range(65), *range(97, 123), *range(91, 256)], np.uint8)  # of each byte
WIDTH = np.array([1] * 0xC0 + [2] * 0x20 + [3] * 0x10 + [4] * 0x10)  # by a character's first byte

WINDOW_BYTES = 8 << 20  # cut at once: more than a group of texts has, unless one text is very long
LOOK_AHEAD = 8  # bytes on which it may depend whether a piece starts: two characters

Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the code point of each character."""
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


class CharacterClasses:
    """What tiktoken's own engine takes characters for: it is asked once about each.

    Python, Arrow and tiktoken follow different versions of Unicode.
    """

    def __init__(self) -> None:
        single_bytes = {bytes([byte]): byte for byte in range(256)}
        self.matching = {
            kind: tiktoken.Encoding(
                pattern, pat_str=pattern, mergeable_ranks=single_bytes, special_tokens={}
            )
            for kind, pattern in CLASSES.items()
        }
        self.known = np.zeros(0x110000, np.uint8)  # by code point
        self.learn(range(128))
        self.of_byte = self.known[:256].tobytes()

    def learn(self, codes: Sequence[int]) -> None:
        """Ask about characters. What an encoding's pattern does not match, it leaves out."""
        text = "".join(map(chr, codes))
        self.known[codes] = OTHER
        for kind, encoding in self.matching.items():
            matched = bytes(encoding.encode_ordinary(text)).decode()
            self.known[code_points(matched)] = kind

    def of(self, content: Bytes) -> Bytes:
        """For each byte of UTF-8 (n,) the class of the character it is of."""
        classes = np.frombuffer(bytearray(content).translate(self.of_byte), np.uint8)
        high = np.flatnonzero(content >= 0x80)  # of characters of several bytes
        if len(high):
            codes = code_points(content[high].tobytes().decode())
            unknown = codes[self.known[codes] == UNKNOWN]
            if len(unknown):
                self.learn(sorted(set(unknown.tolist())))
            number = np.cumsum(content[high] >= 0xC0) - 1  # of the character, for each byte
            classes[high] = self.known[codes][number]
        return classes


def gpt2_bounds(content: Bytes, kind: Bytes, breaks: Positions) -> Positions:
    """Return the byte at which each of GPT-2's pieces starts, then where the last one ends.

    `content` is UTF-8 (n,), not empty, `kind` (n,) the class of each byte. At `breaks`, inside of
    it, another text begins.
    """
    bounds = run_bounds(kind, breaks)
    starts = bounds[:-1]
    last = last_spaces(kind, breaks)
    start_at_last(starts, content, last)
    starts[1:] &= ~(last & (content[:-1] == ord(" ")))

    apostrophes = np.flatnonzero(content == ord("'"))
    apostrophes = apostrophes[starts[apostrophes]]
    lengths = contractions(content, apostrophes, breaks)
    starts[apostrophes[lengths > 0] + 1] = False
    bounds[(apostrophes + lengths)[lengths > 0]] = True
    return np.flatnonzero(bounds)


def bpe_bounds(content: Bytes, kind: Bytes, breaks: Positions) -> Positions:
    """Return the same for the pieces of BPE_PATTERN."""
    bounds = run_bounds(kind, breaks)
    starts = bounds[:-1]
    is_line_end = (content == ord("\n")) | (content == ord("\r"))
    cut_lines(bounds, kind, np.flatnonzero(is_line_end), breaks)
    cut_numbers(starts, content, kind)

    # The last white space before something else starts a piece, and letters join it; a space is
    # joined by anything but a number.
    last = last_spaces(kind, breaks) & ~is_line_end[:-1]
    start_at_last(starts, content, last)
    joined = (kind[1:] == LETTER) | ((kind[1:] == OTHER) & (content[:-1] == ord(" ")))
    starts[1:] &= ~(last & joined)

    # Letters also join what is neither, where it starts a piece and is one character.
    others = np.flatnonzero(starts & (kind == OTHER))
    after = others + WIDTH[content[others]]
    is_letter = np.append(kind == LETTER, False)
    is_letter[breaks] = False
    others, after = others[is_letter[after]], after[is_letter[after]]
    starts[after] = False
    apostrophes = others[content[others] == ord("'")]
    lengths = contractions(content, apostrophes, breaks, any_case=True)
    bounds[(apostrophes + lengths)[lengths > 0]] = True
    return np.flatnonzero(bounds)


def run_bounds(kind: Bytes, breaks: Positions) -> NDArray[np.bool_]:
    """(n + 1,) whether a run of one class starts at each byte; True for the end."""
    bounds = np.ones(len(kind) + 1, np.bool_)
    np.not_equal(kind[1:], kind[:-1], out=bounds[1:-1])
    bounds[breaks] = True
    return bounds


def last_spaces(kind: Bytes, breaks: Positions) -> NDArray[np.bool_]:
    """(n - 1,) whether each byte is the last of white space before something else of its text."""
    space = kind == SPACE
    last: NDArray[np.bool_] = space[:-1] & ~space[1:]
    last[breaks - 1] = False
    return last


def start_at_last(starts: NDArray[np.bool_], content: Bytes, last: NDArray[np.bool_]) -> None:
    """Start pieces at the characters of which `last` (n - 1,) has the last byte."""
    starts[:-1] |= last
    wide = np.flatnonzero(last & (content[:-1] >= 0x80))  # of two bytes or three
    starts[wide] = False
    starts[wide - np.where(content[wide - 1] >= 0xC0, 1, 2)] = True


def cut_numbers(starts: NDArray[np.bool_], content: Bytes, kind: Bytes) -> None:
    """Start a piece at every DIGITS-th character of a run of numbers."""
    numbers = np.flatnonzero((kind == NUMBER) & ((content & 0xC0) != 0x80))
    place = np.arange(len(numbers))
    first = np.maximum.accumulate(np.where(starts[numbers], place, 0))  # of its run
    starts[numbers[(place - first) % DIGITS == 0]] = True


def cut_lines(
    bounds: NDArray[np.bool_], kind: Bytes, line_ends: Positions, breaks: Positions
) -> None:
    """Cut white space after its last line end; line ends after something else belong to that.

    `bounds` (n + 1,) are those of runs.
    """
    if not len(line_ends):
        return
    run = np.searchsorted(np.flatnonzero(bounds), line_ends, side="right")
    same = np.append(run[1:] == run[:-1], False)  # as the next line end's
    bounds[line_ends[~same] + 1] = True

    in_a_row = same & (np.append(line_ends[1:], 0) == line_ends + 1)
    firsts, lasts = line_ends[~np.roll(in_a_row, 1)], line_ends[~in_a_row]
    taken = (firsts > 0) & (kind[firsts - 1] == OTHER)
    taken &= ~np.isin(firsts, breaks)
    bounds[firsts[taken]] = False
    bounds[lasts[taken] + 1] = True


def contractions(
    content: Bytes, apostrophes: Positions, breaks: Positions, *, any_case: bool = False
) -> Positions:
    """The bytes of 's, 'd, 'm, 't, 'll, 've or 're at each apostrophe; 0 where there is none."""
    ends = np.append(breaks, len(content))  # of texts
    left = ends[np.searchsorted(breaks, apostrophes, side="right")] - apostrophes
    one, two = (
        np.where(left > ahead, content[np.minimum(apostrophes + ahead, len(content) - 1)], 0)
        for ahead in (1, 2)
    )
    if any_case:
        one, two = LOWER[one], LOWER[two]
    short = np.isin(one, list(b"sdmt"))
    long = np.isin(one * np.int64(256) + two, LONG_CONTRACTIONS + [LONG_S] * any_case)
    return 2 * short + 3 * long


BOUNDS = {GPT2_PATTERN: gpt2_bounds, BPE_PATTERN: bpe_bounds}


class Splitter:
    """The pieces of texts by one of the patterns in BOUNDS."""

    def __init__(self, pattern: str) -> None:
        self.bounds = BOUNDS[pattern]
        self.classes = CharacterClasses()

    def windows(self, content: Bytes, ends: Positions) -> Iterator[Positions]:
        """Yield the bounds of the pieces of some texts, of about WINDOW_BYTES at a time.

        `content` is the UTF-8 of the texts, `ends` where each of them ends. Each array of bounds
        starts where the one before it ended.
        """
        done = 0
        while done < len(content):
            bounds = done + self.first_bounds(content[done:], ends - done, WINDOW_BYTES)
            yield bounds
            done = int(bounds[-1])

    def first_bounds(self, content: Bytes, ends: Positions, size: int) -> Positions:
        """Return where each of the first pieces starts and, at last, where they end: about `size`.

        Of a content that is longer, what depends on the bytes after its cut is left out: the last
        LOOK_AHEAD, and white space that may continue. A piece longer than `size` comes whole.
        """
        stop = min(size, len(content))
        while stop < len(content) and content[stop] & 0xC0 == 0x80:  # inside a character
            stop -= 1
        breaks = ends[(ends > 0) & (ends < stop)]
        kind = self.classes.of(content[:stop])
        bounds = self.bounds(content[:stop], kind, breaks)
        if stop == len(content):
            return bounds
        spaces_at_end = int(np.argmax(np.append(kind[::-1] != SPACE, True)))
        certain = bounds[bounds <= stop - max(LOOK_AHEAD, spaces_at_end)]
        return certain if len(certain) > 1 else self.first_bounds(content, ends, 2 * size)
