"""Stage `tokenize`: documents to token ids, and the tokenizer that made them.

Same bytes out for any number of workers. What a `bpe` vocabulary learns, it learns from training
documents only: validation text is new even to the tokenizer.
"""

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rustbpe
from pydantic import Field, model_validator
from tiktoken_ext.openai_public import r50k_pat_str

from nanogpt.files import file_sha256, whole_folder
from stages.cleaned import Cleaned, CleanedPart
from stages.command import main
from stages.gpt2_vocabulary import gpt2_ranks
from stages.params import Section, load_section
from stages.settings import Settings
from stages.split import SplitParams, hash_rows, split_documents
from stages.supervise import exit_at_once, starters, when_gone
from stages.tokenizer import (
    BpeTokenizer,
    CharTokenizer,
    Tokenizer,
    fingerprint,
    load_tokenizer,
    save_tokenizer,
    token_dtype,
)

CORPUS, CLEAN, OUT = Path("data/corpus"), Path("data/clean"), Path("data/tokens")

# Splits text as GPT-4 does (tiktoken's cl100k_base), but numbers after two digits, not three.
# Against GPT-2's pattern it puts 7 % more bytes of Shakespeare into a token at 1,024 ids.
BPE_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


class TokenizeParams(Section):
    """The section `tokenize`."""

    tokenizer: Literal["gpt2", "char", "bytes", "bpe"]
    vocab_size: int | None = Field(ge=257, le=1 << 20)

    @model_validator(mode="after")
    def vocab_size_is_for_bpe(self) -> "TokenizeParams":
        """Only a vocabulary that is learned has a size to choose."""
        if (self.tokenizer == "bpe") != (self.vocab_size is not None):
            wanted = "a number such as 1024" if self.tokenizer == "bpe" else "null"
            raise ValueError(
                f"vocab_size is {self.vocab_size}, tokenizer `{self.tokenizer}` takes {wanted}"
            )
        return self


def training_texts(cleaned: Cleaned, split: SplitParams) -> Iterator[str]:
    """The texts that are not for validation."""
    is_val = split_documents(hash_rows(cleaned.text_hashes()), split)
    for text, held_back in zip(cleaned.texts(), is_val, strict=True):
        if not held_back:
            yield text


def make_tokenizer(params: TokenizeParams, split: SplitParams, cleaned: Cleaned) -> Tokenizer:
    """The tokenizer the params ask for, learned from the corpus where that is how it is made."""
    if params.tokenizer == "gpt2":
        return BpeTokenizer.of(r50k_pat_str, gpt2_ranks())
    if params.tokenizer == "bytes":
        return BpeTokenizer.of(r"[\s\S]", {bytes([b]): b for b in range(256)})
    if params.tokenizer == "char":
        return CharTokenizer("".join(sorted(set().union(*cleaned.texts()))))
    assert params.vocab_size is not None  # the params model saw to it
    return trained_bpe(training_texts(cleaned, split), params.vocab_size)


def trained_bpe(texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
    """Byte pairs learned from the texts, vocab_size ids in all (Sennrich et al. 2016).

    Raises ValueError when the texts are too short for so many.
    """
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), vocab_size - 1, pattern=BPE_PATTERN)
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    if len(ranks) < vocab_size - 1:
        raise ValueError(
            f"the corpus has pairs for {len(ranks) + 1} ids only, tokenize.vocab_size asks for "
            f"{vocab_size}; ask for fewer, or use tokenizer `char`"
        )
    return BpeTokenizer.of(BPE_PATTERN, ranks)


def encode_batch(tokenizer: Tokenizer, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Documents (id, text, text_hash) to rows (id, tokens, n_bytes, text_hash)."""
    texts = batch.column("text").to_pylist()
    tokens = [tokenizer.encode(text) for text in texts]
    flat = np.concatenate(tokens) if tokens else np.empty(0, token_dtype(tokenizer.n_vocab))
    ends = np.cumsum([0, *(len(t) for t in tokens)])
    return pa.record_batch(
        {
            "id": batch.column("id"),
            "tokens": pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(flat)),
            "n_bytes": pa.array([len(text.encode("utf-8")) for text in texts], pa.int64()),
            "text_hash": batch.column("text_hash"),
        }
    )


_tokenizer: Tokenizer  # of a worker process, loaded once


def start_worker(folder: Path) -> None:
    """Load the tokenizer in a worker process."""
    when_gone(starters(), exit_at_once)
    global _tokenizer
    _tokenizer = load_tokenizer(folder)


def work(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Encode one batch in a worker process."""
    return encode_batch(_tokenizer, batch)


def encoded(
    batches: Iterable[pa.RecordBatch], pool: Executor, ahead: int
) -> Iterator[pa.RecordBatch]:
    """Batches encoded by the pool, in order, at most `ahead` of them under way."""
    waiting: deque[Any] = deque()
    for batch in batches:
        waiting.append(pool.submit(work, batch))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def write_part(part: CleanedPart, path: Path, pool: Executor, ahead: int) -> dict[str, Any]:
    """Encode one part of the corpus; its description."""
    documents = tokens = n_bytes = 0
    writer: pq.ParquetWriter | None = None
    for batch in encoded(part.groups(), pool, ahead):
        writer = writer or pq.ParquetWriter(path, batch.schema, compression="zstd")
        writer.write_batch(batch)
        documents += batch.num_rows
        tokens += len(batch.column("tokens").flatten())
        n_bytes += sum(batch.column("n_bytes").to_pylist())
    assert writer is not None  # no part of a corpus is empty
    writer.close()
    return {
        "name": path.name,
        "corpus": part.corpus,
        "documents": documents,
        "tokens": tokens,
        "bytes": n_bytes,
        "sha256": file_sha256(path),
    }


def write_parts(cleaned: Cleaned, folder: Path, workers: int) -> list[dict[str, Any]]:
    """Encode every part of the corpus with `workers` processes; their descriptions."""
    context = get_context("spawn")  # forking a process with threads may deadlock
    start = (folder / "tokenizer",)
    with ProcessPoolExecutor(workers, context, start_worker, start) as pool:
        return [
            write_part(part, folder / part.texts.name, pool, 2 * workers) for part in cleaned.parts
        ]


def run(
    params: TokenizeParams, split: SplitParams, cleaned: Cleaned, out: Path, *, workers: int
) -> None:
    """Write tokens, tokenizer and manifest."""
    tokenizer = make_tokenizer(params, split, cleaned)
    with whole_folder(out) as folder:
        save_tokenizer(folder / "tokenizer", tokenizer)
        files = write_parts(cleaned, folder, workers)
        tokens = sum(file["tokens"] for file in files)
        n_bytes = sum(file["bytes"] for file in files)
        manifest = {
            "version": 1,
            "tokenize": params.model_dump(),
            "tokenizer_fingerprint": fingerprint(tokenizer),
            "corpus_manifest_sha256": cleaned.manifest["corpus_manifest_sha256"],
            "clean_manifest_sha256": file_sha256(cleaned.folder / "manifest.json"),
            "n_vocab": tokenizer.n_vocab,
            "dtype": np.dtype(token_dtype(tokenizer.n_vocab)).name,
            "documents": sum(file["documents"] for file in files),
            "tokens": tokens,
            "bytes": n_bytes,
            "bytes_per_token": round(n_bytes / tokens, 4),
            "files": files,
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(
        f"tokenize: {tokens:,} tokens of {manifest['bytes_per_token']} bytes, "
        f"{tokenizer.n_vocab:,} ids"
    )


def run_stage(settings: Settings) -> None:
    """`python -m stages.tokenize`."""
    params = load_section("tokenize", TokenizeParams)
    split = load_section("split", SplitParams)
    workers = settings.workers or os.cpu_count() or 1
    run(params, split, Cleaned.open(CORPUS, CLEAN), OUT, workers=workers)


if __name__ == "__main__":
    main("tokenize", run_stage)
