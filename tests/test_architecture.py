"""The house rules that a reader could not check by hand: imports, dependencies, names."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.__main__ import STAGES as STARTED
from stages.params.sections import SECTIONS

ROOT = Path(__file__).parents[1]
DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = list(DVC["stages"])

# Code that starts, spreads, records, shows or stops a stage, and changes no byte of its output.
# Editing it must not train a model again (docs/decisions/0003).
NEUTRAL = (
    *("stages/params", "stages/runtime", "stages/tracking", "stages/serve"),
    *("stages/tools", "stages/report", "stages/formats"),
    *("nanogpt/convert", "nanogpt/estimate.py", "nanogpt/flops.py"),
)
SHELVES = ("stages/lib", "stages/artifacts")  # a stage depends on the modules that it takes there


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


def room(path: str) -> str:
    """What a stage depends on when it imports a module: the folder it lies in, or itself."""
    parts = path.split("/")
    folder = "/".join(parts[:2])
    return path if folder in SHELVES else folder


def rooms_of(stage: str) -> set[str]:
    """The rooms of all that a stage imports, directly or not, but for what only neutral ones do."""
    seen: set[str] = set()
    waiting = [file.relative_to(ROOT).as_posix() for file in (ROOT / "stages" / stage).glob("*.py")]
    while waiting:
        path = waiting.pop()
        if path not in seen and room(path) not in NEUTRAL:
            seen.add(path)
            waiting += own_modules(ROOT / path)
    return {room(path) for path in seen}


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


def test_only_tracking_and_serve_know_mlflow() -> None:
    knowing = {
        file.relative_to(ROOT / "stages").parts[0]
        for file in (ROOT / "stages").rglob("*.py")
        if "mlflow" in {name.split(".")[0] for name in imported(file)}
    }
    assert knowing == {"tracking", "serve"}


def test_the_library_needs_torch_numpy_and_safetensors_alone() -> None:
    import sys

    roots = {
        name.split(".")[0] for file in (ROOT / "nanogpt").rglob("*.py") for name in imported(file)
    }
    assert roots - set(sys.stdlib_module_names) == {"nanogpt", "torch", "numpy", "safetensors"}


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_deps_are_the_rooms_of_the_real_imports(stage: str) -> None:
    code = ("nanogpt/", "stages/")
    deps = [dep for dep in DVC["stages"][stage]["deps"] if dep.startswith(code)]
    assert deps == sorted(rooms_of(stage))


def test_no_room_needs_itself_by_way_of_others() -> None:
    needs: dict[str, set[str]] = {}
    for package in ("nanogpt", "stages", "pipelines"):
        for file in (ROOT / package).rglob("*.py"):
            own = "/".join(file.relative_to(ROOT).parts[:2])
            others = {"/".join(path.split("/")[:2]) for path in own_modules(file)}
            needs.setdefault(own, set()).update(others - {own})
    TopologicalSorter(needs).prepare()  # raises CycleError


def test_no_stage_imports_another() -> None:
    for stage in STAGES:
        for file in (ROOT / "stages" / stage).glob("*.py"):
            rooms = {"/".join(path.split("/")[:2]) for path in own_modules(file)}
            others = {f"stages/{other}" for other in STAGES} - {f"stages/{stage}"}
            assert not rooms & others, file.name


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_starts_each_stage_by_the_command_that_checks_all_params_first(stage: str) -> None:
    assert DVC["stages"][stage]["cmd"] == f"python -m stages {stage}"


def test_the_command_line_knows_the_same_stages() -> None:
    assert set(STARTED) == set(STAGES)


def test_every_section_belongs_to_a_stage() -> None:
    used = {
        key.split(".")[0] for stage in DVC["stages"].values() for key in stage.get("params", [])
    }
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
