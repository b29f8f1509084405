"""Tokenizers: text to ids and back, and the same one again from its folder.

Every document is followed by one separator, `<|endoftext|>`, the last id of each vocabulary. Typed
inside a document those letters are letters.
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

from stages.tokenizers.ids import Tokens, token_dtype
from stages.tokenizers.merges import Merger
from stages.tokenizers.pretokenize import BOUNDS, Splitter, code_points

SEPARATOR = "<|endoftext|>"
VERSION = 1

# Texts up to here go to tiktoken whole. Its engine for regular expressions keeps a place to come
# back to for each white space in a row, and fails at a million of them.
TIKTOKEN_CHARACTERS = 1 << 18


class Tokenizer(Protocol):
    """What the stages need of a tokenizer."""

    @property
    def n_vocab(self) -> int:
        """Number of ids, the separator included."""

    @property
    def eot_token(self) -> int:
        """The id that ends every document."""

    def encode(self, text: str) -> Tokens:
        """Ids of a text, without separator."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ids; separators show as `<|endoftext|>`."""

    @property
    def pieces(self) -> Sequence[bytes]:
        """The UTF-8 bytes of every id but the separator, which is the last."""

    @property
    def files(self) -> Mapping[str, str]:
        """What `load_tokenizer` needs: file names and contents."""


@dataclass(frozen=True)
class CharTokenizer:
    """One id per character, in the order of their code points (nanoGPT's `char`)."""

    characters: str

    @property
    def n_vocab(self) -> int:
        return len(self.characters) + 1

    @property
    def eot_token(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Tokens:
        """Raises ValueError at a character the corpus did not have."""
        known = code_points(self.characters)
        codes = code_points(text)
        ids = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        unknown = known[ids] != codes
        if unknown.any():
            character = chr(codes[unknown][0])
            raise ValueError(
                f"the character {character!r} is not in the vocabulary of this `char` tokenizer, "
                "which knows the corpus alone; use others, or tokenizer `bpe`"
            )
        return ids.astype(token_dtype(self.n_vocab))

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
    """Byte pairs by tiktoken: GPT-2's own, one trained here, or no pairs at all (`bytes`)."""

    pattern: str
    ranks: dict[bytes, int]
    encoding: tiktoken.Encoding

    @classmethod
    def of(cls, pattern: str, ranks: dict[bytes, int]) -> "BpeTokenizer":
        """The tokenizer of these ranks; the separator gets the id after them."""
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
        """The pattern without a regular expression, for those in BOUNDS."""
        return Splitter(self.pattern)

    @cached_property
    def merger(self) -> Merger:
        """What encodes the pieces that the splitter finds."""
        return Merger(self.ranks)

    def encode(self, text: str) -> Tokens:
        if len(text) > TIKTOKEN_CHARACTERS and self.pattern in BOUNDS:
            return self.encode_pieces(text)
        ids = self.encoding.encode_to_numpy(text, disallowed_special=())
        return np.asarray(ids).astype(token_dtype(self.n_vocab))

    def encode_pieces(self, text: str) -> Tokens:
        """The same ids in time that grows with the length of the text alone, whatever is in it."""
        utf8 = text.encode()
        content, ends = np.frombuffer(utf8, np.uint8), np.array([0, len(utf8)])
        ids = [np.empty(0, self.merger.dtype)]
        for bounds in self.splitter.windows(content, ends):
            pieces = [utf8[start:stop] for start, stop in pairwise(bounds.tolist())]
            ids.append(self.merger.merged(pieces).values)
        return np.concatenate(ids)

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
    """Tiktoken's text form: one base64 token and its rank a line, by rank."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return "".join(
        f"{b2a_base64(token, newline=False).decode()} {rank}\n" for token, rank in ordered
    )


def parse_ranks(content: bytes) -> dict[bytes, int]:
    """Undo `format_ranks`."""
    pairs = (line.split() for line in content.splitlines())
    return {a2b_base64(token): int(rank) for token, rank in pairs}


def save_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write a tokenizer into a new folder."""
    folder.mkdir(parents=True)
    for name, content in tokenizer.files.items():
        (folder / name).write_text(content, encoding="utf-8")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read a tokenizer as `save_tokenizer` wrote it."""
    about = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if about["version"] != VERSION:
        raise ValueError(f"{folder} has version {about['version']}, not {VERSION}")
    kind: Literal["char", "bpe"] = about["kind"]
    if kind == "char":
        return CharTokenizer(about["characters"])
    return BpeTokenizer.of(about["pattern"], parse_ranks((folder / "ranks.tiktoken").read_bytes()))


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 over what defines the tokenizer: equal ids for every text, equal fingerprint."""
    return files_fingerprint(tokenizer.files)


def files_fingerprint(files: Mapping[str, str]) -> str:
    """The same of the tokenizer that is in these files, names and contents."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode("utf-8")).hexdigest()
