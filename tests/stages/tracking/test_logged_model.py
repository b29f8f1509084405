"""A model that MLflow has, brought back into the project."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from nanogpt.files import file_sha256
from stages.tracking.local_store import EXPERIMENT
from stages.tracking.store import connect

COMMAND = ("python", "-m", "stages", "convert", "from-mlflow")


@pytest.fixture(autouse=True)
def no_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unset the tracking URI, in the environment and in MLflow's global variable."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    mlflow.set_tracking_uri(None)


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file in a folder by its name."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file_sha256(file) for file in files}


def test_a_model_comes_back_as_training_wrote_it(
    copy_of_built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_of_built
    monkeypatch.chdir(project.folder)
    client = connect()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    (registered,) = client.search_registered_models()
    (logged,) = client.search_logged_models([experiment.experiment_id])
    references = (
        run.info.run_id,
        f"models:/{registered.name}@champion",
        f"models:/{registered.name}/1",
        f"models:/{logged.model_id}",
    )
    for number, reference in enumerate(references):
        out = f"weights/{number}"
        done = project.run(*COMMAND, reference, out)
        assert done.returncode == 0, done.stdout
        assert hashes(project.folder / out) == hashes(project.folder / "models/gpt"), reference

    again = project.run(*COMMAND, references[0], "weights/0")
    assert again.returncode == 2
    assert "weights/0 already exists" in again.stdout

    (stored,) = project.folder.glob("mlartifacts/models/**/model.safetensors")
    content = bytearray(stored.read_bytes())
    content[-5] ^= 1
    stored.unlink()  # it may be a link to the model's own
    stored.write_bytes(content)
    damaged = project.run(*COMMAND, references[1], "weights/damaged")
    assert damaged.returncode == 2
    assert f"model.safetensors of {references[1]} in mlflow.db is not as training" in damaged.stdout
    assert not (project.folder / "weights/damaged").exists()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("models:/nobody@champion", "mlflow.db has no models:/nobody@champion"),
        ("0" * 32, f"mlflow.db has no {'0' * 32}"),
        ("models/gpt", "'models/gpt' does not name a model in MLflow; allowed are RUN_ID, "),
    ],
)
def test_what_mlflow_does_not_have_is_refused(built: Any, reference: str, message: str) -> None:
    done = built.run(*COMMAND, reference, "weights/none")
    assert done.returncode == 2
    assert message in done.stdout
    assert "Traceback" not in done.stdout
    assert not (built.folder / "weights/none").exists()
