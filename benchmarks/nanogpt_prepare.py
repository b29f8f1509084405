"""Text to token files in the way of nanoGPT's data/openwebtext/prepare.py, rewritten.

    python -m benchmarks.nanogpt_prepare TEXTS.jsonl… --out FOLDER

`datasets` reads the documents, sets a few aside, maps tiktoken over them one by one in num_proc
processes, and the ids of each split are written through a memory map in 1,024 pieces.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from datasets import load_dataset
from tiktoken_ext.openai_public import r50k_pat_str

from stages.tokenizers.tokenizer import SEPARATOR, parse_ranks

PIECES = 1024
VAL_FRACTION = 0.0005


def encoding(ranks: Path) -> tiktoken.Encoding:
    """GPT-2's encoding as `tiktoken.get_encoding` makes it, without its download."""
    return tiktoken.Encoding(
        "gpt2",
        explicit_n_vocab=50257,
        pat_str=r50k_pat_str,
        mergeable_ranks=parse_ranks(ranks.read_bytes()),
        special_tokens={SEPARATOR: 50256},
    )


def prepare(files: list[str], ranks: Path, out: Path, num_proc: int) -> None:
    """Write train.bin and val.bin."""
    gpt2 = encoding(ranks)

    def encode(document: dict[str, str]) -> dict[str, Any]:
        ids = gpt2.encode_ordinary(document["text"])
        ids.append(gpt2.eot_token)
        return {"ids": ids, "len": len(ids)}

    documents = load_dataset("json", data_files=files, split="train")
    splits = documents.train_test_split(test_size=VAL_FRACTION, seed=2357, shuffle=True)
    splits["val"] = splits.pop("test")
    encoded = splits.map(encode, remove_columns=["text"], num_proc=num_proc)
    for name, rows in encoded.items():
        length = int(np.sum(rows["len"], dtype=np.uint64))
        ids = np.memmap(out / f"{name}.bin", dtype=np.uint16, mode="w+", shape=(length,))
        pieces = min(PIECES, len(rows))
        filled = 0
        for index in range(pieces):
            piece = rows.shard(num_shards=pieces, index=index, contiguous=True)
            batch = np.concatenate(piece.with_format("numpy")["ids"][:])
            ids[filled : filled + len(batch)] = batch
            filled += len(batch)
        ids.flush()


def main() -> None:
    """`python -m benchmarks.nanogpt_prepare`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="+")
    parser.add_argument("--ranks", type=Path, default=Path(".cache/gpt2.tiktoken"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-proc", type=int, default=2)
    options = parser.parse_args()
    prepare(options.files, options.ranks, options.out, options.num_proc)


if __name__ == "__main__":
    main()
