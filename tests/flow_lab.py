"""A small project with a Prefect server and a worker of its own, to run and to disturb."""

import json
import subprocess
from dataclasses import dataclass, field
from typing import Any

import psutil
from ruamel.yaml import YAML

from tests.conftest import Project, command_of
from tests.prefect_api import ask
from tests.waiting import wait_for

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
QUIET = {
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # so that `make up` starts no UI of MLflow
    "PREFECT_WORKER_QUERY_SECONDS": "1",
}


@dataclass
class Lab:
    """A small project with a server and a worker of its own, as `make up` starts them."""

    project: Project
    port: int
    environment: dict[str, str] = field(default_factory=dict)

    def up(self) -> str:
        """`make up`."""
        done = self.module("pipelines.services", "up")
        assert done.returncode == 0, done.stdout
        return done.stdout

    def down(self) -> str:
        """`make down`."""
        done = self.module("pipelines.services", "down")
        assert done.returncode == 0, done.stdout
        return done.stdout

    def module(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run `python -m ARGUMENTS` in the project."""
        ports = {"PREFECT_PORT": str(self.port)}
        return self.project.run(
            "python", "-m", *arguments, **{**QUIET, **self.environment, **ports, **variables}
        )

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask the server; a POST if there is a body."""
        return ask(self.port, path, body)

    def start(self, overrides: dict[str, Any] | None = None, **parameters: Any) -> str:
        """Start a run of the deployment; return its id."""
        deployment = self.ask("/deployments/name/build/local")
        body = {
            "parameters": {"overrides": overrides or {}, **parameters},
            "state": {"type": "SCHEDULED"},
        }
        return str(self.ask(f"/deployments/{deployment['id']}/create_flow_run", body)["id"])

    def state(self, run: str) -> dict[str, Any]:
        """Return the state of a run."""
        state: dict[str, Any] = self.ask(f"/flow_runs/{run}")["state"]
        return state

    def wait(self, run: str, seconds: float = 180) -> dict[str, Any]:
        """Wait until a run has ended; return its last state."""
        wait_for(
            lambda: self.state(run)["type"] in FINAL, seconds, f"the run goes on: {self.log(run)}"
        )
        return self.state(run)

    def complete(self, run: str, seconds: float = 180) -> None:
        """Wait for a run that must succeed."""
        state = self.wait(run, seconds)
        assert state["type"] == "COMPLETED", f"{state['message']}\n{self.log(run)}"

    def tries(self, run: str, stage: str) -> list[str]:
        """Return the state names of all tries of a stage, in order."""
        body = {"flow_runs": {"id": {"any_": [run]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found = self.ask("/task_runs/filter", body)
        return [t["state"]["name"] for t in found if t["name"].partition(",")[0] == stage]

    def task_states(self, run: str) -> dict[str, str]:
        """Return the state's name of each try of each stage."""
        found = self.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {task["name"]: task["state"]["name"] for task in found}

    def log(self, run: str) -> str:
        """Return what a run has logged."""
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        lines, offset = [], 0
        while page := self.ask("/logs/filter", {**body, "offset": offset}):
            lines += [entry["message"] for entry in page]
            offset += len(page)
        return "\n".join(lines)

    def logged_at(self, run: str, text: str) -> str:
        """Return when a run logged the first line with a text, as a sortable time."""
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        lines = self.ask("/logs/filter", body)
        return str(next(line["timestamp"] for line in lines if text in line["message"]))

    def wait_for_step(self, run: str, step: int, seconds: float = 120) -> None:
        """Wait until a run's training has done an update."""

        def reached() -> bool:
            done = [line.split() for line in self.log(run).splitlines() if line.startswith("step ")]
            return any(int(words[1].replace(",", "")) >= step for words in done)

        wait_for(reached, seconds, f"no step {step}: {self.log(run)}")

    def processes(self, named: str) -> list[psutil.Process]:
        """Return the processes in this project and its workspaces by a part of their command."""
        return [p for p in self.project.processes() if named in command_of(p)]

    def weights(self, experiment: str) -> str:
        """Return the hash of the weights that an experiment made."""
        done = self.project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps")
        (reference,) = [r for r in done.stdout.split() if r.rpartition("/")[2] == experiment]
        lock = self.project.run("git", "show", f"{reference}:dvc.lock").stdout
        return self.weights_in(lock)

    def weights_in(self, lock: str) -> str:
        """Return the hash of the weights by the text of a dvc.lock."""
        (out,) = YAML(typ="safe").load(lock)["stages"]["train"]["outs"]
        listing = self.project.folder / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]
        files = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text())}
        return files["model.safetensors"]

    def orphans(self) -> list[str]:
        """Return the commands of stages that are still there."""
        found = self.processes("pipelines.stage_process") + self.processes("-m stages")
        return [command for p in found if (command := command_of(p))]
