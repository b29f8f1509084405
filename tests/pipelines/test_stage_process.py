"""The process of one stage: why a stage failed, by its own status and DVC's exceptions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.exceptions import DvcException, ReproductionError
from dvc.lock import LockError
from dvc.stage.exceptions import StageCmdFailedError

from pipelines.stage_process import busy_message, died_message, status_of
from stages.runtime.status import Status, read_status


def failure(cause: Exception) -> ReproductionError:
    """Return DVC's exception for a stage that failed for this cause."""
    try:
        raise ReproductionError("failed to reproduce 'train'") from cause
    except ReproductionError as error:
        return error


def test_what_a_stage_reports_itself_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    own = Status("train", "memory", "too large", 4096, 16)
    own.write(file)
    assert status_of("train", failure(StageCmdFailedError("cmd", 12)), file) == own


def test_a_stage_that_dvc_could_not_record_has_failed(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    Status("train", "done").write(file)
    status = status_of("train", failure(OSError(28, "No space left on device")), file)
    assert status.kind == "full"
    assert "No space left on device" in status.message


@pytest.mark.parametrize(
    ("cause", "kind", "message"),
    [
        (StageCmdFailedError("cmd", -9), "crash", "was killed by signal 9 (SIGKILL), perhaps be"),
        (StageCmdFailedError("cmd", 137), "crash", "was killed by signal 9 (SIGKILL), perhaps b"),
        (StageCmdFailedError("cmd", -15), "crash", "was killed by signal 15 (SIGTERM)"),
        (StageCmdFailedError("cmd", 1), "crash", "failed with an unexpected error"),
        (LockError("x is busy, by:\n  (PID 7): dvc repro"), "busy", "process 7 (dvc repro)"),
        (DvcException("missing data 'source': texts"), "input", "missing data 'source': texts"),
        (PermissionError(13, "Permission denied", "data"), "input", "Permission denied"),
    ],
)
def test_dvcs_exceptions_decide_otherwise(
    tmp_path: Path, cause: Exception, kind: str, message: str
) -> None:
    status = status_of("train", failure(cause), tmp_path / "status.json")
    assert (status.stage, status.kind) == ("train", kind)
    assert message in status.message


def test_a_repository_that_is_locked_names_who_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "process unknown" in busy_message("Unable to acquire lock.")
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/lock").write_text(" 1\n")
    assert "process 1 (" in busy_message("Unable to acquire lock.")
    assert died_message("failed to run: cmd") == died_message("cmd, exited with 3")


def test_a_stage_runs_once_and_then_has_nothing_to_do(new_project: Callable[..., Any]) -> None:
    project = new_project()
    file = project.folder / "status.json"
    command = ("python", "-m", "pipelines.stage_process", "weights")
    for options, status in ((["--force"], Status("weights", "done")), ([], None)):
        done = project.run(*command, *options, NANOGPT_STATUS_FILE=str(file))
        assert done.returncode == 0, done.stdout
        assert read_status(file) == status
        file.unlink(missing_ok=True)
    (project.folder / "params.yaml").write_text("train: 5")
    done = project.run(*command, NANOGPT_STATUS_FILE=str(file))
    assert done.returncode == 1
    assert json.loads(file.read_text())["kind"] == "input"
