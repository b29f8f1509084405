"""The diffs in docs/contributing.md apply, and what they add works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGE, OPTION = re.findall(
    r"^```diff\n(.*?)^```", (ROOT / "docs/contributing.md").read_text(encoding="utf-8"), re.M | re.S
)

REFUSALS = """
from pathlib import Path

from nanogpt.config import GPTConfig
from nanogpt.convert.gpt2 import config_to_hf
from stages.lib.params import parse_section
from stages.runtime.yaml_files import read_params
from stages.train.params import ModelParams


def refused(call):
    try:
        call()
    except ValueError as error:
        print(error)


section = {**read_params()["model"], "embedding_scale": 0}
refused(lambda: parse_section("model", ModelParams, section, Path("params.yaml")))
refused(lambda: config_to_hf(GPTConfig(embedding_scale=2.0)))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project's files."""
    for name in ("nanogpt", "stages", "pipelines", "presets", "filters", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("dvc.yaml", "params.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "texts").mkdir()
    return tmp_path


def run(project: Path, *command: str) -> str:
    """Run a Python module in the project; its output. It must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def apply(project: Path, diff: str) -> set[str]:
    """Apply a diff and bring it into params.yaml; the files it touches."""
    subprocess.run(["git", "apply", "-"], cwd=project, input=diff, text=True, check=True)
    run(project, "stages", "preset", "shakespeare")
    return set(re.findall(r"^\+\+\+ b/(.*)$", diff, re.M))


def test_a_stage_is_a_folder_a_paragraph_and_its_section(project: Path) -> None:
    touched = apply(project, STAGE)
    folder = {f"stages/count/{name}.py" for name in ("__init__", "params", "stage")}
    assert touched == folder | {"dvc.yaml", "presets/shakespeare.yaml"}
    run(project, "stages", "check", "params.yaml")
    assert "the most frequent words" in run(project, "stages", "--help")
    assert "  words: 20                    # how many words are listed\n" in (
        project / "params.yaml"
    ).read_text(encoding="utf-8")
    run(project, "pytest", "-q", "-n0", "-k", "not file_is_too_large", "tests/test_architecture.py")


def test_an_option_is_a_field_and_its_code(project: Path) -> None:
    touched = apply(project, OPTION)
    assert touched == {"nanogpt/config.py", "nanogpt/model/gpt.py", "presets/shakespeare.yaml"}
    assert "\n  embedding_scale: 1.0  " in (project / "params.yaml").read_text(encoding="utf-8")
    (project / "refusals.py").write_text(REFUSALS, encoding="utf-8")
    refused, no_gpt2 = run(project, "refusals").splitlines()
    assert refused == "params.yaml: model.embedding_scale is 0: input should be greater than 0"
    assert no_gpt2 == "GPT-2 cannot express this model: embedding_scale is 2.0, GPT-2's 1.0"
