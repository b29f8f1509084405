"""The local store works whatever the project folder is called and wherever it is moved."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
import pytest

from stages.tracking.local_store import EXPERIMENT
from stages.tracking.store import connect
from stages.tracking.tracker import Tracker

ROOT = Path(__file__).parents[3]
NAME = "what? 100%41 naïve #1 [x] & $y"
RECORD = """
import sys
from tests.stages.tracking.test_local_store import record
record(sys.argv[1])
"""
LOG = """
from pathlib import Path
from stages.tracking.tracker import Tracker
with Tracker("another", enabled=True) as tracker:
    tracker.record_files("model", Path("models/gpt"))
"""
LOAD = """
import mlflow
from stages.tracking.local_store import EXPERIMENT
from stages.tracking.store import connect
client = connect()
experiment = client.get_experiment_by_name(EXPERIMENT)
for logged in client.search_logged_models([experiment.experiment_id]):
    model = mlflow.pyfunc.load_model(f"models:/{logged.model_id}")
    (text,) = model.predict(["the king"], params={"max_new_tokens": 5})
    print(len(text) > len("the king"))
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unset what says where to record; return to the current folder in the end."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    yield
    mlflow.set_tracking_uri(None)


def record(text: str) -> None:
    """Record a metric and a file in the current folder, as a stage does."""
    note = Path("note.txt")
    note.write_text(text)
    with Tracker("model", enabled=True) as tracker:
        tracker.record("metrics", step=1, values={"train/loss": 1.0})
        tracker.record_files("artifacts", note, path=text)


def python(folder: Path, script: str, *arguments: str) -> str:
    """Run a script in a folder; return its output."""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def locations(folder: Path) -> set[str]:
    """Return every artifact location in a folder's database."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        found = connection.execute(
            "SELECT artifact_location FROM experiments UNION SELECT artifact_uri FROM runs"
            " UNION SELECT artifact_location FROM logged_models"
        ).fetchall()
    return {location for (location,) in found}


def files_of_runs(folder: Path) -> set[str]:
    """Return the artifacts of all runs at the locations that a folder's database records."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        roots = connection.execute("SELECT artifact_uri FROM runs").fetchall()
    folders = [Path(url2pathname(urlsplit(uri).path)) for (uri,) in roots]
    assert all(root.is_relative_to(folder) for root in folders)
    return {
        file.relative_to(root).as_posix()
        for root in folders
        for file in root.rglob("*")
        if file.is_file()
    }


def test_runs_are_recorded_in_the_folder_whatever_its_name_and_a_copy_has_its_own(
    tmp_path: Path,
    digests: Callable[[Path], dict[str, str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    original, copied = tmp_path / NAME, tmp_path / "100%41 mine"
    original.mkdir()
    os.chdir(original)
    record("first")
    assert capfd.readouterr().out == ""
    assert files_of_runs(original) == {"first/note.txt"}
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    made = {path.name for path in original.iterdir()}
    assert made == {"mlflow.db", "mlartifacts", "note.txt", "runs"}

    before = digests(original)
    shutil.copytree(original, copied)
    assert python(copied, RECORD, "second") == ""  # MLflow keeps a store open in its process
    assert files_of_runs(copied) == {"first/note.txt", "second/note.txt"}
    assert digests(original) == before
    assert all(original.as_uri() not in location for location in locations(copied))
    assert all(str(original) not in location for location in locations(copied))
    assert files_of_runs(original) == {"first/note.txt"}


def test_models_are_logged_in_any_folder_and_load_after_it_is_renamed(
    copy_of_built: Any,
) -> None:
    odd = copy_of_built.folder.rename(copy_of_built.folder.with_name("100%41 mine"))
    python(odd, LOG)
    renamed = odd.rename(odd.with_name("what?"))
    assert python(renamed, LOAD) == "True\nTrue\n"
    assert not odd.exists()


def test_artifacts_that_the_user_keeps_elsewhere_stay_there(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    folder.mkdir()
    os.chdir(folder)
    connect().create_experiment(EXPERIMENT, artifact_location=elsewhere.as_uri())
    record("first")
    assert list(elsewhere.rglob("note.txt"))
    assert elsewhere.as_uri() in locations(folder)


def test_an_experiment_in_a_temporary_folder_records_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "what?"
    temporary = folder / ".dvc/tmp/exps/one"
    temporary.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    os.chdir(temporary)
    record("first")
    assert [path.name for path in temporary.iterdir()] == ["note.txt"]
    assert len(list((folder / "mlartifacts").rglob("note.txt"))) == 1
