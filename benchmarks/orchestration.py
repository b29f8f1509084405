"""What Prefect costs a training run: runs of the deployment, compared with `dvc repro`.

    python -m benchmarks.orchestration --steps 3000 --rounds 1

The committed state of this repository is cloned into a temporary folder. After the stages before
`train` have run there, and `make up` has started a server and a worker, both sides train in turn:
the same model for as many steps as given, each time from another seed. The seconds of a
deployment run are those from its creation to its end: they include its workspace and its result.
The processor time of server, worker and flow is counted separately, for on two cores it is a better
measure of a small cost than the clock. Prints one line of JSON.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import requests
from ruamel.yaml import YAML

from benchmarks.first_run import clone
from benchmarks.side_by_side import median_of
from pipelines.keep import MARKER, variable_of

TRAINING = re.compile(r"-m stages|pipelines\.stage_process")  # what also runs without Prefect


def environment_of(folder: Path) -> dict[str, str]:
    """Return an environment in which commands are those of the clone."""
    path = f"{folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}


def run(folder: Path, *command: str) -> float:
    """Run a command in the clone; return its seconds."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment_of(folder), check=True, stdout=sys.stderr)
    return time.perf_counter() - started


def orchestrators(folder: Path) -> list[psutil.Process]:
    """Return the processes of Prefect in the clone: server, worker, keepers and flow."""
    marks = {f"{folder}:{name}" for name in ("server", "worker")}
    found = []
    for process in psutil.process_iter():
        try:
            marked = variable_of(process, MARKER) in marks
            if marked and not TRAINING.search(" ".join(process.cmdline())):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@contextmanager
def cpu_seconds_counted(folder: Path) -> Iterator[list[float]]:
    """Count the processor time of Prefect's processes in the block: one number, at its end."""
    before: dict[psutil.Process, float] = {}
    latest: dict[psutil.Process, float] = {}
    ended = threading.Event()

    def look(times: dict[psutil.Process, float]) -> None:
        for process in orchestrators(folder):
            try:
                spent = process.cpu_times()
            except psutil.Error:
                continue
            times[process] = spent.user + spent.system

    def watch() -> None:
        while not ended.wait(2):  # git and others that live shorter than that are missed
            look(latest)

    look(before)
    watcher = threading.Thread(target=watch)
    watcher.start()
    counted: list[float] = []
    try:
        yield counted
    finally:
        ended.set()
        watcher.join()
        look(latest)
        counted.append(sum(latest.values()) - sum(before.values()))


def seconds_between(first: str, last: str) -> float:
    """Return the seconds between two times as Prefect writes them."""
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def train_seconds(folder: Path) -> float:
    """Return the seconds that the stage `train` took in the clone."""
    times: dict[str, float] = json.loads((folder / "runs/times/train.json").read_text())
    return times["seconds"]


def deployment_run(folder: Path, api: str, overrides: dict[str, Any]) -> dict[str, float]:
    """Run the deployment up to `train`; return its seconds and Prefect's processor time."""
    deployment = requests.get(f"{api}/deployments/name/build/local", timeout=60).json()
    parameters = {"target": "train", "overrides": overrides}
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    with cpu_seconds_counted(folder) as counted:
        answer = requests.post(
            f"{api}/deployments/{deployment['id']}/create_flow_run", json=body, timeout=60
        )
        answer.raise_for_status()
        while True:
            time.sleep(5)
            flow = requests.get(f"{api}/flow_runs/{answer.json()['id']}", timeout=60).json()
            if flow["end_time"]:
                break
    state = flow["state"]
    if state["type"] != "COMPLETED":
        raise SystemExit(f"the run ended as {state['name']}: {state['message']}")
    filters = {"flow_runs": {"id": {"any_": [flow["id"]]}}}
    tasks = requests.post(f"{api}/task_runs/filter", json=filters, timeout=60).json()
    (train,) = [task for task in tasks if task["name"] == "train"]
    return {
        "seconds": seconds_between(flow["created"], flow["end_time"]),
        "train_seconds": seconds_between(train["start_time"], train["end_time"]),
        "wait_seconds": seconds_between(flow["created"], flow["start_time"]),
        "prefect_cpu_seconds": counted[0],
    }


def dvc_run(folder: Path, overrides: dict[str, Any]) -> dict[str, float]:
    """Train by `dvc repro`; return its seconds and those of the stage."""
    yaml, file = YAML(), folder / "params.yaml"
    params = yaml.load(file)
    for key, value in overrides.items():
        section, name = key.split(".")
        params[section][name] = value
    yaml.dump(params, file)
    seconds = run(folder, "dvc", "repro", "train")
    return {"seconds": seconds, "train_seconds": train_seconds(folder)}


def measure(folder: Path, steps: int, rounds: int, api: str) -> dict[str, Any]:
    """Measure both sides in turn."""
    sides: dict[str, list[dict[str, float]]] = {"dvc": [], "prefect": []}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            seed = 2 * number + (side == "prefect")  # DVC would give the same model out again
            overrides = {"train.max_steps": steps, "train.seed": 1000 + seed}
            result = (
                dvc_run(folder, overrides)
                if side == "dvc"
                else deployment_run(folder, api, overrides)
            )
            sides[side].append(result)
            print(side, json.dumps(result), file=sys.stderr, flush=True)
    medians = {
        side: {key: round(median_of(results, key), 1) for key in results[0]}
        for side, results in sides.items()
    }
    return {"steps": steps, **medians, "rounds": sides}


def main() -> None:
    """Run `python -m benchmarks.orchestration`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000, help="of each training run")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--port", default="4290", help="for the server")
    parser.add_argument("--venv", type=Path, help="an environment to use instead of a new one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (Path(name) / "project").resolve()
        clone(folder, options.venv)
        os.environ.pop("PREFECT_API_URL", None)  # a server of the user's own
        os.environ["PREFECT_PORT"] = options.port
        os.environ["UI_PORT"] = str(int(options.port) + 1)
        run(folder, "dvc", "repro", "shard", "weights")
        run(folder, "python", "-m", "pipelines.services", "up")
        try:
            api = f"http://127.0.0.1:{options.port}/api"
            result = measure(folder, options.steps, options.rounds, api)
        finally:
            run(folder, "python", "-m", "pipelines.services", "down")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
