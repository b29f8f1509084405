"""Tokenizers: encode text to tokens, decode tokens to text, save to a folder and load from it.

Every document is followed by one end-of-text token, `<|endoftext|>`, which has the last id of each
vocabulary. Where a document contains those characters, they are encoded as ordinary text.
"""

import hashlib
import json
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import tiktoken

from stages.tokenizers.merges import Merger
from stages.tokenizers.pretokenize import BOUNDS, Splitter, code_points
from stages.tokenizers.tokens import Tokens, token_dtype

SEPARATOR = "<|endoftext|>"
VERSION = 1

# Texts up to this length go to tiktoken as they are. Its regular-expression engine backtracks: it
# saves a position for each white space in a row and fails at a million of them.
TIKTOKEN_CHARACTERS = 1 << 18


class Tokenizer(Protocol):
    """The interface that the stages need from a tokenizer."""

    @property
    def n_vocab(self) -> int:
        """Return the size of the vocabulary, including the end-of-text token."""

    @property
    def eot_token(self) -> int:
        """Return the id of the end-of-text token."""

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a text, without an end-of-text token."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; an end-of-text token becomes `<|endoftext|>`."""

    @property
    def pieces(self) -> Sequence[bytes]:
        """Return the UTF-8 bytes of every token, by id, but the last: the end-of-text token."""

    @property
    def files(self) -> Mapping[str, str]:
        """Return the files that `load_tokenizer` reads: contents by file name."""


@dataclass(frozen=True)
class CharTokenizer:
    """One token per character, in the order of the code points (nanoGPT's `char`)."""

    characters: str

    @property
    def n_vocab(self) -> int:
        return len(self.characters) + 1

    @property
    def eot_token(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Tokens:
        """Return one token per character.

        Raises ValueError if the text has a character that is not in the vocabulary.
        """
        known = code_points(self.characters)
        codes = code_points(text)
        tokens = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        unknown = known[tokens] != codes
        if unknown.any():
            character = chr(codes[unknown][0])
            raise ValueError(
                f"the character {character!r} is not in the vocabulary of this `char` tokenizer, "
                "which has only the corpus's characters; remove it, or use tokenizer `bpe`"
            )
        return tokens.astype(token_dtype(self.n_vocab))

    def decode(self, tokens: Sequence[int]) -> str:
        table = [*self.characters, SEPARATOR]
        return "".join(table[token] for token in tokens)

    @property
    def pieces(self) -> Sequence[bytes]:
        return [character.encode("utf-8") for character in self.characters]

    @cached_property
    def files(self) -> Mapping[str, str]:
        about = {"version": VERSION, "kind": "char", "characters": self.characters}
        return {"tokenizer.json": json.dumps(about, indent=2) + "\n"}


@dataclass(frozen=True)
class BpeTokenizer:
    """Byte-pair encoding by tiktoken: GPT-2's, trained here, or without merges (`bytes`)."""

    pattern: str
    ranks: dict[bytes, int]
    encoding: tiktoken.Encoding

    @classmethod
    def of(cls, pattern: str, ranks: dict[bytes, int]) -> "BpeTokenizer":
        """Return the tokenizer of these ranks; the end-of-text token gets the id after them."""
        special = {SEPARATOR: len(ranks)}
        encoding = tiktoken.Encoding(
            "nanogpt", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
        )
        return cls(pattern, ranks, encoding)

    @property
    def n_vocab(self) -> int:
        return len(self.ranks) + 1

    @property
    def eot_token(self) -> int:
        return len(self.ranks)

    @cached_property
    def splitter(self) -> Splitter:
        """Return the splitter of the pattern, which must be in BOUNDS; it needs no regex engine."""
        return Splitter(self.pattern)

    @cached_property
    def merger(self) -> Merger:
        """Return the merger, which encodes the pieces that the splitter finds."""
        return Merger(self.ranks)

    def encode(self, text: str) -> Tokens:
        if len(text) > TIKTOKEN_CHARACTERS and self.pattern in BOUNDS:
            return self.encode_pieces(text)
        tokens = self.encoding.encode_to_numpy(text, disallowed_special=())
        return np.asarray(tokens).astype(token_dtype(self.n_vocab))

    def encode_pieces(self, text: str) -> Tokens:
        """Return the tokens that `encode` returns, in time linear in the length of any text."""
        utf8 = text.encode()
        content, offsets = np.frombuffer(utf8, np.uint8), np.array([0, len(utf8)])
        tokens = [np.empty(0, self.merger.dtype)]
        for bounds in self.splitter.windows(content, offsets):
            pieces = [utf8[start:stop] for start, stop in pairwise(bounds.tolist())]
            tokens.append(self.merger.encode(pieces).values)
        return np.concatenate(tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.encoding.decode(list(tokens))

    @property
    def pieces(self) -> Sequence[bytes]:
        return sorted(self.ranks, key=self.ranks.__getitem__)

    @cached_property
    def files(self) -> Mapping[str, str]:
        about = {"version": VERSION, "kind": "bpe", "pattern": self.pattern}
        return {
            "tokenizer.json": json.dumps(about, indent=2) + "\n",
            "ranks.tiktoken": format_ranks(self.ranks),
        }


def format_ranks(ranks: dict[bytes, int]) -> str:
    """Return ranks in tiktoken's text format: a base64 token and its rank per line, by rank."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return "".join(
        f"{b2a_base64(token, newline=False).decode()} {rank}\n" for token, rank in ordered
    )


def parse_ranks(content: bytes) -> dict[bytes, int]:
    """Return the ranks that are in a file of tiktoken's text format."""
    pairs = (line.split() for line in content.splitlines())
    return {a2b_base64(token): int(rank) for token, rank in pairs}


def save_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the files of a tokenizer into a new folder."""
    folder.mkdir(parents=True)
    for name, content in tokenizer.files.items():
        (folder / name).write_text(content, encoding="utf-8")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer that `save_tokenizer` wrote.

    Raises ValueError if it was written in another version of the format.
    """
    about = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if about["version"] != VERSION:
        raise ValueError(f"{folder} has version {about['version']}, not {VERSION}")
    kind: Literal["char", "bpe"] = about["kind"]
    if kind == "char":
        return CharTokenizer(about["characters"])
    return BpeTokenizer.of(about["pattern"], parse_ranks((folder / "ranks.tiktoken").read_bytes()))


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return a SHA-256 over all that defines how a tokenizer encodes text."""
    return files_fingerprint(tokenizer.files)


def files_fingerprint(files: Mapping[str, str]) -> str:
    """Return the `fingerprint` of the tokenizer that has these files: contents by file name."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode("utf-8")).hexdigest()
