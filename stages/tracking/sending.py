"""Entries of an outbox as calls of MLflow's client."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nanogpt.files import link_equal
from stages.tracking.experiments import set_parent
from stages.tracking.kept import WEIGHTS
from stages.tracking.outbox import Entry
from stages.tracking.registry import ready_model, register
from stages.tracking.store import is_deleted, log

if TYPE_CHECKING:
    from mlflow import MlflowClient

CODE_ARCHIVE = "nanogpt.zip"  # as stages/serve/mlflow_model.py expects it
BATCH = 500  # MLflow takes at most 1,000 metrics a call


def send_or_drop(client: "MlflowClient", run_id: str, folder: Path, batch: list[Entry]) -> None:
    """Send entries; log and drop those that MLflow will never accept, lest they block the rest."""
    from mlflow.exceptions import MlflowException

    try:
        send(client, run_id, folder, batch)
    except (MlflowException, FileNotFoundError) as error:
        refused = getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE"
        if isinstance(error, MlflowException) and (not refused or is_deleted(client, run_id)):
            raise
        log(f"MLflow rejected {batch[0]['kind']}, which will be missing from the run: {error}")


def send(client: "MlflowClient", run_id: str, folder: Path, batch: list[Entry]) -> None:
    """Send entries of one kind."""
    from mlflow.entities import Metric, Param, RunTag

    first = batch[0]
    kind = first["kind"]
    if kind in ("metrics", "system"):
        metrics = [  # the step of system metrics is the time in seconds
            Metric(name, value, entry["time_ms"], entry.get("step", entry["time_ms"] // 1000))
            for entry in batch
            for name, value in entry["values"].items()
        ]
        for i in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[i : i + BATCH])
    elif kind == "result":
        send_result(client, run_id, first)
    elif kind == "params":
        params = [Param(name, str(value)) for name, value in first["values"].items()]
        client.log_batch(run_id, params=params)
    elif kind == "tags":
        tags = [RunTag(name, str(value)) for name, value in first["values"].items()]
        client.log_batch(run_id, tags=tags)
    elif kind == "dataset":
        send_dataset(client, run_id, first["values"], first["context"])
    elif kind == "artifacts":
        client.log_artifacts(run_id, str(folder / first["files"]), first["path"])
        store_once(folder / first["files"], client.get_run(run_id).info.artifact_uri)
    elif kind == "model" and not has_model(client, run_id):
        store_once(folder / first["files"], send_model(client, run_id, folder / first["files"]))
    elif kind == "experiment":
        set_parent(client, run_id, first["commit"], first["time_ms"])
    elif kind == "register":
        register(client, run_id, first["text"])
    elif kind == "status" and first["status"] == "RUNNING":
        client.update_run(run_id, status="RUNNING")
    elif kind == "status":
        client.set_terminated(run_id, first["status"], end_time=first["time_ms"])


def send_result(client: "MlflowClient", run_id: str, entry: Entry) -> None:
    """Send metrics of the run's model on one of the run's datasets, as far as it has these."""
    from mlflow.entities import Metric

    run = client.get_run(run_id)
    model = ready_model(client, run)
    names = {"model_id": model.model_id} if model else {}
    for used in run.inputs.dataset_inputs if run.inputs else ():
        if used.dataset.name == entry["dataset"]:
            names |= {"dataset_name": used.dataset.name, "dataset_digest": used.dataset.digest}
    metrics = [
        Metric(name, value, entry["time_ms"], entry["step"], **names)
        for name, value in entry["values"].items()
    ]
    client.log_batch(run_id, metrics=metrics)


def send_dataset(
    client: "MlflowClient", run_id: str, values: Mapping[str, str], context: str
) -> None:
    """Log a dataset of the run: the corpus, its tokens or a split of the shards."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tag = InputTag("mlflow.data.context", context)
    client.log_inputs(run_id, [DatasetInput(Dataset(**values), [tag])])


def has_model(client: "MlflowClient", run_id: str) -> bool:
    """Return whether a run has its model; delete one whose upload was interrupted.

    Without this check, a finished training run that is started again, or a second delivery, would
    log the same model twice.
    """
    experiment_id = client.get_run(run_id).info.experiment_id
    models = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    for model in models:
        if model.status != "READY":
            client.delete_logged_model(model.model_id)
    return any(model.status == "READY" for model in models)


def store_once(files: Path, location: str | None) -> None:
    """Share the bytes of weights with the copies that MLflow stored on this machine, if it did."""
    if location and location.startswith("file:"):
        from mlflow.utils.file_utils import local_file_uri_to_path

        for weights in files.rglob(f"*{WEIGHTS}"):
            link_equal(weights, Path(local_file_uri_to_path(location)))


def send_model(client: "MlflowClient", run_id: str, folder: Path) -> str:
    """Log a model folder such that `mlflow.pyfunc.load_model` can load it; return its location."""
    import mlflow

    from stages.serve.mlflow_model import requirements, signature

    with mlflow.start_run(run_id=run_id), TemporaryDirectory() as scratch:
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model="stages/serve/mlflow_model.py",
            artifacts={"model": folder.absolute().as_uri()},  # MLflow would parse a path as a URI
            code_paths=[str(pack_code(Path(scratch)))],
            pip_requirements=requirements(),
            signature=signature(),
            input_example=["To be, or not to be"],
        )
    return str(client.get_logged_model(logged.model_id).artifact_location)


def pack_code(folder: Path) -> Path:
    """Write the code of a served model into one archive: each file is a request to a server."""
    archive = folder / CODE_ARCHIVE
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for package in ("nanogpt", "stages"):
            for file in sorted(Path(package).rglob("*.py")):
                packed.write(file)
    return archive
