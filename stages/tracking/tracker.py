"""Recording in MLflow that never slows down or stops a stage, and never loses data.

Everything a stage records is first appended to an outbox on the local disk; a background thread
delivers it from there and remembers the offset. A server that is down or slow only delays the
delivery: the rest is sent by the next stage, or by `python -m stages deliver`.
Each model has one MLflow run, found by its tag with the model's id.

Without MLFLOW_TRACKING_URI the store is `mlflow.db` and `mlartifacts/` in the project folder.
"""

import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from nanogpt.model.files import MODEL_FILES
from stages.runtime.redaction import redacted
from stages.tracking.delivery import (
    CLOSING_SECONDS,
    POLL_SECONDS,
    deliver,
    deliver_checkpoints,
    log_problem,
    outboxes,
)
from stages.tracking.outbox import Outbox
from stages.tracking.store import is_server, set_environment, shown_uri, tracking_uri

FAILING_SHARE = 0.05  # at most, of a core's time, for deliveries that fail


class Tracker:
    """The MLflow run of one model, as a context manager: on exit it delivers what it can."""

    def __init__(
        self,
        model_id: str,
        *,
        enabled: bool,
        system_metrics: bool = False,
        defer_weights: bool = False,
    ) -> None:
        """Create a tracker; one that defers weights delivers what comes before the first of them.

        A process that holds a GPU defers them to `deliver_rest` in another.
        """
        self.model_id, self.defer_weights = model_id, defer_weights
        self.patience = 10.0 if defer_weights else CLOSING_SECONDS
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

    def record_checkpoint(self, checkpoint: Path) -> None:
        """Append the model's files of a checkpoint, unless they are there.

        They are delivered past everything else.
        """
        if not self.outbox:
            return
        outbox, path = self.outbox.checkpoints(), f"checkpoints/{checkpoint.name}"
        if not any(entry["path"] == path for entry, _ in outbox.entries(0)):
            outbox.append_files("artifacts", checkpoint, only=MODEL_FILES, path=path)

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

    def last_value(self, metric: str, step: int) -> float | None:
        """Return the last value of a metric that was recorded for `step` or an earlier one."""
        return self.outbox.last_value(metric, step) if self.outbox else None

    def last_step(self, metric: str) -> int:
        """Return the last step a metric was recorded for."""
        return self.outbox.last_step(metric) if self.outbox else 0

    def keep_delivering(self) -> None:
        """Deliver every POLL_SECONDS, and once more when the tracker closes.

        A failed delivery is retried after a pause proportional to the CPU time it took: a store
        that does not work must not slow down training.
        """
        assert self.outbox is not None  # the thread runs only with an outbox
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
                self.problem = "the delivery thread died"  # unless it goes on
                self.problem = deliver(
                    self.outbox, self.model_id, until=until, weights=not self.defer_weights
                )
                if not (self.problem or self.defer_weights):
                    self.problem = deliver_checkpoints(
                        self.outbox, self.model_id, until=until, redeliver=last
                    )
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
