"""Stage `download`: text from where it is into one form, a document a row.

Whatever is fetched over the network is checked against a sha256 or pinned to a revision. Documents
stay documents: nothing is joined, and nothing is cut except at a separator the params name.
"""

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from nanogpt.files import file_sha256, whole_folder
from stages.command import main
from stages.package import read_package
from stages.params import Section, load_section
from stages.readers import (
    READABLE,
    Document,
    Reading,
    column_text,
    content_documents,
    file_documents,
    is_hidden,
    is_readable,
    unreadable,
)
from stages.settings import Settings

OUT = Path("data/corpus")
PART_BYTES = 256 << 20  # few big files: DVC hashes them one after the other
GROUP_BYTES = 8 << 20
ATTEMPTS = 4

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Package(Section):
    """Files inside a distribution on the Python package index."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")]
    version: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.+!_-]+$")]
    sha256: Sha256
    members: str


class Url(Section):
    """One file on the web."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://")]
    sha256: Sha256


class HuggingFace(Section):
    """A dataset on the Hugging Face hub, or in the same layout in a local folder."""

    name: str
    config: str | None
    revision: str | None
    split: str
    max_documents: int | None = Field(ge=1)


class CorpusParams(Reading):
    """The section `corpus`."""

    source: Literal["package", "files", "url", "huggingface"]
    path: str
    glob: str
    package: Package | None
    urls: list[Url]
    huggingface: HuggingFace | None

    @field_validator("glob")
    @classmethod
    def glob_stays_inside(cls, glob: str) -> str:
        """A glob is taken relative to `path`."""
        if not glob or glob.startswith(("/", "~")) or ".." in glob.split("/"):
            raise ValueError(f"{glob!r} must be a pattern inside corpus.path, such as '**/*.txt'")
        return glob

    @model_validator(mode="after")
    def source_is_described(self) -> "CorpusParams":
        """The chosen source needs its own keys."""
        missing = {
            "package": self.package is None and "package",
            "url": not self.urls and "urls",
            "huggingface": self.huggingface is None and "huggingface",
        }.get(self.source)
        if missing:
            raise ValueError(f"source is {self.source}, but corpus.{missing} says nothing")
        return self


def from_files(params: CorpusParams, skipped: Counter[str]) -> Iterator[Document]:
    """The user's own files, sorted by path; hidden and other files are counted and left out."""
    root = Path(params.path)
    if root.is_file():
        files = [root]
    elif root.is_dir():
        files = sorted(path for path in root.glob(params.glob) if path.is_file())
    else:
        raise ValueError(f"corpus.path {params.path!r} is neither a file nor a folder")
    shown = [path for path in files if not is_hidden(path.relative_to(root))]
    if len(shown) < len(files):
        skipped["hidden file"] += len(files) - len(shown)
    files = shown
    if not any(is_readable(path.name) for path in files):
        raise ValueError(
            f"corpus.path {params.path!r} holds no {', '.join(READABLE)} file that matches "
            f"corpus.glob {params.glob!r}; put your texts there, or name another folder"
        )
    for path in files:
        if not is_readable(path.name):
            skipped[unreadable(path.name)] += 1
            continue
        name = path.name if path == root else path.relative_to(root).as_posix()
        yield from file_documents(name, path, params, skipped)


def from_package(params: CorpusParams) -> Iterator[Document]:
    """Text files inside a package."""
    package = params.package
    assert package is not None  # the params model saw to it
    contents = read_package(package.name, package.version, package.sha256, package.members)
    for name, content in contents:
        yield from content_documents(name, content, params)


def from_urls(params: CorpusParams, folder: Path, skipped: Counter[str]) -> Iterator[Document]:
    """Files on the web, fetched into `folder` and removed again when they have been read."""
    for i, url in enumerate(params.urls):
        name = f"{i}-{url.url.split('?')[0].rstrip('/').rsplit('/', 1)[-1]}"
        file = fetch_url(url, folder / name)
        yield from file_documents(name, file, params, skipped)
        file.unlink()


def fetch_url(url: Url, file: Path) -> Path:
    """Download one file, trying again after 1, 2 and 4 s.

    Raises ConnectionError when the server does not deliver, ValueError on another sha256.
    """
    import requests

    for attempt in range(1, ATTEMPTS + 1):
        try:
            with requests.get(url.url, stream=True, timeout=(10, 60)) as response:
                if 400 <= response.status_code < 500 and response.status_code != 429:
                    raise ValueError(f"{url.url} answers {response.status_code}; is it right?")
                response.raise_for_status()
                with file.open("wb") as out:
                    for chunk in response.iter_content(1 << 20):
                        out.write(chunk)
            break
        except requests.exceptions.InvalidURL as error:
            raise ValueError(f"{url.url} is no address: {error}") from None
        except requests.RequestException as error:
            if attempt == ATTEMPTS:
                raise ConnectionError(f"{url.url} could not be fetched: {error}") from None
            time.sleep(2 ** (attempt - 1))
    if (found := file_sha256(file)) != url.sha256:
        raise ValueError(
            f"{url.url} has sha256 {found}, params.yaml says {url.sha256}; if you trust the file, "
            "write the found one there"
        )
    return file


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Tell what is wrong with the params (ValueError) from a hub out of reach (ConnectionError)."""
    import datasets
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except datasets.exceptions.DatasetNotFoundError as error:
        raise ValueError(f"corpus.huggingface: {error}") from None
    except HfHubHTTPError as error:
        if 400 <= error.response.status_code < 500 and error.response.status_code != 429:
            raise ValueError(f"corpus.huggingface: the hub refuses {name}: {error}") from None
        raise ConnectionError(f"the Hugging Face hub did not answer: {error}") from None
    except (ConnectionError, httpx2.TransportError) as error:
        raise ConnectionError(f"the Hugging Face hub did not answer: {error}") from None


def pinned(params: CorpusParams) -> CorpusParams:
    """The same params with the hub's revision, a branch or a tag, resolved to its commit."""
    hub = params.huggingface
    if params.source != "huggingface" or hub is None or Path(hub.name).exists():
        return params
    from huggingface_hub import HfApi

    with hub_errors(hub.name):
        found = HfApi().dataset_info(hub.name, revision=hub.revision, timeout=10).sha
    return params.model_copy(update={"huggingface": hub.model_copy(update={"revision": found})})


def from_huggingface(params: CorpusParams) -> Iterator[Document]:
    """Rows of a dataset, streamed: nothing but what is read is fetched."""
    import datasets

    hub = params.huggingface
    assert hub is not None  # the params model saw to it
    with hub_errors(hub.name):
        rows = datasets.load_dataset(
            hub.name, hub.config, split=hub.split, revision=hub.revision, streaming=True
        )
        for number, row in enumerate(islice(rows, hub.max_documents)):
            where = f"{hub.name}#{number}"
            yield Document(where, column_text(row, params.text_column, where), hub.name)


def documents(params: CorpusParams, folder: Path, skipped: Counter[str]) -> Iterator[Document]:
    """All documents of the chosen source, in a fixed order."""
    if params.source == "package":
        return from_package(params)
    if params.source == "files":
        return from_files(params, skipped)
    if params.source == "url":
        return from_urls(params, folder, skipped)
    return from_huggingface(params)


class CorpusWriter:
    """Parquet parts of about PART_BYTES of text each, in groups of about GROUP_BYTES."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[dict[str, Any]] = []
        self.group: list[Document] = []
        self.group_bytes = self.part_bytes = self.part_documents = 0
        self.writer: Any = None

    def add(self, document: Document, n_bytes: int) -> None:
        """Take one document."""
        self.group.append(document)
        self.group_bytes += n_bytes
        self.part_bytes += n_bytes
        self.part_documents += 1
        if self.group_bytes >= GROUP_BYTES:
            self.write_group()
        if self.part_bytes >= PART_BYTES:
            self.close_part()

    def write_group(self) -> None:
        """Write the waiting documents."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {
            "id": pa.array([d.id for d in self.group], pa.string()),
            "text": pa.array([d.text for d in self.group], pa.large_string()),
            "source": pa.array([d.source for d in self.group], pa.string()),
        }
        table = pa.table(columns)
        if self.writer is None:
            path = self.folder / f"part-{len(self.files):05d}.parquet"
            self.writer = pq.ParquetWriter(path, table.schema, compression="zstd")
        self.writer.write_table(table)
        self.group, self.group_bytes = [], 0

    def close_part(self) -> None:
        """Finish the current part, if there is one."""
        if self.group:
            self.write_group()
        if self.writer is None:
            return
        self.writer.close()
        self.writer = None
        path = self.folder / f"part-{len(self.files):05d}.parquet"
        self.files.append(
            {
                "name": path.name,
                "corpus": "corpus",
                "documents": self.part_documents,
                "bytes": self.part_bytes,
                "sha256": file_sha256(path),
            }
        )
        self.part_bytes = self.part_documents = 0


def run(params: CorpusParams, out: Path) -> None:
    """Write the corpus and its manifest. Raises ValueError when there is no text."""
    params = pinned(params)
    skipped: Counter[str] = Counter()
    text_hash = hashlib.sha256()
    with whole_folder(out) as folder:
        writer = CorpusWriter(folder)
        for document in documents(params, folder, skipped):
            if not document.text.strip():
                skipped["empty document"] += 1
                continue
            try:
                content = document.text.encode("utf-8")
            except UnicodeEncodeError:
                skipped["document with half of a surrogate pair"] += 1
                continue
            text_hash.update(hashlib.sha256(content).digest())
            writer.add(document, len(content))
        writer.close_part()
        manifest = {
            "version": 1,
            "corpus": params.model_dump(),
            "documents": sum(file["documents"] for file in writer.files),
            "bytes": sum(file["bytes"] for file in writer.files),
            "text_sha256": text_hash.hexdigest(),
            "skipped": dict(skipped),
            "files": writer.files,
        }
        if not manifest["documents"]:
            raise ValueError(
                f"the corpus ({params.source}) holds no text; skipped: {dict(skipped)}"
            )
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(f"download: {manifest['documents']:,} documents, {manifest['bytes']:,} bytes", end="")
    print(f"; left out: {dict(skipped)}" if skipped else "", file=sys.stdout)


def run_stage(settings: Settings) -> None:
    """`python -m stages.download`."""
    run(load_section("corpus", CorpusParams), OUT)


if __name__ == "__main__":
    main("download", run_stage)
