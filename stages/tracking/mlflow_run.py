"""Recording in MLflow that never slows or stops a stage and never loses a word.

Everything a stage records is first appended to an outbox on the local disk; a background thread
delivers it from there and keeps how far it got. A server that is dead or slow delays the delivery,
nothing else: what is left goes out with the next stage, or by `python -m stages deliver`.
One model is one MLflow run, found again by the model's id.

Without MLFLOW_TRACKING_URI the store is `mlflow.db` and `mlartifacts/` in the project's folder.
"""

import fcntl
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stages.runtime.redaction import redacted
from stages.tracking.local_store import home
from stages.tracking.outbox import Entry, Outbox
from stages.tracking.store import (
    connect,
    create_run,
    find_run,
    is_deleted,
    is_server,
    log,
    problem_of,
    set_environment,
    shown_uri,
    store_errors,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

POLL_SECONDS = 5.0
FAILING_SHARE = 0.05  # of a core's time at most goes into deliveries that fail
BATCH = 500  # MLflow takes at most 1,000 metrics a call


def outboxes() -> Path:
    """Where each model's outbox is."""
    return home() / "runs/tracking"


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
            log(
                f"{shown_uri()} took not everything ({self.problem}); what is left waits in "
                f"{self.outbox.folder} for the next stage or `python -m stages deliver`"
            )

    def record(self, kind: str, **values: Any) -> None:
        """Put one entry into the outbox: tags, params, metrics, dataset or status."""
        if self.outbox:
            self.outbox.append(kind, **redacted(values))

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
        return (
            f"{shown_uri()} (make watch: this run)" if is_server(tracking_uri()) else "make watch"
        )

    def last_step(self, metric: str) -> int:
        """The last step on record of a metric."""
        return self.outbox.last_step(metric) if self.outbox else 0

    def keep_delivering(self) -> None:
        """Deliver every few seconds, and once more when the tracker closes.

        What fails is tried again the later, the more of the processor's time it took: a store that
        does not work must not slow the training.
        """
        assert self.outbox is not None  # the courier runs only with an outbox
        self.problem = "the courier ended unexpectedly"  # unless it gets to say otherwise
        set_environment()
        monitors = system_monitors() if self.system_metrics else []
        next_try = 0.0
        while True:
            last = self.closing.is_set()
            if monitors:
                self.outbox.append("system", values=sample(monitors))
            if last or time.monotonic() >= next_try:
                before = time.thread_time()
                self.problem = deliver(self.outbox, self.model_id)
                spent = time.thread_time() - before
                next_try = time.monotonic() + (spent / FAILING_SHARE if self.problem else 0)
            if last or (self.problem and self.closing.is_set()):  # not twice at the end
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
    with (outbox.folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "another process is delivering it"
        try:
            client = connect()
            run_id = find_run(client, model_id)
            if run_id is None:
                run_id = create_run(client, model_id)
                outbox.start_over()  # what an earlier store got is not in this one
            for batch, offset in outbox.batches(BATCH):
                send_or_drop(client, run_id, outbox.folder, batch)
                outbox.set_delivered(offset)
        except store_errors() as error:
            return problem_of(error)
    return None


def send_or_drop(client: "MlflowClient", run_id: str, folder: Path, batch: list[Entry]) -> None:
    """Send entries, or say that MLflow will never take them: they must not hold up the rest."""
    from mlflow.exceptions import MlflowException

    try:
        send(client, run_id, folder, batch)
    except (MlflowException, FileNotFoundError) as error:
        refused = getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE"
        if isinstance(error, MlflowException) and (not refused or is_deleted(client, run_id)):
            raise
        log(f"MLflow refused {batch[0]['kind']} and goes without: {error}")


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

    from stages.serve.mlflow_model import REQUIREMENTS, signature

    with mlflow.start_run(run_id=run_id):
        mlflow.pyfunc.log_model(
            name="model",
            python_model="stages/serve/mlflow_model.py",
            artifacts={"model": folder.absolute().as_uri()},  # MLflow reads a path as an address
            code_paths=["nanogpt", "stages"],
            pip_requirements=REQUIREMENTS,
            signature=signature(),
            input_example=["To be, or not to be"],
        )
