"""Byte-pair encodings (Sennrich et al. 2016) learned from texts by rustbpe."""

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

import numpy as np

from stages.tokenize.params import LEAST
from stages.tokenizers.pretokenize import BPE_PATTERN, Positions, Splitter
from stages.tokenizers.tokenizer import BpeTokenizer

# `vocab_size: auto` learns a token for every 2 KiB of training text, and at most as many as the
# default recipe has, which do as well as 4,096 on 4.5 MB. With this rule, up to 2 MB, at least 95 %
# of the tokens occur 100 times or more in training, as Gowda and May (2020) advise
# (docs/lab-notes.md).
AUTO_BYTES, AUTO_MOST = 2048, 2048
AUTO_RULE = {"training_bytes_per_piece": AUTO_BYTES, "most": AUTO_MOST}  # its result is n_vocab

# A longer piece is counted as several of this length, the last one shorter: rustbpe scans the whole
# piece for each pair that it merges in it, and its regular-expression engine fails at a million
# white spaces in a row. Words are shorter, and so are sentences in scripts without spaces.
PIECE_BYTES = 1024
CHARACTER_BYTES = 4  # at most, in UTF-8


def learn_ranks(texts: Iterable[str], vocab_size: int) -> dict[bytes, int]:
    """Return the ranks of the 256 bytes and of up to vocab_size - 257 merges, as they are learned.

    There are fewer merges if the texts run out of pairs.
    """
    import rustbpe

    splitter = Splitter(BPE_PATTERN)
    strings = chain.from_iterable(split_long_pieces(text, splitter) for text in texts)
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(strings, vocab_size - 1, pattern=BPE_PATTERN)
    return {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}


def split_long_pieces(text: str, splitter: Splitter) -> Iterator[str]:
    """Yield strings that together have the pieces of the text, with the long ones cut in parts."""
    if not may_have_long_piece(text):
        yield text
        return
    utf8 = text.encode()
    content, offsets = np.frombuffer(utf8, np.uint8), np.array([0, len(utf8)])
    windows = list(splitter.windows(content, offsets))
    bounds = np.concatenate([windows[0], *(window[1:] for window in windows[1:])])
    for start, stop in pairwise(sorted({0, *cut_points(utf8, bounds), len(utf8)})):
        yield utf8[start:stop].decode()


def may_have_long_piece(text: str) -> bool:
    """Return False if the spaces in the text show that every piece is short.

    Every long piece contains one of the blocks, and a piece is either all white space or has a
    space only as its first character.
    """
    size = PIECE_BYTES // CHARACTER_BYTES // 2
    blocks = (text[start + 1 : start + size] for start in range(0, len(text) - size + 1, size))
    return any(" " not in block or block.isspace() for block in blocks)


def cut_points(utf8: bytes, bounds: Positions) -> Iterator[int]:
    """Yield where to cut a text so that its long pieces are by themselves and in parts.

    White space before one is cut off too: how it is split depends on what follows it.
    """
    for number in np.flatnonzero(np.diff(bounds) > PIECE_BYTES).tolist():
        first = number
        while first and utf8[bounds[first - 1] : bounds[first]].decode().isspace():
            first -= 1
        yield from bounds[first:number].tolist()
        start, end = bounds[number : number + 2].tolist()
        while start < end:
            yield start
            start = min(start + PIECE_BYTES, end)
            while start < end and utf8[start] & 0xC0 == 0x80:  # not inside a character
                start -= 1
        yield end


def train_bpe(texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
    """Return a byte-pair encoding of vocab_size tokens, learned from the texts.

    Raises ValueError if the texts have too few pairs for that.
    """
    ranks = learn_ranks(texts, vocab_size)
    if len(ranks) < vocab_size - 1:
        raise ValueError(
            f"the corpus yields a vocabulary of only {len(ranks) + 1} tokens, but "
            f"tokenize.vocab_size is {vocab_size}; lower it, set it to auto, or use "
            "tokenizer `char`"
        )
    return BpeTokenizer.of(BPE_PATTERN, ranks)


def auto_vocab_size(training_bytes: int) -> int:
    """Return the size that `vocab_size: auto` asks for; the texts may have pairs for fewer."""
    return min(AUTO_MOST, LEAST + training_bytes // AUTO_BYTES)


def auto_bpe(texts: Iterable[str]) -> BpeTokenizer:
    """Return a byte-pair encoding of the size that `auto_vocab_size` gives for these texts.

    Merges are learned one after the other, so a smaller vocabulary is the start of a larger one.
    """
    n_bytes = 0

    def count_bytes() -> Iterator[str]:
        nonlocal n_bytes
        for text in texts:
            n_bytes += len(text.encode())
            yield text

    ranks = learn_ranks(count_bytes(), AUTO_MOST)
    n_ranks = auto_vocab_size(n_bytes) - 1
    return BpeTokenizer.of(BPE_PATTERN, {t: rank for t, rank in ranks.items() if rank < n_ranks})
