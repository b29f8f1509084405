"""Text to token files as nanoGPT's data/openwebtext/prepare.py makes them, rewritten.

    python -m benchmarks.nanogpt_prepare TEXTS.jsonl… --out FOLDER

`datasets` reads the documents, holds a few out and maps tiktoken over them one by one in num_proc
processes; the tokens of each split are written through a memory map in 1,024 batches.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from datasets import load_dataset
from tiktoken_ext.openai_public import r50k_pat_str

from stages.tokenizers.tokenizer import SEPARATOR, parse_ranks

BATCHES = 1024
VAL_FRACTION = 0.0005


def encoding(ranks: Path) -> tiktoken.Encoding:
    """Build GPT-2's encoding as `tiktoken.get_encoding` does, without its download."""
    return tiktoken.Encoding(
        "gpt2",
        explicit_n_vocab=50257,
        pat_str=r50k_pat_str,
        mergeable_ranks=parse_ranks(ranks.read_bytes()),
        special_tokens={SEPARATOR: 50256},
    )


def prepare(files: list[str], ranks: Path, out: Path, num_proc: int) -> None:
    """Tokenize the documents in `files`; write train.bin and val.bin."""
    gpt2 = encoding(ranks)

    def encode(document: dict[str, str]) -> dict[str, Any]:
        tokens = gpt2.encode_ordinary(document["text"])
        tokens.append(gpt2.eot_token)
        return {"ids": tokens, "len": len(tokens)}

    documents = load_dataset("json", data_files=files, split="train")
    splits = documents.train_test_split(test_size=VAL_FRACTION, seed=2357, shuffle=True)
    splits["val"] = splits.pop("test")
    encoded = splits.map(encode, remove_columns=["text"], num_proc=num_proc)
    for name, rows in encoded.items():
        length = int(np.sum(rows["len"], dtype=np.uint64))
        tokens = np.memmap(out / f"{name}.bin", dtype=np.uint16, mode="w+", shape=(length,))
        n_batches = min(BATCHES, len(rows))
        written = 0
        for index in range(n_batches):
            shard = rows.shard(num_shards=n_batches, index=index, contiguous=True)
            batch = np.concatenate(shard.with_format("numpy")["ids"][:])
            tokens[written : written + len(batch)] = batch
            written += len(batch)
        tokens.flush()


def main() -> None:
    """Run `python -m benchmarks.nanogpt_prepare`."""
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
