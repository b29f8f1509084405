import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.runtime.status import Status, read_status

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SCRIPT = """
import os, signal
from stages.runtime.entry import run_command
from stages.runtime.errors import Crashed, Interrupted

def run(settings):
    {body}

run_command("bake", run)
"""


STOPPED = "interrupted; rerun it, no partial output was left behind"


@pytest.fixture
def bake(run_python: Run) -> Run:
    """Return a function that runs a stage called `bake` with the given body."""
    return lambda body, **variables: run_python("-c", SCRIPT.format(body=body), **variables)


@pytest.mark.parametrize(
    ("body", "code", "kind", "message"),
    [
        ("raise ValueError('too hot')", 2, "input", "too hot"),
        ("raise FloatingPointError('loss is nan')", 33, "diverged", "loss is nan"),
        ("raise ConnectionError('no answer')", 75, "network", "no answer"),
        ("raise TimeoutError('too slow')", 75, "network", "too slow"),
        ("raise Interrupted('after step 3')", 130, "interrupted", "after step 3"),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "interrupted", STOPPED),
        ("raise Crashed('a process died')", 1, "crash", "a process died"),
        ("open('nowhere')", 2, "input", "[Errno 2] No such file or directory: 'nowhere'"),
    ],
)
def test_an_expected_failure_has_a_message_an_exit_code_and_a_status_file(
    bake: Run, workspace: Path, body: str, code: int, kind: str, message: str
) -> None:
    done = bake(body, NANOGPT_STATUS_FILE="deep/status.json")
    assert done.returncode == code
    assert done.stderr == f"bake: {message}\n"
    status = json.loads((workspace / "deep" / "status.json").read_text())
    assert (status["stage"], status["kind"], status["message"]) == ("bake", kind, message)
    assert not (workspace / "runs").exists()


def test_an_unexpected_exception_keeps_its_traceback(bake: Run, workspace: Path) -> None:
    done = bake("{}['key']", NANOGPT_STATUS_FILE="status.json")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "KeyError: 'key'" in done.stderr
    assert not (workspace / "status.json").exists()


def test_debug_shows_the_traceback_of_an_expected_failure_too(bake: Run, workspace: Path) -> None:
    variables = {"NANOGPT_DEBUG": "1", "NANOGPT_STATUS_FILE": "status.json"}
    done = bake("raise ConnectionError('no answer of http://alice:s3cr3t@host')", **variables)
    assert done.returncode == 75
    assert done.stderr.startswith("Traceback")
    assert "ConnectionError: no answer" in done.stderr
    assert "\nbake: no answer" in done.stderr
    assert "s3cr3t" not in done.stderr
    assert json.loads((workspace / "status.json").read_text())["kind"] == "network"


def test_a_successful_stage_records_its_duration(bake: Run, workspace: Path) -> None:
    done = bake("print(settings.device)", NANOGPT_DEVICE="cpu", NANOGPT_STATUS_FILE="status.json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "cpu\n", "")
    seconds = json.loads((workspace / "runs" / "times" / "bake.json").read_text())["seconds"]
    assert 0 <= seconds < 60
    assert read_status(workspace / "status.json") == Status("bake", "done")


def test_a_wrong_setting_stops_the_stage_before_it_runs(bake: Run) -> None:
    done = bake("print('ran')", NANOGPT_DEVICE="gpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bake: NANOGPT_DEVICE='gpu'")
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_reported_in_the_status_file_too(bake: Run, workspace: Path) -> None:
    bake("print('ran')", NANOGPT_DEVICE="gpu", NANOGPT_STATUS_FILE="status.json")
    assert json.loads((workspace / "status.json").read_text())["kind"] == "input"
