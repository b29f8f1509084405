"""The columns of a part of the corpus, in which a row is a document."""

from pathlib import Path

import pyarrow as pa

from stages.lib.text_hash import TEXT_HASH

CORPUS = Path("data/corpus")
VERSION = 2

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "text": pa.large_string(),
        "source": pa.string(),
        "n_bytes": pa.int64(),  # of the text in UTF-8
        "text_hash": TEXT_HASH,
    }
)
