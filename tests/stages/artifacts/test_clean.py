import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.artifacts import clean as clean_corpus
from stages.artifacts.clean import CleanCorpus, split_by_bytes
from stages.clean import stage as clean
from stages.clean.params import CleanParams
from stages.download import corpus_writer as corpus_on_disk
from stages.lib.text_hash import text_hash

MakeCorpus = Callable[[list[str], Path], CleanCorpus]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return 60 texts, every third one a duplicate."""
    draw = random.Random(0)
    made = [f"{n} " + "né" * draw.randrange(400) for n in range(60)]
    return [made[n // 2] if n % 3 == 2 else text for n, text in enumerate(made)]


@pytest.fixture(scope="module")
def corpus(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory, make_corpus: MakeCorpus
) -> CleanCorpus:
    """Return a corpus of those texts in several parts of several row groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_on_disk, "GROUP_BYTES", 4_000)
        patch.setattr(corpus_on_disk, "PART_BYTES", 5_000)
        made = make_corpus(texts, tmp_path_factory.mktemp("corpus") / "made")
    groups = [pq.read_metadata(f).num_row_groups for f in sorted(made.corpus.glob("*.parquet"))]
    assert len(groups) > 2
    assert max(groups) > 1
    return made


def test_kept_documents_come_in_order_with_id_and_hash(
    texts: list[str], corpus: CleanCorpus
) -> None:
    kept = [n for n, text in enumerate(texts) if text not in texts[:n]]
    groups = [group for part in corpus.parts for group in part.groups()]
    rows = [row for group in groups for row in group.to_pylist()]
    assert rows == [
        {
            "id": f"texts.jsonl#{n + 1}",
            "text": texts[n],
            "text_hash": text_hash(texts[n].encode()),
        }
        for n in kept
    ]
    assert list(corpus.texts()) == [texts[n] for n in kept]
    assert list(corpus.text_hashes()) == [row["text_hash"] for row in rows]


def test_a_row_group_without_kept_documents_is_skipped(
    tmp_path: Path, make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_on_disk, "GROUP_BYTES", 1_000)
    short, long = [f"{n} is short" for n in range(200)], [f"{n} " + "long" * 50 for n in range(20)]
    made = make_corpus([*short, *long], tmp_path / "made")
    params = CleanParams.model_validate({**made.manifest["clean"], "min_bytes": 100})
    clean.run(params, made.corpus, tmp_path / "strict")
    assert list(CleanCorpus.open(made.corpus, tmp_path / "strict").texts()) == long


def test_groups_have_about_the_size_asked_for(
    corpus: CleanCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(corpus.texts())
    monkeypatch.setattr(clean_corpus, "GROUP_BYTES", 1_000)
    groups = [g.column("text").to_pylist() for part in corpus.parts for g in part.groups()]
    assert [text for group in groups for text in group] == expected
    for group in groups:
        assert len(group) == 1 or sum(len(text.encode()) for text in group) <= 1_000


def test_a_document_longer_than_a_group_is_alone_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean_corpus, "GROUP_BYTES", 5)
    table = pa.table({"text": pa.array(["aa", "bb", "c" * 9, "", "d"], pa.large_string())})
    batches = [batch.column("text").to_pylist() for batch in split_by_bytes(table)]
    assert batches == [["aa", "bb"], ["c" * 9], ["", "d"]]


def test_a_part_without_kept_documents_is_left_out(
    tmp_path: Path, make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_on_disk, "PART_BYTES", 1)  # a part for each text
    made = make_corpus(["abc", "def", "abc", "abc", "ghi"], tmp_path / "made")
    assert [part.texts.name[5:10] for part in made.parts] == ["00000", "00001", "00004"]
    assert list(made.texts()) == ["abc", "def", "ghi"]


def test_texts_have_the_normal_form_in_which_clean_compared_them(
    tmp_path: Path, make_corpus: MakeCorpus
) -> None:
    made = make_corpus(["ﬁ", "fi", "e\u0301"], tmp_path / "made")
    params = CleanParams(
        unicode="NFKC",
        min_bytes=None,
        max_bytes=None,
        filters=[],
        deduplicate=True,
        near_duplicates=None,
    )
    clean.run(params, made.corpus, tmp_path / "clean")
    cleaned = CleanCorpus.open(made.corpus, tmp_path / "clean")
    assert list(cleaned.texts()) == ["fi", "é"]
    assert list(cleaned.text_hashes()) == [text_hash(b"fi"), text_hash("é".encode())]
