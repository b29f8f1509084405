"""Byte pairs learned from texts, by rustbpe (Sennrich et al. 2016)."""

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

import numpy as np

from stages.tokenize.params import LEAST
from stages.tokenizers.pretokenize import BPE_PATTERN, Positions, Splitter
from stages.tokenizers.tokenizer import BpeTokenizer

# `vocab_size: auto` learns a piece for every 2 KiB of training text, and at most what the default
# recipe has, which on 4.5 MB do as well as 4,096. Up to 2 MB 95 % of the pieces or more then occur
# at least 100 times in training, what Gowda and May (2020) ask for (docs/lab-notes.md).
AUTO_BYTES, AUTO_MOST = 2048, 2048
AUTO_RULE = {"training_bytes_per_piece": AUTO_BYTES, "most": AUTO_MOST}  # n_vocab is what it gave

# A longer piece is counted as several of this length, the last one shorter: rustbpe goes through
# all of a piece for each pair that it merges there, and its engine for regular expressions fails
# at a million white spaces in a row. Words are shorter, and sentences where no spaces are written.
PIECE_BYTES = 1024
CHARACTER_BYTES = 4  # at most, in UTF-8


def learned_ranks(texts: Iterable[str], vocab_size: int) -> dict[bytes, int]:
    """Return the bytes and up to vocab_size - 257 pairs of pieces, in the order they are learned.

    They are fewer when the texts have no more pairs.
    """
    import rustbpe

    splitter = Splitter(BPE_PATTERN)
    strings = chain.from_iterable(with_short_pieces(text, splitter) for text in texts)
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(strings, vocab_size - 1, pattern=BPE_PATTERN)
    return {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}


def with_short_pieces(text: str, splitter: Splitter) -> Iterator[str]:
    """Yield strings that together have the pieces of the text, the long ones in parts."""
    if not may_have_a_long_piece(text):
        yield text
        return
    utf8 = text.encode()
    content, ends = np.frombuffer(utf8, np.uint8), np.array([0, len(utf8)])
    windows = list(splitter.windows(content, ends))
    bounds = np.concatenate([windows[0], *(window[1:] for window in windows[1:])])
    for start, stop in pairwise(sorted({0, *cuts(utf8, bounds), len(utf8)})):
        yield utf8[start:stop].decode()


def may_have_a_long_piece(text: str) -> bool:
    """Return False where spaces show that every piece is short.

    A long piece has one of the blocks inside it, and is either white space alone or has no space
    but as its first character.
    """
    size = PIECE_BYTES // CHARACTER_BYTES // 2
    blocks = (text[start + 1 : start + size] for start in range(0, len(text) - size + 1, size))
    return any(" " not in block or block.isspace() for block in blocks)


def cuts(utf8: bytes, bounds: Positions) -> Iterator[int]:
    """Yield where to cut a text so that its long pieces come alone and in parts.

    White space before one is cut off, too: how it is split depends on what follows it.
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
            while start < end and utf8[start] & 0xC0 == 0x80:  # inside a character
                start -= 1
        yield end


def trained_bpe(texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
    """Return byte pairs learned from the texts, vocab_size ids in all.

    Raises ValueError when the texts are too short for so many.
    """
    ranks = learned_ranks(texts, vocab_size)
    if len(ranks) < vocab_size - 1:
        raise ValueError(
            f"the corpus has pairs for {len(ranks) + 1} ids only, tokenize.vocab_size asks for "
            f"{vocab_size}; ask for fewer or for auto, or use tokenizer `char`"
        )
    return BpeTokenizer.of(BPE_PATTERN, ranks)


def auto_vocab_size(training_bytes: int) -> int:
    """Return how many ids `vocab_size: auto` asks for; the texts may have pairs for fewer."""
    return min(AUTO_MOST, LEAST + training_bytes // AUTO_BYTES)


def auto_bpe(texts: Iterable[str]) -> BpeTokenizer:
    """Return byte pairs learned from the texts, as many as there is text for.

    Pairs are learned one after the other, so a smaller vocabulary is the beginning of a larger.
    """
    n_bytes = 0

    def counted() -> Iterator[str]:
        nonlocal n_bytes
        for text in texts:
            n_bytes += len(text.encode())
            yield text

    ranks = learned_ranks(counted(), AUTO_MOST)
    kept = auto_vocab_size(n_bytes) - 1
    return BpeTokenizer.of(BPE_PATTERN, {t: rank for t, rank in ranks.items() if rank < kept})
