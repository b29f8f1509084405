"""A folder with a small flow in the place of the real one, for tests of the services around it."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pipelines.keep import FLOW_RUN, MARKER, variable_of
from tests.prefect_api import ask
from tests.waiting import wait_for

ROOT = Path(__file__).parents[1]

FLOW = '''
import os, time
from pathlib import Path
from prefect import flow, task

@task
def train(seconds):
    """Take so many seconds in all, however often it is interrupted."""
    done = Path("done")
    for _ in range(int(seconds * 5)):
        if done.exists() and len(done.read_text()) >= seconds * 5:
            break
        time.sleep(0.2)
        with done.open("a") as file:
            file.write(".")
        Path("pid").write_text(str(os.getpid()))

@flow(name="build", log_prints=True)
def build(preset: str | None = None, seconds: float = 0):
    """Small."""
    if seconds < 0:
        raise ValueError("it's \\"less\\" than 0")
    train(seconds)
'''


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Lab:
    """A project of a small flow, with a server and a worker of its own."""

    folder: Path
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        (self.folder / "pipelines").mkdir(parents=True)
        (self.folder / "pipelines/build.py").write_text(FLOW)
        shutil.copy(ROOT / "prefect.yaml", self.folder)

    @property
    def environment(self) -> dict[str, str]:
        """Everything of this folder, and no UI of MLflow."""
        given = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
        return {
            **given,
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder),
            "PREFECT_PORT": str(self.port),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "true",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        }

    def run(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run `python -m ARGUMENTS` in the folder."""
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.folder,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=240,
        )

    def up(self) -> str:
        """`make up`; its output."""
        done = self.run("pipelines.services", "up")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def down(self) -> str:
        """`make down`; its output."""
        done = self.run("pipelines.services", "down")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask the server; a POST if there is a body."""
        return ask(self.port, path, body)

    def start_run(self, seconds: float, name: str = "local") -> str:
        """Start a run of a deployment; return its id."""
        deployment = self.ask(f"/deployments/name/build/{name}")
        body = {"parameters": {"seconds": seconds}, "state": {"type": "SCHEDULED"}}
        return str(self.ask(f"/deployments/{deployment['id']}/create_flow_run", body)["id"])

    def flow_run(self, id: str) -> Any:
        """Return a flow run."""
        return self.ask(f"/flow_runs/{id}")

    def states(self, id: str) -> list[str]:
        """Return the names of the states that a flow run was in."""
        return [state["name"] for state in self.ask(f"/flow_run_states/?flow_run_id={id}")]

    def wait_until_trains(self, seconds: float = 90) -> int:
        """Wait until the flow works; return its process id."""
        (self.folder / "pid").unlink(missing_ok=True)
        wait_for((self.folder / "pid").exists, seconds, "the flow does not start")
        time.sleep(0.1)
        return int((self.folder / "pid").read_text())

    def record(self, name: str) -> Any:
        """Return the record of a service."""
        return json.loads((self.folder / f"runs/services/{name}.json").read_text())

    def service(self, name: str) -> psutil.Process:
        """Return the process that a service's keeper keeps."""
        (child,) = psutil.Process(self.record(name)["pid"]).children()
        return child

    def processes(self) -> list[psutil.Process]:
        """Return the living processes of the services, whatever became of their parents."""
        mark = f"{self.folder}:"
        marked = [p for p in psutil.process_iter() if variable_of(p, MARKER).startswith(mark)]
        return [p for p in marked if p.status() != psutil.STATUS_ZOMBIE]

    def flow_processes(self) -> list[psutil.Process]:
        """Return the living processes of flow runs."""
        return [p for p in self.processes() if variable_of(p, FLOW_RUN)]

    def stored_state(self, id: str) -> str:
        """Return the state of a flow run in the database of a server that has ended."""
        with sqlite3.connect(self.folder / "runs/services/prefect/prefect.db") as database:
            query = "select state_name from flow_run where id = ?"
            return str(database.execute(query, (id,)).fetchone()[0])
