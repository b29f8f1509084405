"""The cause of a failed DVC command, by DVC's real output."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.build import StageFailed, exit_code
from pipelines.failure import failure

NO_REPORT = Path("nowhere/status.json")
HOLDS_DVC = """
import time, zc.lockfile
lock = zc.lockfile.LockFile(".dvc/tmp/lock")
print("holds", flush=True)
time.sleep(300)
"""


@pytest.fixture
def project(new_project: Callable[..., Any]) -> Any:
    """Return a new project."""
    return new_project()


@pytest.fixture
def holder(project: Any) -> Iterator[Any]:
    """Start a process in the project."""
    process = project.start("sleep", "300")
    yield process
    process.kill()
    process.communicate(timeout=30)


def lines_of(project: Any, *command: str) -> list[str]:
    """Run a command that fails; return the lines it prints."""
    done = project.run(*command)
    assert done.returncode != 0
    return str(done.stdout).splitlines()


def test_a_stage_locked_by_another_dvc_is_busy(project: Any, holder: Any) -> None:
    locked = {"pid": holder.pid, "cmd": "dvc repro train"}
    lock = {"write": {}, "read": {str(project.folder / "data/shards"): [locked]}}
    (project.folder / ".dvc/tmp/rwlock").write_text(json.dumps(lock))
    kind, message = failure(NO_REPORT, lines_of(project, "dvc", "repro", "-s", "shard"))
    assert kind == "busy"
    assert message == (
        f"DVC is at work here: process {holder.pid} (dvc repro train); "
        "wait for it to finish or stop it"
    )


def test_a_repository_locked_by_another_dvc_is_busy(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = project.start(sys.executable, "-c", HOLDS_DVC)
    assert process.stdout.readline() == "holds\n"
    printed = lines_of(project, "dvc", "repro", "-s", "shard")
    monkeypatch.chdir(project.folder)
    kind, message = failure(NO_REPORT, printed)
    assert kind == "busy"
    assert message.startswith(f"DVC is at work here: process {process.pid} ({sys.executable} -c")
    process.kill()
    process.communicate(timeout=30)
    assert "process" in failure(NO_REPORT, printed)[1]  # it has ended; nothing is there to be read


def test_a_killed_stage_is_a_crash_with_dvcs_message(project: Any) -> None:
    dag = project.folder / "dvc.yaml"
    dag.write_text(dag.read_text().replace("python -m stages shard", "kill -9 $$"))
    kind, message = failure(NO_REPORT, lines_of(project, "dvc", "repro", "-s", "shard"))
    assert kind == "crash"
    assert message.startswith("failed to reproduce 'shard': failed to run: kill -9")


@pytest.mark.parametrize(
    ("printed", "kind", "message"),
    [
        ([], "crash", "died; see its log"),
        (["  (PID 1): a line of a text"], "crash", "died; see its log"),
        (
            ["ERROR: unexpected error - [Errno 28] No space left on device: 'x'"],
            "full",
            "unexpected error - [Errno 28] No space left on device: 'x'",
        ),
    ],
)
def test_other_output_of_dvc(printed: list[str], kind: str, message: str) -> None:
    assert failure(NO_REPORT, printed) == (kind, message)


def test_the_report_of_a_stage_takes_precedence(tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    status.write_text(json.dumps({"stage": "train", "kind": "busy", "message": "taken"}))
    assert failure(status, ["ERROR: failed to reproduce 'train'"]) == ("busy", "taken")


def test_the_flow_exits_with_the_code_of_the_kind_of_failure() -> None:
    codes = {kind: exit_code(StageFailed("train", kind, "no")) for kind in ("busy", "full")}
    assert codes == {"busy": 16, "full": 28}
    assert exit_code(ValueError("a mistake")) == 2
    assert exit_code(KeyError("a bug")) == exit_code(None) == 1
