import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stages.download import corpus_writer as corpus
from stages.download.corpus_writer import Part
from stages.download.file_groups import CorpusLabel, TextFile, file_groups, write_files
from stages.download.readers import ReadOptions
from stages.download.tally import Tally

HOW = ReadOptions(separator=None, text_column="text", encoding="utf-8")


def made_up(folder: Path, sizes: list[int]) -> list[TextFile]:
    """Files of so many bytes, each with its own text."""
    folder.mkdir()
    files = []
    for number, size in enumerate(sizes):
        path = folder / f"{number:04d}.txt"
        path.write_text(f"{number} {'ab cd ' * size}"[:size])
        files.append(TextFile(name=path.name, path=path))
    return files


def written(files: list[TextFile], scratch: Path, workers: int = 1) -> list[tuple[Part, Path]]:
    scratch.mkdir()
    label = CorpusLabel(corpus="mine", prefix="mine/")
    return list(write_files(files, HOW, label, scratch, Tally(), workers))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PART_BYTES", 8_000)


@pytest.mark.usefixtures("small_parts")
def test_bundles_are_all_files_in_order_of_about_a_parts_size(tmp_path: Path) -> None:
    draw = random.Random(0)
    files = made_up(tmp_path / "texts", [draw.randint(100, 900) for _ in range(400)])
    bundles = list(file_groups(files))
    assert [file for bundle in bundles for file in bundle] == files
    sizes = [sum(file.path.stat().st_size for file in bundle) for bundle in bundles[:-1]]
    assert len(sizes) > 15
    assert min(sizes) >= corpus.PART_BYTES * 3 // 4
    assert max(sizes) < 3 * corpus.PART_BYTES


@pytest.mark.usefixtures("small_parts")
def test_a_large_file_ends_its_bundle(tmp_path: Path) -> None:
    files = made_up(tmp_path / "texts", [10, 20_000, 20_000, 10, 10])
    assert [len(bundle) for bundle in file_groups(files)] == [2, 1, 2]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("place", [0, 100, 399])
def test_a_file_more_or_less_leaves_most_parts_as_they_were(tmp_path: Path, place: int) -> None:
    draw = random.Random(0)
    files = made_up(tmp_path / "texts", [draw.randint(100, 900) for _ in range(400)])
    more = made_up(tmp_path / "more", [500])
    before = {part.sha256 for part, _ in written(files, tmp_path / "before")}
    longer = [*files[:place], *more, *files[place:]]
    for name, changed in {"longer": longer, "shorter": files[:place] + files[place + 1 :]}.items():
        after = {part.sha256 for part, _ in written(changed, tmp_path / name)}
        assert len(before) > 30
        assert len(before - after) <= 6
        assert len(after - before) <= 6


def test_the_same_bytes_for_any_number_of_workers(
    tmp_path: Path, digests: Callable[[Path], dict[str, str]]
) -> None:
    draw = random.Random(0)
    words = ["the", "king", "and", "queen", "did", "walk", "by", "night", "naïve"]
    folder = tmp_path / "texts"
    folder.mkdir()
    files = []
    for number, size in enumerate((30 << 20, 1000, 26 << 20, 33 << 20, 2000)):
        path = folder / f"{number}.jsonl"
        with path.open("w") as lines:
            while lines.tell() < size:
                text = " ".join(draw.choices(words, k=4000))
                lines.write(f'{{"text": "{text}"}}\n')
        files.append(TextFile(name=path.name, path=path))
    assert len(list(file_groups(files))) > 2
    seen = {}
    for workers in (1, 2, 7):
        found = written(files, tmp_path / f"by{workers}", workers)
        seen[workers] = [part for part, _ in found], digests(tmp_path / f"by{workers}")
        ids = [name for _, path in found for name in pq.read_table(path)["id"].to_pylist()]
        assert ids == sorted(ids, key=lambda name: (name[5], int(name.split("#")[1])))
        assert {name[:5] for name in ids} == {"mine/"}
    assert seen[1] == seen[2] == seen[7]
    assert len(seen[1][0]) >= 3


@pytest.mark.usefixtures("small_parts")
def test_a_file_name_need_not_be_utf8(tmp_path: Path) -> None:
    (first, *others) = made_up(tmp_path / "texts", [20_000, 20_000])
    old = TextFile(name="caf\udce9.txt", path=first.path)
    parts = [part for part, _ in written([old, *others], tmp_path / "scratch")]
    assert [part.documents for part in parts] == [1, 1]


def test_a_bad_file_is_reported_while_others_are_still_read(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    bad = TextFile(name="0000.jsonl", path=folder / "0000.jsonl")
    bad.path.write_bytes(b"no JSON\n" * (65 << 17))
    endless = tmp_path / "endless.txt"
    os.mkfifo(endless)  # who reads it waits for a writer that never comes
    files = [bad, TextFile(name=endless.name, path=endless)]
    with pytest.raises(ValueError, match=r"0000\.jsonl"):
        written(files, tmp_path / "scratch", workers=2)


def test_a_bad_file_is_named_by_any_number_of_workers(tmp_path: Path) -> None:
    files = made_up(tmp_path / "texts", [65 << 20, 65 << 20, 10])
    files[1].path.write_bytes(b"some text, then \xff\xfe" + bytes(range(256)) * 300_000)
    for workers in (1, 2):
        with pytest.raises(ValueError, match=r"0001\.txt"):
            written(files, tmp_path / f"by{workers}", workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_all_files_in_another_encoding_are_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(corpus, "PART_BYTES", 100)
    files = made_up(tmp_path / "texts", [60] * 20)
    for number in (3, 12, 17):
        files[number].path.write_text("don’t", encoding="cp1252")
    packed = tmp_path / "texts/z.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", b"caf\xe9")
        archive.writestr("b.txt", b"plain")
        archive.writestr("c.parquet", b"\xff of no encoding")
    files.append(TextFile(name="z.zip", path=packed))
    with pytest.raises(
        ValueError, match=r"^4 of 22 files cannot be read by corpus\.encoding"
    ) as caught:
        written(files, tmp_path / "scratch", workers)
    for words in ("0003.txt is not UTF-8 (byte 3: 0x92)", "0012.txt", "0017.txt", "z.zip/a.txt"):
        assert words in str(caught.value)
    assert str(caught.value).count("set corpus.encoding: auto") == 1
