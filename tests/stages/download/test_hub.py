import json
import multiprocessing
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.download import corpus_writer as corpus
from stages.download import hub
from stages.download.hub import DatasetReader
from stages.download.params import CorpusParams, HuggingFace
from stages.download.readers import Document
from stages.download.stage import CACHE, run

pytestmark = pytest.mark.usefixtures("workspace")

OUT = Path("data/corpus")
Digests = Callable[[Path], dict[str, str]]


def about(name: str, **changes: Any) -> HuggingFace:
    """A dataset's description, with changes."""
    described = HuggingFace(
        name=name, config=None, revision=None, split="train", max_documents=None
    )
    return described.model_copy(update=changes)


def params(name: str, text_column: str = "text", **changes: Any) -> CorpusParams:
    """A corpus of one dataset."""
    return CorpusParams(
        source="huggingface",
        path="texts",
        glob="**/*",
        separator=None,
        text_column=text_column,
        encoding="utf-8",
        package=None,
        urls=[],
        huggingface=about(name, **changes),
        mixture=None,
    )


def rows() -> list[dict[str, str]]:
    """All rows of the corpus."""
    files = sorted(OUT.glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def write_dataset(folder: Path, *files: range, row_group_size: int = 1000) -> str:
    """A dataset of one parquet file for each range of numbers; its name."""
    folder.mkdir(parents=True)
    for part, numbers in enumerate(files):
        texts = [f"row {n}: {'once upon a time ' * (1 + n % 13)}" for n in numbers]
        file = folder / f"train-{part:05d}-of-{len(files):05d}.parquet"
        table = pa.table({"text": texts, "n": list(numbers)})
        pq.write_table(table, file, row_group_size=row_group_size)
    return str(folder)


@pytest.fixture(autouse=True)
def no_cache_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """A local dataset of five rows in two files."""
    return write_dataset(tmp_path / "rows", range(3), range(3, 5))


# --- a dataset as a corpus -----------------------------------------------------------------------


def test_the_rows_of_a_dataset_are_read_in_order(dataset: str) -> None:
    run(params(dataset), OUT)
    assert [row["id"] for row in rows()] == [f"{dataset}#{n}" for n in range(5)]
    assert [row["text"].split(":")[0] for row in rows()] == [f"row {n}" for n in range(5)]
    assert {row["source"] for row in rows()} == {dataset}


@pytest.mark.parametrize("wanted", [1, 4, 5, 9])
def test_no_more_rows_are_taken_than_asked_for(dataset: str, wanted: int) -> None:
    run(params(dataset, max_documents=wanted), OUT)
    assert len(rows()) == min(wanted, 5)


def test_no_file_is_opened_for_a_row_that_nobody_asked_for(dataset: str) -> None:
    Path(dataset, "train-00001-of-00002.parquet").write_bytes(b"damaged, but not needed")
    run(params(dataset, max_documents=3), OUT)
    assert len(rows()) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "test"}, r"Available splits: \['train'\]"),
        ({"config": "nope"}, "'nope' not found"),
        ({"text_column": "body"}, r"has no text in 'body'.*\['n', 'text'\]"),
        ({"text_column": "n"}, "has int in 'n'.*, where a text should be"),
    ],
)
def test_what_a_dataset_does_not_have_is_refused(
    dataset: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run(params(dataset, **changes), OUT)
    assert list(OUT.parent.iterdir()) == []


def test_nothing_is_left_in_the_cache_nor_outside_of_the_workspace(
    workspace: Path, dataset: str
) -> None:
    run(params(dataset), OUT)
    assert Path(os.environ["HOME"]) == workspace / "home"
    assert not (workspace / "home").exists()
    assert list(CACHE.iterdir()) == []


# --- continuing ---------------------------------------------------------------------------------


def read(name: str, place: dict[str, Any] | None, count: int) -> tuple[list[Document], Any]:
    """So many rows from a place on, and the place after them, as it comes back from JSON."""
    source = DatasetReader(about(name), "text", place)
    taken = list(islice(source, count))
    return taken, json.loads(json.dumps(source.current_place()))


@pytest.mark.parametrize("row_group_size", [7, 1000])
def test_reading_continues_after_any_row(tmp_path: Path, row_group_size: int) -> None:
    """Also again and again, across row groups, batches and files."""
    files = [range(150), range(150, 155), range(155, 300)]
    name = write_dataset(tmp_path / "rows", *files, row_group_size=row_group_size)
    whole, _ = read(name, None, 400)
    assert len(whole) == 300
    for step in (1, 64, 65, 150):
        some, place = read(name, None, step)
        while len(some) < 300:
            more, place = read(name, place, 97)
            assert more
            some += more
        assert some == whole


def test_a_dataset_that_changed_on_the_way_is_refused(dataset: str) -> None:
    _, place = read(dataset, None, 2)
    changed = Path(dataset, "train-00000-of-00002.parquet")
    pq.write_table(pa.table({"text": ["other"] * 3, "n": [0] * 3}), changed)
    with pytest.raises(ValueError, match=r"row 1 of .* has changed since"):
        read(dataset, place, 1)


def test_a_failure_before_the_first_new_row_loses_no_place(
    dataset: str, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    _, place = read(dataset, None, 2)
    load, failures = datasets.load_dataset, [ConnectionError("cut"), TimeoutError("silent")]

    def load_at_last(*values: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return load(*values, **options)

    monkeypatch.setattr(datasets, "load_dataset", load_at_last)
    more, _ = read(dataset, place, 5)
    assert [document.id for document in more] == [f"{dataset}#{n}" for n in (2, 3, 4)]
    assert len(pauses) == 1


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PART_BYTES", 4_000)
    monkeypatch.setattr(corpus, "GROUP_BYTES", 1_000)


def started(about: CorpusParams) -> Any:
    """A download in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(about, OUT))
    process.start()
    return process


def finished_parts() -> int:
    """How many parts are noted in the cache."""
    logs = list(CACHE.glob(f"*/{hub.LOG}"))
    return sum(log.read_text().count("sha256") for log in logs)


@pytest.mark.usefixtures("small_parts")
def test_killed_at_any_point_a_download_comes_out_the_same(
    tmp_path: Path, digests: Digests
) -> None:
    files = [range(k * 500, (k + 1) * 500) for k in range(4)]
    described = params(write_dataset(tmp_path / "rows", *files, row_group_size=90))
    run(described, OUT)
    uninterrupted = digests(OUT)
    assert len(uninterrupted) > 50
    shutil.rmtree(OUT)
    draw, found = random.Random(), [0]
    for _ in range(8):
        process = started(described)
        while process.is_alive() and finished_parts() <= found[-1] + draw.randrange(8):
            time.sleep(draw.random() / 100)
        process.kill()
        process.join()
        found.append(finished_parts())
    assert found == sorted(found)
    assert found[-1] >= 8
    run(described, OUT)
    assert digests(OUT) == uninterrupted
    assert list(CACHE.iterdir()) == []


@pytest.fixture
def interrupted(tmp_path: Path, small_parts: None) -> CorpusParams:
    """A download of which some parts are there."""
    described = params(write_dataset(tmp_path / "rows", range(600)))
    process = started(described)
    while finished_parts() < 8:
        time.sleep(0.001)
    process.kill()
    process.join()
    return described


def test_what_is_there_is_not_written_again(interrupted: CorpusParams) -> None:
    part = next(CACHE.glob("*/part-00003.parquet"))
    written = part.stat().st_mtime_ns
    run(interrupted, OUT)
    assert (OUT / "part-00003.parquet").stat().st_mtime_ns == written


@pytest.mark.parametrize("harm", ["part damaged", "part missing", "half a line", "other params"])
def test_what_is_not_whole_is_made_again(
    interrupted: CorpusParams, digests: Digests, tmp_path: Path, harm: str
) -> None:
    (log,) = CACHE.glob(f"*/{hub.LOG}")
    damaged = log.with_name("part-00003.parquet")
    if harm == "part damaged":
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    elif harm == "part missing":
        damaged.unlink()
    elif harm == "half a line":
        log.write_text(log.read_text()[:-20])
    else:
        huggingface = about(interrupted.huggingface.name, max_documents=300)
        interrupted = interrupted.model_copy(update={"huggingface": huggingface})
    run(interrupted, OUT)
    found = digests(OUT)
    shutil.rmtree(CACHE)
    run(interrupted, OUT)
    assert digests(OUT) == found
    expected = interrupted.huggingface.max_documents or 600
    assert [row["id"].split("#")[1] for row in rows()] == [str(n) for n in range(expected)]


# --- the hub -------------------------------------------------------------------------------------

COMMIT = "0123456789" * 4

HUB_SCRIPT = """
import sys, time
from pathlib import Path
from stages.download.stage import run
from stages.download.params import CorpusParams

time.sleep = lambda seconds: None  # the hub's own library tries again five times
try:
    run(CorpusParams.model_validate_json(sys.argv[1]), Path("data/corpus"))
except Exception as error:
    print(type(error).__name__, error)
"""


class Hub(ThreadingHTTPServer):
    """As much of the hub as reading one dataset, `some/rows`, takes; `troubles` come first."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files = files
        self.troubles: dict[str, list[str]] = {}


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        api, files = "/api/datasets/some/rows", f"/datasets/some/rows/resolve/{COMMIT}/"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.server.files]
            about = {"id": "some/rows", "sha": COMMIT, "siblings": siblings, "tags": []}
            self.answer(200, json.dumps(about).encode())
        elif path == f"{api}/tree/{COMMIT}":
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": name}
                for name, content in self.server.files.items()
            ]
            self.answer(200, json.dumps(listed).encode())
        elif (name := path.removeprefix(files)) in self.server.files:
            self.answer_file(name)
        else:
            self.answer(404, b"", ("X-Error-Code", "EntryNotFound"))

    do_HEAD = do_GET

    def answer_file(self, name: str) -> None:
        """The range that is asked for, unless there is trouble."""
        trouble = self.server.troubles.get(name, [])
        content = self.server.files[name]
        first, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
        asked = content[int(first) : int(last) + 1] if last else content[int(first) :]
        match trouble.pop() if trouble else "":
            case "busy":
                self.answer(503, b"")
            case "cut":
                self.answer(206, asked[:-100], missing=100)
            case _:
                self.answer(206, asked)

    def answer(self, status: int, body: bytes, *headers: tuple[str, str], missing: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + missing))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Keep the tests' output quiet."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    """A hub with a dataset of two files."""
    folder = Path(write_dataset(tmp_path / "rows", range(400), range(400, 800)))
    with Hub({file.name: file.read_bytes() for file in sorted(folder.iterdir())}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_dataset_comes_whole_from_a_hub_in_trouble(
    server: Hub, run_python: Callable[..., Any], workspace: Path
) -> None:
    second = "train-00001-of-00002.parquet"
    server.troubles[second] = [*["busy"] * 8, "cut", "cut"]  # one more than the library bears
    described = params("some/rows", revision="main")
    address = f"http://127.0.0.1:{server.server_port}"
    done = run_python(
        "-c", HUB_SCRIPT, described.model_dump_json(), HF_ENDPOINT=address, USE_TORCH="0"
    )
    assert [row["id"] for row in rows()] == [f"some/rows#{n}" for n in range(800)], done
    manifest = json.loads((OUT / "manifest.json").read_text())
    assert manifest["corpus"]["huggingface"]["revision"] == COMMIT
    assert "dataset some/rows: the Hugging Face Hub is not available: Server error" in done.stdout
    assert server.troubles[second] == []
    assert not any(file.suffix == ".parquet" for file in (workspace / "home").rglob("*"))


@pytest.mark.parametrize("name", ["some/dataset", "listed"])
def test_a_hub_out_of_reach_is_a_connection_error(
    run_python: Callable[..., Any], dead_url: str, name: str
) -> None:
    listing = "{split: train, path: 'hf://datasets/some/dataset@main/a.parquet'}"
    Path("listed").mkdir()
    Path("listed/README.md").write_text(
        f"---\nconfigs: [{{config_name: a, data_files: [{listing}]}}]\n---\n"
    )
    done = run_python(
        "-c", HUB_SCRIPT, params(name).model_dump_json(), HF_ENDPOINT=dead_url, USE_TORCH="0"
    )
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"ConnectionError dataset {name} could not be fetched"), done
    assert "the Hugging Face Hub is not responding" in last
    assert not OUT.exists()
