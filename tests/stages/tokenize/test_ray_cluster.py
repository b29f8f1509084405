"""Parts on a Ray cluster: the same bytes over a folder and S3, also when a worker is killed."""

import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from stages.artifacts.clean import CleanCorpus
from stages.lib.split import SplitParams
from stages.tokenize import ray_cluster
from stages.tokenize import stage as tokenize
from stages.tokenize.params import TokenizeParams
from stages.tokenize.pool import tokenize_here
from stages.tokenize.ray_cluster import Place, collect, send, tokenize_on_ray, tokenize_there
from stages.tokenize.token_cache import Task
from stages.tokenize.token_parts import written_by

MakeParts = Callable[[list[list[str]], Path], CleanCorpus]
Digests = Callable[[Path], dict[str, str]]

BYTES = TokenizeParams(tokenizer="bytes", vocab_size=None, engine="tiktoken")
SPLIT = SplitParams(val_fraction=0.4, seed=1)
PARTS = [[f"{part}.{n} " + "of all the land " * 3000 for n in range(6)] for part in range(5)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_parts: MakeParts) -> CleanCorpus:
    return make_parts(PARTS, tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def right(corpus: CleanCorpus) -> Path:
    """What this machine makes of the corpus."""
    folder = corpus.corpus.parent
    here = partial(tokenize_here, workers=1)
    tokenize.run(
        BYTES, SPLIT, corpus, folder / "tokens", cache=folder / "cache", tokenize_parts=here
    )
    return folder / "tokens"


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """A running S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_url: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket's address, the environment set for it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    address, _, port = s3_url.removeprefix("http://").partition(":")
    filesystem = fs.S3FileSystem(
        endpoint_override=f"{address}:{port}", scheme="http", allow_bucket_creation=True
    )
    filesystem.create_dir("texts")
    return "s3://texts/shared"


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, workspace: Path) -> Place:
    shared = "shared" if request.param == "folder" else request.getfixturevalue("s3")
    return Place.of_this_project(shared)


def files_at(place: Place) -> list[str]:
    with place.opened() as (there, root):
        found = there.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    return sorted(info.path for info in found if info.type == fs.FileType.File)


def test_a_part_goes_to_the_place_and_comes_back_as_tokens(
    place: Place, corpus: CleanCorpus, right: Path, workspace: Path
) -> None:
    task = Task(part=corpus.parts[1], target=workspace / "key.arrow")
    place.put(right / "tokenizer", "tokenizer")
    send(place, task)
    tokenize_there(place, "key", task.part, "tokenizer", "tiktoken", written_by())
    assert len(files_at(place)) == 6  # two of the tokenizer, two sent, two made
    found = collect(place, task)
    assert task.target.read_bytes() == (right / "part-00001.arrow").read_bytes()
    assert (found["documents"], found["bytes"]) == (6, sum(map(len, PARTS[1])))
    assert {path.name for path in workspace.glob("*key*")} == {"key.arrow", "key.json"}
    assert len(files_at(place)) == 2
    place.clear()
    assert not files_at(place)


def test_a_part_that_comes_damaged_is_not_taken(
    place: Place, corpus: CleanCorpus, right: Path, workspace: Path
) -> None:
    task = Task(part=corpus.parts[0], target=workspace / "key.arrow")
    (workspace / "half").write_bytes((right / "part-00000.arrow").read_bytes()[:-1])
    place.put(workspace / "half", "key/tokens.arrow")
    place.put(right.parent / "cache" / record_name(right), "key/tokens.json")
    with pytest.raises(ConnectionError, match="did not come whole"):
        collect(place, task)


def record_name(right: Path) -> str:
    """The record of the first part, whatever its key is."""
    first = (right / "part-00000.arrow").stat().st_ino
    cache = right.parent / "cache"
    return next(p for p in cache.glob("*.arrow") if p.stat().st_ino == first).stem + ".json"


def test_a_worker_that_would_write_other_bytes_refuses(
    place: Place, corpus: CleanCorpus, workspace: Path
) -> None:
    with pytest.raises(ValueError, match=r"writes version \d+, pyarrow .*, this project version 0"):
        tokenize_there(place, "key", corpus.parts[0], "tokenizer", "tiktoken", "version 0")


@pytest.mark.parametrize("shared", ["ftp://host/folder", "s3://"])
def test_a_place_that_is_none_names_the_setting(shared: str, workspace: Path) -> None:
    with pytest.raises(ValueError, match="NANOGPT_SHARED"):
        Place.of_this_project(shared).clear()


def test_an_s3_that_does_not_answer_is_a_matter_of_the_network(workspace: Path) -> None:
    place = Place.of_this_project("shared")
    message = (
        "AWS Error NETWORK_CONNECTION during HeadBucket operation: curlCode: 7"  # after ten tries
    )
    with pytest.raises(ConnectionError, match="curlCode: 7"), place.opened():
        raise OSError(message)
    with pytest.raises(FileNotFoundError), place.opened() as (there, root):
        there.open_input_stream(f"{root}/nothing")


def killed_once(killed: list[int], stop: threading.Event) -> None:
    """Kill -9 the first Ray worker of this process that is seen at work."""
    while not stop.is_set() and not killed:
        for child in psutil.Process().children(recursive=True):
            try:
                if " ".join(child.cmdline()).startswith("ray::tokenize_there"):
                    time.sleep(0.05)  # into its work
                    child.send_signal(signal.SIGKILL)
                    killed.append(child.pid)
                    break
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.01)


def test_two_ray_workers_one_of_them_killed_make_the_same_bytes_over_s3(
    s3: str,
    corpus: CleanCorpus,
    right: Path,
    workspace: Path,
    digests: Digests,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = tempfile.mkdtemp(prefix="ray-")  # sockets are in it, and their paths must be short
    monkeypatch.setenv("RAY_TMPDIR", short)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    killed: list[int] = []
    stop = threading.Event()
    killer = threading.Thread(target=killed_once, args=(killed, stop))
    killer.start()
    try:
        on_ray = partial(tokenize_on_ray, workers=2, shared=s3)
        tokenize.run(
            BYTES, SPLIT, corpus, workspace / "tokens", cache=workspace / "c", tokenize_parts=on_ray
        )
    finally:
        stop.set()
        killer.join()
        shutil.rmtree(short, ignore_errors=True)
    assert len(killed) == 1
    assert digests(workspace / "tokens") == digests(right)
    assert not files_at(Place.of_this_project(s3))
    assert not any("ray" in p.name() for p in psutil.Process().children(recursive=True))


def test_the_default_place_is_in_the_project(workspace: Path) -> None:
    place = Place.of_this_project(None)
    assert Path(place.uri).parent == workspace / ray_cluster.DEFAULT_PLACE
