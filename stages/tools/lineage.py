"""Trace a model back to its corpus, verifying every hash on the way: `python -m stages lineage`.

MODEL is a folder (default: models/gpt) or a model in MLflow: RUN_ID, runs:/RUN_ID,
models:/NAME/VERSION, models:/NAME@ALIAS or models:/m-…, of which only the lineage and the list of
files are downloaded. The data is that of this project. What is not here is shown with the hash by
which it can be found. Exit code 2 if a hash differs.

The data folders here belong to the model in models/gpt: if they do not match its lineage, that is
an error. The data of any other model may have been replaced since; it is then shown as not here.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from nanogpt.files import file_sha256
from stages.artifacts.integrity import (
    ARTIFACTS,
    Artifact,
    described,
    file_problems,
    size_line,
    sources,
    tokenizer_problems,
)
from stages.artifacts.model import LINEAGE, MODEL
from stages.artifacts.summaries import (
    clean_lines,
    corpus_lines,
    shards_lines,
    tokens_lines,
    weights_lines,
)
from stages.artifacts.training import training_lines
from stages.formats.dvc_lock import cached_file
from stages.runtime.redaction import redacted
from stages.runtime.settings import Settings
from stages.runtime.yaml_files import ParamsError
from stages.tracking.logged_model import FORMS, LoggedModel, is_reference, read_logged_model

*CHAIN, TRAINED = ARTIFACTS  # the data folders, and the model made from the last of them
VERIFIED, NOT_HERE, DAMAGED = "verified", "not here", "not as it was written"
STYLES = {VERIFIED: "green", NOT_HERE: "yellow", DAMAGED: "bold red"}
WIDTH = 120  # columns, also where the output is a pipe: a hash stays in one line


@dataclass(frozen=True, kw_only=True)
class Node:
    """A step of the lineage: its title, state and lines, its problems, and what it came from."""

    title: str
    state: str = ""
    lines: Sequence[str] = ()
    problems: Sequence[str] = ()
    children: Sequence["Node"] = ()

    def walk(self) -> Iterator["Node"]:
        """Yield this node and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, kw_only=True)
class Record:
    """The sha256 that a file records of the manifest of a folder; None if that was an import."""

    sha256: str | None
    file: Path | str
    stage: str  # that wrote the file


Records = Mapping[str, Record]  # by the name of the folder


class Damaged(ValueError):
    """The content of a file is not what its writer wrote; the message names the file."""


@contextmanager
def as_written(file: Path | str) -> Iterator[None]:
    """Raise Damaged if the content of a file is not what its writer wrote."""
    try:
        yield
    except (Damaged, ParamsError):  # about another file
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{file} is not as it was written ({error!r})") from None


def trace(model: str, root: Path) -> Node:
    """Return the lineage of a model with the data in the project folder `root`.

    Raises ValueError if there is no such model, or if its lineage is damaged.
    """
    folder = root / model
    if folder.is_dir():
        return trace_folder(folder, root)
    if is_reference(model):
        return trace_logged(read_logged_model(model), root)
    if folder == root / MODEL:
        raise ValueError(
            f"there is no {MODEL} yet; run `dvc repro train`, or specify another model"
        )
    raise ValueError(
        f"{model!r} is not a model: allowed are a folder such as {MODEL} and, for models in "
        f"MLflow, {FORMS}"
    )


def trace_folder(folder: Path, root: Path) -> Node:
    """Return the lineage of the model in a folder."""
    file = folder / LINEAGE
    if not file.is_file():
        raise ValueError(
            f"{folder} has no {LINEAGE}, which training writes; a converted model has only "
            "source.json, which says where it is from"
        )
    own = folder.resolve() == (root / MODEL).resolve()
    with as_written(file):
        about = json.loads(file.read_text(encoding="utf-8"))
        children = [files_here(about, folder, own=own), *origins(about, file, root, own=own)]
        return Node(title=title_of(about, str(folder)), lines=[size_of(about)], children=children)


def trace_logged(model: LoggedModel, root: Path) -> Node:
    """Return the lineage of a model in MLflow."""
    file, local = f"the {LINEAGE} of {model.reference}", root / MODEL
    with as_written(file):
        about = json.loads(model.lineage)
        own = is_same_model(about, local)
        files = files_here(about, local, own=True) if own else files_elsewhere(about)
        place = f"the same model is in {local}" if own else f"{local} does not have this model"
        listed = f"{len(model.files):,} files, {sum(model.files.values()):,} bytes"
        return Node(
            title=title_of(about, f"{model.store}, {model.reference}"),
            lines=[size_of(about), f"MLflow lists {listed}; {place}"],
            problems=[
                f"{model.reference} has no {name} (sha256 {sha256}), which its {LINEAGE} lists; "
                "restore it in the artifact store"
                for name, sha256 in described(TRAINED, about).items()
                if name not in model.files
            ],
            children=[files, *origins(about, file, root, own=own)],
        )


def is_same_model(about: Mapping[str, Any], folder: Path) -> bool:
    """Return whether the model in a folder, if there is one, has the same ID and files."""
    file = folder / LINEAGE
    if not file.is_file():
        return False
    with as_written(file):
        local = json.loads(file.read_text(encoding="utf-8"))
        return all(local[key] == about[key] for key in ("model_id", "files"))


def title_of(about: Mapping[str, Any], place: str) -> str:
    """Return the title of a model."""
    return f"model {about['model_id']} in {place}"


def size_of(about: Mapping[str, Any]) -> str:
    """Return the step and the size of a model."""
    return f"the weights of step {about['step']:,}, {about['n_params']:,} parameters"


def hash_lines(about: dict[str, Any]) -> list[str]:
    """Return a line with the hash of each file of a model."""
    return [f"{name} sha256 {sha256}" for name, sha256 in described(TRAINED, about).items()]


def files_here(about: dict[str, Any], folder: Path, *, own: bool) -> Node:
    """Return the files of the model in a folder, verified."""
    artifact = replace(TRAINED, copied=not own)
    problems = [
        *file_problems(artifact, folder, described(artifact, about)),
        *tokenizer_problems(artifact, folder, about),
    ]
    return Node(
        title=f"files in {folder}",
        state=DAMAGED if problems else VERIFIED,
        lines=hash_lines(about),
        problems=problems,
    )


def files_elsewhere(about: dict[str, Any]) -> Node:
    """Return the files of a model in MLflow, which are not downloaded."""
    return Node(title="files in MLflow", state=NOT_HERE, lines=hash_lines(about))


def origins(about: dict[str, Any], file: Path | str, root: Path, *, own: bool) -> tuple[Node, ...]:
    """Return what a model came from: its training, its data, its initial weights."""
    records = records_in(TRAINED, about, file)
    return (
        training(about, root),
        *data(CHAIN, records, root, own=own),
        *initial_weights(about["init_from"], file, root, own=own),
    )


def records_in(artifact: Artifact, manifest: dict[str, Any], file: Path | str) -> Records:
    """Return what a manifest records of the folders that its own was made from."""
    return {
        name: Record(sha256=sha256, file=file, stage=artifact.stage)
        for name, sha256 in sources(artifact, manifest).items()
    }


def training(about: Mapping[str, Any], root: Path) -> Node:
    """Return how a model was trained."""
    return Node(title="training", lines=training_lines(about, root))


def data(chain: Sequence[Artifact], records: Records, root: Path, *, own: bool) -> tuple[Node, ...]:
    """Return the last folder of a chain with those before it below; none where an import begins."""
    if not chain:
        return ()
    *earlier, artifact = chain
    record = records.get(artifact.name)
    if record is not None and record.sha256 is None:
        return ()
    node, more = folder_node(artifact, record, records, root, own=own)
    return (replace(node, children=[*node.children, *data(earlier, more, root, own=own)]),)


def folder_node(
    artifact: Artifact, record: Record | None, records: Records, root: Path, *, own: bool
) -> tuple[Node, Records]:
    """Return a data folder, verified if it is here, and all records, with those in its manifest.

    `record` is what is known of its manifest. If that is nothing, the folder that recorded it is
    not here.
    """
    folder = root / artifact.folder
    file = folder / artifact.manifest
    if record is None:
        later = ARTIFACTS[ARTIFACTS.index(artifact) + 1]
        lines = [f"its hash is in the manifest of the {later.name}, which is not here"]
        return Node(title=artifact.name, state=NOT_HERE, lines=lines), records
    lines = [f"{artifact.manifest} sha256 {record.sha256}"]
    if not file.is_file():
        lines += cache_lines(artifact, record, root)
        return Node(title=artifact.name, state=NOT_HERE, lines=lines), records
    actual, title = file_sha256(file), f"{artifact.name} in {folder}"
    if actual == record.sha256:
        return verified_folder(artifact, records, root, lines)
    if not own:
        lines += [f"{folder} has another one, sha256 {actual}"]
        return Node(title=artifact.name, state=NOT_HERE, lines=lines), records
    problem = (
        f"{file} has sha256 {actual}, not {record.sha256} as {record.file} records; "
        f"run `dvc repro {record.stage}` to bring them back in sync"
    )
    return Node(title=title, state=DAMAGED, lines=lines, problems=[problem]), records


def cache_lines(artifact: Artifact, record: Record, root: Path) -> list[str]:
    """Return whether DVC's cache has the manifest that is not here, as a list of lines."""
    copy = cached_file(root, artifact.folder, artifact.manifest)
    if copy is None or file_sha256(copy) != record.sha256:
        return []
    return [f"DVC's cache has it: `dvc checkout {artifact.folder}`"]


def verified_folder(
    artifact: Artifact, records: Records, root: Path, lines: Sequence[str]
) -> tuple[Node, Records]:
    """Return a folder whose manifest is the recorded one, and all records with those in it."""
    folder = root / artifact.folder
    file = folder / artifact.manifest
    with as_written(file):
        manifest = json.loads(file.read_text(encoding="utf-8"))
        artifact = replace(artifact, imported="imported" in manifest)
        more = records_in(artifact, manifest, file)
        problems = [
            *file_problems(artifact, folder, described(artifact, manifest)),
            *tokenizer_problems(artifact, folder, manifest),
            *disagreements(records, more),
        ]
        node = Node(
            title=f"{artifact.name} in {folder}",
            state=DAMAGED if problems else VERIFIED,
            lines=[*lines, size_line(folder), *DETAILS[artifact.name](manifest)],
            problems=problems,
        )
    return node, {**more, **records}


def disagreements(records: Records, more: Records) -> list[str]:
    """Return the folders of which two files record different hashes, as problems."""
    return [
        f"{more[name].file} records {name} with the manifest sha256 {more[name].sha256}, not "
        f"{record.sha256} as {record.file} does; run `dvc repro -f {record.stage}` to write it "
        "again"
        for name, record in records.items()
        if name in more and more[name].sha256 != record.sha256
    ]


DETAILS = {
    "corpus": corpus_lines,
    "clean": clean_lines,
    "tokens": tokens_lines,
    "shards": shards_lines,
}


def initial_weights(
    origin: Mapping[str, Any] | None, file: Path | str, root: Path, *, own: bool
) -> tuple[Node, ...]:
    """Return the weights that training started from, verified if they are here; none if random."""
    if origin is None:
        return ()
    title, weights = "initial weights", root / origin["folder"] / "model.safetensors"
    lines = [f"{weights.name} sha256 {origin['sha256']}", *weights_lines(origin)]
    actual = file_sha256(weights) if weights.is_file() else None
    if actual == origin["sha256"]:
        title = f"{title} in {weights.parent}"
        return (Node(title=title, state=VERIFIED, lines=lines),)
    if actual is None or not own:
        others = [f"{weights.parent} has other weights, sha256 {actual}"] if actual else []
        return (Node(title=title, state=NOT_HERE, lines=[*lines, *others]),)
    problem = (
        f"{weights} has sha256 {actual}, not {origin['sha256']} as {file} records; put the "
        "recorded weights back, or run `dvc repro train` to start from these"
    )
    return (Node(title=title, state=DAMAGED, lines=lines, problems=[problem]),)


def tree_of(node: Node) -> Tree:
    """Return a node and all below it as a tree, without secrets."""
    label = Text()
    label.append(redacted(node.title), "bold")
    if node.state:
        label.append(": ").append(node.state, STYLES[node.state])
    for line in node.lines:
        label.append(f"\n{redacted(line)}")
    tree = Tree(label)
    tree.children = [tree_of(child) for child in node.children]
    return tree


def summary(root: Node) -> str:
    """Return one line about a lineage without problems."""
    absent = [node.title for node in root.walk() if node.state == NOT_HERE]
    if absent:
        return f"all that is here is as it was written; not here: {', '.join(absent)}"
    has_corpus = any(node.title.startswith("corpus ") for node in root.walk())
    first = "its corpus" if has_corpus else "the imported shards"
    return f"every file, from the model to {first}, is as it was written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", default=str(MODEL), help="a folder, or as above"
    )


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages lineage [MODEL]`. Raises ValueError if a hash differs."""
    root = trace(options.model, Path())
    console = Console(width=WIDTH)
    console.print(tree_of(root))
    if problems := list(dict.fromkeys(p for node in root.walk() for p in node.problems)):
        raise ValueError("\n".join(problems))
    console.print(Text(summary(root)))
