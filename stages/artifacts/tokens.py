"""The format of the files in the tokens folder, in which a row is a document."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.lib.text_hash import TEXT_HASH

TOKENS = Path("data/tokens")
VERSION = 6  # of the format; raising it makes every part again

# Arrow's own format: Parquet has no two-byte integers and takes three times as long to write and
# five times as long to read (docs/lab-notes.md). Compression would take half as long as encoding.
SUFFIX = ".arrow"


def schema(dtype: type[np.unsignedinteger]) -> pa.Schema:
    """Return the columns of a file of tokens, none of them nullable."""
    tokens = pa.large_list(pa.field("element", pa.from_numpy_dtype(dtype), nullable=False))
    columns = {
        "id": pa.string(),
        "tokens": tokens,
        "n_tokens": pa.int64(),
        "n_bytes": pa.int64(),
        "text_hash": TEXT_HASH,
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])
