"""End-to-end runs of the flow: one Prefect server, one worker, runs of the deployment."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from stages.__main__ import STAGES

RESULT = "bits per byte of unseen text"


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(process: Any) -> str:
    """Stop a process group and wait for it; return its output."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    output: str = process.communicate(timeout=60)[0]
    return output


def with_login(api: str) -> str:
    """Return the URL with a user and a password, which this server does not ask for."""
    return api.replace("://", "://alice:s3cr3t-Pa55@")


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)


@pytest.fixture(scope="module")
def api(template: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Prefect server; return its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    process = template.start(
        *("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)),
        PREFECT_HOME=str(tmp_path_factory.mktemp("prefect")),
    )

    def healthy() -> bool:
        try:
            return requests.get(f"{url}/health", timeout=2).ok
        except requests.ConnectionError:
            return False

    wait_for(healthy, 90, "the Prefect server does not answer")
    yield url
    end(process)


def task_runs(api: str) -> dict[str, dict[str, Any]]:
    """Return the task runs of the newest flow run by stage."""
    flow_runs = requests.post(
        f"{api}/flow_runs/filter", json={"sort": "START_TIME_DESC", "limit": 1}, timeout=10
    ).json()
    ids = {"flow_runs": {"id": {"any_": [flow_runs[0]["id"]]}}}
    runs = requests.post(f"{api}/task_runs/filter", json=ids, timeout=10).json()
    return {run["name"].rsplit("-", 1)[0]: run for run in runs}


def test_a_deployment_run_survives_a_killed_training_and_shows_its_result(
    new_project: Callable[..., Any], api: str, tmp_path: Path
) -> None:
    project = new_project()
    settings = {"PREFECT_API_URL": api, "PREFECT_HOME": str(tmp_path / "home")}
    settings["PREFECT_WORKER_QUERY_SECONDS"] = "1"
    Path(settings["PREFECT_HOME"]).mkdir()
    worker = project.start("infra/worker.sh", **{**settings, "PREFECT_API_URL": with_login(api)})
    try:
        ready = {"deployments": {"name": {"any_": ["local"]}}}
        wait_for(
            lambda: requests.post(f"{api}/deployments/filter", json=ready, timeout=10).json(),
            60,
            "no deployment",
        )
        run = project.start(
            *("prefect", "deployment", "run", "build/local", "--watch", "--watch-interval", "1"),
            **settings,
        )
        wait_for(lambda: any(project.folder.glob("runs/*/step-*")), 120, "no checkpoint")
        named = "stages.train.worker"
        ranks = [p for p in project.processes() if named in p.cmdline()]
        ranks[-1].kill()
        output, _ = run.communicate(timeout=180)
        assert run.returncode == 0, output
    finally:
        printed = end(worker)
    assert f"View Deployment in UI: {api.removesuffix('/api')}/" in printed
    assert "s3cr3t" not in printed
    assert printed.count("continuing after step") == 1
    runs = task_runs(api)
    assert set(runs) == set(STAGES)
    assert {run["state_type"] for run in runs.values()} == {"COMPLETED"}
    assert {name: run["run_count"] for name, run in runs.items()} == {
        name: 2 if name == "train" else 1 for name in STAGES
    }
    artifacts = requests.post(f"{api}/artifacts/filter", json={}, timeout=10).json()
    (result,) = [artifact for artifact in artifacts if artifact["key"] == "result"]
    assert RESULT in result["data"]
    assert "the king" in result["data"]
    mlflow_tag = (project.folder / "runs/tracking").glob("*/outbox.jsonl")
    assert "prefect.flow_run_id" in next(mlflow_tag).read_text()


class Flaky(BaseHTTPRequestHandler):
    """A server of a text whose first answers are 500."""

    failures = 0
    text = b""

    def do_GET(self) -> None:
        type(self).failures -= 1
        broken = type(self).failures >= 0
        self.send_response(500 if broken else 200)
        if broken:
            self.send_header("Retry-After", "1")  # by itself it would wait longer each time
        self.end_headers()
        if not broken:
            self.wfile.write(self.text)

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@contextmanager
def flaky_server(text: bytes, failures: int) -> Iterator[str]:
    """Serve `text` after answering 500 to the first requests; yield the URL."""
    Flaky.text, Flaky.failures = text, failures
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/text.txt"
    server.shutdown()


def test_a_failing_network_is_retried(new_project: Callable[..., Any], api: str) -> None:
    import hashlib

    text = b"the king did walk by night\n\n" * 50
    with flaky_server(text, failures=6) as url:  # as many as a try of the stage asks
        urls = json.dumps([{"url": url, "sha256": hashlib.sha256(text).hexdigest()}])
        project = new_project(source="url", urls=urls)
        done = project.run(
            *("python", "-m", "pipelines.build", "--target", "download"), PREFECT_API_URL=api
        )
    assert done.returncode == 0, done.stdout
    run = task_runs(api)["download"]
    assert run["state_type"] == "COMPLETED"
    assert run["run_count"] == 2


def test_a_mistake_in_params_fails_at_once(new_project: Callable[..., Any], api: str) -> None:
    project = new_project(top_p="7")
    done = project.run("python", "-m", "pipelines.build", PREFECT_API_URL=api)
    assert done.returncode == 2
    assert "sample.top_p is 7" in done.stdout
    assert task_runs(api) == {}


def test_a_mistake_in_the_data_is_not_retried(new_project: Callable[..., Any], api: str) -> None:
    project = new_project()
    (project.folder / "texts/0.txt").write_bytes(b"caf\xe9")
    done = project.run(
        *("python", "-m", "pipelines.build", "--target", "download"),
        PREFECT_API_URL=with_login(api),
    )
    assert done.returncode == 2
    assert f"View at {api.removesuffix('/api')}/" in done.stdout
    assert "s3cr3t" not in done.stdout
    assert "0.txt is not UTF-8 (byte 3: 0xe9)" in done.stdout
    assert task_runs(api)["download"]["run_count"] == 1


def test_a_flow_waits_for_the_process_that_holds_a_lock(
    new_project: Callable[..., Any], api: str
) -> None:
    project = new_project()
    (project.folder / "texts/0.txt").write_text("the king did walk by night\n" * 50)
    holder = project.start("sleep", "300")
    locked = {"pid": holder.pid, "cmd": "dvc repro train"}
    lock = {"write": {str(project.folder / "data/corpus"): locked}}
    (project.folder / ".dvc/tmp/rwlock").write_text(json.dumps(lock))
    flow = project.start(
        *("python", "-m", "pipelines.build", "--target", "download"), PREFECT_API_URL=api
    )
    assert flow.stdout is not None
    output = []
    for line in flow.stdout:
        output.append(line)
        if "DVC is at work here" in line and holder.poll() is None:
            holder.kill()
            holder.wait()
    flow.communicate(timeout=60)
    assert flow.returncode == 0, "".join(output)
    named = f"DVC is at work here: process {holder.pid} (dvc repro train)"
    assert named in "".join(output)
    assert task_runs(api)["download"]["run_count"] == 2
