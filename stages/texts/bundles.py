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

from stages.processes import in_processes
from stages.texts.corpus import Part, ends_part, prefixed, write_parts
from stages.texts.readers import Document, Reading, file_documents


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

    def __call__(self, bundle: Bundle) -> tuple[list[Part], Counter[str]]:
        """The parts, and what was left out, counted."""
        skipped: Counter[str] = Counter()
        bundle.folder.mkdir()
        documents = prefixed(self.documents(bundle, skipped), self.named.prefix)
        return list(write_parts(documents, bundle.folder, self.named.corpus, 0, skipped)), skipped

    def documents(self, bundle: Bundle, skipped: Counter[str]) -> Iterator[Document]:
        """All documents in the files."""
        for file in bundle.files:
            yield from file_documents(file.name, file.path, self.how, skipped)


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
    skipped: Counter[str],
    workers: int,
) -> Iterator[tuple[Part, Path]]:
    """The parts of a corpus that the files hold, and where in `scratch` each is.

    The same bytes for any number of workers.
    """
    bundles = [
        Bundle(files=some, folder=scratch / f"bundle-{number}")
        for number, some in enumerate(bundled(files))
    ]
    written = in_processes(partial(BundleWriter, how=how, named=named), bundles, workers)
    for bundle, (parts, left_out) in zip(bundles, written, strict=True):
        skipped.update(left_out)
        yield from ((part, bundle.folder / part.name) for part in parts)
