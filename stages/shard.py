"""Stage `shard`: token rows to memory-mapped files, training and validation apart.

A split is one long stream, cut into `.npy` files of shard_tokens: document, separator, document,
separator. `ends.npy` holds where each document ends in it, the separator included. Documents that
stand several times, by `shard.weights`, do so in turns: all of them once, then all once more.
"""

import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nanogpt.files import file_sha256, whole_folder, write_json
from stages.command import main
from stages.params import Section, load_section
from stages.settings import Settings
from stages.tokens.mixture import check_weights, corpus_repeats, document_copies
from stages.tokens.shards import VERSION
from stages.tokens.split import SplitParams, split_documents
from stages.tokens.split_writer import SplitWriter
from stages.tokens.tokenized import Documents, Tokenized

TOKENS, OUT = Path("data/tokens"), Path("data/shards")

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Chosen = NDArray[np.bool_]  # (documents,)
Copies = NDArray[np.uint8]  # (documents,) how often each stands in the training stream


class ShardParams(Section):
    """The section `shard`."""

    shard_tokens: int = Field(ge=1024, le=1 << 32)
    weights: dict[str, Weight] | None = Field(min_length=1)
    max_repetition: int = Field(ge=1, le=100)


def training_tokens(tokens: Tokenized, is_val: Chosen) -> Counter[str]:
    """How many tokens of each corpus are for training, separators included."""
    count = Counter({part.corpus: 0 for part in tokens.parts})
    for part in tokens.parts:
        for documents in tokens.documents(part):
            count[part.corpus] += int(documents.lengths[~is_val[documents.rows]].sum())
    return count


def plan(
    params: ShardParams, split: SplitParams, tokens: Tokenized
) -> tuple[Chosen, Copies, dict[str, float] | None]:
    """Which documents are for validation, how often the others stand; repeats of each corpus.

    Raises ValueError when the corpora cannot be split or mixed so.
    """
    hashes = tokens.text_hashes()
    is_val = split_documents(hashes, split)
    copies = (~is_val).astype(np.uint8)
    if params.weights is None:
        return is_val, copies, None
    check_weights(params.weights, {part.corpus for part in tokens.parts})
    count = training_tokens(tokens, is_val)
    repeats = corpus_repeats(count, params.weights, params.max_repetition)
    for part in tokens.parts:
        often = document_copies(hashes[part.rows], repeats[part.corpus], split.seed)
        copies[part.rows] *= often
    return is_val, copies, {name: float(often) for name, often in repeats.items()}


def write(
    tokens: Tokenized, is_val: Chosen, copies: Copies, writers: Mapping[str, SplitWriter]
) -> Counter[str]:
    """Write both splits; the tokens of each corpus in the training stream."""
    written: Counter[str] = Counter()
    for turn in range(int(copies.max())):
        chosen = copies > turn
        for part in tokens.parts:
            if turn and not chosen[part.rows].any():
                continue
            for documents in tokens.documents(part):
                train = documents.where(chosen)
                add(writers["train"], train)
                written[part.corpus] += int(train.lengths.sum())
                if turn == 0:
                    add(writers["val"], documents.where(is_val))
    return written


def add(writer: SplitWriter, documents: Documents) -> None:
    """Append documents to a split."""
    writer.add(documents.tokens(), np.cumsum(documents.lengths), int(documents.n_bytes.sum()))


def mixture(
    params: ShardParams, repeats: Mapping[str, float], written: Mapping[str, int]
) -> dict[str, Any]:
    """How the training stream is mixed, for the manifest."""
    assert params.weights is not None
    total = sum(written.values())
    return {
        "max_repetition": params.max_repetition,
        "corpora": {
            name: {
                "weight": params.weights[name],
                "repeats": repeats[name],
                "tokens": tokens,
                "share": tokens / total,
            }
            for name, tokens in written.items()
        },
    }


def run(params: ShardParams, split: SplitParams, tokens: Path, out: Path) -> None:
    """Write both splits, the tokenizer and the manifest."""
    source = Tokenized.open(tokens)
    is_val, copies, repeats = plan(params, split, source)
    dtype = source.manifest["dtype"]
    with whole_folder(out) as folder, ExitStack() as stack:
        writers = {
            name: stack.enter_context(SplitWriter(folder / name, params.shard_tokens, dtype))
            for name in ("train", "val")
        }
        written = write(source, is_val, copies, writers)
        manifest = {
            "version": VERSION,
            "dtype": dtype,
            "n_vocab": source.manifest["n_vocab"],
            "separator": source.separator,
            "tokenizer_fingerprint": source.manifest["tokenizer_fingerprint"],
            "corpus_manifest_sha256": source.manifest["corpus_manifest_sha256"],
            "tokens_manifest_sha256": file_sha256(tokens / "manifest.json"),
            "split": split.model_dump(),
            "mixture": mixture(params, repeats, written) if repeats else None,
            "splits": {name: writer.finish() for name, writer in writers.items()},
        }
        shutil.copytree(tokens / "tokenizer", folder / "tokenizer")
        write_json(folder / "manifest.json", manifest)
    for name, writer in writers.items():
        print(f"shard: {name} {writer.ends.length:,} documents, {writer.n_tokens:,} tokens")


def run_stage(settings: Settings) -> None:
    """`python -m stages.shard`."""
    run(load_section("shard", ShardParams), load_section("split", SplitParams), TOKENS, OUT)


if __name__ == "__main__":
    main("shard", run_stage)
