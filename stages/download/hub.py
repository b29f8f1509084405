"""Streaming of a dataset from the Hugging Face Hub, or from a local folder in the same layout.

Nothing is kept on the disk but the parts that are written. Each finished part is logged with the
place in the dataset where the next begins, so that a killed run resumes there.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from nanogpt.files import atomic_write, is_intact
from stages.artifacts.corpus import VERSION
from stages.download import corpus_writer
from stages.download.corpus_writer import Part, with_prefix, write_parts
from stages.download.params import HuggingFace
from stages.download.readers import Document, arrow_values, column_text
from stages.runtime.progress import ProgressBar
from stages.runtime.retry import Retries

BATCH_ROWS = 64
LOG = "parts.jsonl"


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Raise ValueError for wrong params and ConnectionError if the Hub cannot be reached."""
    import datasets
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except datasets.exceptions.DatasetNotFoundError as error:
        raise ValueError(f"corpus.huggingface: {error}") from None
    except HfHubHTTPError as error:
        if 400 <= error.response.status_code < 500 and error.response.status_code != 429:
            raise ValueError(
                f"corpus.huggingface: the Hub rejects the request for {name}: {error}"
            ) from None
        raise ConnectionError(f"the Hugging Face Hub is not available: {error}") from None
    except (ConnectionError, TimeoutError, httpx2.TransportError) as error:
        raise ConnectionError(f"the Hugging Face Hub is not responding: {error}") from None


def pin_revision(hub: HuggingFace) -> HuggingFace:
    """Return the params with the revision, a branch or a tag, resolved to its commit.

    A local folder is returned as it is. Raises ValueError if there is no such dataset,
    ConnectionError or TimeoutError if the retries are used up.
    """
    if Path(hub.name).exists():
        return hub
    from huggingface_hub import HfApi

    retries = Retries(f"dataset {hub.name}")
    while True:
        try:
            with hub_errors(hub.name):
                commit = HfApi().dataset_info(hub.name, revision=hub.revision, timeout=10).sha
            return hub.model_copy(update={"revision": commit})
        except ConnectionError as error:
            retries.wait(error)


def entry_name(hub: HuggingFace, params: str) -> str:
    """Return the name of a pinned dataset's cache entry: a hash of all that its parts depend on.

    `params` is the JSON of the corpus's section. A local folder has no commit, so the sizes and
    times of its files are hashed.
    """
    import datasets

    files = sorted(file for file in Path(hub.name).rglob("*") if file.is_file())
    local_files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    layout = [VERSION, corpus_writer.PART_BYTES, corpus_writer.GROUP_BYTES, corpus_writer.HEAD]
    dependencies = [params, local_files, layout, pa.__version__, datasets.__version__]
    return hashlib.sha256(json.dumps(dependencies).encode()).hexdigest()


class DatasetReader:
    """An iterable of the rows of a dataset as documents, from an earlier reader's place on."""

    def __init__(self, hub: HuggingFace, column: str, place: dict[str, Any] | None) -> None:
        self.hub, self.column = hub, column
        self.place = place or {"rows": 0, "state": None, "rows_after_state": 0}
        self.last: str | None = None  # the text of the last row that this reader yielded

    def current_place(self) -> dict[str, Any]:
        """Return the number of rows read and where to resume, ready for JSON.

        The place is a state of the dataset and the number of rows read after it, because a state is
        exact only between batches. A hash of the last row verifies the place on resume.
        """
        return self.place if self.last is None else {**self.place, "last": text_hash(self.last)}

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents, with retries. Raises ConnectionError if they are used up."""
        retries = Retries(f"dataset {self.hub.name}")
        while True:
            try:
                for document in self.read():
                    yield document
                    retries.renew()
                return
            except ConnectionError as error:
                self.place = self.current_place()
                retries.wait(error)

    def read(self) -> Iterator[Document]:
        """Yield the documents until the first failure, which raises ConnectionError."""
        import datasets

        hub, place = self.hub, self.place
        number = place["rows"] - place["rows_after_state"]
        if place["rows"] == hub.max_documents:
            return
        with hub_errors(hub.name):
            rows = datasets.load_dataset(
                hub.name, hub.config, split=hub.split, revision=hub.revision, streaming=True
            ).with_format("arrow")
            if (state := place["state"]) is not None:
                rows.load_state_dict(state)
            # Small batches, so that no file is opened for rows beyond max_documents.
            for table in rows.iter(min(BATCH_ROWS, hub.max_documents or BATCH_ROWS)):
                for index, text in enumerate(self.texts(table, number), start=1):
                    number += 1
                    if number <= place["rows"]:
                        self.check(text, number)
                        continue
                    self.place = {"rows": number, "state": state, "rows_after_state": index}
                    self.last = text
                    yield Document(f"{hub.name}#{number - 1}", text, hub.name)
                    if number == hub.max_documents:
                        return
                state = rows.state_dict()

    def texts(self, table: Any, number: int) -> Iterator[str]:
        """Yield the texts of a batch whose first row has the given number."""
        where = f"{self.hub.name}#{number}"
        column_text(dict.fromkeys(table.column_names), self.column, where)  # raises if missing
        for text in arrow_values(table.column(self.column), f"{self.hub.name}#", number):
            yield column_text({self.column: text}, self.column, where)

    def check(self, text: str, number: int) -> None:
        """Raise ValueError if the last row before the place is not the one read at that time."""
        if number == self.place["rows"] and text_hash(text) != self.place["last"]:
            raise ValueError(
                f"row {number - 1} of {self.hub.name} has changed since the download began; delete "
                ".cache/download and rerun"
            )


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text, which may hold lone surrogates, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """A line of the log, written after each part and, with `part` None, at the dataset's end."""

    part: Part | None
    place: dict[str, Any]
    skipped: dict[str, int]

    def line(self) -> str:
        """Return the entry as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"


def hub_parts(
    hub: HuggingFace, column: str, corpus: str, prefix: str, entry: Path
) -> tuple[list[Part], Counter[str]]:
    """Write the rows of a dataset as parts into the cache folder `entry`, or resume there.

    Returns all parts and the counts of what was left out, by reason. Intact parts of an earlier run
    are kept. `prefix` goes before each document's id.
    """
    log = read_log(entry)
    atomic_write(entry / LOG, "".join(logged.line() for logged in log))
    parts = [logged.part for logged in log if logged.part]
    skipped = Counter(log[-1].skipped if log else {})
    if len(parts) < len(log):  # the log ends with the dataset
        return parts, skipped
    rows = DatasetReader(hub, column, log[-1].place if log else None)
    with ProgressBar(hub.name, done=sum(part.bytes for part in parts)) as progress:
        if parts:
            progress.say(f"resuming after {len(parts)} finished parts")
        for part in write_parts(with_prefix(rows, prefix), entry, corpus, len(parts), skipped):
            place = rows.current_place()
            append_to_log(entry, LogEntry(part=part, place=place, skipped=dict(skipped)))
            parts.append(part)
            progress.add(part.bytes)
    append_to_log(entry, LogEntry(part=None, place=rows.current_place(), skipped=dict(skipped)))
    return parts, skipped


def append_to_log(entry: Path, logged: LogEntry) -> None:
    """Append a line to the log of a cache entry."""
    with (entry / LOG).open("a", encoding="utf-8") as log:
        log.write(logged.line())


def read_log(entry: Path) -> list[LogEntry]:
    """Read the log of a cache entry, up to the first damaged part or incomplete line."""
    entries: list[LogEntry] = []
    log = entry / LOG
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        try:
            content = json.loads(line)
        except json.JSONDecodeError:  # killed while writing the line
            break
        part = content["part"] and Part(**content["part"])
        if part and not is_intact(entry / part.name, part.sha256):
            break
        entries.append(LogEntry(part=part, place=content["place"], skipped=content["skipped"]))
    return entries
