"""Recording in MLflow that never slows or stops a stage and never loses a word.

Everything a stage records is first appended to an outbox on the local disk; a background thread
delivers it from there and keeps how far it got. A server that is dead or slow delays the delivery,
nothing else: what is left goes out with the next stage, or by `python -m stages.tracking`.
One model is one MLflow run, found again by the model's id.

Without MLFLOW_TRACKING_URI the store is `mlflow.db` and `mlartifacts/` in the project's folder.
"""

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stages.command import main
from stages.outbox import Entry, Outbox
from stages.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "nanogpt"
MODEL_TAG = "nanogpt.model_id"
POLL_SECONDS = 5.0
BATCH = 500  # MLflow takes at most 1,000 metrics a call

ENVIRONMENT = {  # MLflow reads it when it is imported
    # give up soon: what could not be sent is sent later
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # else it logs how it sets up its tables
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def home() -> Path:
    """The project's folder, also when DVC runs an experiment in a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def outboxes() -> Path:
    """Where each model's outbox is."""
    return home() / "runs/tracking"


def tracking_uri() -> str:
    """Where runs are recorded."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def set_environment() -> None:
    """Set how MLflow behaves, where the user has not; to be called before it is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


class Tracker:
    """Records one model's run. A context: leaving it waits for what can be delivered."""

    def __init__(self, model_id: str, *, enabled: bool, system_metrics: bool = False) -> None:
        self.model_id = model_id
        self.outbox = Outbox(outboxes() / model_id) if enabled else None
        self.system_metrics = system_metrics
        self.closing = threading.Event()
        self.courier = threading.Thread(target=self.keep_delivering, daemon=True)
        self.problem: str | None = None

    def __enter__(self) -> "Tracker":
        if self.outbox:
            self.courier.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if not self.outbox:
            return
        if error is not None:
            self.record("status", status="FAILED")
        self.closing.set()
        self.courier.join()
        if self.problem:
            print(
                f"tracking: {tracking_uri()} took not everything ({self.problem}); what is left "
                f"waits in {self.outbox.folder} for the next stage or `python -m stages.tracking`",
                flush=True,
            )

    def record(self, kind: str, **values: Any) -> None:
        """Put one entry into the outbox: tags, params, metrics, dataset or status."""
        if self.outbox:
            self.outbox.append(kind, **values)

    def record_files(self, kind: str, source: Path, **values: Any) -> None:
        """Put a copy of a file or folder into the outbox: artifacts or model."""
        if self.outbox:
            self.outbox.append_files(kind, source, **values)

    def record_table(self, file: Path) -> None:
        """Put a table into the outbox, which takes the place of an earlier one of that name.

        The file holds what MLflow's own tables do: `{"columns": […], "data": [[…], …]}`.
        """
        self.record_files("artifacts", file, path=None)
        named = json.dumps([{"path": file.name, "type": "table"}])
        self.record("tags", values={"mlflow.loggedArtifacts": named})  # its UI looks there

    def live_curves(self) -> str | None:
        """Where the curves of this run can be watched, if it is recorded."""
        if not self.outbox:
            return None
        uri = tracking_uri()
        return f"{uri} (make watch: this run)" if uri.startswith("http") else "make watch"

    def last_step(self, metric: str) -> int:
        """The last step on record of a metric."""
        return self.outbox.last_step(metric) if self.outbox else 0

    def keep_delivering(self) -> None:
        """Deliver every few seconds, and once more when the tracker closes."""
        assert self.outbox is not None  # the courier runs only with an outbox
        self.problem = "the courier ended unexpectedly"  # unless it gets to say otherwise
        set_environment()
        monitors = system_monitors() if self.system_metrics else []
        while True:
            last = self.closing.is_set()
            if monitors:
                self.outbox.append("system", values=sample(monitors))
            self.problem = deliver(self.outbox, self.model_id)
            if last:
                return
            self.closing.wait(POLL_SECONDS)


def system_monitors() -> list[Any]:
    """MLflow's own monitors of processor, disk, network and, where there is one, the GPU."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        return [*monitors, GPUMonitor()]
    except RuntimeError:  # how it says that there is no GPU
        return monitors


def sample(monitors: list[Any]) -> dict[str, float]:
    """One reading of each monitor, named as MLflow's system metrics page expects."""
    values: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return values


def deliver(outbox: Outbox, model_id: str) -> str | None:
    """Send what waits in an outbox; the problem when the server does not take it, else None."""
    if not outbox.is_waiting():
        return None
    set_environment()
    import mlflow
    from mlflow.exceptions import MlflowException

    with (outbox.folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mlflow.set_tracking_uri(tracking_uri())
            client = mlflow.MlflowClient()
            run_id = find_run(client, model_id) or create_run(client, model_id)
            for batch, offset in outbox.batches(BATCH):
                send_or_drop(client, run_id, outbox.folder, batch)
                outbox.set_delivered(offset)
        except BlockingIOError:
            return "another process is delivering it"
        except (MlflowException, OSError) as error:
            return " ".join(str(error).split())[:300]
    return None


def send_or_drop(client: "MlflowClient", run_id: str, folder: Path, batch: list[Entry]) -> None:
    """Send entries, or say that MLflow will never take them: they must not hold up the rest."""
    from mlflow.exceptions import MlflowException

    try:
        send(client, run_id, folder, batch)
    except (MlflowException, FileNotFoundError) as error:
        code = getattr(error, "error_code", None)
        if isinstance(error, MlflowException) and code != "INVALID_PARAMETER_VALUE":
            raise
        print(f"tracking: MLflow refused {batch[0]['kind']} and goes without: {error}", flush=True)


def find_run(client: "MlflowClient", model_id: str) -> str | None:
    """The id of the model's run, if there is one."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return None
    runs = client.search_runs([experiment.experiment_id], f"tags.`{MODEL_TAG}` = '{model_id}'")
    return runs[0].info.run_id if runs else None


def newest_run() -> tuple[str, str, bool] | None:
    """Ids of the experiment and of the run to watch, and whether that run is active.

    It is the newest that is active, else the newest; None where nothing has been recorded.
    Raises ConnectionError when the store does not answer.
    """
    set_environment()
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(tracking_uri())
    try:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return None
        for query, running in (("attributes.status = 'RUNNING'", True), ("", False)):
            ids = [experiment.experiment_id]
            newest = client.search_runs(
                ids, query, max_results=1, order_by=["attributes.start_time DESC"]
            )
            if newest:
                return experiment.experiment_id, newest[0].info.run_id, running
    except MlflowException as error:
        raise ConnectionError(f"{tracking_uri()} does not answer: {error}") from None
    return None


def create_run(client: "MlflowClient", model_id: str) -> str:
    """Open the model's run, and the experiment where there is none."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        experiment_id = experiment.experiment_id
    else:
        local = tracking_uri().startswith("sqlite:")
        where = (home() / "mlartifacts").as_uri() if local else None
        experiment_id = client.create_experiment(EXPERIMENT, artifact_location=where)
    run = client.create_run(experiment_id, tags={MODEL_TAG: model_id})
    return str(run.info.run_id)


def send(client: "MlflowClient", run_id: str, folder: Path, batch: list[Entry]) -> None:
    """Send entries of one kind."""
    from mlflow.entities import Metric, Param, RunTag

    first = batch[0]
    kind = first["kind"]
    if kind in ("metrics", "system"):
        metrics = [  # system metrics have no step but the time
            Metric(name, value, entry["time_ms"], entry.get("step", entry["time_ms"] // 1000))
            for entry in batch
            for name, value in entry["values"].items()
        ]
        for i in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[i : i + BATCH])
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
    elif kind == "model" and not has_model(client, run_id):
        send_model(run_id, folder / first["files"])
    elif kind == "status" and first["status"] == "RUNNING":
        client.update_run(run_id, status="RUNNING")
    elif kind == "status":
        client.set_terminated(run_id, first["status"], end_time=first["time_ms"])


def send_dataset(
    client: "MlflowClient", run_id: str, values: Mapping[str, str], context: str
) -> None:
    """Name a split of the shards as an input of the run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tag = InputTag("mlflow.data.context", context)
    client.log_inputs(run_id, [DatasetInput(Dataset(**values), [tag])])


def has_model(client: "MlflowClient", run_id: str) -> bool:
    """Return whether a run has its model; one that was cut off while it was sent is removed.

    A training that had finished writes the same model again, and so would a second delivery.
    """
    experiment_id = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    for model in found:
        if model.status != "READY":
            client.delete_logged_model(model.model_id)
    return any(model.status == "READY" for model in found)


def send_model(run_id: str, folder: Path) -> None:
    """Log a model folder as a model that `mlflow.pyfunc.load_model` loads."""
    import mlflow

    from stages.served_model import REQUIREMENTS, signature

    with mlflow.start_run(run_id=run_id):
        mlflow.pyfunc.log_model(
            name="model",
            python_model="stages/served_model.py",
            artifacts={"model": str(folder)},
            code_paths=["nanogpt", "stages"],
            pip_requirements=REQUIREMENTS,
            signature=signature(),
            input_example=["To be, or not to be"],
        )


def run_stage(settings: Settings) -> None:
    """`python -m stages.tracking`: deliver what earlier stages could not."""
    problems = []
    for folder in sorted(path for path in outboxes().glob("*") if path.is_dir()):
        problem = deliver(Outbox(folder), folder.name)
        print(f"tracking: {folder.name} {'delivered' if problem is None else problem}")
        problems += [problem] if problem else []
    if problems:
        raise ConnectionError(f"{tracking_uri()} did not take everything")


if __name__ == "__main__":
    main("tracking", run_stage)
