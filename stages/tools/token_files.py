"""Tokens exchanged with nanoGPT and llm.c, so that they train on the very same ones.

    to-nanogpt OUT              data/shards as nanoGPT's train.bin and val.bin
    to-llmc OUT                 data/shards as llm.c's train_000000.bin … and val_000000.bin …
    from-nanogpt FOLDER OUT     such files as a folder like data/shards
    from-llmc FOLDER OUT        *train*.bin and *val*.bin, as llm.c's scripts write them

nanoGPT's files are nothing but 16-bit ids, a separator after each document; llm.c's have a header
of 256 numbers and a separator before each document. This is no stage of the pipeline; how imported
tokens get into it, and what nanoGPT must be given: docs/decisions/0021.
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
from stages.artifacts.shards import VERSION, Shards
from stages.formats.chosen_tokenizer import GPT2_IDS, chosen_tokenizer
from stages.runtime.settings import Settings
from stages.shard.split_writer import SplitWriter
from stages.tokenizers.tokenizer import (
    Tokenizer,
    fingerprint,
    save_tokenizer,
)

SHARDS = Path("data/shards")
SPLITS = ("train", "val")
PIECE_TOKENS = 1 << 22  # held in memory at a time
SHARD_TOKENS = 100_000_000  # in a file, as the presets and llm.c's fineweb.py have it

ID = np.dtype("<u2")
HEADER = np.dtype("<i4")
HEADER_BYTES = 256 * HEADER.itemsize
MAGIC, LLMC_VERSION = 20240520, 1
LLAMA_MAGIC = 20240801  # llm.c's files of 32-bit ids

Format = Literal["nanogpt", "llmc"]


def export_shards(shards: Shards, form: Format, out: Path) -> None:
    """Write both splits in a peer's format, the tokenizer, and where the tokens are from."""
    n_vocab = shards.manifest["n_vocab"]
    if shards.manifest["dtype"] != "uint16":
        raise ValueError(
            f"{shards.folder} has {n_vocab:,} ids, these files hold {1 << 16:,} at most; tokenize "
            "with a smaller vocabulary"
        )
    with atomic_dir(out) as folder:
        for split in SPLITS:
            write = write_nanogpt if form == "nanogpt" else write_llmc
            write(folder, split, shards.stream(split), shards.manifest["separator"])
        shutil.copytree(shards.tokenizer_folder, folder / "tokenizer")
        sha256 = file_sha256(shards.folder / "manifest.json")
        write_json(folder / "source.json", {"shards_manifest_sha256": sha256})
    print(f"token_files: {out} holds {shards.manifest['splits']['train']['tokens']:,} tokens")
    if n_vocab != GPT2_IDS[0]:
        print(
            f"token_files: the {n_vocab:,} ids are not GPT-2's, which nanoGPT and llm.c assume; "
            "docs/decisions/0021 says how to set up nanoGPT"
        )


def write_nanogpt(folder: Path, split: str, stream: TokenStream, eot_token: int) -> None:
    """One file as nanoGPT's prepare.py writes it."""
    with (folder / f"{split}.bin").open("wb") as file:
        for start in range(0, len(stream), PIECE_TOKENS):
            stop = min(start + PIECE_TOKENS, len(stream))
            stream.read(start, stop).astype(ID).tofile(file)


def write_llmc(folder: Path, split: str, stream: TokenStream, eot_token: int) -> None:
    """Files of equal length, for llm.c refuses one that is shorter than a batch.

    The separator that ends the stream begins it, so that one is before each document.
    """
    n_files = -(-len(stream) // SHARD_TOKENS)
    bounds = [len(stream) * n // n_files for n in range(n_files + 1)]
    for number, (first, last) in enumerate(pairwise(bounds)):
        header = np.zeros(HEADER_BYTES // HEADER.itemsize, HEADER)
        header[:3] = MAGIC, LLMC_VERSION, last - first
        with (folder / f"{split}_{number:06d}.bin").open("wb") as file:
            header.tofile(file)
            if first == 0:
                np.array([eot_token], ID).tofile(file)
            for start in range(max(first - 1, 0), last - 1, PIECE_TOKENS):
                stop = min(start + PIECE_TOKENS, last - 1)
                stream.read(start, stop).astype(ID).tofile(file)


def import_files(folder: Path, form: Format, tokenizer: Tokenizer, out: Path) -> None:
    """Make a shards folder of a peer's files. Raises ValueError at files that are none."""
    if tokenizer.n_vocab > 1 << 16:
        raise ValueError(f"the tokenizer has {tokenizer.n_vocab:,} ids, more than 16 bits hold")
    files = {split: found_files(folder, split, form) for split in SPLITS}
    with atomic_dir(out) as draft:
        splits = {
            split: import_split(files[split], form, tokenizer, draft / split) for split in SPLITS
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
                "format": form,
                "sha256": {f.name: file_sha256(f) for split in SPLITS for f in files[split]},
            },
            "splits": splits,
        }
        write_json(draft / "manifest.json", manifest)
    for name, split in splits.items():
        print(f"token_files: {name} {split['documents']:,} documents, {split['tokens']:,} tokens")


def found_files(folder: Path, split: str, form: Format) -> list[Path]:
    """A split's files in order. Raises ValueError when there is none."""
    pattern = f"{split}.bin" if form == "nanogpt" else f"*{split}*.bin"
    files = sorted(folder.glob(pattern))
    if not files:
        raise ValueError(f"{folder} holds no {pattern}, which {form} would train on")
    return files


def import_split(
    files: list[Path], form: Format, tokenizer: Tokenizer, out: Path
) -> dict[str, Any]:
    """Write one split with a separator after each document; its description.

    Raises ValueError when there are no tokens.
    """
    sizes, eot_token = token_bytes(tokenizer), tokenizer.eot_token
    n_tokens = sum(map(len, separated(files, form, tokenizer)))
    if not n_tokens:
        raise ValueError(f"{files[0]} holds no tokens")
    with SplitWriter(out, n_tokens, SHARD_TOKENS, ID) as writer:
        ends = []
        done = n_bytes = 0
        for tokens in separated(files, form, tokenizer):
            writer.write(done, tokens)
            ends.append(done + np.flatnonzero(tokens == eot_token) + 1)
            done, n_bytes = done + len(tokens), n_bytes + int(sizes[tokens].sum())
        return writer.finish(np.concatenate(ends), n_bytes)


def separated(
    files: list[Path], form: Format, tokenizer: Tokenizer
) -> Iterator[NDArray[np.uint16]]:
    """The tokens in the files, some at a time; at the end, not at the start, a separator."""
    eot_token, last = tokenizer.eot_token, -1
    for file in files:
        for tokens in read_pieces(file, form, tokenizer.n_vocab):
            begins = last == -1 and form == "llmc" and tokens[0] == eot_token
            last = int(tokens[-1])
            yield tokens[1:] if begins else tokens
    if last != -1 and (form == "llmc" or last != eot_token):
        yield np.array([eot_token], ID)


def read_pieces(file: Path, form: Format, n_vocab: int) -> Iterator[NDArray[np.uint16]]:
    """The ids in a file, PIECE_TOKENS at a time. Raises ValueError when it is damaged."""
    header_bytes = checked_header(file, form)
    with file.open("rb") as content:
        content.seek(header_bytes)
        while len(tokens := np.fromfile(content, ID, PIECE_TOKENS)):
            if tokens.max() >= n_vocab:
                raise ValueError(
                    f"{file} holds id {tokens.max()}, the tokenizer ends at {n_vocab - 1}; name "
                    "the one it was made with by --tokenizer"
                )
            yield tokens


def checked_header(file: Path, form: Format) -> int:
    """How many bytes come before the tokens. Raises ValueError when the file is damaged."""
    size = file.stat().st_size
    if form == "nanogpt":
        if size % ID.itemsize:
            raise ValueError(f"{file} has {size:,} bytes, an odd number; it is cut short")
        return 0
    header = np.fromfile(file, HEADER, HEADER_BYTES // HEADER.itemsize).tolist()
    if header[:1] == [LLAMA_MAGIC]:
        raise ValueError(f"{file} holds 32-bit ids of Llama 3, only 16-bit ids are read")
    if size < HEADER_BYTES or header[0] != MAGIC:
        raise ValueError(f"{file} is no file of llm.c: it does not begin with {MAGIC}")
    if header[1] != LLMC_VERSION:
        raise ValueError(f"{file} has version {header[1]}, not {LLMC_VERSION}")
    expected = HEADER_BYTES + header[2] * ID.itemsize
    if size != expected:
        raise ValueError(f"{file} has {size:,} bytes, by its header {expected:,}; it is damaged")
    return HEADER_BYTES


def token_bytes(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """(V,) how many bytes of text each id stands for, the separator for none."""
    return np.array([*map(len, tokenizer.pieces), 0])


def named_tokenizer(folder: Path, name: str | None) -> Tokenizer:
    """The tokenizer of a peer's files: as named, or next to them, or GPT-2's.

    Raises ValueError when they have a vocabulary of their own that is not read.
    """
    if name is None and (folder / "tokenizer").is_dir():
        name = str(folder / "tokenizer")
    if name is None and (folder / "meta.pkl").exists():
        raise ValueError(
            f"{folder / 'meta.pkl'} says that these ids are not GPT-2's, and is not read: a pickle "
            "can run anything; name their tokenizer by --tokenizer, a folder such as "
            "models/gpt/tokenizer"
        )
    return chosen_tokenizer(name, GPT2_IDS[0])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for form in ("nanogpt", "llmc"):
        out = commands.add_parser(f"to-{form}", help=f"shards as {form} reads them")
        out.add_argument("--shards", type=Path, default=SHARDS, help="a folder of shards")
        into = commands.add_parser(f"from-{form}", help=f"a folder of {form}'s files as shards")
        into.add_argument("folder", type=Path, help="where the .bin files are")
        into.add_argument("--tokenizer", help="gpt2, or a folder such as models/gpt/tokenizer")
        for command in (out, into):
            command.add_argument("out", type=Path, help="a new folder")


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """`python -m stages token-files COMMAND ...`."""
    direction, form = options.command.split("-")
    if options.out.exists():
        raise ValueError(f"{options.out} exists; remove it, or name another folder")
    if direction == "to":
        export_shards(Shards.open(options.shards), form, options.out)
    else:
        tokenizer = named_tokenizer(options.folder, options.tokenizer)
        import_files(options.folder, form, tokenizer, options.out)
