"""A run on Prefect's page: a task run per try, progress, results and links."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.concurrency._asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed, Running

from pipelines.automations import CRASHES, crash_count, end_task_runs, restore_if_lost
from pipelines.dag import Stage
from pipelines.result import create_artifacts, model_size
from pipelines.stage_run import Console
from pipelines.watch import RunCancelled
from stages.runtime.progress_file import Progress
from stages.runtime.redaction import redacted
from stages.runtime.settings import read_settings
from stages.runtime.status import Status

REPORT_SECONDS = 10.0  # between two updates of the progress
LEASE_SECONDS = 60.0  # how long a killed run's device stays reserved
WAIT_SECONDS = 30.0  # for a device, between two checks whether the run was cancelled
ENDING = {StateType.CANCELLING, StateType.CANCELLED}


class PrefectConsole(Console):
    """A run as Prefect shows it."""

    def __init__(self, run_id: str) -> None:
        self.run_id = UUID(run_id)
        # one for all requests: each new client reads the certificates again
        self.client = ExitStack().enter_context(get_client(sync_client=True))
        self.title = self.corpus = ""
        self.logger = get_run_logger()
        self.artifact: UUID | None = None
        self.reported = float("-inf")

    def take_over(self) -> None:
        """Clean up after an attempt that died. Raises ValueError after too many crashes."""
        if crash_count(self.client, self.run_id) > CRASHES:
            raise ValueError(f"this run crashed {CRASHES + 1} times; find the cause first")
        end_task_runs(self.client, self.run_id)

    def begin(self, title: str, corpus: str) -> None:
        """Name the run, and tag it with its corpus."""
        self.title, self.corpus = title, corpus
        tags = {*self.client.read_flow_run(self.run_id).tags, f"corpus:{corpus}"}
        self.client.update_flow_run(self.run_id, name=title, tags=sorted(tags))

    def log(self, line: str) -> None:
        """Log a line."""
        self.logger.info(line)

    def attempt(
        self, stage: Stage, number: int, work: Callable[[], Status | None]
    ) -> Status | None:
        """Run one try of a stage as a task run; its state says how it ended."""
        ended: list[Status | None] = []
        self.artifact = None

        def work_to_state() -> State[Any]:
            status = work()
            ended.append(status)
            if status is None:
                return Completed(name="Cached", message="nothing that it depends on has changed")
            if status.kind == "done":
                return Completed()
            return Failed(message=f"{status.kind}: {status.message}")

        name = stage.name if number == 1 else f"{stage.name}, try {number}"
        # The policies retry, each try in a task run of its own. A condition that is never met
        # keeps Prefect from logging an empty traceback.
        attempt = task(
            name=stage.name,
            task_run_name=name,
            cache_policy=NO_CACHE,
            retries=1,
            retry_condition_fn=lambda *_: False,
        )(work_to_state)
        state = attempt(return_state=True)
        if not ended:  # the engine ended it, not the stage
            state.result()
        return ended[0]

    @contextmanager
    def holding(self, stage: Stage) -> Iterator[None]:
        """Wait until no other run of this server uses the device, and hold it."""
        lease = self.lease_of(device_names(read_settings().device))
        try:
            yield
        finally:
            with suppress(httpx.HTTPError):  # without a server it ends by itself
                lease.__exit__(None, None, None)

    def lease_of(self, names: list[str]) -> AbstractContextManager[None]:
        """Wait for devices, also while the server is down; return what holds them.

        Raises RunCancelled if the run is cancelled meanwhile.
        """
        logged = False
        while True:
            try:
                for name in names:
                    self.client.upsert_global_concurrency_limit_by_name(name, limit=1)
                limits = map(self.client.read_global_concurrency_limit_by_name, names)
                used = [limit.name for limit in limits if limit.active_slots]
                if used and not logged:
                    self.log(f"waiting for {', '.join(used)}, which another run uses")
                    logged = True
                lease = concurrency(
                    names, lease_duration=LEASE_SECONDS, timeout_seconds=WAIT_SECONDS, strict=False
                )
                lease.__enter__()
                return lease
            except (TimeoutError, ConcurrencySlotAcquisitionError, httpx.HTTPError) as error:
                if isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error:
                    raise
                if self.cancelled():
                    raise RunCancelled("the run was cancelled") from None
                time.sleep(1)

    def leave_to_other(self) -> None:
        """Set the run back to Running: another process of it is alive, and goes on."""
        running: State[Any] = Running(message="Its process is still running.")
        self.client.set_flow_run_state(self.run_id, running, force=True)

    def report(self, stage: Stage, progress: Progress) -> None:
        """Update the progress artifact, at most every few seconds."""
        now = time.monotonic()
        if now - self.reported < REPORT_SECONDS and progress.step < progress.max_steps:
            return
        self.reported = now
        percent = 100 * progress.step / progress.max_steps
        text = progress_line(progress)
        with suppress(Exception):  # a display error must not stop the run
            if self.artifact is None:
                created = create_progress_artifact(percent, key=stage.name, description=text)
                assert isinstance(created, UUID)
                self.artifact = created
            else:
                update_progress_artifact(self.artifact, progress=percent, description=text)

    def show_result(self) -> None:
        """Add the size of the model to the name of the run, and the result as artifacts."""
        try:
            name, dot, changed = self.title.partition(" · ")
            self.begin(f"{name} {model_size()}{dot}{changed}", self.corpus)
            create_artifacts(self.title)
        except Exception as error:  # the model is there, whether it can be shown or not
            self.logger.warning("the result cannot be shown: %s", redacted(str(error)))

    def cancelled(self) -> bool:
        """Ask the server whether the run is to end: a worker may have missed it.

        A server that was down may have marked the run as Lost: set it back to Running.
        """
        with suppress(Exception):
            run = self.client.read_flow_run(self.run_id)
            restore_if_lost(self.client, run)
            return run.state_type in ENDING
        return False


def progress_line(progress: Progress) -> str:
    """Return one line on the progress of a training run."""
    parts = [f"step {progress.step:,} of {progress.max_steps:,}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.seconds_left is not None:
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f"{hours}:{minutes:02}:{seconds:02} left")
    return " · ".join(parts)


def device_names(device: str) -> list[str]:
    """Return the names of the devices that a run on this machine uses, one per GPU."""
    host = socket.gethostname()
    gpus = sorted(Path("/dev").glob("nvidia[0-9]*")) if device in ("auto", "cuda") else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus and visible != "":
        numbers = visible.split(",") if visible else [str(number) for number in range(len(gpus))]
        return [f"{host} GPU {number.strip()}" for number in numbers]
    on_mac = sys.platform == "darwin" and device in ("auto", "mps")
    return [f"{host} {'mps' if on_mac else 'CPU'}"]
