import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.check import check_params
from stages.params import ParamsError
from stages.preset import use

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "presets"


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda file: file.stem)
def test_each_preset_is_valid(preset: Path) -> None:
    assert check_params(preset)


def test_the_project_comes_with_the_first_preset_in_place() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (PRESETS / "shakespeare.yaml").read_bytes()


def test_a_preset_is_put_in_place(params: Path) -> None:
    assert use("shakespeare-char", PRESETS, params) is None
    assert params.read_bytes() == (PRESETS / "shakespeare-char.yaml").read_bytes()


def test_params_that_equal_a_preset_are_not_kept(params: Path) -> None:
    use("shakespeare", PRESETS, params)
    assert use("shakespeare-char", PRESETS, params) is None
    assert list(params.parent.iterdir()) == [params]


def test_edited_params_are_kept_beside(params: Path) -> None:
    params.write_text("mine: {}\n")
    saved = use("shakespeare", PRESETS, params)
    assert saved is not None
    assert re.fullmatch(r"params\.\d{8}-\d{6}\.yaml", saved.name)
    assert saved.read_text() == "mine: {}\n"
    assert params.read_bytes() == (PRESETS / "shakespeare.yaml").read_bytes()
    assert set(params.parent.iterdir()) == {params, saved}


@pytest.mark.parametrize("name", ["shakspeare", "", "shakespeare.yaml", "../params"])
def test_an_unknown_preset_is_refused_and_nothing_touched(params: Path, name: str) -> None:
    params.write_text("mine: {}\n")
    with pytest.raises(ValueError, match="is none of") as caught:
        use(name, PRESETS, params)
    for known in PRESETS.glob("*.yaml"):
        assert known.stem in str(caught.value)
    assert params.read_text() == "mine: {}\n"
    assert list(params.parent.iterdir()) == [params]


def test_a_preset_that_is_not_valid_is_refused_and_nothing_touched(
    params: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    presets = tmp_path_factory.mktemp("presets")
    (presets / "mine.yaml").write_text("train: {}\n")
    params.write_text("mine: {}\n")
    with pytest.raises(ParamsError, match=r"mine\.yaml"):
        use("mine", presets, params)
    assert params.read_text() == "mine: {}\n"


def test_the_command_says_what_it_did(
    run_python: Callable[..., "subprocess.CompletedProcess[str]"], workspace: Path
) -> None:
    shutil.copytree(PRESETS, workspace / "presets")
    (workspace / "params.yaml").write_text("mine: {}\n")
    done = run_python("-m", "stages.preset", "shakespeare-char")
    assert done.returncode == 0, done.stderr
    (saved,) = workspace.glob("params.*-*.yaml")
    assert "params.yaml is now presets/shakespeare-char.yaml" in done.stdout
    assert saved.name in done.stdout
