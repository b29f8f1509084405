import base64
import gzip
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.download import corpus_writer as corpus
from stages.download.params import CorpusParams, Package, Url
from stages.download.stage import CACHE, run
from stages.lib.params import parse_section
from stages.runtime.yaml_files import PARAMS_FILE, ParamsError

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
    mixture=None,
)


def files(**changes: Any) -> CorpusParams:
    return BASE.model_copy(update=changes)


def url(*addresses: tuple[str, bytes]) -> CorpusParams:
    """Params for addresses with the content that is expected there."""
    urls = [Url(url=a, sha256=hashlib.sha256(content).hexdigest()) for a, content in addresses]
    return BASE.model_copy(update={"source": "url", "urls": urls})


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
    """What each document is, without what is computed of its text."""
    columns = ["id", "text", "source"]
    files = sorted(OUT.glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file, columns=columns).to_pylist()]


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
    write("texts/d.doc")
    write("texts/README")
    run(files(), OUT)
    found = manifest()
    part = OUT / "part-00000.parquet"
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
    assert found["skipped"] == {
        "empty document": 1,
        "file ending in .doc": 1,
        "file ending in nothing": 1,
    }
    assert found["guessed_encodings"] == {}


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


def test_what_is_no_file_is_left_out_and_counted() -> None:
    write("texts/a.txt", "yes")
    Path("texts/b.txt").symlink_to("gone.txt")
    os.mkfifo("texts/c.txt")
    run(files(), OUT)
    assert texts() == ["yes"]
    assert manifest()["skipped"] == {"broken link or device": 2}


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


def test_what_an_archive_holds_other_than_texts_is_counted_too() -> None:
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


def mixed_files() -> dict[str, str]:
    """54 files of which two are cp1252; their texts by name."""
    written = {f"{n:02d}.txt": f"I don’t know {n}" for n in range(54)}
    for name, text in written.items():
        write(f"texts/{name}", text.encode("cp1252" if name in ("07.txt", "31.txt") else "utf-8"))
    return written


def test_two_files_of_another_encoding_are_both_named_and_auto_reads_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = mixed_files()
    one = "31.txt is not UTF-8 (byte 5: 0x92), it looks like cp1252 ('I don’t know 31')"
    refused(files(), "2 of 54 files", "07.txt is not UTF-8", one, "set corpus.encoding: auto")
    run(files(encoding="auto"), OUT)
    assert texts() == list(written.values())
    assert manifest()["guessed_encodings"] == {"cp1252": ["07.txt", "31.txt"]}
    assert "; encoding guessed: cp1252 (2)" in capsys.readouterr().out


def test_an_encoding_given_by_force_does_not_garble_the_files_that_are_utf8() -> None:
    mixed_files()
    garbled = "as cp1252 it reads 'I donâ€™t know 0'"
    refused(files(encoding="cp1252"), "52 of 54 files", garbled, "set corpus.encoding: auto")


def test_half_of_a_surrogate_pair_is_counted_and_left_out() -> None:
    write("texts/a.jsonl", '{"text": "\\ud83d"}\n{"text": "\\ud83d\\ude00"}\n')
    run(files(), OUT)
    assert texts() == ["\U0001f600"]
    assert manifest()["skipped"] == {"document with half of a surrogate pair": 1}


def test_a_text_with_a_nul_character_is_counted_and_left_out() -> None:
    write("texts/a.jsonl", '{"text": "a\\u0000b"}\n{"text": "ab"}\n')
    write_parquet("texts/b.parquet", ["a\0b", "cd"])
    run(files(), OUT)
    assert texts() == ["ab", "cd"]
    assert manifest()["skipped"] == {"document with a NUL character": 2}


def test_a_large_corpus_comes_in_several_parts_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PART_BYTES", 40)
    monkeypatch.setattr(corpus, "GROUP_BYTES", 16)
    written = [f"document {n:02d}" for n in range(40)]
    write("texts/a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in written))
    run(files(), OUT)
    described = manifest()["files"]
    assert len(described) > 5
    assert sum(file["documents"] for file in described) == manifest()["documents"] == 40
    assert sum(file["bytes"] for file in described) == manifest()["bytes"] == 40 * 11
    for file in described:
        assert pq.read_metadata(OUT / file["name"]).num_rows == file["documents"]
    assert texts() == written


def test_one_file_more_changes_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PART_BYTES", 4000)
    for n in range(300):
        write(f"texts/{n:03d}.txt", f"{n} is " + "a number " * 30)
    run(files(), OUT)
    before = {file["sha256"] for file in manifest()["files"]}
    write("texts/150b.txt", "one more")
    run(files(), OUT)
    after = {file["sha256"] for file in manifest()["files"]}
    assert len(before) > 15
    assert len(after - before) == len(before - after) == 1


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
        ("a.txt", b"", ["no text", "left out: empty document (1)"]),
        ("a.txt", b" \n\t\r\n", ["no text", "left out: empty document (1)"]),
        (
            "a.jsonl",
            b'{"text": ""}\n{"text": " "}\n',
            ["no text", "left out: empty document (2)"],
        ),
        ("a.jsonl", b"\n", ["holds no text"]),
        ("a.txt", b"good\xe9", ["a.txt is not UTF-8", "byte 4: 0xe9"]),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', ["a.jsonl, line 2 is not JSON"]),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}', ["line 2 has no text in 'text'", "['body']"]),
        ("a.pdf", b"%PDF", ["a.pdf cannot be read", "intact copy"]),
        ("a.docx", b"PK", ["a.docx cannot be read", "intact copy"]),
        ("a.parquet", b"PAR1 not really", ["a.parquet is damaged or not a Parquet file"]),
        (
            "a.doc",
            b"of old",
            ["holds no .txt, .md, .html,", ".txt.xz too) that"],
        ),
        (
            ".a.txt",
            b"hidden",
            ["holds no .txt, .md, .html,", ".txt.xz too) that"],
        ),
    ],
)
def test_bad_input_is_refused_and_nothing_left_behind(
    file: str, content: bytes, words: list[str]
) -> None:
    write(f"texts/{file}", content)
    refused(files(), *words)


def test_without_the_extra_pdfs_are_counted_and_the_way_to_read_them_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stages.download.office.is_installed", lambda: False)
    with zipfile.ZipFile(write("texts/x.zip"), "w") as archive:
        archive.writestr("c.pdf", "%PDF")
    for name in ("a.pdf", "b.PDF"):
        write(f"texts/{name}", "%PDF")
    install = "`.venv/bin/pip install -e '.[office]'`"
    way = f"to read PDFs too, run {install} and `.venv/bin/dvc repro --force download`"
    refused(files(glob="*.[pP]*"), "left out: PDF that needs the extra office (2)", way)
    write("texts/d.txt", "text")
    run(files(), OUT)
    assert manifest()["skipped"] == {"PDF that needs the extra office": 3}
    said = capsys.readouterr().out
    assert said.endswith(f"; left out: PDF that needs the extra office (3) ({way})\n")
    assert said.count("pip install") == 1


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


def test_the_files_of_a_failed_download_wait_for_the_next_try_and_go_with_it(
    site: Any, pauses: list[float], make_answer: Callable[..., Any]
) -> None:
    first, second = site.put("/a.txt", b"one"), site.put("/b.txt", make_answer(500))
    wanted = url((first, b"one"), (second, b"two"))
    refused(wanted, f"{second} could not be fetched", error=ConnectionError)
    assert len(list(CACHE.glob("*/0-a.txt"))) == 1
    site.put("/b.txt", b"two")
    run(wanted, OUT)
    assert texts() == ["one", "two"]
    assert site.asked.count("/a.txt") == 1
    assert list(CACHE.iterdir()) == []


def test_another_sha256_is_refused_with_the_found_one(site: Any) -> None:
    address = site.put("/a.txt", b"changed")
    found = hashlib.sha256(b"changed").hexdigest()
    wanted = hashlib.sha256(b"as it was").hexdigest()
    refused(url((address, b"as it was")), address, f"has sha256 {found}", f"says {wanted}")


@pytest.mark.parametrize("who", ["alice", "alice:s3cr3t-Pa55"])
def test_an_address_with_a_password_is_refused_without_showing_it(who: str) -> None:
    urls = [{"url": f"https://{who}@example.org/a.txt", "sha256": "0" * 64}]
    content = {**BASE.model_dump(), "source": "url", "urls": urls}
    with pytest.raises(
        ParamsError, match=r"example\.org/a\.txt contains a username.*~/\.netrc"
    ) as caught:
        parse_section("corpus", CorpusParams, content, PARAMS_FILE)
    assert "alice" not in str(caught.value)


def test_a_password_in_netrc_is_used(
    workspace: Path, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = workspace / "netrc"
    netrc.write_text("machine 127.0.0.1 login alice password s3cr3t-Pa55\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    run(url((site.put("/a.txt", b"one"), b"one")), OUT)
    assert site.logins == ["Basic " + base64.b64encode(b"alice:s3cr3t-Pa55").decode()]


def test_the_signature_of_an_address_is_neither_printed_nor_in_the_manifest(
    site: Any, pauses: list[float], make_answer: Callable[..., Any], capsys: Any
) -> None:
    address = site.put("/a.txt", make_answer(500), b"one") + "?v=2&X-Amz-Signature=s3cr3t"
    run(url((address, b"one")), OUT)
    manifest = (OUT / "manifest.json").read_text()
    assert "/a.txt?v=2&X-Amz-Signature=***" in manifest
    printed = capsys.readouterr().out
    assert "/a.txt?v=2&X-Amz-Signature=***" in printed
    assert "s3cr3t" not in manifest + printed


# --- package -------------------------------------------------------------------------------------


def test_files_of_a_package_are_read(index: Any) -> None:
    inside = {"poems/a.txt": b"one--two", "poems/b.txt": b"three", "poems/c.md": b"no"}
    sha256 = index.add_wheel("poems", "1.0", inside)
    run(package(sha256, "poems/*.txt").model_copy(update={"separator": "--"}), OUT)
    assert [row["id"] for row in rows()] == ["poems/a.txt#0", "poems/a.txt#1", "poems/b.txt#0"]
    assert texts() == ["one", "two", "three"]


def test_a_package_with_another_sha256_is_refused(index: Any) -> None:
    index.add_wheel("poems", "1.0", {"poems/a.txt": b"one"})
    refused(package("0" * 64, "*.txt"), "a different sha256")


def test_a_package_index_that_does_not_answer_is_a_connection_error(
    dead_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{dead_url}/simple/")
    refused(package("0" * 64, "*.txt"), "could not provide poems==1.0", error=ConnectionError)


def test_a_text_of_a_package_that_is_not_utf8_is_refused(index: Any) -> None:
    sha256 = index.add_wheel("poems", "1.0", {"poems/a.txt": b"caf\xe9"})
    refused(package(sha256, "*.txt"), "poems/a.txt is not UTF-8", "byte 3")


def test_files_of_one_name_in_two_folders_of_a_package_have_two_ids(index: Any) -> None:
    inside = {"poems/old/a.txt": b"one", "poems/new/a.txt": b"two"}
    run(package(index.add_wheel("poems", "1.0", inside), "*.txt"), OUT)
    assert len({row["id"] for row in rows()}) == 2


# --- mixture -------------------------------------------------------------------------------------


def mixture(**parts: dict[str, Any]) -> CorpusParams:
    """Params for a mixture whose corpora say no more than they must."""
    content = {**BASE.model_dump(), "source": "mixture", "mixture": parts}
    return CorpusParams.model_validate(content)


def test_a_mixture_is_its_corpora_one_after_the_other(index: Any, site: Any) -> None:
    sha256 = index.add_wheel("poems", "1.0", {"poems/a.txt": b"one--two"})
    package = {"name": "poems", "version": "1.0", "sha256": sha256, "members": "*.txt"}
    address = site.put("/a.jsonl", b'{"body": "three"}')
    found = hashlib.sha256(b'{"body": "three"}').hexdigest()
    urls = [{"url": address, "sha256": found}]
    write("texts/letters/a.txt", "four")
    write("texts/a.txt", "not of the mixture")
    write_parquet("rows/train.parquet", ["five", ""])
    about = {"name": "rows", "config": None, "revision": None, "split": "train"}
    run(
        mixture(
            poems={"source": "package", "package": package, "separator": "--"},
            web={"source": "url", "urls": urls, "text_column": "body"},
            letters={"source": "files", "path": "texts/letters"},
            rows={"source": "huggingface", "huggingface": {**about, "max_documents": None}},
        ),
        OUT,
    )
    assert texts() == ["one", "two", "three", "four", "five"]
    assert [row["id"] for row in rows()] == [
        "poems/poems/a.txt#0",
        "poems/poems/a.txt#1",
        "web/0-a.jsonl#1",
        "letters/a.txt",
        "rows/rows#0",
    ]
    described = [(file["name"], file["corpus"], file["documents"]) for file in manifest()["files"]]
    assert described == [
        ("part-00000.parquet", "poems", 2),
        ("part-00001.parquet", "web", 1),
        ("part-00002.parquet", "letters", 1),
        ("part-00003.parquet", "rows", 1),
    ]
    assert manifest()["skipped"] == {"empty document": 1}
    assert list(CACHE.iterdir()) == []


def test_a_corpus_of_a_mixture_has_the_keys_of_the_section_but_for_its_own() -> None:
    parts = mixture(a={"source": "files"}, b={"source": "files", "text_column": "body"}).mixture
    assert parts is not None
    assert parts["a"] == BASE
    assert parts["b"] == files(text_column="body")


def test_a_mixture_that_is_not_chosen_is_not_read() -> None:
    write("texts/a.txt", "one")
    run(
        mixture(mine={"source": "files", "path": "texts/none"}).model_copy(
            update={"source": "files"}
        ),
        OUT,
    )
    assert [row["id"] for row in rows()] == ["a.txt"]


def test_a_mixture_comes_back_from_its_own_manifest() -> None:
    write("texts/a.txt", "one")
    params = mixture(mine={"source": "files"})
    run(params, OUT)
    assert CorpusParams.model_validate(manifest()["corpus"]) == params


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"source": "files", "path": "elsewhere"}, "'elsewhere' is outside of corpus.path"),
        ({"source": "files", "path": "texts/../a"}, "is outside of corpus.path 'texts'"),
        ({"source": "mixture"}, "source is mixture, but corpus.mixture is not set"),
        ({"source": "mixture", "mixture": {"a": {"source": "files"}}}, "is a mixture itself"),
        ({"source": "url"}, "source is url, but corpus.urls is not set"),
        ({"path": "texts"}, "mixture.mine.source\n  Field required"),
        ({"source": "files", "pathe": "texts"}, "mixture.mine.pathe\n  Extra inputs"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(part: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        mixture(mine=part)


@pytest.mark.parametrize("name", ["", "a/b", "a b"])
def test_the_name_of_a_corpus_is_a_word(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name of letters"):
        mixture(**{name: {"source": "files"}})


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 item"):
        mixture()
