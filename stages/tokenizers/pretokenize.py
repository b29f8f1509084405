r"""Split text into pieces by operations on whole arrays, without a regular-expression engine.

A tokenizer's pattern splits a text into pieces, and each piece is merged by itself. tiktoken
matches the pattern by backtracking and fails at a million white spaces in a row; here the time is
linear in the bytes, whatever they are. The project has two patterns:

    GPT-2:   '(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

That is, runs of letters, of numbers, of white space and of anything else, with three more rules: a
space before a run belongs to it; of several white spaces in a row, the last is split off if
something follows; and an apostrophe that starts a piece takes one of seven endings with it.

    learned: '(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}
             | ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+

The same runs with other rules: letters take along the one character before them unless it is a line
end or a number (or part of a longer run of something else); numbers are cut after every two digits;
anything else takes along the space before it and the line ends after it; and white space is also
cut after its last line end.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tiktoken_ext.openai_public import r50k_pat_str

GPT2_PATTERN: str = r50k_pat_str

# Splits text as GPT-4 does (tiktoken's cl100k_base), except that numbers are cut after two digits,
# not three. At a vocabulary of 1,024, its tokens have 7 % more bytes of Shakespeare than GPT-2's.
BPE_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
DIGITS = 2  # at most, in one piece

UNKNOWN, LETTER, NUMBER, SPACE, OTHER = range(5)
CLASSES = {LETTER: r"\p{L}", NUMBER: r"\p{N}", SPACE: r"\s"}

LONG_CONTRACTIONS = [int.from_bytes(ending) for ending in (b"ll", b"ve", b"re")]
LONG_S = int.from_bytes("ſ".encode())  # matches s where case is ignored
LOWER = np.array([*range(65), *range(97, 123), *range(91, 256)], np.uint8)  # by byte
WIDTH = np.array([1] * 0xC0 + [2] * 0x20 + [3] * 0x10 + [4] * 0x10)  # bytes, by the first byte

# Bytes split at a time: a group of documents has fewer, unless one of them is very long.
WINDOW_BYTES = 8 << 20
LOOK_AHEAD = 8  # bytes ahead that may decide where a piece starts: two characters

Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the code point of each character (characters,)."""
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


class CharacterClasses:
    """The class of each character according to tiktoken's engine, which is asked once for each.

    Python, Arrow and tiktoken follow different versions of Unicode, so only tiktoken itself can say
    how it splits a text.
    """

    def __init__(self) -> None:
        single_bytes = {bytes([byte]): byte for byte in range(256)}
        self.matching = {
            kind: tiktoken.Encoding(
                pattern, pat_str=pattern, mergeable_ranks=single_bytes, special_tokens={}
            )
            for kind, pattern in CLASSES.items()
        }
        self.known = np.zeros(0x110000, np.uint8)  # the class of each code point, or UNKNOWN
        self.learn(range(128))
        self.by_byte = self.known[:256].tobytes()

    def learn(self, codes: Sequence[int]) -> None:
        """Look up the classes of code points: an encoding drops what its pattern does not match."""
        text = "".join(map(chr, codes))
        self.known[codes] = OTHER
        for kind, encoding in self.matching.items():
            matched = bytes(encoding.encode_ordinary(text)).decode()
            self.known[code_points(matched)] = kind

    def classes_of(self, content: Bytes) -> Bytes:
        """Return the class of the character that each byte of UTF-8 (n,) belongs to."""
        classes = np.frombuffer(bytearray(content).translate(self.by_byte), np.uint8)
        high = np.flatnonzero(content >= 0x80)  # bytes of multi-byte characters
        if len(high):
            codes = code_points(content[high].tobytes().decode())
            unknown = codes[self.known[codes] == UNKNOWN]
            if len(unknown):
                self.learn(sorted(set(unknown.tolist())))
            number = np.cumsum(content[high] >= 0xC0) - 1  # of the character, for each byte
            classes[high] = self.known[codes][number]
        return classes


def gpt2_bounds(content: Bytes, classes: Bytes, breaks: Positions) -> Positions:
    """Return the byte at which each piece of GPT-2's pattern starts, then where the last one ends.

    `content` (n,) is UTF-8, not empty, `classes` (n,) the class of each byte, and `breaks` are the
    positions inside it where another text begins.
    """
    bounds = run_bounds(classes, breaks)
    starts = bounds[:-1]
    last = last_spaces(classes, breaks)
    start_at_last(starts, content, last)
    starts[1:] &= ~(last & (content[:-1] == ord(" ")))

    apostrophes = np.flatnonzero(content == ord("'"))
    apostrophes = apostrophes[starts[apostrophes]]
    lengths = contractions(content, apostrophes, breaks)
    starts[apostrophes[lengths > 0] + 1] = False
    bounds[(apostrophes + lengths)[lengths > 0]] = True
    return np.flatnonzero(bounds)


def bpe_bounds(content: Bytes, classes: Bytes, breaks: Positions) -> Positions:
    """Return the bounds that `gpt2_bounds` returns, but of the pieces of BPE_PATTERN."""
    bounds = run_bounds(classes, breaks)
    starts = bounds[:-1]
    is_line_end = (content == ord("\n")) | (content == ord("\r"))
    cut_lines(bounds, classes, np.flatnonzero(is_line_end), breaks)
    cut_numbers(starts, content, classes)

    # The last white space before something else starts a piece. Letters continue that piece; if it
    # is a space, so does anything but a number.
    last = last_spaces(classes, breaks) & ~is_line_end[:-1]
    start_at_last(starts, content, last)
    joins = (classes[1:] == LETTER) | ((classes[1:] == OTHER) & (content[:-1] == ord(" ")))
    starts[1:] &= ~(last & joins)

    # Letters also continue a piece of one character that is neither letter, number nor space.
    others = np.flatnonzero(starts & (classes == OTHER))
    after = others + WIDTH[content[others]]
    is_letter = np.append(classes == LETTER, False)
    is_letter[breaks] = False
    others, after = others[is_letter[after]], after[is_letter[after]]
    starts[after] = False
    apostrophes = others[content[others] == ord("'")]
    lengths = contractions(content, apostrophes, breaks, any_case=True)
    bounds[(apostrophes + lengths)[lengths > 0]] = True
    return np.flatnonzero(bounds)


def run_bounds(classes: Bytes, breaks: Positions) -> NDArray[np.bool_]:
    """Return, for each byte, whether a run of one class starts there (n + 1,); True at the end."""
    bounds = np.ones(len(classes) + 1, np.bool_)
    np.not_equal(classes[1:], classes[:-1], out=bounds[1:-1])
    bounds[breaks] = True
    return bounds


def last_spaces(classes: Bytes, breaks: Positions) -> NDArray[np.bool_]:
    """Return which bytes end white space that something in the same text follows (n - 1,)."""
    space = classes == SPACE
    last: NDArray[np.bool_] = space[:-1] & ~space[1:]
    last[breaks - 1] = False
    return last


def start_at_last(starts: NDArray[np.bool_], content: Bytes, last: NDArray[np.bool_]) -> None:
    """Mark starts, in place, at the characters whose last bytes are in `last` (n - 1,)."""
    starts[:-1] |= last
    wide = np.flatnonzero(last & (content[:-1] >= 0x80))  # characters of two or three bytes
    starts[wide] = False
    starts[wide - np.where(content[wide - 1] >= 0xC0, 1, 2)] = True


def cut_numbers(starts: NDArray[np.bool_], content: Bytes, classes: Bytes) -> None:
    """Mark starts, in place, at every DIGITS-th character of each run of numbers."""
    numbers = np.flatnonzero((classes == NUMBER) & ((content & 0xC0) != 0x80))
    place = np.arange(len(numbers))
    first = np.maximum.accumulate(np.where(starts[numbers], place, 0))  # of the same run
    starts[numbers[(place - first) % DIGITS == 0]] = True


def cut_lines(
    bounds: NDArray[np.bool_], classes: Bytes, line_ends: Positions, breaks: Positions
) -> None:
    """Cut white space after its last line end, and join line ends to the run of others before them.

    `bounds` (n + 1,) has the bounds of the runs, and is changed in place.
    """
    if not len(line_ends):
        return
    run = np.searchsorted(np.flatnonzero(bounds), line_ends, side="right")
    same = np.append(run[1:] == run[:-1], False)  # is the next line end in the same run?
    bounds[line_ends[~same] + 1] = True

    in_a_row = same & (np.append(line_ends[1:], 0) == line_ends + 1)
    firsts, lasts = line_ends[~np.roll(in_a_row, 1)], line_ends[~in_a_row]
    joined = (firsts > 0) & (classes[firsts - 1] == OTHER)
    joined &= ~np.isin(firsts, breaks)
    bounds[firsts[joined]] = False
    bounds[lasts[joined] + 1] = True


def contractions(
    content: Bytes, apostrophes: Positions, breaks: Positions, *, any_case: bool = False
) -> Positions:
    """Return how many bytes 's, 'd, 'm, 't, 'll, 've or 're has at each apostrophe, 0 if none."""
    text_ends = np.append(breaks, len(content))
    left = text_ends[np.searchsorted(breaks, apostrophes, side="right")] - apostrophes
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
    """Splits texts into pieces by one of the patterns in BOUNDS."""

    def __init__(self, pattern: str) -> None:
        self.bounds = BOUNDS[pattern]
        self.characters = CharacterClasses()

    def windows(self, content: Bytes, offsets: Positions) -> Iterator[Positions]:
        """Yield the bounds of the pieces of some texts, about WINDOW_BYTES at a time.

        `content` is the UTF-8 of the texts, `offsets` (1 + texts,) a zero, then where each of them
        ends. Each array of bounds starts where the one before it ended.
        """
        done = 0
        while done < len(content):
            bounds = done + self.first_bounds(content[done:], offsets - done, WINDOW_BYTES)
            yield bounds
            done = int(bounds[-1])

    def first_bounds(self, content: Bytes, offsets: Positions, size: int) -> Positions:
        """Return the bounds of the pieces in about the first `size` bytes.

        If `content` is longer, bounds that the bytes after `size` could change are left out: those
        in the last LOOK_AHEAD bytes, and in white space that may continue. A piece longer than
        `size` is never split.
        """
        stop = min(size, len(content))
        while stop < len(content) and content[stop] & 0xC0 == 0x80:  # inside a character
            stop -= 1
        breaks = offsets[(offsets > 0) & (offsets < stop)]
        classes = self.characters.classes_of(content[:stop])
        bounds = self.bounds(content[:stop], classes, breaks)
        if stop == len(content):
            return bounds
        spaces_at_end = int(np.argmax(np.append(classes[::-1] != SPACE, True)))
        certain = bounds[bounds <= stop - max(LOOK_AHEAD, spaces_at_end)]
        return certain if len(certain) > 1 else self.first_bounds(content, offsets, 2 * size)
