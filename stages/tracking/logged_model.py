"""A model that MLflow has: from a reference to its lineage and its files."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from nanogpt.files import atomic_dir, file_sha256
from stages.artifacts.model import LINEAGE
from stages.runtime.yaml_files import read_params
from stages.tracking.local_store import database
from stages.tracking.store import (
    connect,
    is_local,
    problem_of,
    shown_uri,
    store_errors,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

FORMS = "RUN_ID, runs:/RUN_ID, models:/NAME/VERSION, models:/NAME@ALIAS and models:/m-…"
RUN = re.compile(r"(?:runs:/)?([0-9a-f]{32})")
LOGGED = re.compile(r"models:/(m-[0-9a-f]+)")
VERSION = re.compile(r"models:/([^/@:]+)/([0-9]+)")
ALIAS = re.compile(r"models:/([^/@:]+)@([^/@:]+)")
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")  # MLflow's codes


@dataclass(frozen=True, kw_only=True)
class LoggedModel:
    """A model folder in MLflow's artifact store."""

    reference: str
    store: str  # safe to print
    lineage: str  # the text of its lineage.json
    files: dict[str, int]  # bytes by name; 0 where the store does not tell


def is_reference(text: str) -> bool:
    """Return whether a text has one of the FORMS."""
    return any(form.fullmatch(text) for form in (RUN, LOGGED, VERSION, ALIAS))


def read_logged_model(reference: str) -> LoggedModel:
    """Return the model that a reference in one of the FORMS names, without its weights.

    Raises ValueError if MLflow has none, ConnectionError if the store does not work.
    """
    with opened(reference) as (store, folder), TemporaryDirectory() as scratch:
        lineage = Path(store.download_artifacts(f"{folder}/{LINEAGE}", scratch))
        return LoggedModel(
            reference=reference,
            store=shown_uri(),
            lineage=lineage.read_text(encoding="utf-8"),
            files=dict(list_files(store, folder, folder)),
        )


def download_model(reference: str, out: Path) -> None:
    """Download the model folder that a reference in one of the FORMS names to `out`, a new folder.

    Raises ValueError if MLflow has none or a file is not as training wrote it, ConnectionError if
    the store does not work.
    """
    with opened(reference) as (store, folder), atomic_dir(out) as draft:
        downloaded = Path(store.download_artifacts(folder, str(draft)))
        for path in list(downloaded.iterdir()):
            path.rename(draft / path.name)
        shutil.rmtree(draft / Path(folder).parts[0])
        about = json.loads((draft / LINEAGE).read_text(encoding="utf-8"))
        for file in about["files"]:
            path = draft / file["name"]
            if not path.is_file() or file_sha256(path) != file["sha256"]:
                raise ValueError(
                    f"{file['name']} of {reference} in {shown_uri()} is not as training wrote it"
                )


@contextmanager
def opened(reference: str) -> Iterator[tuple[Any, str]]:
    """Yield the artifact store of a model, and the path of the model folder in it.

    Only `MLmodel`, which names that path, is downloaded.
    """
    if is_local() and not database().is_file():
        raise ValueError(f"there is no {reference}: nothing has been recorded in mlflow.db yet")
    with lookup_errors(reference), TemporaryDirectory() as scratch:
        location = artifact_location(connect(), reference)
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        store = get_artifact_repository(location, tracking_uri=tracking_uri())
        folder = model_folder(read_params(Path(store.download_artifacts("MLmodel", scratch))))
        if folder is None:
            raise ValueError(f"{reference} was not logged by the stage `train`")
        yield store, folder


@contextmanager
def lookup_errors(reference: str) -> Iterator[None]:
    """Raise ValueError for what the store does not have, ConnectionError for its other errors."""
    try:
        yield
    except store_errors() as error:
        if getattr(error, "error_code", None) in UNKNOWN:
            raise ValueError(f"{shown_uri()} has no {reference}: {problem_of(error)}") from None
        raise ConnectionError(
            f"{reference} cannot be read from {shown_uri()}: {problem_of(error)}"
        ) from None


def artifact_location(client: "MlflowClient", reference: str) -> str:
    """Return the URI of the artifacts of a model. Raises ValueError if a run has no model."""
    if match := RUN.fullmatch(reference):
        return location_in_run(client, match[1])
    if match := LOGGED.fullmatch(reference):
        return str(client.get_logged_model(match[1]).artifact_location)
    if match := VERSION.fullmatch(reference):
        return str(client.get_model_version_download_uri(match[1], match[2]))
    match = ALIAS.fullmatch(reference)
    assert match is not None  # `is_reference` checked it
    version = client.get_model_version_by_alias(match[1], match[2]).version
    return str(client.get_model_version_download_uri(match[1], version))


def location_in_run(client: "MlflowClient", run_id: str) -> str:
    """Return the URI of the artifacts of the model that a run logged."""
    experiment_id = client.get_run(run_id).info.experiment_id
    models = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    for model in models:
        if model.status == "READY":
            return str(model.artifact_location)
    raise ValueError(
        f"run {run_id} has no model: it has not finished training, or its model waits for "
        "`python -m stages deliver`"
    )


def model_folder(mlmodel: dict[str, Any]) -> str | None:
    """Return the path of the model folder among the artifacts, as `MLmodel` names it."""
    artifacts = mlmodel.get("flavors", {}).get("python_function", {}).get("artifacts", {})
    path: str | None = artifacts.get("model", {}).get("path")
    return path


def list_files(store: Any, folder: str, path: str) -> Iterator[tuple[str, int]]:
    """Yield the name relative to `folder` and the size of each file at `path` or below it."""
    for entry in store.list_artifacts(path):
        if entry.is_dir:
            yield from list_files(store, folder, entry.path)
        else:
            yield entry.path.removeprefix(f"{folder}/"), entry.file_size or 0
