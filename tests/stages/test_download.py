import gzip
import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import download
from stages.download import CorpusParams, HuggingFace, Package, Url, run

pytestmark = pytest.mark.usefixtures("workspace")

OUT = Path("data/corpus")
BASE = CorpusParams(
    source="files",
    path="texts",
    glob="**/*",
    separator=None,
    text_column="text",
    encoding="utf-8",
    package=None,
    urls=[],
    huggingface=None,
)


def files(**changes: Any) -> CorpusParams:
    return BASE.model_copy(update=changes)


def url(*addresses: tuple[str, bytes]) -> CorpusParams:
    """Params for addresses with the content that is expected there."""
    urls = [Url(url=a, sha256=hashlib.sha256(content).hexdigest()) for a, content in addresses]
    return BASE.model_copy(update={"source": "url", "urls": urls})


def hub(name: str, **changes: Any) -> CorpusParams:
    about = HuggingFace(name=name, config=None, revision=None, split="train", max_documents=None)
    about = about.model_copy(update=changes)
    return BASE.model_copy(update={"source": "huggingface", "huggingface": about})


def package(sha256: str, members: str) -> CorpusParams:
    about = Package(name="poems", version="1.0", sha256=sha256, members=members)
    return BASE.model_copy(update={"source": "package", "package": about})


def write(path: str, content: str | bytes = "text") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def write_parquet(path: str, texts: list[str]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts}), path)


def rows() -> list[dict[str, str]]:
    return [
        row for file in sorted(OUT.glob("*.parquet")) for row in pq.read_table(file).to_pylist()
    ]


def texts() -> list[str]:
    return [row["text"] for row in rows()]


def manifest() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((OUT / "manifest.json").read_text())
    return content


def refused(params: CorpusParams, *words: str, error: type[Exception] = ValueError) -> None:
    """The stage refuses in these words and leaves nothing behind."""
    with pytest.raises(error) as caught:
        run(params, OUT)
    for word in words:
        assert word in str(caught.value)
    assert not OUT.exists()
    assert list(OUT.parent.iterdir()) == []


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds slept, which take none."""
    slept: list[float] = []
    monkeypatch.setattr("stages.download.time.sleep", slept.append)
    return slept


# --- files ---------------------------------------------------------------------------------------


def test_a_folder_of_every_kind_of_file_is_read_in_order_of_path() -> None:
    write("texts/b.txt", "bee")
    write("texts/a/z.md", "# zed")
    write("texts/c.jsonl", '{"text": "see"}\n{"text": "sea"}\n')
    write_parquet("texts/d.parquet", ["dee", "Dee"])
    write("texts/e.csv.gz", gzip.compress(b"text\nee\n"))
    with zipfile.ZipFile("texts/f.zip", "w") as archive:
        archive.writestr("g.html", "<p>gee")
    run(files(), OUT)
    assert rows() == [
        {"id": "a/z.md", "text": "zed", "source": "a/z.md"},
        {"id": "b.txt", "text": "bee", "source": "b.txt"},
        {"id": "c.jsonl#1", "text": "see", "source": "c.jsonl"},
        {"id": "c.jsonl#2", "text": "sea", "source": "c.jsonl"},
        {"id": "d.parquet#0", "text": "dee", "source": "d.parquet"},
        {"id": "d.parquet#1", "text": "Dee", "source": "d.parquet"},
        {"id": "e.csv.gz#2", "text": "ee", "source": "e.csv.gz"},
        {"id": "f.zip/g.html", "text": "gee", "source": "f.zip/g.html"},
    ]


def test_the_manifest_describes_the_corpus() -> None:
    write("texts/a.txt", "naïve")
    write("texts/b.txt", "two")
    write("texts/c.txt", "  \n")
    write("texts/d.pdf")
    write("texts/README")
    run(files(), OUT)
    found = manifest()
    part = OUT / "part-00000.parquet"
    hashes = b"".join(hashlib.sha256(text.encode()).digest() for text in ("naïve", "two"))
    assert found["files"] == [
        {
            "name": part.name,
            "corpus": "corpus",
            "documents": 2,
            "bytes": 9,
            "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
        }
    ]
    assert (found["documents"], found["bytes"]) == (2, 9)
    assert found["corpus"] == files().model_dump()
    assert found["text_sha256"] == hashlib.sha256(hashes).hexdigest()
    assert found["skipped"] == {
        "empty document": 1,
        "file ending in .pdf": 1,
        "file ending in nothing": 1,
    }


def test_a_single_file_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    write("notes.txt", "mine")
    run(files(path="notes.txt"), OUT)
    assert rows() == [{"id": "notes.txt", "text": "mine", "source": "notes.txt"}]
    assert "1 documents, 4 bytes" in capsys.readouterr().out


def test_the_glob_chooses_files() -> None:
    write("texts/a.txt", "yes")
    write("texts/b.md", "no")
    write("texts/deep/c.txt", "no")
    run(files(glob="*.txt"), OUT)
    assert texts() == ["yes"]


def test_hidden_files_are_left_out() -> None:
    write("texts/.hidden.txt", "no")
    write("texts/a.txt", "yes")
    run(files(), OUT)
    assert texts() == ["yes"]


def test_files_in_hidden_folders_are_left_out() -> None:
    write("texts/.ipynb_checkpoints/a-checkpoint.txt", "no")
    write("texts/a.txt", "yes")
    run(files(), OUT)
    assert texts() == ["yes"]


def test_the_separator_cuts_texts_but_no_rows() -> None:
    write("texts/a.txt", "one\n\ntwo\n\n\n\nthree\n")
    write("texts/b.jsonl", json.dumps({"text": "x\n\ny"}))
    run(files(separator="\n\n"), OUT)
    assert texts() == ["one", "two", "three\n", "x\n\ny"]
    assert manifest()["skipped"] == {"empty document": 1}


def test_what_an_archive_holds_besides_texts_is_counted_too() -> None:
    Path("texts").mkdir()
    with zipfile.ZipFile("texts/a.zip", "w") as archive:
        for name in ("song.txt", ".hidden.txt", "cover.jpg"):
            archive.writestr(name, "text")
    write("texts/b.jpg")
    run(files(), OUT)
    assert texts() == ["text"]
    assert manifest()["skipped"] == {"hidden file": 1, "file ending in .jpg": 2}


def test_files_in_another_encoding_are_read() -> None:
    write("texts/a.txt", "naïve".encode("cp1252"))
    run(files(encoding="cp1252"), OUT)
    assert texts() == ["naïve"]


def test_half_of_a_surrogate_pair_is_counted_and_left_out() -> None:
    write("texts/a.jsonl", '{"text": "\\ud83d"}\n{"text": "\\ud83d\\ude00"}\n')
    run(files(), OUT)
    assert texts() == ["\U0001f600"]
    assert manifest()["skipped"] == {"document with half of a surrogate pair": 1}


def test_a_large_corpus_comes_in_several_parts_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PART_BYTES", 40)
    monkeypatch.setattr(download, "GROUP_BYTES", 16)
    written = [f"document {n:02d}" for n in range(10)]
    write("texts/a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in written))
    run(files(), OUT)
    described = manifest()["files"]
    assert [file["documents"] for file in described] == [4, 4, 2]
    assert [file["bytes"] for file in described] == [44, 44, 22]
    assert [pq.read_metadata(OUT / file["name"]).num_rows for file in described] == [4, 4, 2]
    assert texts() == written


def test_the_same_input_gives_the_same_bytes(digests: Callable[[Path], dict[str, str]]) -> None:
    write("texts/a.txt", "one")
    write_parquet("texts/b.parquet", [f"text {n}" for n in range(1000)])
    run(files(), OUT)
    first = digests(OUT)
    run(files(), OUT)
    assert digests(OUT) == first
    assert set(first) == {"manifest.json", "part-00000.parquet"}


def test_a_corpus_that_is_there_stays_when_the_next_try_fails(
    digests: Callable[[Path], dict[str, str]],
) -> None:
    write("texts/a.txt", "one")
    run(files(), OUT)
    before = digests(OUT)
    write("texts/b.txt", b"\xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        run(files(), OUT)
    assert digests(OUT) == before
    assert list(OUT.parent.iterdir()) == [OUT]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("a.txt", b"", ["holds no text", "'empty document': 1"]),
        ("a.txt", b" \n\t\r\n", ["holds no text", "'empty document': 1"]),
        ("a.jsonl", b'{"text": ""}\n{"text": " "}\n', ["holds no text", "'empty document': 2"]),
        ("a.jsonl", b"\n", ["holds no text"]),
        ("a.txt", b"good\xe9", ["a.txt is not UTF-8", "byte 4: 0xe9"]),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', ["a.jsonl, line 2 is not JSON"]),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}', ["line 2 has no text in 'text'", "['body']"]),
        ("a.parquet", b"PAR1 not really", ["a.parquet is not a parquet file"]),
        ("a.pdf", b"%PDF", ["holds no .txt, .md, .html,", ".tar file that"]),
        (".a.txt", b"hidden", ["holds no .txt, .md, .html,", ".tar file that"]),
    ],
)
def test_bad_input_is_refused_and_nothing_left_behind(
    file: str, content: bytes, words: list[str]
) -> None:
    write(f"texts/{file}", content)
    refused(files(), *words)


def test_a_fault_after_good_documents_leaves_nothing_behind() -> None:
    write("texts/a.txt", "good")
    write_parquet("texts/b.parquet", ["good"] * 300)
    write("texts/c.txt", b"\xff")
    refused(files(), "c.txt is not UTF-8", "byte 0: 0xff")


def test_a_byte_order_mark_does_not_become_text() -> None:
    write("texts/a.txt", b"\xef\xbb\xbfone")
    write("texts/b.jsonl", b'\xef\xbb\xbf{"text": "two"}\n')
    run(files(), OUT)
    assert texts() == ["one", "two"]


def test_a_missing_column_is_refused_with_those_there_are() -> None:
    write_parquet("texts/a.parquet", ["one"])
    refused(files(text_column="body"), "a.parquet has no column 'body'", "['text']")


def test_a_missing_path_is_refused() -> None:
    refused(files(path="nowhere"), "corpus.path 'nowhere' is neither a file nor a folder")


def test_a_folder_without_a_match_is_refused_with_the_glob() -> None:
    write("texts/a.txt")
    refused(files(glob="*.md"), "matches corpus.glob '*.md'")


@pytest.mark.parametrize("glob", ["", "/etc/*.txt", "../*.txt", "a/../../b.txt"])
def test_a_glob_that_leads_elsewhere_is_refused(glob: str) -> None:
    with pytest.raises(ValueError, match=r"must be a pattern inside corpus\.path"):
        CorpusParams.model_validate({**BASE.model_dump(), "glob": glob})


# --- url -----------------------------------------------------------------------------------------


def test_files_on_the_web_are_read_by_the_end_of_their_names(site: Any) -> None:
    poem, lines = "naïve\n".encode(), b'{"text": "one"}\n{"text": "two"}\n'
    first = site.put("/poem.txt", poem)
    second = site.put("/rows.jsonl", lines) + "?download=true"
    run(url((first, poem), (second, lines)), OUT)
    assert [row["id"] for row in rows()] == ["0-poem.txt", "1-rows.jsonl#1", "1-rows.jsonl#2"]
    assert texts() == ["naïve\n", "one", "two"]
    assert {file.name for file in OUT.iterdir()} == {"manifest.json", "part-00000.parquet"}


def test_another_sha256_is_refused_with_the_found_one(site: Any) -> None:
    address = site.put("/a.txt", b"changed")
    found = hashlib.sha256(b"changed").hexdigest()
    wanted = hashlib.sha256(b"as it was").hexdigest()
    refused(url((address, b"as it was")), address, f"has sha256 {found}", f"says {wanted}")


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_address_that_is_wrong_is_refused_at_once(
    site: Any, pauses: list[float], make_answer: Callable[..., Any], status: int
) -> None:
    address = site.put("/a.txt", make_answer(status))
    refused(url((address, b"")), address, f"answers {status}")
    assert site.asked == ["/a.txt"]
    assert pauses == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(
    site: Any, pauses: list[float], make_answer: Callable[..., Any], status: int
) -> None:
    address = site.put("/a.txt", make_answer(status), b"at last")
    run(url((address, b"at last")), OUT)
    assert texts() == ["at last"]
    assert len(site.asked) == 2
    assert pauses == [1]


def test_an_answer_that_breaks_off_is_asked_for_again(
    site: Any, pauses: list[float], make_answer: Callable[..., Any]
) -> None:
    address = site.put("/a.txt", make_answer(200, b"half of a long te", cut=True), b"whole")
    run(url((address, b"whole")), OUT)
    assert texts() == ["whole"]
    assert pauses == [1]


def test_a_server_that_stays_in_trouble_is_a_connection_error(
    site: Any, pauses: list[float], make_answer: Callable[..., Any]
) -> None:
    address = site.put("/a.txt", make_answer(500))
    refused(url((address, b"")), f"{address} could not be fetched", error=ConnectionError)
    assert len(site.asked) == 4
    assert pauses == [1, 2, 4]


def test_a_server_that_is_not_there_is_a_connection_error(
    dead_url: str, pauses: list[float]
) -> None:
    refused(url((f"{dead_url}/a.txt", b"")), "could not be fetched", error=ConnectionError)
    assert pauses == [1, 2, 4]


def test_an_address_without_a_host_is_a_wrong_input(pauses: list[float]) -> None:
    refused(url(("http://", b"")), "http://")


# --- package -------------------------------------------------------------------------------------


def test_files_of_a_package_are_read(index: Any) -> None:
    inside = {"poems/a.txt": b"one--two", "poems/b.txt": b"three", "poems/c.md": b"no"}
    sha256 = index.add_wheel("poems", "1.0", inside)
    run(package(sha256, "poems/*.txt").model_copy(update={"separator": "--"}), OUT)
    assert [row["id"] for row in rows()] == ["poems/a.txt#0", "poems/a.txt#1", "poems/b.txt#0"]
    assert texts() == ["one", "two", "three"]


def test_a_package_with_another_sha256_is_refused(index: Any) -> None:
    index.add_wheel("poems", "1.0", {"poems/a.txt": b"one"})
    refused(package("0" * 64, "*.txt"), "another sha256")


def test_a_package_index_that_does_not_answer_is_a_connection_error(
    dead_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{dead_url}/simple/")
    refused(package("0" * 64, "*.txt"), "did not give poems==1.0", error=ConnectionError)


def test_a_text_of_a_package_that_is_not_utf8_is_refused(index: Any) -> None:
    sha256 = index.add_wheel("poems", "1.0", {"poems/a.txt": b"caf\xe9"})
    refused(package(sha256, "*.txt"), "poems/a.txt is not UTF-8", "byte 3")


def test_files_of_one_name_in_two_folders_of_a_package_have_two_ids(index: Any) -> None:
    inside = {"poems/old/a.txt": b"one", "poems/new/a.txt": b"two"}
    run(package(index.add_wheel("poems", "1.0", inside), "*.txt"), OUT)
    assert len({row["id"] for row in rows()}) == 2


# --- huggingface ---------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A local dataset of five rows."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "rows"
    folder.mkdir()
    for part, numbers in enumerate([range(3), range(3, 5)]):
        table = pa.table({"text": [f"row {n}" for n in numbers], "n": list(numbers)})
        pq.write_table(table, folder / f"train-{part:05d}-of-00002.parquet")
    return str(folder)


def test_the_rows_of_a_dataset_are_read_in_order(dataset: str) -> None:
    run(hub(dataset), OUT)
    assert rows() == [
        {"id": f"{dataset}#{n}", "text": f"row {n}", "source": dataset} for n in range(5)
    ]


@pytest.mark.parametrize("wanted", [1, 4, 5, 9])
def test_no_more_rows_are_taken_than_asked_for(dataset: str, wanted: int) -> None:
    run(hub(dataset, max_documents=wanted), OUT)
    assert texts() == [f"row {n}" for n in range(min(wanted, 5))]


def test_no_file_is_opened_for_a_row_that_nobody_asked_for(dataset: str) -> None:
    Path(dataset, "train-00001-of-00002.parquet").write_bytes(b"damaged, but not needed")
    run(hub(dataset, max_documents=3), OUT)
    assert texts() == ["row 0", "row 1", "row 2"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "test"}, "Available splits: ['train']"),
        ({"config": "nope"}, "'nope' not found"),
    ],
)
def test_what_a_dataset_does_not_have_is_refused(
    dataset: str, changes: dict[str, Any], words: str
) -> None:
    refused(hub(dataset, **changes), words)


def test_a_dataset_without_the_column_is_refused_with_those_it_has(dataset: str) -> None:
    params = hub(dataset).model_copy(update={"text_column": "body"})
    refused(params, "has no text in 'body'", "['n', 'text']")


HUB_SCRIPT = """
import sys, time
from pathlib import Path
from stages.download import CorpusParams, run

time.sleep = lambda seconds: None  # the hub's own library tries again five times
try:
    run(CorpusParams.model_validate_json(sys.argv[1]), Path("out"))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("name", ["some/dataset", "listed"])
def test_a_hub_out_of_reach_is_a_connection_error(
    run_python: Callable[..., Any], dead_url: str, name: str
) -> None:
    listing = "{split: train, path: 'hf://datasets/some/dataset@main/a.parquet'}"
    write("listed/README.md", f"---\nconfigs: [{{config_name: a, data_files: [{listing}]}}]\n---\n")
    done = run_python("-c", HUB_SCRIPT, hub(name).model_dump_json(), HF_ENDPOINT=dead_url)
    assert done.stdout.startswith("ConnectionError the Hugging Face hub did not answer"), (
        done.stdout
    )
    assert not Path("out").exists()


def test_nothing_is_written_outside_of_the_workspace(workspace: Path, dataset: str) -> None:
    run(hub(dataset), OUT)
    assert Path(os.environ["HOME"]) == workspace / "home"
    assert not (workspace / "home").exists()
