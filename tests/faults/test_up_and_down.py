"""`make up` and `make down`: one small project with a real server and a real worker."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.services_lab import Lab
from tests.waiting import wait_for


class Receiver(BaseHTTPRequestHandler):
    """A receiver of a webhook that keeps what it gets."""

    received: list[dict[str, Any]] = []  # noqa: RUF012  # one server at a time

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.received.append(json.loads(self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def webhook() -> Iterator[str]:
    """Start a receiver of a webhook; return its URL."""
    Receiver.received.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()


def reported() -> list[tuple[str, str]]:
    """Return the state and the name of each run that a notice was about."""
    return [(notice["state"], notice["flow_run"]) for notice in Receiver.received]


def test_from_up_to_down(tmp_path: Path, webhook: str) -> None:
    lab = Lab(tmp_path / "lab")
    with socket.create_server(("127.0.0.1", lab.port)):
        busy = lab.run("pipelines.services", "up")
    assert busy.returncode == 1
    assert f"port {lab.port} is taken by process {os.getpid()} (" in busy.stderr
    assert f"make up PREFECT_PORT={lab.port + 10}" in busy.stderr
    try:
        printed = lab.up()
        assert "prefect deployment run build/local --watch" in printed
        assert str(lab.port) in (lab.folder / "prefect.toml").read_text()
        settings = requests.get(f"http://127.0.0.1:{lab.port}/ui-settings", timeout=10).json()
        assert settings["api_url"] == f"http://127.0.0.1:{lab.port}/api"

        notices = lab.run("pipelines.automations", "notify", webhook)
        assert notices.returncode == 0, notices.stderr
        failing = lab.start_run(seconds=-1)  # it fails for a reason with quotation marks
        wait_for(lambda: Receiver.received, 60, "no notice")
        assert Receiver.received[0]["state"] == "Failed"
        assert failing in Receiver.received[0]["url"]
        assert Receiver.received[0]["flow_run"] == lab.flow_run(failing)["name"]
        assert 'it\'s "less" than 0' in Receiver.received[0]["text"]

        crashing = lab.start_run(seconds=60)
        lab.wait_until_trains()
        for flow in lab.flow_processes():
            flow.kill()
        wait_for(lambda: ("Crashed", lab.flow_run(crashing)["name"]) in reported(), 60, "no crash")
        lab.service("worker").suspend()  # as if it had no time
        late = lab.start_run(seconds=0)
        wait_for(lambda: ("Late", lab.flow_run(late)["name"]) in reported(), 120, "none is late")
        lab.service("worker").resume()
    finally:
        ended = lab.down()
    assert ended == "worker stopped\nserver stopped\n"
    assert not lab.processes()
    assert not (lab.folder / "prefect.toml").exists()
