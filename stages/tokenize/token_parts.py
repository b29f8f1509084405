"""Tokenize one part of a corpus into one file: the unit of work of `tokenize`.

A pure function that runs wherever the files are: in the stage's own process, in a pool, on another
machine. It writes its file and the record of it atomically, so that after a kill at any moment a
file that has its final name is complete.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa

from nanogpt.files import atomic_write, drop_cached, flushed_sha256
from stages.artifacts.clean import CleanPart, byte_lengths
from stages.artifacts.tokens import VERSION, schema
from stages.lib.arrow import from_numbers, to_numbers
from stages.tokenize.engine import Dtype, Encoder
from stages.tokenizers.tokens import RaggedTokens


class Description(TypedDict):
    """The record of a file of tokens."""

    documents: int
    tokens: int
    bytes: int  # of text
    sha256: str


def writer_version() -> str:
    """Return all that decides the bytes of a part besides corpus, verdicts and tokenizer."""
    return f"version {VERSION}, pyarrow {pa.__version__}"


def batch_groups(groups: Iterable[pa.RecordBatch], n_bytes: int) -> Iterator[list[pa.RecordBatch]]:
    """Yield lists of groups of documents with at least n_bytes of text, except for the last."""
    batch: list[pa.RecordBatch] = []
    size = 0
    for group in groups:
        batch.append(group)
        size += group.column("text").nbytes
        if size >= n_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encode_groups(encoder: Encoder, groups: Sequence[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield groups of documents (id, text, text_hash) as rows of tokens."""
    encoded = encoder.encode([group.column("text") for group in groups])
    for group, tokens in zip(groups, encoded, strict=True):
        yield token_rows(group, tokens, encoder.dtype)


def token_rows(group: pa.RecordBatch, tokens: RaggedTokens, dtype: Dtype) -> pa.RecordBatch:
    """Return the rows, as in `schema`, of documents (id, text, text_hash) and their tokens."""
    columns = schema(dtype)
    values = from_numbers(tokens.values)
    offsets = from_numbers(tokens.offsets)
    lists = pa.LargeListArray.from_arrays(offsets, values, type=columns.field("tokens").type)
    n_tokens = from_numbers(np.diff(tokens.offsets))
    n_bytes = from_numbers(byte_lengths(group.column("text")))
    return pa.RecordBatch.from_arrays(
        [group.column("id"), lists, n_tokens, n_bytes, group.column("text_hash")], schema=columns
    )


def tokenize_part(part: CleanPart, encoder: Encoder, target: Path) -> Description:
    """Write the tokens of a part to `target`, then the record of that file next to it."""
    documents = tokens = n_bytes = 0
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with (
            pa.OSFile(str(draft), "wb") as file,
            pa.ipc.new_file(file, schema(encoder.dtype)) as writer,
        ):
            batches = batch_groups(part.groups(), encoder.batch_bytes)
            for rows in chain.from_iterable(encode_groups(encoder, batch) for batch in batches):
                writer.write_batch(rows)
                documents += rows.num_rows
                tokens += len(rows.column("tokens").values)
                n_bytes += int(to_numbers(rows.column("n_bytes")).sum())
        drop_cached(part.texts)  # makes room in the page cache for what is written
        sha256 = flushed_sha256(draft)
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)
    description = Description(documents=documents, tokens=tokens, bytes=n_bytes, sha256=sha256)
    atomic_write(record_path(target), json.dumps(description) + "\n")
    return description


def record_path(target: Path) -> Path:
    """Return where the record of a file of tokens is."""
    return target.with_suffix(".json")
