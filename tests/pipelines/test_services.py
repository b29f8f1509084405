"""Services in the background: their keepers, records and settings."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines import services
from pipelines.keep import MARKER, members
from tests.services_lab import free_port
from tests.waiting import wait_for


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


def test_a_service_that_is_killed_at_once_is_started_again(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    keeper = start_keeper(f"{tmp_path}:test", "sh", "-c", f"echo >> {starts}; kill -9 $$")
    try:
        wait_for(lambda: starts.exists() and starts.stat().st_size >= 2, 10, "not started again")
    finally:
        keeper.terminate()
        keeper.wait(30)


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
