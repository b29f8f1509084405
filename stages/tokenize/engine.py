"""Engines that encode texts: tiktoken, the reference, or one that is checked against it.

gigatoken encodes GPT-2's vocabulary more than ten times as fast. It is young, so no run trusts it:
before it encodes a corpus, it must give tiktoken's tokens for adversarial texts and for a sample of
that corpus, or the stage stops. There is no silent fallback to tiktoken.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.artifacts.clean import CleanCorpus, CleanPart, byte_lengths
from stages.lib.arrow import from_texts
from stages.tokenize.params import Engine
from stages.tokenize.piece_encoder import PieceEncoder
from stages.tokenizers.pretokenize import BOUNDS
from stages.tokenizers.tokenizer import (
    SEPARATOR,
    BpeTokenizer,
    Tokenizer,
    load_tokenizer,
)
from stages.tokenizers.tokens import RaggedTokens, Tokens, token_dtype

# About a whole part. Of the distinct pieces of eight groups, half occur in more than one of them.
PIECES_BYTES = 32 << 20

SAMPLE_GROUPS = 12  # spread over the corpus
SAMPLE_BYTES = 64 << 10  # of each group, about

# Texts on which tokenizers were found to disagree: white space at ends and before words,
# contractions after anything but a letter, marks and digits of other scripts, control characters,
# special tokens in the text.
ADVERSARIAL = (
    *("", " ", "  ", "\n", " \n", "\n ", "\r\n", "\t", "\x0b\x0c", "\x00", "\x1c", "\x85", "\xa0"),
    *("a ", "a  ", "a   b", "a\n\n b", " \n \n ", "a\t\tb", "a \u3000b", "\u2028a\u2029", "\u200b"),
    *("'s", "\t's", " 's", "a's", "a'S", "I'VE", "'ſ", "''ll", "'re're", "don't\u2019t", "x'"),
    *("0", "12345", " 12345", "1a2", "²³", "٣٤", "½", "Ⅷ", "1\u0660", "3.14e-10", "1,000,000"),
    *(
        "é",
        "e\u0301",
        "\u0301",
        "a\u0301\u0302 b",
        "ﬀ",
        "İi",
        "ß",
        "Ǆ",
        "\u0345",
        "नमस्ते",
        "漢字",
        "กำ",
    ),
    *("👩‍👩‍👧", "🇩🇪", "☕\ufe0f", "a👍🏽b", " 👍", "\U0010ffff", "\ufeffa", "\ufffd", "\ue000"),
    *(
        SEPARATOR,
        f"a{SEPARATOR}b",
        f" {SEPARATOR} ",
        f"{SEPARATOR}{SEPARATOR}",
        "<|endoftext",
        "|>",
    ),
    *("<|fim_prefix|>", "<|endofprompt|>", "Ġ", "Ċ", "▁a", "aaaaaaaaaaaaaaaaa", " " * 99, "-" * 99),
    *(
        "http://a.b/c?d=e&f",
        "def f(x):\n        return x\n",
        "\\n\\t",
        "{}[]()<>",
        "…—–",
        "a" * 999,
    ),
)


Encode = Callable[[Sequence[pa.LargeStringArray]], Iterator[RaggedTokens]]  # one for each group
Dtype = type[np.unsignedinteger]


@dataclass(frozen=True)
class Encoder:
    """An engine with a vocabulary loaded."""

    encode: Encode
    dtype: Dtype  # of the tokens
    batch_bytes: int = 0  # bytes of text that it encodes faster together


def load_encoder(tokenizer: Path, engine: Engine) -> Encoder:
    """Return the encoder of a saved tokenizer.

    Raises ValueError if the engine is not installed.
    """
    if engine == "gigatoken":
        return load_gigatoken(tokenizer)
    reference = load_tokenizer(tokenizer)
    dtype = token_dtype(reference.n_vocab)
    if isinstance(reference, BpeTokenizer) and reference.pattern in BOUNDS:
        return Encoder(PieceEncoder(reference).encode, dtype, PIECES_BYTES)
    return Encoder(encode_each(reference), dtype)


def encode_each(tokenizer: Tokenizer) -> Encode:
    """Return a function that encodes text by text with the tokenizer itself."""
    return lambda groups: (
        concatenate(map(tokenizer.encode, texts.to_pylist())) for texts in groups
    )


def concatenate(tokens: Iterable[Tokens]) -> RaggedTokens:
    """Return the tokens of several texts in one array."""
    arrays = list(tokens)
    return RaggedTokens(np.concatenate(arrays), np.cumsum([0, *map(len, arrays)]))


def load_gigatoken(tokenizer: Path) -> Encoder:
    """Return the encoder of GPT-2's vocabulary by gigatoken.

    gigatoken adds special tokens if the file has the name of a published vocabulary. Ours has
    another name, so `<|endoftext|>` in a text is encoded as ordinary text.
    """
    try:
        import gigatoken
    except ImportError:
        raise ValueError(
            "tokenize.engine is gigatoken, which is not installed; `pip install '.[fast]'`, or "
            "use tokenize.engine: tiktoken"
        ) from None
    ranks = tokenizer / "ranks.tiktoken"
    fast = gigatoken.Tokenizer.from_tiktoken(ranks, pretokenizer="gpt2")
    dtype = token_dtype(fast.vocab_size + 1)

    def encode(groups: Sequence[pa.LargeStringArray]) -> Iterator[RaggedTokens]:
        for texts in groups:
            utf8 = texts.view(pa.large_binary()).to_pylist()  # bytes: nothing is decoded
            yield concatenate(fast.backend.encode(text).astype(dtype) for text in utf8)

    return Encoder(encode, dtype)


def assert_same_tokens(
    candidate: Encoder, engine: Engine, texts: Iterable[tuple[str, str]], reference: Tokenizer
) -> None:
    """Raise ValueError at the first (name, text) whose tokens are not the reference's."""
    for name, text in texts:
        (encoded,) = candidate.encode([from_texts([text.encode()])])
        actual = encoded.values
        try:
            expected = reference.encode(text)
        except ValueError as error:
            raise ValueError(f"tiktoken cannot encode {name}: {error}") from None
        if not np.array_equal(actual, expected):
            raise ValueError(describe_difference(reference, engine, name, actual, expected))


def describe_difference(
    reference: Tokenizer, engine: Engine, name: str, actual: Tokens, expected: Tokens
) -> str:
    """Return a message that shows where the tokens of a text first differ."""
    shared = min(len(actual), len(expected))
    unequal = np.flatnonzero(actual[:shared] != expected[:shared])
    first = int(unequal[0]) if len(unequal) else shared
    before = reference.decode(expected[max(0, first - 8) : first].tolist())
    wrong, right = (tokens[first : first + 4].tolist() for tokens in (actual, expected))
    return (
        f"tokenize.engine {engine} gives other tokens than tiktoken in {name}, token {first}, "
        f"after {before!r}: {wrong}, not {right}. Nothing was tokenized with it; use "
        "tokenize.engine: tiktoken"
    )


def adversarial() -> Iterator[tuple[str, str]]:
    """Yield (name, text) of texts that are hard to encode right."""
    for number, text in enumerate(ADVERSARIAL):
        yield f"adversarial text {number}", text


def sample_documents(cleaned: CleanCorpus) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of documents from about SAMPLE_GROUPS places, spread over the corpus."""
    sizes = [file["bytes"] for file in cleaned.manifest["files"] if file["kept"]]
    parts = list(zip(cleaned.parts, sizes, strict=True))
    chosen = parts[:: math.ceil(len(parts) / SAMPLE_GROUPS)]
    for part, n_bytes in chosen:
        for group in spaced_groups(part, n_bytes, round(SAMPLE_GROUPS / len(chosen))):
            lengths = byte_lengths(group.column("text"))
            starts = np.cumsum(lengths) - lengths
            head = group.slice(0, int(np.searchsorted(starts, SAMPLE_BYTES)))
            names, texts = head.column("id").to_pylist(), head.column("text").to_pylist()
            yield from zip(names, texts, strict=True)


def spaced_groups(part: CleanPart, n_bytes: int, count: int) -> Iterator[pa.RecordBatch]:
    """Yield `count` evenly spaced groups of a part that has n_bytes of text."""
    seen = yielded = 0  # bytes, groups
    for group in part.groups():
        if seen * count >= yielded * n_bytes:
            yielded += 1
            yield group
            if yielded == count:
                return
        seen += int(byte_lengths(group.column("text")).sum())
