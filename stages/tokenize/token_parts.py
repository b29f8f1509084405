"""One part of a corpus to one file of tokens: the unit of work of `tokenize`.

A pure function that runs wherever the files are: in the stage's own process, in a pool, on another
machine. It puts its file and the record of it in place, each by one move, so that whatever is
killed, what is there under its name is whole.
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
from stages.lib.arrow import from_numbers, to_numbers
from stages.lib.text_hash import TEXT_HASH
from stages.tokenize.engine import Dtype, Encoder
from stages.tokenizers.ids import Ids

VERSION = 6  # of what a part of tokens looks like; another one makes all parts again

# Arrow's own files: parquet knows no numbers of two bytes, and takes three times as long to write
# and five to read (docs/lab-notes.md). Compressing them would take half as long as encoding does.
SUFFIX = ".arrow"


class Description(TypedDict):
    """What a part of tokens holds."""

    documents: int
    tokens: int
    bytes: int  # of text
    sha256: str


def written_by() -> str:
    """All that decides a part's bytes other than corpus, verdicts and tokenizer."""
    return f"version {VERSION}, pyarrow {pa.__version__}"


def schema(dtype: type[np.unsignedinteger]) -> pa.Schema:
    """The columns of a part of tokens, none of them ever null."""
    ids = pa.large_list(pa.field("element", pa.from_numpy_dtype(dtype), nullable=False))
    columns = {
        "id": pa.string(),
        "tokens": ids,
        "n_tokens": pa.int64(),
        "n_bytes": pa.int64(),
        "text_hash": TEXT_HASH,
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def together(groups: Iterable[pa.RecordBatch], n_bytes: int) -> Iterator[list[pa.RecordBatch]]:
    """Groups of documents in runs of at least n_bytes of text, but for the last."""
    run: list[pa.RecordBatch] = []
    size = 0
    for group in groups:
        run.append(group)
        size += group.column("text").nbytes
        if size >= n_bytes:
            yield run
            run, size = [], 0
    if run:
        yield run


def encoded(encoder: Encoder, groups: Sequence[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Groups of documents (id, text, text_hash) as rows of tokens."""
    found = encoder.encode([group.column("text") for group in groups])
    for group, ids in zip(groups, found, strict=True):
        yield token_rows(group, ids, encoder.dtype)


def token_rows(group: pa.RecordBatch, ids: Ids, dtype: Dtype) -> pa.RecordBatch:
    """Documents (id, text, text_hash) and the ids of their texts as `schema` has them."""
    columns = schema(dtype)
    values = from_numbers(ids.values)
    ends = from_numbers(ids.ends)
    tokens = pa.LargeListArray.from_arrays(ends, values, type=columns.field("tokens").type)
    n_tokens = from_numbers(np.diff(ids.ends))
    n_bytes = from_numbers(byte_lengths(group.column("text")))
    return pa.RecordBatch.from_arrays(
        [group.column("id"), tokens, n_tokens, n_bytes, group.column("text_hash")], schema=columns
    )


def tokenize_part(part: CleanPart, encoder: Encoder, target: Path) -> Description:
    """Write the tokens of a part to `target`, and next to it the record that they are whole."""
    documents = tokens = n_bytes = 0
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with (
            pa.OSFile(str(draft), "wb") as file,
            pa.ipc.new_file(file, schema(encoder.dtype)) as writer,
        ):
            runs = together(part.groups(), encoder.at_once)
            for rows in chain.from_iterable(encoded(encoder, run) for run in runs):
                writer.write_batch(rows)
                documents += rows.num_rows
                tokens += len(rows.column("tokens").values)
                n_bytes += int(to_numbers(rows.column("n_bytes")).sum())
        drop_cached(part.texts)  # room for what is written
        sha256 = flushed_sha256(draft)
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)
    found = Description(documents=documents, tokens=tokens, bytes=n_bytes, sha256=sha256)
    atomic_write(record_of(target), json.dumps(found) + "\n")
    return found


def record_of(target: Path) -> Path:
    """Where it is recorded what a part of tokens holds."""
    return target.with_suffix(".json")
