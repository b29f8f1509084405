"""`make up` and `make down`: one small project with a real server and a real worker."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from pipelines import services
from pipelines.keep import MARKER, members
from tests.services_lab import Lab, free_port
from tests.waiting import wait_for


class Receiver(BaseHTTPRequestHandler):
    """A receiver of a webhook that keeps what it gets."""

    received: list[dict[str, Any]] = []  # noqa: RUF012

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
        assert Receiver.received[0]["flow_run"] == lab.flow_run(failing)["name"]
        assert 'it\'s "less" than 0' in Receiver.received[0]["text"]

    finally:
        ended = lab.down()
    assert ended == "worker stopped\nserver stopped\n"
    assert not lab.processes()
    assert not (lab.folder / "prefect.toml").exists()


def start_keeper(mark: str, *command: str) -> "subprocess.Popen[bytes]":
    """Keep a command."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.keep", *command],
        env={**os.environ, MARKER: mark},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_a_keeper_ends_all_that_its_service_started(tmp_path: Path) -> None:
    mark = f"{tmp_path}:test"
    keeper = start_keeper(mark, "sh", "-c", "setsid sleep 300 & trap '' TERM; setsid sleep 301")
    try:
        wait_for(lambda: len(members(mark)) == 4, 10, "not started")
        began = time.monotonic()
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(30) == 0
        assert time.monotonic() - began < 25
        assert members(mark) == []
    finally:
        keeper.kill()


def test_a_service_that_dies_at_once_is_not_started_again(tmp_path: Path) -> None:
    assert start_keeper(f"{tmp_path}:test", "sh", "-c", "exit 7").wait(20) == 7


def test_a_process_of_the_same_number_is_not_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    services.FOLDER.mkdir(parents=True)
    me = psutil.Process()
    good = {"pid": me.pid, "started": me.create_time(), "command": me.cmdline(), "port": None}
    for change in ({}, {"started": me.create_time() - 60}, {"command": ["prefect"]}, {"pid": 0}):
        (services.FOLDER / "server.json").write_text(json.dumps({**good, **change}))
        assert (services.record_of("server") is None) == bool(change), change
    (services.FOLDER / "server.json").write_text("{")
    assert services.record_of("server") is None


def test_a_prefect_toml_of_the_user_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    services.SETTINGS.write_text("[logging]\nlevel = 'DEBUG'\n")
    services.write_settings(free_port())
    services.remove_settings()
    assert "DEBUG" in services.SETTINGS.read_text()
    assert "export PREFECT_API_URL" in capsys.readouterr().out
