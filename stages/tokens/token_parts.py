"""One part of a corpus to one file of tokens: the unit of work of `tokenize`.

A pure function that runs wherever the files are: in the stage's own process, in a pool, on another
machine. It puts its file and the record of it in place, each by one move, so that whatever is
killed, what is there under its name is whole.
"""

import json
import os
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa

from nanogpt.files import flushed_sha256, write_whole
from stages.arrow import from_numbers, to_numbers
from stages.texts.cleaned import CleanedPart, byte_lengths
from stages.texts.text_hash import TEXT_HASH
from stages.tokens.engine import Encoder

VERSION = 6  # of what a part of tokens looks like; another one makes all parts anew

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
    """All that decides a part's bytes beside corpus, verdicts and tokenizer."""
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


def encode_group(encoder: Encoder, group: pa.RecordBatch) -> pa.RecordBatch:
    """Documents (id, text, text_hash) to rows as `schema` has them."""
    columns = schema(encoder.dtype)
    ids = encoder.encode(group.column("text"))
    values = from_numbers(ids.values)
    ends = from_numbers(ids.ends)
    tokens = pa.LargeListArray.from_arrays(ends, values, type=columns.field("tokens").type)
    n_tokens = from_numbers(np.diff(ids.ends))
    n_bytes = from_numbers(byte_lengths(group.column("text")))
    return pa.RecordBatch.from_arrays(
        [group.column("id"), tokens, n_tokens, n_bytes, group.column("text_hash")], schema=columns
    )


def tokenize_part(part: CleanedPart, encoder: Encoder, target: Path) -> Description:
    """Write the tokens of a part to `target`, and beside it the record that they are whole."""
    documents = tokens = n_bytes = 0
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with (
            pa.OSFile(str(beside), "wb") as file,
            pa.ipc.new_file(file, schema(encoder.dtype)) as writer,
        ):
            for group in part.groups():
                rows = encode_group(encoder, group)
                writer.write_batch(rows)
                documents += rows.num_rows
                tokens += len(rows.column("tokens").values)
                n_bytes += int(to_numbers(rows.column("n_bytes")).sum())
        sha256 = flushed_sha256(beside)
        beside.rename(target)
    finally:
        beside.unlink(missing_ok=True)
    found = Description(documents=documents, tokens=tokens, bytes=n_bytes, sha256=sha256)
    write_whole(record_of(target), json.dumps(found) + "\n")
    return found


def record_of(target: Path) -> Path:
    """Where it is recorded what a part of tokens holds."""
    return target.with_suffix(".json")
