"""A pattern without look-ahead gives the ids of the one with it, whatever the white space."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext.openai_public import r50k_pat_str

from stages.tokens import engine
from stages.tokens.engine import by_marks
from stages.tokens.look_ahead import MARK, MarkedEncoding, have_mark, marked
from stages.tokens.tokenizer import BpeTokenizer, parse_ranks

# All that Unicode calls White_Space, and what some libraries do and others do not.
SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2007\u200a\u2028\u2029\u202f\u205f\u3000"
ALMOST_SPACES = "\x1c\x1f\u180e\u200b\u200d\u2060\ufeff"
TEXTS = st.text(alphabet=SPACES + ALMOST_SPACES + "ab1.'sé漢🙂", max_size=30)


@pytest.fixture(scope="module")
def gpt2(gpt2_file: Path) -> BpeTokenizer:
    return BpeTokenizer.of(r50k_pat_str, parse_ranks(gpt2_file.read_bytes()))


@pytest.fixture(scope="module")
def easy(gpt2: BpeTokenizer) -> MarkedEncoding:
    return MarkedEncoding.of(gpt2)


@given(text=TEXTS)
@settings(max_examples=2000, deadline=None)
def test_marked_text_has_the_ids_of_the_text(
    text: str, easy: MarkedEncoding, gpt2: BpeTokenizer
) -> None:
    (with_marks,) = marked(pa.array([text], pa.large_string())).to_pylist()
    assert with_marks.replace(MARK, "") == text
    assert easy.encode(with_marks).tolist() == gpt2.encode(text).tolist()


def test_a_mark_stands_before_the_last_of_several_spaces() -> None:
    texts = ["a b", "a  b", "a\n\n  b  ", "  a", "\u3000\u2028a", "a \x1cb"]
    found = marked(pa.array(texts, pa.large_string())).to_pylist()
    m = MARK
    assert found == [
        "a b", f"a {m} b", f"a\n\n {m} b  ", f" {m} a", f"\u3000{m}\u2028a", "a \x1cb"
    ]  # fmt: skip


def test_a_text_with_the_mark_in_it_is_encoded_as_it_is(
    gpt2: BpeTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = pa.array(["a  b" * 99, f"a  {MARK}  b" * 99], pa.large_string())
    assert have_mark(texts)
    ids = by_marks(gpt2)(texts)
    right = [gpt2.encode(text) for text in texts.to_pylist()]
    assert np.array_equal(ids.values, np.concatenate(right))
    monkeypatch.setattr(engine, "have_mark", lambda texts: False)
    assert not np.array_equal(by_marks(gpt2)(texts).values, ids.values)
