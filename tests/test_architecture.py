"""The house rules that a reader could not check by hand: imports, dependencies, names."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.__main__ import STAGES as STARTED
from stages.tools.check import SECTIONS

ROOT = Path(__file__).parents[1]
DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = list(DVC["stages"])

# Modules that start, spread, log, record or stop a stage and change no byte of its output. Editing
# them must not train a model again (docs/decisions/0003).
NEUTRAL = {
    "stages/runtime/allocator.py",
    "stages/runtime/entry.py",
    "stages/runtime/errors.py",
    "stages/runtime/inputs.py",
    "stages/runtime/progress.py",
    "stages/tracking/outbox.py",
    "stages/runtime/redaction.py",
    "stages/runtime/pool.py",
    "stages/tokenize/pool.py",
    "stages/tokenize/ray_cluster.py",
    "stages/runtime/retry.py",
    "stages/runtime/settings.py",
    "stages/runtime/supervise.py",
    "stages/tracking/mlflow_run.py",
    "stages/tracking/display.py",
    "stages/runtime/outcome.py",
    "stages/tracking/samples.py",
    "stages/runtime/torchrun.py",
}


def imported(file: Path) -> set[str]:
    """All modules a file imports, at its top or inside functions, with dots."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def own_modules(file: Path) -> set[str]:
    """The project's own files that a file imports, relative to the root."""
    paths = {name.replace(".", "/") + ".py" for name in imported(file)}
    return {path for path in paths if (ROOT / path).is_file()}


def closure(*starts: str) -> set[str]:
    """Files and whatever they import, directly or not, but for what only neutral ones import."""
    seen: set[str] = set()
    waiting = list(starts)
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            if path not in NEUTRAL:
                waiting += own_modules(ROOT / path)
    return seen


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("nanogpt", {"stages", "pipelines", "mlflow", "prefect", "dvc", "ruamel", "pydantic"}),
        ("stages", {"pipelines", "prefect", "dvc"}),
        ("pipelines", {"torch", "numpy", "mlflow"}),
    ],
)
def test_imports_run_one_way(package: str, forbidden: set[str]) -> None:
    for file in (ROOT / package).rglob("*.py"):
        roots = {name.split(".")[0] for name in imported(file)}
        assert not roots & forbidden, file.name


def test_only_tracking_and_its_store_know_mlflow() -> None:
    knowing = {
        file.name
        for file in (ROOT / "stages").rglob("*.py")
        if "mlflow" in {name.split(".")[0] for name in imported(file)}
    }
    assert knowing == {"store.py", "tracking.py", "served_model.py"}


def test_the_library_needs_torch_numpy_and_safetensors_alone() -> None:
    import sys

    roots = {
        name.split(".")[0] for file in (ROOT / "nanogpt").glob("*.py") for name in imported(file)
    }
    assert roots - set(sys.stdlib_module_names) == {"nanogpt", "torch", "numpy", "safetensors"}


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_deps_are_the_real_imports(stage: str) -> None:
    starts = [f"stages/{stage}.py"]
    if stage == "train":
        starts.append("stages/train/worker.py")  # torchrun starts it
    deps = {dep for dep in DVC["stages"][stage]["deps"] if dep.endswith(".py")}
    assert deps == closure(*starts) - NEUTRAL


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_starts_each_stage_by_the_command_that_checks_all_params_first(stage: str) -> None:
    assert DVC["stages"][stage]["cmd"] == f"python -m stages {stage}"


def test_the_command_line_knows_the_same_stages() -> None:
    assert list(STARTED) == STAGES


def test_every_section_belongs_to_a_stage() -> None:
    used = {key.split(".")[0] for stage in DVC["stages"].values() for key in stage["params"]}
    assert used == set(SECTIONS)


def test_no_file_is_too_large_or_names_this_machine() -> None:
    import subprocess

    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        file = ROOT / name
        if not file.is_file():
            continue
        content = file.read_bytes()
        assert len(content) <= 1_000_000, name
        assert str(ROOT).encode() not in content, name
