"""Parts tokenized on a Ray cluster: the same function on the same bytes, on other machines.

Parts travel over a place that all machines see, a folder or a bucket: this process puts corpus and
verdicts there, a worker fetches them, works on files of its own and puts tokens and record, this
process collects them and clears up. No more parts are under way than keep the workers busy.
"""

import hashlib
import logging
import os
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyarrow import fs

from stages.artifacts.clean import CleanPart
from stages.runtime.errors import Crashed
from stages.runtime.pool import in_order
from stages.tokenize.engine import Encoder, adversarial, assert_same_tokens, load_encoder
from stages.tokenize.params import Engine
from stages.tokenize.token_cache import Task, finished
from stages.tokenize.token_parts import SUFFIX, Description, record_of, tokenize_part, written_by
from stages.tokenizers.tokenizer import load_tokenizer

PACKAGES = Path(__file__).parents[2]
DEFAULT_PLACE = Path(".cache/shared")  # right on one machine, and where all share this folder
UNREACHABLE = ("NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SERVICE_UNAVAILABLE", "SLOW_DOWN")
OBJECT_STORE_BYTES = 80 << 20  # the least Ray takes; only names and counts pass through it


@dataclass(frozen=True)
class Place:
    """A folder or bucket that driver and workers see."""

    uri: str

    @classmethod
    def of_this_project(cls, shared: str | None) -> "Place":
        """A corner of the shared place that no other project uses, the same after a restart."""
        root = shared or str(DEFAULT_PLACE)
        root = root if "://" in root else str(Path(root).absolute())
        owner = hashlib.sha256(f"{platform.node()}:{Path.cwd()}".encode()).hexdigest()
        return cls(f"{root.rstrip('/')}/tokenize-{owner[:16]}")

    def put(self, source: Path, name: str) -> None:
        """Copy a local file, or a folder of files, to the place."""
        with self.opened() as (there, root):
            target = f"{root}/{name}"
            there.create_dir(target if source.is_dir() else target.rpartition("/")[0])
            fs.copy_files(str(source.absolute()), target, fs.LocalFileSystem(), there)

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file from the place, or the files of a folder into one that is there."""
        with self.opened() as (there, root):
            fs.copy_files(f"{root}/{name}", str(target.absolute()), there, fs.LocalFileSystem())

    def clear(self, name: str = "") -> None:
        """Remove a folder and all in it, if it is there."""
        with self.opened() as (there, root):
            folder = f"{root}/{name}".rstrip("/")
            if there.get_file_info(folder).type == fs.FileType.Directory:
                there.delete_dir(folder)

    @contextmanager
    def opened(self) -> Iterator[tuple[Any, str]]:
        """The file system and the path in it. AWS_ENDPOINT_URL names an S3 that is not Amazon's.

        Raises ValueError for an address that is none, ConnectionError when S3 does not answer.
        """
        try:
            there, root = fs.FileSystem.from_uri(self.uri)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"NANOGPT_SHARED: {self.uri} is neither a folder nor an address such as "
                f"s3://bucket/folder: {error}"
            ) from None
        try:
            yield there, root
        except OSError as error:
            if any(f"AWS Error {name}" in str(error) for name in UNREACHABLE):
                raise ConnectionError(f"{self.uri}: {error}") from None
            raise


@lru_cache(maxsize=1)
def fetched_encoder(place: Place, tokenizer: str, engine: Engine) -> Encoder:
    """The encoder a worker keeps. What was admitted on one machine is looked at again on this."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "tokenizer"
        folder.mkdir()
        place.fetch(tokenizer, folder)
        encoder = load_encoder(folder, engine)
        assert_same_tokens(encoder, engine, adversarial(), load_tokenizer(folder))
        return encoder


def tokenize_there(
    place: Place, name: str, part: CleanPart, tokenizer: str, engine: Engine, written: str
) -> None:
    """What a worker does: fetch a part, tokenize it on local files, put the result.

    Raises ValueError on a machine that would write other bytes.
    """
    if written != written_by():
        raise ValueError(f"{platform.node()} writes {written_by()}, this project {written}")
    with TemporaryDirectory() as folder:
        texts, verdicts = Path(folder) / "texts", Path(folder) / "verdicts"
        place.fetch(f"{name}/texts", texts)
        place.fetch(f"{name}/verdicts", verdicts)
        target = Path(folder) / f"tokens{SUFFIX}"
        local = replace(part, texts=texts, verdicts=verdicts)
        tokenize_part(local, fetched_encoder(place, tokenizer, engine), target)
        place.put(target, f"{name}/tokens{SUFFIX}")
        place.put(record_of(target), f"{name}/tokens.json")


def send(place: Place, task: Task) -> None:
    """Put what a worker needs of a part."""
    place.put(task.part.texts, f"{task.target.stem}/texts")
    place.put(task.part.verdicts, f"{task.target.stem}/verdicts")


def collect(place: Place, task: Task) -> Description:
    """Take a finished part. Raises ConnectionError when it did not arrive whole."""
    files = (f"tokens{SUFFIX}", task.target), ("tokens.json", record_of(task.target))
    for name, target in files:
        draft = target.with_name(f".{target.name}.{os.getpid()}.part")
        place.fetch(f"{task.target.stem}/{name}", draft)
        draft.rename(target)
    found = finished(task.target)
    if found is None:
        raise ConnectionError(f"a part of tokens did not come whole from {place.uri}; run again")
    place.clear(task.target.stem)
    return found


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """Ray, on the cluster at RAY_ADDRESS, or on this machine with so many workers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
    except ImportError:
        raise ValueError(
            "NANOGPT_RUNNER is ray, which is not installed; `pip install '.[ray]'`"
        ) from None
    local: dict[str, Any] = {
        "address": "local",
        "num_cpus": workers,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    code = [str(PACKAGES / name) for name in ("nanogpt", "stages")]
    ray.init(
        **({} if "RAY_ADDRESS" in os.environ else local),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"py_modules": code},  # the workers run this very code
    )
    try:
        yield ray
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise Crashed(f"Ray gave up on a part: {error}; run again, it continues") from None
    finally:
        ray.shutdown()


def tokenize_on_ray(
    tasks: Sequence[Task],
    tokenizer: Path,
    engine: Engine,
    *,
    workers: int,
    shared: str | None,
) -> Iterator[Description]:
    """Tokenize parts on a cluster; their descriptions in order. Ray runs lost ones again."""
    place = Place.of_this_project(shared)
    place.clear()  # what a killed run left
    try:
        with cluster(workers) as ray:
            place.put(tokenizer, "tokenizer")
            start = ray.remote(num_cpus=1)(tokenize_there).remote

            def submit(task: Task) -> "Future[None]":
                send(place, task)
                name = task.target.stem
                reference = start(place, name, task.part, "tokenizer", engine, written_by())
                future: Future[None] = reference.future()
                return future

            ahead = 2 * int(ray.cluster_resources()["CPU"])
            for task, _ in zip(tasks, in_order(submit, tasks, ahead), strict=True):
                yield collect(place, task)
    finally:
        place.clear()
