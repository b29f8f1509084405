"""PostgreSQL, and files in S3: a run is recorded there by MLFLOW_TRACKING_URI alone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import TRACKED
from tests.mlflow_lab import MlflowServer, Recorded, recorded, served
from tests.postgres_lab import Postgres, needs_postgres, postgres
from tests.secrets_lab import files_with

pytestmark = needs_postgres
PASSWORD = "s3cr3t/Pa55 of-the-database"  # its address has it percent-encoded
BUCKET = "models"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "s3cr3t-Pa55-of-the-bucket",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """Run PostgreSQL."""
    with postgres(PASSWORD) as server:
        yield server


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    """Serve S3 with an empty bucket; its address and a client."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=address)
    client.create_bucket(Bucket=BUCKET)
    for name in KEYS:  # a run does not need them: the server stores its files
        monkeypatch.delenv(name)
    try:
        yield address, client
    finally:
        server.stop()


def assert_everything_is_recorded(project: Any, uri: str, output: str) -> Recorded:
    """Assert that a store has a run, its model and its champion, and no output the password."""
    found = recorded(uri)
    assert found.run.info.status == "FINISHED", output
    assert found.steps("train/loss") == list(range(10, 101, 10))
    assert found.model.status == "READY"
    assert {"evaluate/run.png", "samples/samples.txt"} <= found.artifacts()
    (registered,) = found.client.search_registered_models()
    lineage = project.run(
        *("python", "-m", "stages", "lineage", f"models:/{registered.name}@champion"),
        MLFLOW_TRACKING_URI=uri,
    )
    assert lineage.returncode == 0, lineage.stdout
    assert "every file, from the model to its corpus, is as it was written" in lineage.stdout
    assert files_with(PASSWORD, project.folder) == []
    for text in (output, lineage.stdout):
        assert "s3cr3t" not in text
        assert "did not accept" not in text
    return found


def test_a_run_is_recorded_by_a_server_on_postgresql_with_its_files_in_s3(
    new_project: Callable[..., Any],
    database: Postgres,
    s3: tuple[str, Any],
    tmp_path: Path,
) -> None:
    address, client = s3
    server = MlflowServer(
        tmp_path / "server",
        options=("--artifacts-destination", f"s3://{BUCKET}/runs"),
        variables={
            **KEYS,
            "MLFLOW_S3_ENDPOINT_URL": address,
            "MLFLOW_BACKEND_STORE_URI": database.create("served"),
        },
    )
    project = new_project()
    with served(server):
        output = project.repro(MLFLOW_TRACKING_URI=server.uri, **TRACKED)
        found = assert_everything_is_recorded(project, server.uri, output)
    names = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
    model = [name for name in names if found.model.model_id in name]
    assert any(name.endswith("/model.safetensors") for name in model)
    assert any(name.endswith("/checkpoints/best/model.safetensors") for name in names)
    assert not (project.folder / "mlartifacts").exists()


def test_a_run_is_recorded_in_postgresql_without_a_server(
    new_project: Callable[..., Any], database: Postgres
) -> None:
    project, uri = new_project(), database.create("direct")
    output = project.repro(MLFLOW_TRACKING_URI=uri, **TRACKED)
    assert_everything_is_recorded(project, uri, output)
    assert list(project.folder.glob("mlartifacts/**/MLmodel"))
    assert not (project.folder / "mlruns").exists()


def test_a_wrong_password_is_reported_in_one_line_and_shown_nowhere(
    new_project: Callable[..., Any], database: Postgres
) -> None:
    project = new_project(max_steps="20", decay="5")
    wrong = database.uri("postgres").replace("s3cr3t", "wr0ng-s3cr3t")
    output = project.repro("train", MLFLOW_TRACKING_URI=wrong, **TRACKED)
    lines = [line for line in output.splitlines() if line.startswith("tracking: ")]
    assert any("password authentication failed" in line for line in lines), output
    assert "s3cr3t" not in output
    assert "Traceback" not in output
    assert files_with("wr0ng-s3cr3t", project.folder) == []
