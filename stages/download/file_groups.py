"""Files read by several processes at once, a bundle of files by each.

Where a bundle ends is decided by the names and sizes of the files, as the end of a part is by its
documents: a file more or less changes the bundle it is in, and leaves the parts of most others as
they were. A part never holds documents of two bundles.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from stages.download.archives import packing
from stages.download.corpus_writer import Part, ends_part, prefixed, write_parts
from stages.download.encodings import NotText, all_not_text, decoded
from stages.download.file_streams import ENCODED, file_streams
from stages.download.readers import Document, Reading, file_documents
from stages.download.tally import Tally
from stages.runtime.pool import in_processes


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A file and the name that its documents go by."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a corpus is called, and what the ids of its documents begin with."""

    corpus: str
    prefix: str


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Files to be read one after the other, and a new folder for the parts they become."""

    files: Sequence[TextFile]
    folder: Path


@dataclass(frozen=True, kw_only=True)
class BundleWriter:
    """Writes the documents in a bundle as parts."""

    how: Reading
    named: Named

    def __call__(self, bundle: Bundle) -> tuple[list[Part], Tally]:
        """The parts, and what became of the files."""
        tally = Tally()
        bundle.folder.mkdir()
        documents = prefixed(self.documents(bundle, tally), self.named.prefix)
        parts = write_parts(documents, bundle.folder, self.named.corpus, 0, tally.skipped)
        return list(parts), tally

    def documents(self, bundle: Bundle, tally: Tally) -> Iterator[Document]:
        """All documents in the files."""
        for file in bundle.files:
            yield from file_documents(file.name, file.path, self.how, tally)


@dataclass(frozen=True, kw_only=True)
class EncodingSurvey:
    """Finds all files in a bundle that are no text in the encoding, and counts those it read."""

    encoding: str

    def __call__(self, bundle: Bundle) -> tuple[int, list[NotText]]:
        """The number of files and members of archives written in an encoding, and the faults."""
        n_files = 0
        faults: list[NotText] = []
        for file in bundle.files:
            try:
                for name, stream, _ in file_streams(file.name, file.path, Counter()):
                    if packing(name)[1] in ENCODED:
                        n_files += 1
                        faults += self.faults(name, stream)
            except (ValueError, OSError):  # another fault, which shows when this one is gone
                continue
        return n_files, faults

    def faults(self, name: str, stream: BinaryIO) -> Iterator[NotText]:
        """What is wrong with one text, if anything."""
        try:
            for _ in decoded(name, stream, self.encoding):
                pass
        except NotText as fault:
            yield fault


def bundled(files: Sequence[TextFile]) -> Iterator[list[TextFile]]:
    """The files, in order, as bundles of about the size of a part; a larger file ends one."""
    bundle: list[TextFile] = []
    size = 0
    for file in files:
        n_bytes = file.path.stat().st_size
        bundle.append(file)
        size += n_bytes
        if ends_part(file.name, n_bytes, size):
            yield bundle
            bundle, size = [], 0
    if bundle:
        yield bundle


def write_files(
    files: Sequence[TextFile],
    how: Reading,
    named: Named,
    scratch: Path,
    tally: Tally,
    workers: int,
) -> Iterator[tuple[Part, Path]]:
    """The parts of a corpus that the files hold, and where in `scratch` each is.

    The same bytes for any number of workers. Raises ValueError on a file that cannot be read, and
    where its encoding is at fault on all such files at once.
    """
    bundles = [
        Bundle(files=some, folder=scratch / f"bundle-{number}")
        for number, some in enumerate(bundled(files))
    ]
    written = in_processes(partial(BundleWriter, how=how, named=named), bundles, workers)
    try:
        for bundle, (parts, counts) in zip(bundles, written, strict=True):
            tally.add(counts, named.prefix)
            yield from ((part, bundle.folder / part.name) for part in parts)
    except NotText:
        survey = partial(EncodingSurvey, encoding=how.encoding)
        n_files, faults = zip(*in_processes(survey, bundles, workers), strict=True)
        found = [fault for some in faults for fault in some]
        if not found:  # the files have changed since
            raise
        raise all_not_text(found, sum(n_files), how.encoding) from None
