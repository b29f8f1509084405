"""Exchange token files with nanoGPT and llm.c, to train all of them on the same tokens.

    to-nanogpt OUT              data/shards as nanoGPT's train.bin and val.bin
    to-llmc OUT                 data/shards as llm.c's train_000000.bin … and val_000000.bin …
    from-nanogpt FOLDER OUT     such files as a folder like data/shards
    from-llmc FOLDER OUT        *train*.bin and *val*.bin, as llm.c's scripts write them

nanoGPT's files contain only 16-bit token IDs, with an end-of-text token after each document;
llm.c's have a header of 256 integers, and an end-of-text token before each document. This is not a
stage of the pipeline; docs/decisions/0021 says how to use imported tokens in it, and how to set up
nanoGPT for exported ones.
"""

import argparse
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nanogpt.data.stream import TokenStream
from nanogpt.files import atomic_dir, file_sha256, write_json
from stages.artifacts.shards import SHARDS, VERSION, Shards
from stages.formats.named_tokenizer import GPT2_VOCAB_SIZES, tokenizer_named
from stages.runtime.settings import Settings
from stages.shard.split_writer import SplitWriter
from stages.tokenizers.tokenizer import (
    Tokenizer,
    fingerprint,
    save_tokenizer,
)

SPLITS = ("train", "val")
CHUNK_TOKENS = 1 << 22  # read at a time
SHARD_TOKENS = 100_000_000  # per file, as in the presets and in llm.c's fineweb.py

TOKEN_DTYPE = np.dtype("<u2")
HEADER_DTYPE = np.dtype("<i4")
HEADER_BYTES = 256 * HEADER_DTYPE.itemsize
MAGIC, LLMC_VERSION = 20240520, 1
LLAMA_MAGIC = 20240801  # llm.c's files of 32-bit token IDs

Format = Literal["nanogpt", "llmc"]
NAMES: dict[Format, str] = {"nanogpt": "nanoGPT", "llmc": "llm.c"}


def export_shards(shards: Shards, file_format: Format, out: Path) -> None:
    """Write both splits in another program's format, the tokenizer, and the hash of the shards."""
    n_vocab = shards.n_vocab
    if shards.manifest["dtype"] != "uint16":
        raise ValueError(
            f"{shards.folder} has a vocabulary of {n_vocab:,} tokens, but these files allow "
            f"{1 << 16:,} at most; tokenize with a smaller vocabulary"
        )
    with atomic_dir(out) as folder:
        for split in SPLITS:
            write = write_nanogpt if file_format == "nanogpt" else write_llmc
            write(folder, split, shards.stream(split), shards.eot_token)
        shutil.copytree(shards.tokenizer_folder, folder / "tokenizer")
        sha256 = file_sha256(shards.folder / "manifest.json")
        write_json(folder / "source.json", {"shards_manifest_sha256": sha256})
    print(f"token-files: wrote {shards.split('train').tokens:,} tokens to {out}")
    if n_vocab != GPT2_VOCAB_SIZES[0]:
        print(
            f"token-files: the {n_vocab:,} tokens are not GPT-2's, which nanoGPT and llm.c assume; "
            "docs/decisions/0021 says how to set up nanoGPT"
        )


def write_nanogpt(folder: Path, split: str, stream: TokenStream, eot_token: int) -> None:
    """Write one file like those of nanoGPT's prepare.py."""
    with (folder / f"{split}.bin").open("wb") as file:
        for start in range(0, len(stream), CHUNK_TOKENS):
            stop = min(start + CHUNK_TOKENS, len(stream))
            stream.read(start, stop).astype(TOKEN_DTYPE).tofile(file)


def write_llmc(folder: Path, split: str, stream: TokenStream, eot_token: int) -> None:
    """Write files of equal length: llm.c refuses one that is shorter than a batch.

    The last end-of-text token is moved to the front, so that each document follows one.
    """
    n_files = -(-len(stream) // SHARD_TOKENS)
    bounds = [len(stream) * n // n_files for n in range(n_files + 1)]
    for number, (first, last) in enumerate(pairwise(bounds)):
        header = np.zeros(HEADER_BYTES // HEADER_DTYPE.itemsize, HEADER_DTYPE)
        header[:3] = MAGIC, LLMC_VERSION, last - first
        with (folder / f"{split}_{number:06d}.bin").open("wb") as file:
            header.tofile(file)
            if first == 0:
                np.array([eot_token], TOKEN_DTYPE).tofile(file)
            for start in range(max(first - 1, 0), last - 1, CHUNK_TOKENS):
                stop = min(start + CHUNK_TOKENS, last - 1)
                stream.read(start, stop).astype(TOKEN_DTYPE).tofile(file)


def import_files(folder: Path, file_format: Format, tokenizer: Tokenizer, out: Path) -> None:
    """Convert another program's files to a shards folder. Raises ValueError for invalid files."""
    if tokenizer.n_vocab > 1 << 16:
        raise ValueError(f"the tokenizer has {tokenizer.n_vocab:,} tokens, too many for 16 bits")
    files = {split: find_files(folder, split, file_format) for split in SPLITS}
    with atomic_dir(out) as draft:
        splits = {
            split: import_split(files[split], file_format, tokenizer, draft / split)
            for split in SPLITS
        }
        save_tokenizer(draft / "tokenizer", tokenizer)
        manifest = {
            "version": VERSION,
            "dtype": "uint16",
            "n_vocab": tokenizer.n_vocab,
            "separator": tokenizer.eot_token,
            "tokenizer_fingerprint": fingerprint(tokenizer),
            "corpus_manifest_sha256": None,
            "tokens_manifest_sha256": None,
            "split": {},
            "mixture": None,
            "imported": {
                "format": file_format,
                "sha256": {f.name: file_sha256(f) for split in SPLITS for f in files[split]},
            },
            "splits": splits,
        }
        write_json(draft / "manifest.json", manifest)
    for name, split in splits.items():
        print(f"token-files: {name} {split['documents']:,} documents, {split['tokens']:,} tokens")


def find_files(folder: Path, split: str, file_format: Format) -> list[Path]:
    """Return the files of a split in order. Raises ValueError if there is none."""
    pattern = f"{split}.bin" if file_format == "nanogpt" else f"*{split}*.bin"
    files = sorted(folder.glob(pattern))
    if not files:
        raise ValueError(f"{folder} holds no {pattern}, which {NAMES[file_format]} would train on")
    return files


def import_split(
    files: list[Path], file_format: Format, tokenizer: Tokenizer, out: Path
) -> dict[str, Any]:
    """Write one split, with an end-of-text token after each document; return its manifest entry.

    Raises ValueError if there are no tokens.
    """
    sizes, eot_token = token_bytes(tokenizer), tokenizer.eot_token
    n_tokens = sum(map(len, read_tokens(files, file_format, tokenizer)))
    if not n_tokens:
        raise ValueError(f"{files[0]} holds no tokens")
    with SplitWriter(out, n_tokens, SHARD_TOKENS, TOKEN_DTYPE) as writer:
        ends = []
        n_tokens_written = n_bytes = 0
        for tokens in read_tokens(files, file_format, tokenizer):
            writer.write(n_tokens_written, tokens)
            ends.append(n_tokens_written + np.flatnonzero(tokens == eot_token) + 1)
            n_tokens_written += len(tokens)
            n_bytes += int(sizes[tokens].sum())
        return writer.finish(np.concatenate(ends), n_bytes)


def read_tokens(
    files: list[Path], file_format: Format, tokenizer: Tokenizer
) -> Iterator[NDArray[np.uint16]]:
    """Yield the tokens of the files in chunks, with end-of-text tokens after documents only."""
    eot_token, last = tokenizer.eot_token, -1
    for file in files:
        for tokens in read_chunks(file, file_format, tokenizer.n_vocab):
            starts_with_eot = last == -1 and file_format == "llmc" and tokens[0] == eot_token
            last = int(tokens[-1])
            yield tokens[1:] if starts_with_eot else tokens
    if last != -1 and (file_format == "llmc" or last != eot_token):
        yield np.array([eot_token], TOKEN_DTYPE)


def read_chunks(file: Path, file_format: Format, n_vocab: int) -> Iterator[NDArray[np.uint16]]:
    """Yield the tokens of a file, CHUNK_TOKENS at a time. Raises ValueError if it is damaged."""
    header_bytes = checked_header(file, file_format)
    with file.open("rb") as content:
        content.seek(header_bytes)
        while len(tokens := np.fromfile(content, TOKEN_DTYPE, CHUNK_TOKENS)):
            if tokens.max() >= n_vocab:
                raise ValueError(
                    f"{file} contains token ID {tokens.max()}, but the vocabulary ends at "
                    f"{n_vocab - 1}; pass the file's own tokenizer with --tokenizer"
                )
            yield tokens


def checked_header(file: Path, file_format: Format) -> int:
    """Return the size of the header in bytes. Raises ValueError if the file is damaged."""
    size = file.stat().st_size
    if file_format == "nanogpt":
        if size % TOKEN_DTYPE.itemsize:
            raise ValueError(f"{file} has {size:,} bytes, an odd number; it is truncated")
        return 0
    header = np.fromfile(file, HEADER_DTYPE, HEADER_BYTES // HEADER_DTYPE.itemsize).tolist()
    if header[:1] == [LLAMA_MAGIC]:
        raise ValueError(
            f"{file} contains 32-bit token IDs of Llama 3; only 16-bit ones can be read"
        )
    if size < HEADER_BYTES or header[0] != MAGIC:
        raise ValueError(f"{file} is not an llm.c file: it does not begin with {MAGIC}")
    if header[1] != LLMC_VERSION:
        raise ValueError(f"{file} has version {header[1]}, not {LLMC_VERSION}")
    expected = HEADER_BYTES + header[2] * TOKEN_DTYPE.itemsize
    if size != expected:
        raise ValueError(
            f"{file} has {size:,} bytes, but {expected:,} by its header; it is damaged"
        )
    return HEADER_BYTES


def token_bytes(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Return the bytes of text of each token, 0 for the end-of-text token, (V,)."""
    return np.array([*map(len, tokenizer.pieces), 0])


def named_tokenizer(folder: Path, name: str | None) -> Tokenizer:
    """Return the tokenizer of another program's files: as named, or next to them, or GPT-2's.

    Raises ValueError if they come with a meta.pkl, which is not read.
    """
    if name is None and (folder / "tokenizer").is_dir():
        name = str(folder / "tokenizer")
    if name is None and (folder / "meta.pkl").exists():
        raise ValueError(
            f"{folder / 'meta.pkl'} says that these tokens are not GPT-2's, and is not read, "
            "because a pickle can run any code; pass their tokenizer with --tokenizer, a folder "
            "such as models/gpt/tokenizer"
        )
    return tokenizer_named("gpt2" if name is None else name)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their arguments."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for file_format, name in NAMES.items():
        out = commands.add_parser(f"to-{file_format}", help=f"export shards in {name}'s format")
        out.add_argument(
            "--shards", type=Path, default=SHARDS, help="shards folder (default: data/shards)"
        )
        into = commands.add_parser(f"from-{file_format}", help=f"import {name} files as shards")
        into.add_argument("folder", type=Path, help="folder with the .bin files")
        into.add_argument("--tokenizer", help="gpt2, or a folder such as models/gpt/tokenizer")
        for command in (out, into):
            command.add_argument("out", type=Path, help="a new folder")


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages token-files COMMAND ...`."""
    direction, file_format = options.command.split("-")
    if options.out.exists():
        raise ValueError(f"{options.out} already exists; remove it or choose another folder")
    if direction == "to":
        export_shards(Shards.open(options.shards), file_format, options.out)
    else:
        tokenizer = named_tokenizer(options.folder, options.tokenizer)
        import_files(options.folder, file_format, tokenizer, options.out)
