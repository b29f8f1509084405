"""The model served by MLflow: the samples and the error messages of the stage `sample`."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import init
from starlette.testclient import TestClient

from stages.runtime.yaml_files import read_params
from stages.serve.mlflow_model import DEFAULTS, REQUIREMENTS, requirements
from stages.tracking.local_store import EXPERIMENT

ROOT = Path(__file__).parents[3]
PROMPT = "the king"


@pytest.fixture
def model(built: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[PyFuncModel]:
    """Load the model that the built project's training logged."""
    monkeypatch.chdir(built.folder)
    uri = f"sqlite:///{built.folder / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (logged,) = client.search_logged_models([experiment.experiment_id])
    mlflow.set_tracking_uri(uri)
    yield mlflow.pyfunc.load_model(f"models:/{logged.model_id}")
    mlflow.set_tracking_uri(None)


@pytest.fixture
def server(model: PyFuncModel) -> TestClient:
    """Return MLflow's server of that model."""
    return TestClient(init(model))


def ask(server: TestClient, prompt: str, **params: Any) -> tuple[int, Any]:
    """Return the status and the body of the server's answer."""
    answer = server.post("/invocations", json={"inputs": [prompt], "params": params})
    return answer.status_code, answer.json()


def test_it_generates_the_samples_of_the_stage(built: Any, model: PyFuncModel) -> None:
    lines = (built.folder / "samples/samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    (first,) = (s for s in samples if s["prompt"] == PROMPT and s["number"] == 0)
    assert model.predict([PROMPT], params={"max_new_tokens": 30}) == [PROMPT + first["text"]]


def test_params_reach_the_model(server: TestClient) -> None:
    def written(**params: Any) -> str:
        status, answer = ask(server, PROMPT, **{"max_new_tokens": 30, **params})
        assert status == 200, answer
        (text,) = answer["predictions"]
        return str(text).removeprefix(PROMPT)

    text = written()
    assert len(text) == 30
    assert written(max_new_tokens=5) == text[:5]
    assert written(stop=[text[10:13]]) == text[: text.index(text[10:13])]
    likeliest = written(temperature=0.0)
    assert written(top_k=1) == likeliest
    assert written(min_p=1.0) == likeliest
    assert written(top_p=1e-9) == likeliest
    assert written(repetition_penalty=5.0, temperature=0.0) != likeliest
    assert written(seed=2) != text


def test_a_prompt_with_unknown_characters_is_refused_with_the_tokenizers_message(
    server: TestClient,
) -> None:
    status, answer = ask(server, "É")
    assert status == 400
    assert answer["error_code"] == "INVALID_PARAMETER_VALUE"
    assert (
        "the character 'É' is not in the vocabulary of this `char` tokenizer" in answer["message"]
    )
    assert "Traceback" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_new_tokens": 0}, "params.max_new_tokens is 0: input should be greater than or"),
        ({"temperature": -1.0, "top_p": 2.0}, "params.temperature is -1.0: input should be"),
        ({"stop": [""]}, "params.stop.0 is ''"),
        (
            {"max_new_tokens": 3000000000},
            "params.max_new_tokens is 3000000000: input should be less",
        ),
        ({"temperature": 1e-45}, "params.temperature: 1e-45 is too small to calculate with"),
        ({"repetition_penalty": 1e-45}, "params.repetition_penalty is 1e-45: input should be"),
    ],
)
def test_a_wrong_param_is_refused_by_name(
    server: TestClient, params: dict[str, Any], message: str
) -> None:
    status, answer = ask(server, PROMPT, **params)
    assert status == 400
    assert message in answer["message"]


ELSEWHERE = """
import sys
sys.path = [folder for folder in sys.path if folder not in ("", {root!r})]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
try:
    import nanogpt
except ImportError:
    import mlflow
    model = mlflow.pyfunc.load_model({model!r})
    print(model.predict(["the king"], params={{"max_new_tokens": 5}}))
    print(sys.modules["nanogpt"].__file__, sys.modules["stages"].__file__)
"""


def test_it_brings_its_code_where_the_project_is_not_installed(built: Any, tmp_path: Path) -> None:
    (file,) = built.folder.glob("mlartifacts/models/*/artifacts/MLmodel")
    script = ELSEWHERE.format(root=str(ROOT), model=str(file.parent))
    environment = {**built.environment, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "the king" in done.stdout
    assert done.stdout.count("nanogpt.zip") == 2


def test_its_defaults_are_those_of_the_default_params() -> None:
    section = read_params(ROOT / "presets/shakespeare.yaml")["sample"]
    own = {key: section[key] for key in section.keys() - {"prompts", "samples_per_prompt"}}
    assert own == DEFAULTS


def test_its_requirements_are_the_versions_that_are_installed_as_an_index_names_them() -> None:
    lines = requirements()
    assert [line.partition("==")[0] for line in lines] == REQUIREMENTS
    for line in lines:
        name, _, release = line.partition("==")
        assert version(name).startswith(release)
        assert "+" not in release  # torch's says on what it runs


def test_its_requirements_are_the_top_level_imports_of_its_modules() -> None:
    seen, waiting, roots = set(), [ROOT / "stages/serve/mlflow_model.py"], set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                own = ROOT / (name.replace(".", "/") + ".py")
                waiting += [own] if own.is_file() else []
                roots.add(name.split(".")[0])
    found = packages_distributions()
    outside = {root for root in roots if root in found and root not in ("nanogpt", "stages")}
    assert {root for root in outside if not {*found[root]} & {*REQUIREMENTS}} == set()
    assert "torch" in outside
