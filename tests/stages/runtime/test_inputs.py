"""A stage's inputs at its end are compared with those at its start."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from stages.runtime.inputs import check_unchanged, code_md5, inputs_of

DVC = """
stages:
  bake:
    cmd: python bake.py
    deps:
      - filters/oven.py
      - ${corpus.path}
      - flour
    params:
      - corpus
      - bake.time
  train:
    cmd: python train.py
    deps: [filters/oven.py]
    params: [bake]
"""
PARAMS = "corpus: {path: grain, glob: '*'}\nbake:\n  time: 3\n  heat: 200\n"


@pytest.fixture
def bakery(workspace: Path) -> Path:
    """Create a project with its own pipeline."""
    (workspace / "dvc.yaml").write_text(DVC)
    (workspace / "params.yaml").write_text(PARAMS)
    for name in ("filters/oven.py", "grain/rye/1.txt", "flour/2.txt"):
        (workspace / name).parent.mkdir(parents=True)
        (workspace / name).write_text("some\n")
    (workspace / "filters/oven.py").write_text("hot = True\n")
    return workspace


def replace_in(file: Path, old: str, new: str) -> None:
    """Replace a text in a file, which must contain it."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_unchanged_inputs_pass(bakery: Path) -> None:
    start = inputs_of("bake")
    assert start is not None
    assert start.params == {"corpus.path": "grain", "corpus.glob": "*", "bake.time": 3}
    assert set(start.files) == {"filters/oven.py", "grain/rye/1.txt", "flour/2.txt"}
    check_unchanged("bake", start)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda: replace_in(Path("params.yaml"), "time: 3", "time: 4"), "bake.time was 3, now 4"),
        (lambda: replace_in(Path("params.yaml"), "  time: 3\n", ""), "bake.time was 3, now None"),
        (lambda: replace_in(Path("filters/oven.py"), "True", "None"), "filters/oven.py was edited"),
        (lambda: Path("grain/rye/1.txt").write_text("more\n"), "grain/rye/1.txt was edited"),
        (lambda: Path("grain/3.txt").write_text("new\n"), "grain/3.txt was added"),
        (lambda: Path("flour/2.txt").unlink(), "flour/2.txt was removed"),
        (lambda: Path("dvc.yaml").write_text("stages: {}\n"), "dvc.yaml has no stage bake any"),
    ],
)
def test_each_change_is_named(bakery: Path, change: Callable[[], object], named: str) -> None:
    start = inputs_of("bake")
    assert start is not None
    change()
    with pytest.raises(ValueError, match="its output was not recorded") as raised:
        check_unchanged("bake", start)
    assert f"  {named}" in str(raised.value) or f": {named}" in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda: replace_in(Path("params.yaml"), "heat: 200", "heat: 220"),  # not one of its params
        lambda: Path("filters/oven.py").touch(),
        lambda: Path("grain/.1.txt.swp").write_text("an editor's"),
        lambda: Path("notes.txt").write_text("not declared"),
    ],
)
def test_a_change_of_no_input_passes(bakery: Path, change: Callable[[], object]) -> None:
    start = inputs_of("bake")
    assert start is not None
    change()
    check_unchanged("bake", start)


def test_many_changes_are_counted(bakery: Path) -> None:
    start = inputs_of("bake")
    assert start is not None
    for number in range(30):
        (bakery / f"grain/{number}.txt").write_text("new")
    with pytest.raises(ValueError, match="and 22 more"):
        check_unchanged("bake", start)


def test_a_command_that_is_not_a_stage_has_no_inputs(bakery: Path) -> None:
    assert inputs_of("clean the oven") is None
    (bakery / "dvc.yaml").unlink()
    assert inputs_of("bake") is None


def test_the_hash_of_code_is_the_one_dvc_records(bakery: Path) -> None:
    assert code_md5("train") == {"filters/oven.py": "69072045018d0a40032bd514986aa7f4"}


SCRIPT = """
from pathlib import Path
from stages.runtime.entry import run_command

def run(settings):
    file = Path("params.yaml")
    file.write_text(file.read_text().replace("time: 3", "time: {time}"))

run_command("bake", run)
"""


def test_a_stage_fails_if_its_params_are_edited_while_it_runs(
    bakery: Path, run_python: "Callable[..., CompletedProcess[str]]"
) -> None:
    done = run_python("-c", SCRIPT.format(time=3))
    assert done.returncode == 0, done.stderr
    first = Path("runs/times/bake.json").read_text()
    done = run_python("-c", SCRIPT.format(time=4))
    assert done.returncode == 2
    assert "bake: inputs of this stage changed while it was running" in done.stderr
    assert "bake.time was 3, now 4" in done.stderr
    assert [file.read_text() for file in Path("runs/times").iterdir()] == [first]
