"""A real MLflow server of a test's own, which can be killed and started again at its address."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import psutil
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run

from stages.tracking.local_store import EXPERIMENT
from tests.services_lab import free_port
from tests.waiting import wait_for

SECONDS = 60  # a server needs at most to start


@dataclass
class MlflowServer:
    """A server with its database and its files in `folder`, unless the options say otherwise."""

    folder: Path
    options: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()  # a command that becomes the server
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def uri(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """Return the file with its output."""
        return self.folder / "server.log"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--port", str(self.port)]
        given = {*self.options, *self.variables}
        if not given & {"--backend-store-uri", "MLFLOW_BACKEND_STORE_URI"}:
            command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        if "--artifacts-destination" not in given:
            command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, *command, *self.options],
                cwd=self.folder,
                env={
                    **os.environ,
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    **self.variables,
                },
                stdout=log,
                stderr=log,
            )
        wait_for(self.answers, SECONDS, f"MLflow's server does not answer: {self.log}")

    def answers(self) -> bool:
        """Return whether it serves."""
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def seen(self, path: Path) -> Path:
        """Return a path as the server sees it, whose mounts may be its own."""
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root{path}")

    def kill(self) -> None:
        """Kill all its processes at once (SIGKILL)."""
        if self.process is None:
            return
        try:
            processes = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            processes = []
        for process in (self.process, *processes):
            process.kill()
        self.process.wait()
        self.process = None


@contextmanager
def served(server: MlflowServer) -> Iterator[MlflowServer]:
    """Start a server, and kill it in the end."""
    try:
        server.start()
        yield server
    finally:
        server.kill()


@dataclass(frozen=True)
class Recorded:
    """The only run of a store, with the only model that it logged."""

    client: MlflowClient
    run: Run
    model: LoggedModel

    def steps(self, metric: str) -> list[int]:
        """Return the step of each point of a metric."""
        points = self.client.get_metric_history(self.run.info.run_id, metric)
        return [point.step for point in points]

    def artifacts(self, path: str | None = None) -> set[str]:
        """Return the path of each artifact of the run, at `path` or below it."""
        found = set()
        for item in self.client.list_artifacts(self.run.info.run_id, path):
            found |= self.artifacts(item.path) if item.is_dir else {item.path}
        return found


def only_run(uri: str) -> tuple[MlflowClient, Run]:
    """Return the only run of a store."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def recorded(uri: str) -> Recorded:
    """Return the only run of a store; it must have one model."""
    client, run = only_run(uri)
    (model,) = client.search_logged_models([run.info.experiment_id])
    return Recorded(client, run, model)


def wait_for_run(uri: str, condition: Callable[[Run], bool], seconds: float, what: str) -> Run:
    """Wait until the only run of a store fulfills a condition; return it."""
    client = MlflowClient(uri)

    def found() -> Run | None:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        return next((run for run in runs if condition(run)), None)

    run: Run = wait_for(found, seconds, what)
    return run
