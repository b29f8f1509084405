"""Look at the data as the model sees it: `python -m stages inspect-data`.

It prints the beginning and the end of some documents, decoded from the shards, and some windows
token by token: the first ones that training reads or, with `--split val`, the first ones that
`evaluate` reads. They show what no metric does: documents cut in the wrong places, leftover markup,
garbled characters.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.text import Text

from nanogpt.data.order import WindowOrder
from nanogpt.data.stream import TokenStream
from stages.artifacts.shards import SHARDS, Shards
from stages.evaluate.params import EvaluateParams, stride_in
from stages.lib.params import load_section
from stages.runtime.settings import Settings
from stages.tokenizers.tokenizer import Tokenizer, load_tokenizer
from stages.train.params import ModelParams, TrainParams

SHOWN_TOKENS = 100  # of the beginning and of the end of a document
CHARACTER_BYTES = 4  # at most, in UTF-8
REPLACEMENT = "\ufffd"  # a decoder's replacement for incomplete characters
STYLES = ("on grey23", "on dark_blue")  # alternating between tokens
MARK = "bold white on dark_red"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A token with its text, or a few tokens that only together form a character."""

    tokens: list[int]
    text: str


def pieces(tokens: Sequence[int], tokenizer: Tokenizer) -> Iterator[Piece]:
    """Yield tokens with their text; a token that is not part of a valid character is `�`."""
    first = 0
    while first < len(tokens):
        for size in range(1, CHARACTER_BYTES + 1):
            text = tokenizer.decode(tokens[first : first + size])
            if REPLACEMENT not in text:
                break
        else:
            size, text = 1, tokenizer.decode(tokens[first : first + 1])
        yield Piece(tokens=list(tokens[first : first + size]), text=text)
        first += size


SYMBOLS = {code: 0x2400 + code for code in range(32) if chr(code) != "\n"}
CONTROL_CHARACTERS = {**SYMBOLS, 0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), ord(REPLACEMENT))}


def escape_control_characters(text: str) -> str:
    """Replace control characters with symbols, so that a document cannot control the terminal."""
    return text.translate(CONTROL_CHARACTERS)


class Printer:
    """A printer of tokens: in alternating colors on a terminal, separated by `|` elsewhere."""

    def __init__(self, console: Console, tokenizer: Tokenizer, *, ids: bool) -> None:
        self.console, self.tokenizer, self.ids = console, tokenizer, ids

    def tokens(self, tokens: Sequence[int]) -> None:
        """Print tokens as text and, with `ids`, their token IDs."""
        colored = self.console.color_system is not None and not self.console.no_color
        shown = Text()
        for number, piece in enumerate(pieces(tokens, self.tokenizer)):
            is_end = self.tokenizer.eot_token in piece.tokens
            shown.append("" if colored or not number else "|")
            shown.append(
                escape_control_characters(piece.text), MARK if is_end else STYLES[number % 2]
            )
        self.console.print(shown, soft_wrap=True)
        if self.ids:
            self.console.print(Text(" ".join(map(str, tokens)), "dim"), soft_wrap=True)

    def title(self, text: str) -> None:
        """Print a heading."""
        self.console.print(Text(f"\n--- {text}", "bold"), soft_wrap=True)

    def document(self, shards: Shards, split: str, number: int) -> None:
        """Print the beginning and the end of a document, or all of it if it is short."""
        stream, ends = shards.stream(split), shards.ends(split)
        start, end = int(ends[number - 1]) if number else 0, int(ends[number])
        size = end - start - 1  # without its end-of-text token
        self.title(f"document {number + 1:,} of {len(ends):,} in {split}: {size:,} tokens")
        omitted = size - 2 * SHOWN_TOKENS
        if omitted <= 0:
            self.tokens(stream.read(start, end).tolist())
            return
        self.tokens(stream.read(start, start + SHOWN_TOKENS).tolist())
        self.title(f"{omitted:,} tokens later")
        self.tokens(stream.read(end - 1 - SHOWN_TOKENS, end).tolist())


def training_windows(
    stream: TokenStream, block_size: int, seed: int, count: int, rng: random.Random | None
) -> Iterator[tuple[str, list[int]]]:
    """Yield the first windows of the first epoch, or random ones, with the last token's target.

    Raises ValueError if the split is shorter than a window.
    """
    order = WindowOrder(n_tokens=len(stream), block_size=block_size, seed=seed)
    total = order.windows_per_epoch
    numbers = choose(total, count, rng)
    for number, start in zip(numbers, order.starts(np.array(numbers)).tolist(), strict=True):
        position = f"window {number + 1:,} of {total:,} in the first epoch, from token {start:,}"
        yield position, stream.read(start, start + block_size + 1).tolist()


def evaluation_windows(
    stream: TokenStream,
    eot_token: int,
    block_size: int,
    stride: int,
    count: int,
    rng: random.Random | None,
) -> Iterator[tuple[str, list[int]]]:
    """Yield the first windows that `evaluate` reads, or random ones.

    Each begins with the token before its first target.
    """
    from nanogpt.train.validation import split_windows, window_at

    starts = split_windows(len(stream), block_size, stride)
    for number in choose(len(starts), count, rng):
        position = f"window {number + 1:,} of {len(starts):,}, from token {starts[number]:,}"
        yield position, window_at(stream, starts[number], block_size, eot_token).tolist()


def choose(total: int, count: int, rng: random.Random | None) -> list[int]:
    """Return the first `count` numbers below `total`, or random ones."""
    return rng.sample(range(total), min(count, total)) if rng else list(range(min(count, total)))


def windows(
    shards: Shards, split: str, count: int, rng: random.Random | None
) -> Iterator[tuple[str, list[int]]]:
    """Yield the position and the tokens of each window, by the params in params.yaml."""
    config = load_section("model", ModelParams).config(shards.n_vocab)
    stream = shards.stream(split)
    if split == "train":
        seed = load_section("train", TrainParams).config().seed
        return training_windows(stream, config.block_size, seed, count, rng)
    evaluate = load_section("evaluate", EvaluateParams)
    context = evaluate.context or config.block_size
    eot_token = shards.eot_token
    return evaluation_windows(
        stream, eot_token, context, stride_in(context, evaluate.stride), count, rng
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--documents", type=non_negative, default=2, metavar="N", help="default: 2")
    parser.add_argument("--windows", type=non_negative, default=2, metavar="N", help="default: 2")
    parser.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help="random seed for choosing documents and windows; without it, documents vary and the "
        "first windows are shown",
    )
    parser.add_argument("--ids", action="store_true", help="also print token IDs")


def non_negative(text: str) -> int:
    """Parse a non-negative integer."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a non-negative integer")
    return int(text)


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages inspect-data`."""
    shards = Shards.open(SHARDS)
    rng = None if options.seed is None else random.Random(options.seed)
    printer = Printer(Console(), load_tokenizer(shards.tokenizer_folder), ids=options.ids)
    n_documents = len(shards.ends(options.split))
    for number in choose(n_documents, options.documents, rng or random.Random()):
        printer.document(shards, options.split, number)
    for position, tokens in windows(shards, options.split, options.windows, rng):
        printer.title(position)
        printer.tokens(tokens)
