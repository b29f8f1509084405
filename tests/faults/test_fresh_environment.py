"""A logged model in a new virtual environment, with nothing but its own requirements."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.mlflow_lab import only_run
from tests.services_lab import free_port
from tests.waiting import wait_for

PROMPT = "the king"
GREEDY = {"max_new_tokens": 20, "temperature": 0.0}
PREDICT = """
import json, sys
import mlflow

uri, model, requests = json.load(sys.stdin)
mlflow.set_tracking_uri(uri)
loaded = mlflow.pyfunc.load_model(model)
print(json.dumps([loaded.predict([prompt], params=params) for prompt, params in requests]))
print([sys.modules[name].__file__ for name in ("nanogpt", "stages")], file=sys.stderr)
"""


@dataclass(frozen=True)
class Elsewhere:
    """A new virtual environment, the model it is for, and a folder outside of any project."""

    python: Path
    folder: Path
    project: Any
    uri: str
    model: str

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of its processes: nothing of the project's."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
        return {**kept, **quiet, "HOME": str(self.folder), "OMP_NUM_THREADS": "1"}

    def predict(self, *requests: tuple[str, dict[str, Any]]) -> list[str]:
        """Load the model in a new process; return what it answers to prompts with params."""
        done = subprocess.run(
            [self.python, "-c", PREDICT],
            input=json.dumps([self.uri, self.model, requests]),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("nanogpt.zip") >= 2, done.stderr
        return [text for (text,) in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def elsewhere(built: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """Install what the model of the built project requires into a new virtual environment."""
    uri = f"sqlite:///{built.folder / 'mlflow.db'}"
    _, run = only_run(uri)
    folder = tmp_path_factory.mktemp("elsewhere")
    (model,) = built.folder.glob("mlartifacts/models/*/artifacts/MLmodel")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    requirements = model.with_name("requirements.txt")
    done = subprocess.run(
        [python, *install, "-r", requirements], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    yield Elsewhere(python, folder, built, uri, f"runs:/{run.info.run_id}/model")
    shutil.rmtree(folder / "venv")  # a gigabyte


def test_its_requirements_are_pinned_and_fit_together(elsewhere: Elsewhere) -> None:
    (file,) = elsewhere.project.folder.glob("mlartifacts/models/*/artifacts/requirements.txt")
    lines = file.read_text().split()
    assert all("==" in line for line in lines), lines
    command = [elsewhere.python, "-m", "pip"]
    listed = subprocess.run([*command, "freeze"], capture_output=True, text=True, check=True)
    installed = {line.partition("+")[0] for line in listed.stdout.lower().split()}
    assert {line.lower() for line in lines} <= installed
    checked = subprocess.run([*command, "check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_it_writes_what_the_project_writes(elsewhere: Elsewhere) -> None:
    done = elsewhere.project.run(
        *("python", "-m", "stages", "sample", "--prompt", PROMPT),
        *("--max-new-tokens", "20", "--temperature", "0"),
    )
    assert done.returncode == 0, done.stdout
    lines = (elsewhere.project.folder / "samples/samples.jsonl").read_text().splitlines()
    (drawn,) = (s for s in map(json.loads, lines) if s["prompt"] == PROMPT and s["number"] == 0)
    greedy, default = elsewhere.predict((PROMPT, GREEDY), (PROMPT, {"max_new_tokens": 30}))
    first, *_ = done.stdout.split("\n" + "-" * 72)
    assert greedy == first.removesuffix("\n")
    assert default == PROMPT + drawn["text"]


def test_it_honors_every_param(elsewhere: Elsewhere) -> None:
    base: dict[str, Any] = {"max_new_tokens": 30}
    (text,) = elsewhere.predict((PROMPT, base))
    text = text.removeprefix(PROMPT)
    variants: dict[str, dict[str, Any]] = {
        "short": {"max_new_tokens": 5},
        "stop": {"stop": [text[10:13]]},
        "greedy": {"temperature": 0.0},
        "top_k": {"top_k": 1},
        "min_p": {"min_p": 1.0},
        "top_p": {"top_p": 1e-9},
        "repetition": {"repetition_penalty": 5.0, "temperature": 0.0},
        "seed": {"seed": 2},
        "again": {},
    }
    answers = elsewhere.predict(*((PROMPT, {**base, **params}) for params in variants.values()))
    written = {
        name: answer.removeprefix(PROMPT) for name, answer in zip(variants, answers, strict=True)
    }
    assert len(text) == 30
    assert written["again"] == text
    assert written["short"] == text[:5]
    assert written["stop"] == text[: text.index(text[10:13])]
    assert written["top_k"] == written["min_p"] == written["top_p"] == written["greedy"]
    assert written["repetition"] != written["greedy"]
    assert len({text, written["greedy"], written["seed"]}) == 3


@pytest.fixture
def service(elsewhere: Elsewhere) -> Iterator[HTTPConnection]:
    """Serve the model by `mlflow models serve` from that environment."""
    port = free_port()
    command = [elsewhere.python.with_name("mlflow"), "models", "serve", "-m", elsewhere.model]
    command += ["--env-manager", "local", "--port", str(port)]
    log = elsewhere.folder / "serve.log"
    bin_first = f"{elsewhere.python.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**elsewhere.environment, "PATH": bin_first}
    with log.open("wb") as file:
        server = subprocess.Popen(
            command,
            cwd=elsewhere.folder,
            env={**environment, "MLFLOW_TRACKING_URI": elsewhere.uri},
            stdout=file,
            stderr=file,
        )
    connection = HTTPConnection("127.0.0.1", port, timeout=60)

    def answers() -> bool:
        assert server.poll() is None, log.read_text()
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().read() is not None
        except OSError:
            connection.close()
            return False

    try:
        wait_for(answers, 60, "the model is not served")
        yield connection
    finally:
        for process in (*psutil.Process(server.pid).children(recursive=True), server):
            process.kill()
        server.wait()


def ask(service: HTTPConnection, **body: Any) -> tuple[int, Any]:
    """Send a request; return the status and the answer."""
    headers = {"Content-Type": "application/json"}
    service.request("POST", "/invocations", json.dumps(body), headers)
    answer = service.getresponse()
    return answer.status, json.loads(answer.read())


def test_it_is_served_over_http_and_refuses_what_is_wrong_in_one_line(
    elsewhere: Elsewhere, service: HTTPConnection
) -> None:
    (greedy,) = elsewhere.predict((PROMPT, GREEDY))
    assert ask(service, inputs=[PROMPT], params=GREEDY) == (200, {"predictions": [greedy]})
    status, answer = ask(service, inputs=[PROMPT, "sword"], params=GREEDY)
    assert (status, answer["predictions"][0]) == (200, greedy)
    assert answer["predictions"][1].startswith("sword")
    status, answer = ask(service, inputs=[PROMPT])
    assert (status, len(answer["predictions"][0])) == (200, len(PROMPT) + 300)
    status, answer = ask(service, inputs=[PROMPT], params={**GREEDY, "temprature": 1.0})
    assert (status, answer["predictions"]) == (200, [greedy])  # MLflow ignores it, and warns:
    assert "Unrecognized params ['temprature']" in (elsewhere.folder / "serve.log").read_text()

    for body, named in (
        ({"inputs": []}, "0 inputs"),
        ({"inputs": [PROMPT], "params": {"temperature": -1.0}}, "params.temperature is -1.0"),
        ({"inputs": [PROMPT], "params": {"max_new_tokens": "many"}}, "max_new_tokens"),
        ({"inputs": ["É"]}, "'É' is not in the vocabulary"),
    ):
        status, answer = ask(service, **body)
        assert status == 400, answer
        _, _, reason = answer["message"].partition("\nError: ")  # after MLflow repeats the data
        assert named in reason, answer
        assert "\n" not in reason
        assert "Traceback" not in json.dumps(answer)
