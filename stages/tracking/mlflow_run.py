"""Recording in MLflow that never slows down or stops a stage, and never loses data.

Everything a stage records is first appended to an outbox on the local disk; a background thread
delivers it from there and remembers the offset. A server that is down or slow only delays the
delivery: the rest is sent by the next stage, or by `python -m stages deliver`.
Each model has one MLflow run, found by its tag with the model's id.

Without MLFLOW_TRACKING_URI the store is `mlflow.db` and `mlartifacts/` in the project folder.
"""

import fcntl
import json
import math
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nanogpt.files import link_equal
from nanogpt.model.files import MODEL_FILES
from stages.runtime.project import project_folder
from stages.runtime.redaction import redacted
from stages.tracking.experiments import set_parent
from stages.tracking.kept import WEIGHTS
from stages.tracking.local_store import experiment_name
from stages.tracking.note import note_of
from stages.tracking.outbox import Entry, Outbox
from stages.tracking.registry import ready_model, register
from stages.tracking.store import (
    connect,
    create_experiment,
    create_run,
    find_run,
    is_deleted,
    is_server,
    key_of,
    log,
    problem_of,
    set_environment,
    shown_uri,
    store_errors,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

POLL_SECONDS = 5.0
CLOSING_SECONDS = 120.0  # for the last delivery of a stage; none is begun later
FAILING_SHARE = 0.05  # at most, of a core's time, for deliveries that fail
CODE_ARCHIVE = "nanogpt.zip"  # as stages/serve/mlflow_model.py expects it
BATCH = 500  # MLflow takes at most 1,000 metrics a call


def outboxes() -> Path:
    """Return the folder that holds the outbox of each model."""
    return project_folder() / "runs/tracking"


class Tracker:
    """The MLflow run of one model, as a context manager: on exit it delivers what it can."""

    def __init__(
        self,
        model_id: str,
        *,
        enabled: bool,
        system_metrics: bool = False,
        leave_weights: bool = False,
    ) -> None:
        """Create a tracker; one that leaves weights delivers what comes before the first of them.

        A process that holds a GPU leaves the rest for `deliver_rest` in another.
        """
        self.model_id, self.leave_weights = model_id, leave_weights
        self.patience = 10.0 if leave_weights else CLOSING_SECONDS
        self.outbox = Outbox(outboxes() / model_id) if enabled else None
        self.system_metrics = system_metrics
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.keep_delivering, daemon=True)
        self.problem: str | None = None

    def __enter__(self) -> "Tracker":
        if self.outbox:
            self.thread.start()
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
        self.thread.join()
        log_problem(self.problem, self.outbox)

    def record(self, kind: str, **values: Any) -> None:
        """Append an entry to the outbox: tags, params, metrics, note and so on."""
        if self.outbox:
            self.outbox.append(kind, **redacted(values))

    def record_files(self, kind: str, source: Path, **values: Any) -> None:
        """Append a copy of a file or folder to the outbox: artifacts or model."""
        if self.outbox:
            self.outbox.append_files(kind, source, **values)

    def record_checkpoint(self, checkpoint: Path, name: str) -> None:
        """Append the model's files of a checkpoint, which are delivered past everything else."""
        if self.outbox:
            self.outbox.checkpoints().append_files(
                "artifacts", checkpoint, only=MODEL_FILES, path=f"checkpoints/{name}"
            )

    def record_table(self, file: Path) -> None:
        """Append a table to the outbox; it replaces an earlier one of the same name.

        The file has the format of MLflow's own tables: `{"columns": […], "data": [[…], …]}`.
        """
        self.record_files("artifacts", file, path=None)
        tables = json.dumps([{"path": file.name, "type": "table"}])
        self.record("tags", values={"mlflow.loggedArtifacts": tables})  # where MLflow's UI looks

    def live_curves(self) -> str | None:
        """Return where to watch the curves of this run; None if it is not recorded."""
        if not self.outbox:
            return None
        return (
            f"{shown_uri()} (make watch: this run)" if is_server(tracking_uri()) else "make watch"
        )

    def last_step(self, metric: str) -> int:
        """Return the last step a metric was recorded for."""
        return self.outbox.last_step(metric) if self.outbox else 0

    def keep_delivering(self) -> None:
        """Deliver every POLL_SECONDS, and once more when the tracker closes.

        A failed delivery is retried after a pause proportional to the CPU time it took: a store
        that does not work must not slow down training.
        """
        assert self.outbox is not None  # the thread runs only with an outbox
        self.problem = "the delivery thread died"  # overwritten by each delivery
        set_environment()
        monitors = system_monitors() if self.system_metrics else []
        next_attempt = 0.0
        while True:
            last = self.closing.is_set()
            if monitors:
                self.outbox.append("system", values=sample(monitors))
            if last or time.monotonic() >= next_attempt:
                before = time.thread_time()
                until = time.monotonic() + self.patience
                self.problem = deliver(
                    self.outbox, self.model_id, until=until, weights=not self.leave_weights
                )
                if not (self.problem or self.leave_weights):
                    self.problem = deliver_checkpoints(self.outbox, self.model_id, until=until)
                cpu_seconds = time.thread_time() - before
                pause = cpu_seconds / FAILING_SHARE if self.problem else 0
                next_attempt = time.monotonic() + pause
            if last or (self.problem and self.closing.is_set()):  # do not try twice at the end
                return
            self.closing.wait(POLL_SECONDS)


def system_monitors() -> list[Any]:
    """Return MLflow's monitors of CPU, disk, network and, if there is one, the GPU."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        return [*monitors, GPUMonitor()]
    except RuntimeError:  # there is no GPU
        return monitors


def sample(monitors: list[Any]) -> dict[str, float]:
    """Return one reading of each monitor, named as MLflow's page of system metrics expects."""
    values: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return values


def log_problem(problem: str | None, outbox: Outbox) -> None:
    """Print what kept a delivery from being complete, and how to complete it."""
    if problem:
        log(
            f"{shown_uri()} did not accept all entries ({problem}); the rest is kept in "
            f"{outbox.folder} for the next stage or `python -m stages deliver`"
        )


def deliver_rest(model_id: str) -> None:
    """Deliver what a tracker that leaves weights has left."""
    outbox = Outbox(outboxes() / model_id)
    if outbox.has_pending() or outbox.has_checkpoints():
        log(f"sending the model to {shown_uri()}; training is done and holds no device")
        until = time.monotonic() + CLOSING_SECONDS
        problem = deliver(outbox, model_id, until=until)
        log_problem(problem or deliver_checkpoints(outbox, model_id, until=until), outbox)


@contextmanager
def uploading_checkpoints(model_id: str) -> Iterator[None]:
    """Upload checkpoints while the block runs, and wait for the one on its way if it succeeds.

    The processes that train have no time for it, and one that waits for them has.
    """
    outbox, ended = Outbox(outboxes() / model_id), threading.Event()

    def upload() -> None:
        while not ended.wait(POLL_SECONDS):
            deliver_checkpoints(outbox, model_id)

    thread = threading.Thread(target=upload, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
    thread.join(CLOSING_SECONDS)


def deliver_checkpoints(outbox: Outbox, model_id: str, *, until: float = math.inf) -> str | None:
    """Deliver the checkpoints of a model, once its run exists. Return the problem, or None."""
    if not (outbox.has_checkpoints() and outbox.delivered()):
        return None
    return deliver(outbox.checkpoints(), model_id, until=until)


def deliver(
    outbox: Outbox,
    model_id: str,
    *,
    until: float = math.inf,
    weights: bool = True,
    anew: bool = False,
) -> str | None:
    """Deliver the pending entries of an outbox. Return the problem, or None on success.

    No entry is begun after `until` (as time.monotonic() counts), or, without `weights`, from the
    first entry with weights on. If nothing is pending, `anew` gives all to a store that is another
    than before.
    """
    if not (outbox.has_pending() or (anew and outbox.has_entries())):
        return None
    with (outbox.folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "another process is delivering it"
        try:
            client = connect()
            experiment = client.get_experiment_by_name(experiment_name())
            if not outbox.has_pending() and outbox.is_known_to(key_of(experiment)):
                return None
            run_id = open_run(client, experiment, outbox, model_id)
            for batch, offset in outbox.batches(BATCH):
                if not weights and outbox.has_weights(batch[0]):
                    return None
                if time.monotonic() > until:
                    return "it is slow"
                if batch[0]["kind"] == "note":
                    batch = [note_entry(outbox, run_id, batch[0])]
                send_or_drop(client, run_id, outbox.folder, batch)
                outbox.set_delivered(offset)
        except store_errors() as error:
            return problem_of(error)
    return None


def open_run(
    client: "MlflowClient", experiment: "Experiment | None", outbox: Outbox, model_id: str
) -> str:
    """Return the id of the run that receives the entries of an outbox, created if need be."""
    run_id = find_run(client, experiment, model_id)
    experiment = experiment or create_experiment(client)
    run_id = run_id or create_run(client, experiment, model_id, outbox.start_ms())
    if outbox.deliver_to(f"{key_of(experiment)} {run_id}"):
        log_missing(outbox)
    return run_id


def log_missing(outbox: Outbox) -> None:
    """Print which weights an earlier store was given and this one cannot be given."""
    if missing := outbox.kept.missing():
        log(
            f"{shown_uri()} is not the store that had this model, and the project no longer has "
            f"{' and '.join(missing)}; all else is recorded there. With these weights back in "
            f"models/gpt, remove {outbox.offset_file} and run `python -m stages deliver`"
        )


def note_entry(outbox: Outbox, run_id: str, newest: Entry) -> Entry:
    """Return the entry that sets the note, made of all parts up to the newest."""
    text = note_of((entry for entry, _ in outbox.entries(0)), run_id)
    return {**newest, "kind": "tags", "values": {"mlflow.note.content": text}}


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
    """Log a split of the shards as a dataset of the run."""
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
