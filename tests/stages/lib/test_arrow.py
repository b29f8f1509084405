import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from stages.lib.arrow import from_numbers, from_texts, to_numbers


@pytest.mark.parametrize("kind", ["uint16", "uint32", "int64", "int32"])
@pytest.mark.parametrize("length", [0, 1, 9])
def test_numbers_equal_those_of_pa_array(kind: str, length: int) -> None:
    values = np.arange(length).astype(kind)
    assert from_numbers(values).equals(pa.array(values))
    assert to_numbers(pa.array(values)).tolist() == values.tolist()
    assert to_numbers(pa.array(values)).dtype == values.dtype


def test_numbers_are_read_from_slices_and_from_several_chunks() -> None:
    array = pa.array(range(10), pa.int64())
    assert to_numbers(array.slice(3, 4)).tolist() == [3, 4, 5, 6]
    chunks = pa.chunked_array([array.slice(0, 2), array.slice(8, 2)])
    assert to_numbers(chunks).tolist() == [0, 1, 8, 9]
    assert to_numbers(pa.chunked_array([array.slice(8)])).tolist() == [8, 9]


def test_an_array_without_chunks_is_empty() -> None:
    numbers = to_numbers(pa.chunked_array([], pa.int64()))
    assert (len(numbers), numbers.dtype) == (0, np.int64)


def test_numbers_are_null_where_they_are_not_valid() -> None:
    valid = np.array([True, False] * 5)
    array = from_numbers(np.arange(10), valid)
    array.validate(full=True)
    assert array.to_pylist() == [0, None, 2, None, 4, None, 6, None, 8, None]


@pytest.mark.parametrize("texts", [[], [""], ["a", "", "naïve", "漢字"]])
def test_texts_equal_those_of_pa_array(texts: list[str]) -> None:
    array = from_texts([text.encode() for text in texts])
    array.validate(full=True)
    assert array.equals(pa.array(texts, pa.large_string()))


def test_pandas_is_not_imported() -> None:
    """Pandas is installed, and `pa.array` imports it."""
    code = (
        "import sys; from stages.lib.arrow import *; import numpy as np;"
        "to_numbers(from_numbers(np.arange(3))); from_texts([b'a']); assert 'pandas' not in "
        "sys.modules; pa.array(np.arange(3)); assert 'pandas' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
