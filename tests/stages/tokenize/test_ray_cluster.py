"""A Ray cluster makes the same bytes, over a folder or S3, even if a worker is killed."""

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
from stages.tokenize.pool import tokenize_locally
from stages.tokenize.ray_cluster import (
    SharedStorage,
    collect_part,
    tokenize_on_ray,
    tokenize_on_worker,
    upload_part,
)
from stages.tokenize.token_cache import Task
from stages.tokenize.token_parts import writer_version

MakeParts = Callable[[list[list[str]], Path], CleanCorpus]
Digests = Callable[[Path], dict[str, str]]

BYTES = TokenizeParams(tokenizer="bytes", vocab_size=None, engine="tiktoken")
SPLIT = SplitParams(val_fraction=0.4, seed=1)
PARTS = [[f"{part}.{n} " + "of all the land " * 3000 for n in range(6)] for part in range(5)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_parts: MakeParts) -> CleanCorpus:
    return make_parts(PARTS, tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def expected(corpus: CleanCorpus) -> Path:
    """Return the tokens that this machine makes of the corpus without Ray."""
    folder = corpus.corpus.parent
    here = partial(tokenize_locally, workers=1)
    tokenize.run(
        BYTES, SPLIT, corpus, folder / "tokens", cache=folder / "cache", tokenize_parts=here
    )
    return folder / "tokens"


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """Start an S3 server and yield its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_url: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of a bucket, with the environment set for it."""
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
def storage(request: pytest.FixtureRequest, workspace: Path) -> SharedStorage:
    shared = "shared" if request.param == "folder" else request.getfixturevalue("s3")
    return SharedStorage.of_this_project(shared)


def files_at(storage: SharedStorage) -> list[str]:
    with storage.connect() as (filesystem, root):
        infos = filesystem.get_file_info(
            fs.FileSelector(root, recursive=True, allow_not_found=True)
        )
    return sorted(info.path for info in infos if info.type == fs.FileType.File)


def test_a_part_is_uploaded_and_comes_back_as_tokens(
    storage: SharedStorage, corpus: CleanCorpus, expected: Path, workspace: Path
) -> None:
    task = Task(part=corpus.parts[1], target=workspace / "key.arrow")
    storage.upload(expected / "tokenizer", "tokenizer")
    upload_part(storage, task)
    tokenize_on_worker(storage, "key", task.part, "tokenizer", "tiktoken", writer_version())
    assert len(files_at(storage)) == 6  # two of the tokenizer, two uploaded, two made
    description = collect_part(storage, task)
    assert task.target.read_bytes() == (expected / "part-00001.arrow").read_bytes()
    assert (description["documents"], description["bytes"]) == (6, sum(map(len, PARTS[1])))
    assert {path.name for path in workspace.glob("*key*")} == {"key.arrow", "key.json"}
    assert len(files_at(storage)) == 2
    storage.clear()
    assert not files_at(storage)


def test_a_part_that_arrives_damaged_is_refused(
    storage: SharedStorage, corpus: CleanCorpus, expected: Path, workspace: Path
) -> None:
    task = Task(part=corpus.parts[0], target=workspace / "key.arrow")
    (workspace / "half").write_bytes((expected / "part-00000.arrow").read_bytes()[:-1])
    storage.upload(workspace / "half", "key/tokens.arrow")
    storage.upload(expected.parent / "cache" / record_name(expected), "key/tokens.json")
    with pytest.raises(ConnectionError, match="arrived damaged"):
        collect_part(storage, task)


def record_name(expected: Path) -> str:
    """Return the name of the record of the first part, whatever its key is."""
    first = (expected / "part-00000.arrow").stat().st_ino
    cache = expected.parent / "cache"
    return next(p for p in cache.glob("*.arrow") if p.stat().st_ino == first).stem + ".json"


def test_a_worker_that_would_write_other_bytes_refuses(
    storage: SharedStorage, corpus: CleanCorpus, workspace: Path
) -> None:
    with pytest.raises(ValueError, match=r"writes version \d+, pyarrow .*, this project version 0"):
        tokenize_on_worker(storage, "key", corpus.parts[0], "tokenizer", "tiktoken", "version 0")


@pytest.mark.parametrize("shared", ["ftp://host/folder", "s3://"])
def test_an_invalid_address_is_refused_with_the_setting(shared: str, workspace: Path) -> None:
    with pytest.raises(ValueError, match="NANOGPT_SHARED"):
        SharedStorage.of_this_project(shared).clear()


def test_an_s3_that_does_not_answer_raises_connection_error(workspace: Path) -> None:
    storage = SharedStorage.of_this_project("shared")
    message = (
        "AWS Error NETWORK_CONNECTION during HeadBucket operation: curlCode: 7"  # after ten tries
    )
    with pytest.raises(ConnectionError, match="curlCode: 7"), storage.connect():
        raise OSError(message)
    with pytest.raises(FileNotFoundError), storage.connect() as (filesystem, root):
        filesystem.open_input_stream(f"{root}/nothing")


def kill_one_worker(killed: list[int], stop: threading.Event) -> None:
    """Kill -9 the first Ray worker of this process that is seen at work."""
    while not stop.is_set() and not killed:
        for child in psutil.Process().children(recursive=True):
            try:
                if " ".join(child.cmdline()).startswith("ray::tokenize_on_worker"):
                    time.sleep(0.05)  # let it start its work
                    child.send_signal(signal.SIGKILL)
                    killed.append(child.pid)
                    break
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.01)


def test_two_ray_workers_one_of_them_killed_make_the_same_bytes_over_s3(
    s3: str,
    corpus: CleanCorpus,
    expected: Path,
    workspace: Path,
    digests: Digests,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = tempfile.mkdtemp(prefix="ray-")  # holds sockets, whose paths must be short
    monkeypatch.setenv("RAY_TMPDIR", short)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    killed: list[int] = []
    stop = threading.Event()
    killer = threading.Thread(target=kill_one_worker, args=(killed, stop))
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
    assert digests(workspace / "tokens") == digests(expected)
    assert not files_at(SharedStorage.of_this_project(s3))
    assert not any("ray" in p.name() for p in psutil.Process().children(recursive=True))


def test_the_default_storage_is_in_the_project(workspace: Path) -> None:
    storage = SharedStorage.of_this_project(None)
    assert Path(storage.uri).parent == workspace / ray_cluster.DEFAULT_STORAGE
