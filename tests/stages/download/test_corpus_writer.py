import hashlib
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stages.download import corpus_writer as corpus
from stages.download.corpus_writer import Part, with_prefix, write_parts
from stages.download.readers import Document

WORDS = ["the", "king", "and", "queen", "did", "walk", "by", "night", "with", "sword", "naïve"]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PART_BYTES", 8_000)
    monkeypatch.setattr(corpus, "GROUP_BYTES", 1_500)


def made_up(count: int, seed: int = 0) -> list[Document]:
    """Documents of very unequal length, much smaller than a part."""
    draw = random.Random(seed)
    lengths = [round(draw.lognormvariate(2, 0.7)) + 1 for _ in range(count)]
    texts = [" ".join(draw.choices(WORDS, k=length)) for length in lengths]
    return [Document(f"{seed}/{n}", text, "made up") for n, text in enumerate(texts)]


def written(documents: Iterable[Document], folder: Path) -> list[Part]:
    folder.mkdir(exist_ok=True)
    return list(write_parts(documents, folder, "corpus", 0, Counter()))


def hashes(parts: list[Part]) -> set[str]:
    return {part.sha256 for part in parts}


def test_parts_hold_all_documents_in_order(tmp_path: Path) -> None:
    documents = made_up(1200)
    parts = written(documents, tmp_path)
    assert [part.name for part in parts] == [f"part-{n:05d}.parquet" for n in range(len(parts))]
    tables = [pq.read_table(tmp_path / part.name) for part in parts]
    rows = [row for table in tables for row in table.to_pylist()]
    assert rows == [
        {
            "id": d.id,
            "text": d.text,
            "source": d.source,
            "n_bytes": len(d.text.encode()),
            "text_hash": hashlib.sha256(d.text.encode()).digest()[:16],
        }
        for d in documents
    ]
    for part, table in zip(parts, tables, strict=True):
        texts = table.column("text").to_pylist()
        assert part.documents == len(texts)
        assert part.bytes == sum(len(text.encode()) for text in texts)
        assert part.sha256 == hashlib.sha256((tmp_path / part.name).read_bytes()).hexdigest()


def test_parts_are_about_as_large_as_they_should_be(tmp_path: Path) -> None:
    parts = written(made_up(6000), tmp_path)
    sizes = [part.bytes for part in parts[:-1]]
    assert len(sizes) > 25
    assert min(sizes) >= corpus.PART_BYTES * 3 // 4
    assert 0.9 < sum(sizes) / len(sizes) / corpus.PART_BYTES < 1.1


def test_a_corpus_smaller_than_a_part_is_one(tmp_path: Path) -> None:
    assert len(written(made_up(10), tmp_path)) == 1


def test_the_same_text_for_ever_still_comes_in_parts(tmp_path: Path) -> None:
    """Its hash never ends one, so its bytes do."""
    text = "y" * 99
    parts = written((Document(f"{n}", text, "s") for n in range(3000)), tmp_path)
    assert {part.bytes for part in parts[:-1]} == {-(-2 * corpus.PART_BYTES // 99) * 99}


@pytest.mark.parametrize("place", [0, 1000, 3500, 6000])
def test_a_document_more_or_less_leaves_most_parts_as_they_were(tmp_path: Path, place: int) -> None:
    documents = made_up(6000)
    before = hashes(written(documents, tmp_path / "before"))
    longer = [*documents[:place], *made_up(1, seed=1), *documents[place:]]
    shorter = documents[:place] + documents[place + 1 :]
    for name, changed in {"longer": longer, "shorter": shorter}.items():
        after = hashes(written(changed, tmp_path / name))
        assert len(before) > 25
        assert len(before - after) <= 2
        assert len(after - before) <= 2


def test_a_part_is_a_function_of_its_documents(tmp_path: Path) -> None:
    """Also where it is one of others, and written at another time and under another name."""
    documents = made_up(1200)
    parts = written(documents, tmp_path / "all")
    first = parts[0].documents
    second = documents[first : first + parts[1].documents]
    (alone,) = written(second, tmp_path / "alone")
    assert alone.sha256 == parts[1].sha256


def test_a_part_is_whole_before_the_next_document_is_asked_for(tmp_path: Path) -> None:
    taken = 0

    def documents() -> Iterable[Document]:
        nonlocal taken
        for document in made_up(600):
            taken += 1
            yield document

    seen = 0
    for part in write_parts(documents(), tmp_path, "corpus", 0, Counter()):
        seen += part.documents
        assert taken == seen
        assert pq.read_metadata(tmp_path / part.name).num_rows == part.documents
    assert seen == 600


def test_groups_are_small_enough_to_be_read_one_by_one(tmp_path: Path) -> None:
    part = written(made_up(1200), tmp_path)[0]
    about = pq.read_metadata(tmp_path / part.name)
    assert about.num_row_groups > 3
    assert sum(about.row_group(n).num_rows for n in range(about.num_row_groups)) == part.documents


def test_what_is_no_text_is_counted_and_left_out(tmp_path: Path) -> None:
    texts = ["", " \n\t", "\u2003", "one", "\ud83d", "naïve"]
    documents = [Document(str(n), text, "s") for n, text in enumerate(texts)]
    skipped: Counter[str] = Counter()
    (part,) = write_parts(documents, tmp_path, "mine", 7, skipped)
    assert (part.name, part.corpus, part.documents, part.bytes) == (
        "part-00007.parquet",
        "mine",
        2,
        9,
    )
    assert skipped == {"empty document": 3, "document with half of a surrogate pair": 1}


def test_nothing_is_no_part(tmp_path: Path) -> None:
    assert written([], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_prefix_goes_before_each_id() -> None:
    documents = [Document("a", "text", "s")]
    assert with_prefix(documents, "") is documents
    assert list(with_prefix(documents, "mine/")) == [Document("mine/a", "text", "s")]
