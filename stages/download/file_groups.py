"""Parallel reading of files: each process reads one group of files at a time.

Groups are content-defined, as parts are: the names and sizes of the files decide where a group
ends, so that adding or removing a file changes its own group and leaves the parts of most others
as they were. A part never holds documents of two groups.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from stages.download.archives import split_suffixes
from stages.download.corpus_writer import Part, ends_part, with_prefix, write_parts
from stages.download.encodings import NotText, combine_errors, decode_stream
from stages.download.file_streams import ENCODED, file_streams
from stages.download.readers import Document, ReadOptions, file_documents
from stages.download.tally import Tally
from stages.runtime.pool import in_processes


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A file on the disk and its name in the corpus."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class CorpusLabel:
    """The name of a corpus and the prefix of its documents' ids."""

    corpus: str
    prefix: str


@dataclass(frozen=True, kw_only=True)
class FileGroup:
    """Files to read in order, and the folder to create for their parts."""

    files: Sequence[TextFile]
    folder: Path


@dataclass(frozen=True, kw_only=True)
class GroupWriter:
    """A worker that writes the documents of a file group as parts."""

    options: ReadOptions
    label: CorpusLabel

    def __call__(self, group: FileGroup) -> tuple[list[Part], Tally]:
        """Write the parts of a group and return them with the counts of its files."""
        tally = Tally()
        group.folder.mkdir()
        documents = with_prefix(self.documents(group, tally), self.label.prefix)
        parts = write_parts(documents, group.folder, self.label.corpus, 0, tally.skipped)
        return list(parts), tally

    def documents(self, group: FileGroup, tally: Tally) -> Iterator[Document]:
        """Yield all documents in the files of a group."""
        for file in group.files:
            yield from file_documents(file.name, file.path, self.options, tally)


@dataclass(frozen=True, kw_only=True)
class EncodingCheck:
    """A worker that finds all files of a group that cannot be decoded."""

    encoding: str

    def __call__(self, group: FileGroup) -> tuple[int, list[NotText]]:
        """Return the number of files and members that `encoding` applies to, and the faults."""
        n_files = 0
        faults: list[NotText] = []
        for file in group.files:
            try:
                for name, stream, _ in file_streams(file.name, file.path, Counter()):
                    if split_suffixes(name)[1] in ENCODED:
                        n_files += 1
                        faults += self.faults(name, stream)
            except (ValueError, OSError):  # another kind of fault, which the next run reports
                continue
        return n_files, faults

    def faults(self, name: str, stream: BinaryIO) -> Iterator[NotText]:
        """Yield the fault of one file, if it has one."""
        try:
            for _ in decode_stream(name, stream, self.encoding):
                pass
        except NotText as fault:
            yield fault


def file_groups(files: Sequence[TextFile]) -> Iterator[list[TextFile]]:
    """Yield the files, in order, in groups of about the size of a part."""
    group: list[TextFile] = []
    size = 0
    for file in files:
        n_bytes = file.path.stat().st_size
        group.append(file)
        size += n_bytes
        if ends_part(file.name, n_bytes, size):
            yield group
            group, size = [], 0
    if group:
        yield group


def write_files(
    files: Sequence[TextFile],
    options: ReadOptions,
    label: CorpusLabel,
    scratch: Path,
    tally: Tally,
    workers: int,
) -> Iterator[tuple[Part, Path]]:
    """Write the documents in the files as parts, and yield each with its path in `scratch`.

    The parts are the same, byte for byte, for any number of workers. Raises ValueError naming the
    first file that cannot be read, or all files that cannot be decoded.
    """
    groups = [
        FileGroup(files=group_files, folder=scratch / f"group-{number}")
        for number, group_files in enumerate(file_groups(files))
    ]
    written = in_processes(partial(GroupWriter, options=options, label=label), groups, workers)
    try:
        for group, (parts, counts) in zip(groups, written, strict=True):
            tally.add(counts, label.prefix)
            yield from ((part, group.folder / part.name) for part in parts)
    except NotText:
        check = partial(EncodingCheck, encoding=options.encoding)
        n_files, group_faults = zip(*in_processes(check, groups, workers), strict=True)
        faults = [fault for group in group_faults for fault in group]
        if not faults:  # the files have changed in the meantime
            raise
        raise combine_errors(faults, sum(n_files), options.encoding) from None
