"""Look at the data as the model gets it: `python -m stages inspect-data`.

Some documents, decoded from the shards, with their beginning and end, and some windows token by
token: of the training split the first that training reads, of the validation split the first that
`evaluate` does. It shows what no figure says: texts cut at the wrong places, markup left in them,
letters that became something else.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from nanogpt.data.order import WindowOrder
from nanogpt.data.stream import TokenStream
from stages.artifacts.shards import Shards
from stages.evaluate.params import EvaluateParams, stride_in
from stages.lib.params import load_section
from stages.runtime.settings import Settings
from stages.tokenizers.tokenizer import Tokenizer, load_tokenizer
from stages.train.params import ModelParams, TrainParams

SHARDS = Path("data/shards")
SHOWN_TOKENS = 100  # of a document's beginning, and of its end
CHARACTER_BYTES = 4  # most of UTF-8
UNFINISHED = "\ufffd"  # how a decoder shows bytes that are no whole character
STYLES = ("on grey23", "on dark_blue")  # of the tokens, by turns
MARK = "bold white on dark_red"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What is shown as one: a token, or the few that only together are a character."""

    ids: list[int]
    text: str


def pieces(ids: Sequence[int], tokenizer: Tokenizer) -> Iterator[Piece]:
    """Tokens with their texts. One whose bytes are no character even with the next is `�`."""
    first = 0
    while first < len(ids):
        for size in range(1, CHARACTER_BYTES + 1):
            text = tokenizer.decode(ids[first : first + size])
            if UNFINISHED not in text:
                break
        else:
            size, text = 1, tokenizer.decode(ids[first : first + 1])
        yield Piece(ids=list(ids[first : first + size]), text=text)
        first += size


PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) != "\n"}
HARMLESS = {**PICTURES, 0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), ord(UNFINISHED))}


def harmless(text: str) -> str:
    """Control characters as pictures of themselves: a text must not steer the terminal."""
    return text.translate(HARMLESS)


class Printer:
    """Prints tokens: in turns of colour on a terminal, with `|` between them elsewhere."""

    def __init__(self, console: Console, tokenizer: Tokenizer, *, ids: bool) -> None:
        self.console, self.tokenizer, self.ids = console, tokenizer, ids

    def tokens(self, ids: Sequence[int]) -> None:
        """Print tokens as text, and where asked for as numbers."""
        coloured = self.console.color_system is not None and not self.console.no_color
        shown = Text()
        for number, piece in enumerate(pieces(ids, self.tokenizer)):
            is_end = self.tokenizer.eot_token in piece.ids
            shown.append("" if coloured or not number else "|")
            shown.append(harmless(piece.text), MARK if is_end else STYLES[number % 2])
        self.console.print(shown, soft_wrap=True)
        if self.ids:
            self.console.print(Text(" ".join(map(str, ids)), "dim"), soft_wrap=True)

    def title(self, text: str) -> None:
        """Print a line that is no part of the data."""
        self.console.print(Text(f"\n--- {text}", "bold"), soft_wrap=True)

    def document(self, shards: Shards, split: str, number: int) -> None:
        """Print the beginning and the end of a document, or all of a short one."""
        stream, ends = shards.stream(split), shards.ends(split)
        start, end = int(ends[number - 1]) if number else 0, int(ends[number])
        size = end - start - 1  # without its separator
        self.title(f"document {number + 1:,} of {len(ends):,} in {split}: {size:,} tokens")
        left_out = size - 2 * SHOWN_TOKENS
        if left_out <= 0:
            self.tokens(stream.read(start, end).tolist())
            return
        self.tokens(stream.read(start, start + SHOWN_TOKENS).tolist())
        self.title(f"{left_out:,} tokens later")
        self.tokens(stream.read(end - 1 - SHOWN_TOKENS, end).tolist())


def training_windows(
    stream: TokenStream, block_size: int, seed: int, count: int, draw: random.Random | None
) -> Iterator[tuple[str, list[int]]]:
    """Windows of the first epoch, the first ones or drawn, each with the target of its last token.

    Raises ValueError when the split is too short for one.
    """
    order = WindowOrder(n_tokens=len(stream), block_size=block_size, seed=seed)
    total = order.windows_per_epoch
    numbers = chosen(total, count, draw)
    for number, start in zip(numbers, order.starts(np.array(numbers)).tolist(), strict=True):
        where = f"window {number + 1:,} of {total:,} in the first epoch, from token {start:,}"
        yield where, stream.read(start, start + block_size + 1).tolist()


def evaluation_windows(
    stream: TokenStream,
    eot_token: int,
    block_size: int,
    stride: int,
    count: int,
    draw: random.Random | None,
) -> Iterator[tuple[str, list[int]]]:
    """The windows that `evaluate` reads, the first ones or drawn, led by what precedes the first
    target.
    """
    from nanogpt.train.validation import split_windows, window_at

    starts = split_windows(len(stream), block_size, stride)
    for number in chosen(len(starts), count, draw):
        where = f"window {number + 1:,} of {len(starts):,}, from token {starts[number]:,}"
        yield where, window_at(stream, starts[number], block_size, eot_token).tolist()


def chosen(total: int, count: int, draw: random.Random | None) -> list[int]:
    """The first numbers below `total`, or some of them in a random order."""
    return draw.sample(range(total), min(count, total)) if draw else list(range(min(count, total)))


def windows(
    shards: Shards, split: str, count: int, draw: random.Random | None
) -> Iterator[tuple[str, list[int]]]:
    """Where each window is, and its tokens, by what params.yaml says now."""
    model, stream = load_section("model", ModelParams), shards.stream(split)
    if split == "train":
        seed = load_section("train", TrainParams).seed
        return training_windows(stream, model.block_size, seed, count, draw)
    evaluate = load_section("evaluate", EvaluateParams)
    context = evaluate.context or model.block_size
    eot_token = shards.manifest["separator"]
    return evaluation_windows(
        stream, eot_token, context, stride_in(context, evaluate.stride), count, draw
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--documents", type=natural, default=2, metavar="N", help="2 by default")
    parser.add_argument("--windows", type=natural, default=2, metavar="N", help="2 by default")
    parser.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help="draw documents and windows by this number; without "
        "it other documents each time, and the first windows",
    )
    parser.add_argument("--ids", action="store_true", help="the tokens' numbers too")


def natural(text: str) -> int:
    """An argument that says how many."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """`python -m stages inspect-data`."""
    shards = Shards.open(SHARDS)
    draw = None if options.seed is None else random.Random(options.seed)
    printer = Printer(Console(), load_tokenizer(shards.tokenizer_folder), ids=options.ids)
    n_documents = len(shards.ends(options.split))
    for number in chosen(n_documents, options.documents, draw or random.Random()):
        printer.document(shards, options.split, number)
    for where, ids in windows(shards, options.split, options.windows, draw):
        printer.title(where)
        printer.tokens(ids)
