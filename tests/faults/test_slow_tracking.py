"""A tracking server that takes its time: training does not wait for it, and nothing is lost."""

import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import TRACKED, command_of
from tests.mlflow_lab import MlflowServer, recorded, served

DELAY = 0.5  # seconds for each call


class Slow(BaseHTTPRequestHandler):
    """Passes each request on after a while."""

    port: int
    seen: list[str]

    def answer(self) -> None:
        """Pass a request on, and its answer back."""
        self.seen.append(f"{self.command} {self.path}")
        time.sleep(DELAY)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name in ("Content-Type", "Content-Disposition"):
            if value := answer.getheader(name):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def slow_server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve MLflow behind a slow proxy; its address and the requests it has seen."""
    with served(MlflowServer(tmp_path / "server")) as server:
        handler = type("Here", (Slow,), {"port": server.port, "seen": []})
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{proxy.server_port}", handler.seen  # type: ignore[attr-defined]  # of `type`
        finally:
            proxy.shutdown()


def test_a_slow_server_holds_no_device_and_gets_everything(
    new_project: Callable[..., Any], slow_server: tuple[str, list[str]]
) -> None:
    uri, seen = slow_server
    project = new_project(max_steps="60")
    process = project.start("python", "-m", "stages", "train", MLFLOW_TRACKING_URI=uri, **TRACKED)
    times: dict[str, float] = {}
    lines = []
    for line in process.stdout:
        lines.append(line)
        for mark in ("step     10 ", "train: saved", "tracking: sending the model"):
            if line.startswith(mark):
                times[mark] = time.monotonic()
        if line.startswith("tracking: sending"):
            assert not project_ranks(project)
    assert process.wait(timeout=300) == 0, "".join(lines)
    assert times["train: saved"] - times["step     10 "] < 10  # alone it takes two
    # the patience of a process with a GPU, one more entry, and the end of the processes
    assert times["tracking: sending the model"] - times["train: saved"] < 10 + 10 * DELAY
    assert len(seen) < 80, seen  # with each file of code by itself there were 153

    found = recorded(uri)
    assert found.run.info.status == "FINISHED"
    assert found.steps("train/loss") == [10, 20, 30, 40, 50, 60]
    assert found.model.status == "READY"


def project_ranks(project: Any) -> list[psutil.Process]:
    """Return the living training processes."""
    return [p for p in project.processes() if "stages.train.worker" in command_of(p)]
