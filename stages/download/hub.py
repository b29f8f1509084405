"""Rows of a dataset on the Hugging Face hub, or in the same layout in a local folder.

They are streamed: nothing is kept on the disk but the parts made of them. Each finished part is
noted with the place in the dataset where the next begins, so that a killed run continues there.
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

from nanogpt.files import atomic_write, is_whole
from stages.artifacts.corpus import VERSION
from stages.download import corpus_writer as parts_of
from stages.download.corpus_writer import Part, with_prefix, write_parts
from stages.download.params import HuggingFace
from stages.download.readers import Document, arrow_values, column_text
from stages.runtime.progress import ProgressBar
from stages.runtime.retry import Retries

BATCH_ROWS = 64
LOG = "parts.jsonl"


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Distinguish wrong params (ValueError) from a hub out of reach (ConnectionError)."""
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
    except (ConnectionError, TimeoutError, httpx2.TransportError) as error:
        raise ConnectionError(f"the Hugging Face hub did not answer: {error}") from None


def pin_revision(hub: HuggingFace) -> HuggingFace:
    """The same with the revision, a branch or a tag, resolved to its commit."""
    if Path(hub.name).exists():
        return hub
    from huggingface_hub import HfApi

    retries = Retries(f"dataset {hub.name}")
    while True:
        try:
            with hub_errors(hub.name):
                found = HfApi().dataset_info(hub.name, revision=hub.revision, timeout=10).sha
            return hub.model_copy(update={"revision": found})
        except ConnectionError as error:
            retries.wait(error)


def entry_name(hub: HuggingFace, params: str) -> str:
    """A name for the parts of a pinned dataset that are made by these params (JSON), all of them.

    A local folder has no commit; its files stand for it by size and time.
    """
    import datasets

    files = sorted(file for file in Path(hub.name).rglob("*") if file.is_file())
    about = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    layout = [VERSION, parts_of.PART_BYTES, parts_of.GROUP_BYTES, parts_of.HEAD]
    made_by = [params, about, layout, pa.__version__, datasets.__version__]
    return hashlib.sha256(json.dumps(made_by).encode()).hexdigest()


class DatasetReader:
    """The rows of a dataset as documents, from a place on that an earlier reader noted."""

    def __init__(self, hub: HuggingFace, column: str, place: dict[str, Any] | None) -> None:
        self.hub, self.column = hub, column
        self.place = place or {"rows": 0, "state": None, "rows_after_state": 0}
        self.last: str | None = None  # the text of the last row that was read here

    def noted(self) -> dict[str, Any]:
        """As JSON: how many rows were read, and where the next begins.

        That is a state of the dataset and how many rows were read after it, for a state is exact
        between batches only. A hash of the last row shows whether the place was found again.
        """
        return self.place if self.last is None else {**self.place, "last": text_hash(self.last)}

    def __iter__(self) -> Iterator[Document]:
        """The documents. Raises ConnectionError when the hub stays out of reach."""
        retries = Retries(f"dataset {self.hub.name}")
        while True:
            try:
                for document in self.read():
                    yield document
                    retries.renew()
                return
            except ConnectionError as error:
                self.place = self.noted()
                retries.wait(error)

    def read(self) -> Iterator[Document]:
        """The documents, until the first failure."""
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
            # No file is opened for rows beyond the first batch that nobody asked for.
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
        """The texts of a batch whose first row has that number."""
        where = f"{self.hub.name}#{number}"
        column_text(dict.fromkeys(table.column_names), self.column, where)  # is there a column?
        for text in arrow_values(table.column(self.column), f"{self.hub.name}#", number):
            yield column_text({self.column: text}, self.column, where)

    def check(self, text: str, number: int) -> None:
        """Raise ValueError if the row read last before is not the one it was."""
        if number == self.place["rows"] and text_hash(text) != self.place["last"]:
            raise ValueError(
                f"row {number - 1} of {self.hub.name} is not what it was when the download began; "
                "remove .cache/download and run again"
            )


def text_hash(text: str) -> str:
    """A name for a text, whatever it is."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """What is known after a part, or at the end of a dataset: then `part` is None."""

    part: Part | None
    place: dict[str, Any]
    skipped: dict[str, int]

    def line(self) -> str:
        """As a line of the log."""
        return json.dumps(asdict(self)) + "\n"


def hub_parts(
    hub: HuggingFace, column: str, corpus: str, prefix: str, entry: Path
) -> tuple[list[Part], Counter[str]]:
    """The parts made of a dataset, in the folder `entry`, and what was left out, by reason.

    Parts that are there and whole stay as they are. `prefix` goes before each document's id.
    """
    done = finished(entry)
    atomic_write(entry / LOG, "".join(noted.line() for noted in done))
    parts = [noted.part for noted in done if noted.part]
    skipped = Counter(done[-1].skipped if done else {})
    if len(parts) < len(done):
        return parts, skipped
    rows = DatasetReader(hub, column, done[-1].place if done else None)
    with ProgressBar(hub.name, done=sum(part.bytes for part in parts)) as meter:
        if parts:
            meter.say(f"continuing after {len(parts)} parts that are there")
        for part in write_parts(with_prefix(rows, prefix), entry, corpus, len(parts), skipped):
            note(entry, LogEntry(part=part, place=rows.noted(), skipped=dict(skipped)))
            parts.append(part)
            meter.add(part.bytes)
    note(entry, LogEntry(part=None, place=rows.noted(), skipped=dict(skipped)))
    return parts, skipped


def note(entry: Path, noted: LogEntry) -> None:
    """Add a line to the log."""
    with (entry / LOG).open("a", encoding="utf-8") as log:
        log.write(noted.line())


def finished(entry: Path) -> list[LogEntry]:
    """What the log says, up to the first part that is not whole or line that is not."""
    found: list[LogEntry] = []
    log = entry / LOG
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        try:
            content = json.loads(line)
        except json.JSONDecodeError:  # killed while writing it
            break
        part = content["part"] and Part(**content["part"])
        if part and not is_whole(entry / part.name, part.sha256):
            break
        found.append(LogEntry(part=part, place=content["place"], skipped=content["skipped"]))
    return found
