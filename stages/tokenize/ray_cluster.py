"""Tokenize parts on a Ray cluster: the same function on the same bytes, on other machines.

Parts travel through storage that all machines can reach, a folder or a bucket. This process uploads
corpus and verdicts; a worker downloads them, works on local files and uploads tokens and record;
this process downloads those and deletes what is left. Only as many parts are in flight as keep the
workers busy.
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
from stages.artifacts.tokens import SUFFIX
from stages.runtime.errors import Crashed
from stages.runtime.pool import results_in_order
from stages.tokenize.engine import Encoder, adversarial, assert_same_tokens, load_encoder
from stages.tokenize.params import Engine
from stages.tokenize.token_cache import Task, cached_description
from stages.tokenize.token_parts import (
    Description,
    record_path,
    tokenize_part,
    writer_version,
)
from stages.tokenizers.tokenizer import load_tokenizer

PACKAGES = Path(__file__).parents[2]
DEFAULT_STORAGE = Path(".cache/shared")  # for one machine, or for all if they share this folder
UNREACHABLE = ("NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SERVICE_UNAVAILABLE", "SLOW_DOWN")
OBJECT_STORE_BYTES = 80 << 20  # Ray's minimum; only names and counts go through it


@dataclass(frozen=True)
class SharedStorage:
    """A folder or bucket that the driver and all workers can reach."""

    uri: str

    @classmethod
    def of_this_project(cls, shared: str | None) -> "SharedStorage":
        """Return a folder in the shared storage for this project alone, the same on each run."""
        root = shared or str(DEFAULT_STORAGE)
        root = root if "://" in root else str(Path(root).absolute())
        owner = hashlib.sha256(f"{platform.node()}:{Path.cwd()}".encode()).hexdigest()
        return cls(f"{root.rstrip('/')}/tokenize-{owner[:16]}")

    def upload(self, source: Path, name: str) -> None:
        """Copy a local file, or a folder of files, to the storage."""
        with self.connect() as (filesystem, root):
            target = f"{root}/{name}"
            filesystem.create_dir(target if source.is_dir() else target.rpartition("/")[0])
            fs.copy_files(str(source.absolute()), target, fs.LocalFileSystem(), filesystem)

    def download(self, name: str, target: Path) -> None:
        """Copy a file, or the files of a folder into an existing one, from the storage."""
        with self.connect() as (filesystem, root):
            fs.copy_files(
                f"{root}/{name}", str(target.absolute()), filesystem, fs.LocalFileSystem()
            )

    def clear(self, name: str = "") -> None:
        """Remove a folder and all in it, if it exists."""
        with self.connect() as (filesystem, root):
            folder = f"{root}/{name}".rstrip("/")
            if filesystem.get_file_info(folder).type == fs.FileType.Directory:
                filesystem.delete_dir(folder)

    @contextmanager
    def connect(self) -> Iterator[tuple[Any, str]]:
        """Yield the file system and the path in it.

        AWS_ENDPOINT_URL names an S3 server other than Amazon's. Raises ValueError if the address is
        invalid, ConnectionError if S3 does not answer.
        """
        try:
            filesystem, root = fs.FileSystem.from_uri(self.uri)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"NANOGPT_SHARED: {self.uri} is neither a folder nor an address such as "
                f"s3://bucket/folder: {error}"
            ) from None
        try:
            yield filesystem, root
        except OSError as error:
            if any(f"AWS Error {name}" in str(error) for name in UNREACHABLE):
                raise ConnectionError(f"{self.uri}: {error}") from None
            raise


@lru_cache(maxsize=1)
def worker_encoder(storage: SharedStorage, tokenizer: str, engine: Engine) -> Encoder:
    """Return the encoder that a worker keeps, after checking the engine on this machine too."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "tokenizer"
        folder.mkdir()
        storage.download(tokenizer, folder)
        encoder = load_encoder(folder, engine)
        assert_same_tokens(encoder, engine, adversarial(), load_tokenizer(folder))
        return encoder


def tokenize_on_worker(
    storage: SharedStorage, name: str, part: CleanPart, tokenizer: str, engine: Engine, version: str
) -> None:
    """Download a part, tokenize it as local files and upload the result.

    Raises ValueError on a machine that would write other bytes.
    """
    if version != writer_version():
        raise ValueError(f"{platform.node()} writes {writer_version()}, this project {version}")
    with TemporaryDirectory() as folder:
        texts, verdicts = Path(folder) / "texts", Path(folder) / "verdicts"
        storage.download(f"{name}/texts", texts)
        storage.download(f"{name}/verdicts", verdicts)
        target = Path(folder) / f"tokens{SUFFIX}"
        local = replace(part, texts=texts, verdicts=verdicts)
        tokenize_part(local, worker_encoder(storage, tokenizer, engine), target)
        storage.upload(target, f"{name}/tokens{SUFFIX}")
        storage.upload(record_path(target), f"{name}/tokens.json")


def upload_part(storage: SharedStorage, task: Task) -> None:
    """Upload the files of a part for a worker."""
    storage.upload(task.part.texts, f"{task.target.stem}/texts")
    storage.upload(task.part.verdicts, f"{task.target.stem}/verdicts")


def collect_part(storage: SharedStorage, task: Task) -> Description:
    """Download the tokens of a part and delete it from the storage.

    Raises ConnectionError if they arrived damaged.
    """
    files = (f"tokens{SUFFIX}", task.target), ("tokens.json", record_path(task.target))
    for name, target in files:
        draft = target.with_name(f".{target.name}.{os.getpid()}.part")
        storage.download(f"{task.target.stem}/{name}", draft)
        draft.rename(target)
    description = cached_description(task.target)
    if description is None:
        raise ConnectionError(f"a part of tokens arrived damaged from {storage.uri}; run again")
    storage.clear(task.target.stem)
    return description


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """Yield Ray, connected to the cluster at RAY_ADDRESS or to a local one of `workers` CPUs."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics
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
        runtime_env={"py_modules": code},  # the workers run this same code
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
    """Tokenize parts on a Ray cluster, which retries lost ones, and yield descriptions in order.

    Raises Crashed if Ray gives up on a part.
    """
    storage = SharedStorage.of_this_project(shared)
    storage.clear()  # leftovers of a killed run
    try:
        with cluster(workers) as ray:
            storage.upload(tokenizer, "tokenizer")
            start = ray.remote(num_cpus=1)(tokenize_on_worker).remote

            def submit(task: Task) -> "Future[None]":
                upload_part(storage, task)
                name = task.target.stem
                reference = start(storage, name, task.part, "tokenizer", engine, writer_version())
                future: Future[None] = reference.future()
                return future

            in_flight = 2 * int(ray.cluster_resources()["CPU"])
            for task, _ in zip(tasks, results_in_order(submit, tasks, in_flight), strict=True):
                yield collect_part(storage, task)
    finally:
        storage.clear()
