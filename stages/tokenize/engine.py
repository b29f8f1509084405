"""What turns texts into ids: tiktoken, the reference, or an engine that is proven equal to it.

gigatoken encodes GPT-2's vocabulary more than ten times as fast. It is young, so no run trusts it:
before it encodes a corpus it must give tiktoken's ids for texts made to trip it and for a sample of
that corpus, or the stage stops. There is no way back to tiktoken in silence.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.artifacts.clean import CleanCorpus, CleanPart, byte_lengths
from stages.lib.arrow import from_texts
from stages.tokenize.params import Engine
from stages.tokenize.piece_encoder import PieceEncoder
from stages.tokenizers.ids import Ids, token_dtype
from stages.tokenizers.pretokenize import BOUNDS
from stages.tokenizers.tokenizer import (
    SEPARATOR,
    BpeTokenizer,
    Tokenizer,
    load_tokenizer,
)

# A whole part, more or less: of eight groups' distinct pieces half occur in another of them too.
PIECES_BYTES = 32 << 20

SAMPLE_GROUPS = 12  # spread over the corpus
SAMPLE_BYTES = 64 << 10  # about, of each

# What tokenizers were found to disagree on: white space at ends and before words, contractions
# after anything but a letter, marks and digits of other scripts, controls, typed special tokens.
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


# The ids of the texts of each group.
Encode = Callable[[Sequence[pa.LargeStringArray]], Iterator[Ids]]
Dtype = type[np.unsignedinteger]


@dataclass(frozen=True)
class Encoder:
    """An engine with its vocabulary."""

    encode: Encode  # to ids of the type `dtype`
    dtype: Dtype  # holds every id
    at_once: int = 0  # bytes of text that are better encoded together


def load_encoder(tokenizer: Path, engine: Engine) -> Encoder:
    """The encoder of a saved tokenizer. Raises ValueError when the engine is not installed."""
    if engine == "gigatoken":
        return load_gigatoken(tokenizer)
    reference = load_tokenizer(tokenizer)
    dtype = token_dtype(reference.n_vocab)
    if isinstance(reference, BpeTokenizer) and reference.pattern in BOUNDS:
        return Encoder(PieceEncoder(reference).encode, dtype, PIECES_BYTES)
    return Encoder(one_by_one(reference), dtype)


def one_by_one(tokenizer: Tokenizer) -> Encode:
    """Encode by the tokenizer itself."""
    return lambda groups: (joined(map(tokenizer.encode, texts.to_pylist())) for texts in groups)


def joined(ids: Iterable[NDArray[np.unsignedinteger]]) -> Ids:
    """The ids of each text put one after the other."""
    each = list(ids)
    return Ids(np.concatenate(each), np.cumsum([0, *map(len, each)]))


def load_gigatoken(tokenizer: Path) -> Encoder:
    """GPT-2's vocabulary by gigatoken.

    It adds special tokens to a file that has the name of a published vocabulary; ours has not, so
    that `<|endoftext|>` in a text stays letters.
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

    def encode(groups: Sequence[pa.LargeStringArray]) -> Iterator[Ids]:
        for texts in groups:
            utf8 = texts.view(pa.large_binary()).to_pylist()  # as it is, not decoded
            yield joined(fast.backend.encode(text).astype(dtype) for text in utf8)

    return Encoder(encode, dtype)


def assert_same_tokens(
    candidate: Encoder, engine: Engine, texts: Iterable[tuple[str, str]], reference: Tokenizer
) -> None:
    """Raise ValueError at the first of the (name, text) pairs whose ids are not the reference's."""
    for name, text in texts:
        (ids,) = candidate.encode([from_texts([text.encode()])])
        found = ids.values
        try:
            right = reference.encode(text)
        except ValueError as error:
            raise ValueError(f"tiktoken cannot encode {name}: {error}") from None
        if not np.array_equal(found, right):
            raise ValueError(difference(reference, engine, name, found, right))


def difference(
    reference: Tokenizer,
    engine: Engine,
    name: str,
    found: NDArray[np.unsignedinteger],
    right: NDArray[np.unsignedinteger],
) -> str:
    """Where the ids of a text part."""
    shared = min(len(found), len(right))
    unequal = np.flatnonzero(found[:shared] != right[:shared])
    first = int(unequal[0]) if len(unequal) else shared
    before = reference.decode(right[max(0, first - 8) : first].tolist())
    ids, expected = (tokens[first : first + 4].tolist() for tokens in (found, right))
    return (
        f"tokenize.engine {engine} gives other ids than tiktoken in {name}, token {first}, after "
        f"{before!r}: {ids}, not {expected}. Nothing was tokenized with it; use tokenize.engine: "
        "tiktoken"
    )


def adversarial() -> Iterator[tuple[str, str]]:
    """Names and texts that are hard to get right."""
    for number, text in enumerate(ADVERSARIAL):
        yield f"adversarial text {number}", text


def sample(cleaned: CleanCorpus) -> Iterator[tuple[str, str]]:
    """Ids and texts of documents from about SAMPLE_GROUPS places, spread over the corpus."""
    kept = [file["bytes"] for file in cleaned.manifest["files"] if file["kept"]]
    parts = list(zip(cleaned.parts, kept, strict=True))
    chosen = parts[:: math.ceil(len(parts) / SAMPLE_GROUPS)]
    for part, n_bytes in chosen:
        for group in spread(part, n_bytes, round(SAMPLE_GROUPS / len(chosen))):
            sizes = byte_lengths(group.column("text"))
            before = np.cumsum(sizes) - sizes
            some = group.slice(0, int(np.searchsorted(before, SAMPLE_BYTES)))
            names, texts = some.column("id").to_pylist(), some.column("text").to_pylist()
            yield from zip(names, texts, strict=True)


def spread(part: CleanPart, n_bytes: int, count: int) -> Iterator[pa.RecordBatch]:
    """So many groups of a part that has n_bytes of text, at equal distances."""
    passed = taken = 0
    for group in part.groups():
        if passed * count >= taken * n_bytes:
            taken += 1
            yield group
            if taken == count:
                return
        passed += int(byte_lengths(group.column("text")).sum())
