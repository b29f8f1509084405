from pathlib import Path

import pytest

from stages.runtime.settings import read_settings

pytestmark = pytest.mark.usefixtures("workspace")


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = read_settings()
    assert (settings.device, settings.processes, settings.workers) == ("auto", None, None)
    assert settings.tracking is True
    assert settings.status_file is None


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("NANOGPT_DEVICE", "cpu", "cpu"),
        ("NANOGPT_PROCESSES", "2", 2),
        ("NANOGPT_TORCHRUN", "--nnodes=2", "--nnodes=2"),
        ("NANOGPT_JOIN", "1", True),
        ("NANOGPT_PARALLEL", "fsdp", "fsdp"),
        ("NANOGPT_COMPILE", "false", False),
        ("NANOGPT_MICRO_BATCH_TOKENS", "4096", 4096),
        ("NANOGPT_WORKERS", "3", 3),
        ("NANOGPT_RUNNER", "ray", "ray"),
        ("NANOGPT_SHARED", "s3://bucket/folder", "s3://bucket/folder"),
        ("NANOGPT_LOG_INTERVAL", "1", 1),
        ("NANOGPT_TRACKING", "0", False),
        ("NANOGPT_TAGS", '{"flow": "blue-fox"}', {"flow": "blue-fox"}),
        ("NANOGPT_DEBUG", "true", True),
        ("NANOGPT_STATUS_FILE", "status.json", Path("status.json")),
    ],
)
def test_a_variable_sets_its_field(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)
    field = variable.removeprefix("NANOGPT_").lower()
    assert getattr(read_settings(), field) == value


@pytest.mark.parametrize(
    ("variable", "way_out"),
    [
        ("MLFLOW_RUN_ID", "each model has a run of its own"),
        ("MLFLOW_EXPERIMENT_ID", "set MLFLOW_EXPERIMENT_NAME instead"),
    ],
)
def test_variables_of_mlflow_that_would_mix_records_are_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, way_out: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ValueError, match=rf"{variable} is set, but .*{way_out}.*unset {variable}"):
        read_settings()
    monkeypatch.setenv("NANOGPT_TRACKING", "false")
    assert read_settings().tracking is False


def test_an_unknown_variable_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NANOGPT_DEVISE", "cpu")
    with pytest.raises(ValueError, match="NANOGPT_DEVISE: no such setting") as caught:
        read_settings()
    assert "NANOGPT_DEVICE" in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text", "allowed"),
    [
        ("NANOGPT_DEVICE", "gpu", "'auto', 'cpu', 'cuda' or 'mps'"),
        ("NANOGPT_PROCESSES", "0", "greater than or equal to 1"),
        ("NANOGPT_WORKERS", "30000", "less than or equal to 1024"),
        ("NANOGPT_PROCESSES", "", "valid integer"),
        ("NANOGPT_WORKERS", "many", "valid integer"),
        ("NANOGPT_RUNNER", "spark", "'local' or 'ray'"),
        ("NANOGPT_TRACKING", "perhaps", "valid boolean"),
        ("NANOGPT_TAGS", '{"a": 1}', "valid string"),
    ],
)
def test_a_wrong_value_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, allowed: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ValueError, match=allowed) as caught:
        read_settings()
    assert f"{variable}={text!r}" in str(caught.value)


def test_tags_that_are_not_json_name_their_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOGPT_TAGS", "blue-fox")
    with pytest.raises(ValueError, match="NANOGPT_TAGS"):
        read_settings()


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOGPT_DEVICE", "gpu")
    monkeypatch.setenv("NANOGPT_WORKERS", "0")
    with pytest.raises(ValueError, match="NANOGPT_DEVICE") as caught:
        read_settings()
    assert "NANOGPT_WORKERS" in str(caught.value)
