"""README and guides name only what exists, and their `sh` blocks run on a miniature."""

import os
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from stages.__main__ import STAGES, TOOLS
from stages.runtime.settings import PREFIX, Settings
from tests.conftest import Project

ROOT = Path(__file__).parents[1]
NOTES = ROOT / "docs/lab-notes.md"
FOLDERS = ("docs", "docs/decisions", "infra", "benchmarks", "weights", "filters")
# The lab notes are left out: they are about past commits, with the names of their time.
GUIDES = sorted(
    {ROOT / "README.md", *(f for d in FOLDERS for f in (ROOT / d).glob("*.md"))} - {NOTES}
)

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_FILE = re.compile(
    r"(?:nanogpt|stages|pipelines|benchmarks|tests|infra|docs|presets)/[\w/.-]+\.(?:py|md|sh|yaml)"
)
TEST_FILE = re.compile(r"(?<![\w/])test_\w+\.py")
MODULE = re.compile(
    r"python3? -m ((?:stages|pipelines|benchmarks)(?:\.[a-z]\w*)*)(?![\w.])(?: ([a-z][a-z0-9-]*))?"
)
# For a whole run of the miniature in a few seconds.
SHORT = {"batch_tokens": "256", "max_steps": "4", "warmup": "1", "decay": "2", "adapt_rate": "0.0"}
DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")


def relative(file: Path) -> str:
    """The name of a case."""
    return str(file.relative_to(ROOT))


def code(text: str) -> str:
    """Fenced blocks, without their comments, and inline code; a line each."""
    fenced = [block for block in FENCED.findall(text) if not block.startswith("```diff")]
    blocks = [re.sub(r"(^|\s)#.*", "", block) for block in fenced]
    return "\n".join([*blocks, *INLINE.findall(FENCED.sub("", text))])


def anchors(file: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a file."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", file.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


guides = pytest.mark.parametrize("guide", GUIDES, ids=relative)


@guides
def test_links_lead_to_files_and_headings(guide: Path) -> None:
    for link in LINK.findall(FENCED.sub("", guide.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (guide.parent / path) if path else guide
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@guides
def test_files_named_in_the_text_exist(guide: Path) -> None:
    text = INLINE.findall(FENCED.sub("", guide.read_text(encoding="utf-8")))
    for path in CODE_FILE.findall("\n".join(text)):
        assert (ROOT / path).is_file(), path
    for name in TEST_FILE.findall("\n".join(text)):
        assert list((ROOT / "tests").rglob(name)), name


@guides
def test_commands_exist(guide: Path) -> None:
    commands = code(guide.read_text(encoding="utf-8"))
    assert set(re.findall(r"(?<![\w-])make ([a-z][a-z-]*)", commands)) <= targets()
    for preset in re.findall(r"PRESET=([\w-]+)", commands):
        assert (ROOT / f"presets/{preset}.yaml").is_file(), preset
    for module, name in MODULE.findall(commands):
        assert find_spec(module) is not None, module
        if module == "stages" and name:
            assert name in {*STAGES, *TOOLS}, name


def test_commands_are_found() -> None:
    commands = code((ROOT / "README.md").read_text(encoding="utf-8"))
    assert "make run\n" in commands
    assert {("stages", "inspect-data"), ("stages", "convert"), ("pipelines.build", "")} <= {
        (module, name if module == "stages" else "") for module, name in MODULE.findall(commands)
    }


@guides
def test_settings_exist(guide: Path) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+", guide.read_text(encoding="utf-8"))) <= known


def test_every_setting_is_documented() -> None:
    table = (ROOT / "infra/README.md").read_text(encoding="utf-8")
    for name in Settings.model_fields:
        assert f"| `{PREFIX}{name.upper()}` |" in table


@guides
def test_dates_are_of_lab_notes(guide: Path) -> None:
    measured = set(re.findall(rf"^## ({DATE.pattern})", NOTES.read_text(encoding="utf-8"), re.M))
    assert set(DATE.findall(guide.read_text(encoding="utf-8"))) <= measured


def test_each_preset_is_in_the_readme() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert {file.stem for file in (ROOT / "presets").glob("*.yaml")} <= set(rows)


def script(guide: Path) -> str:
    """Return the `sh` blocks of a guide, one after the other."""
    return "\n".join(SHELL_BLOCK.findall(guide.read_text(encoding="utf-8")))


@pytest.fixture
def clone(copy_of_built: Project) -> Project:
    """A built miniature as a reader has it: `.venv` is set up, but not yet activated."""
    folder = copy_of_built.folder
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "docs/decisions").mkdir(parents=True)
    decisions = sorted((ROOT / "docs/decisions").glob("*.md"), key=lambda file: file.stat().st_size)
    for file in decisions[:2]:
        shutil.copy(file, folder / "docs/decisions")
    (folder / "texts/.gitkeep").touch()
    for command in (
        "git rm -rq --cached texts",  # a reader's texts are in no commit
        "git add -f Makefile LICENSE docs texts/.gitkeep",
        "git commit -qm clone",
    ):
        done = copy_of_built.run(*command.split())
        assert done.returncode == 0, done.stdout
    (folder / "texts/.gitkeep").unlink()  # was not there when the stages ran
    installed, tools = Path(sys.executable).parent, folder / ".venv/bin"
    tools.mkdir(parents=True)
    for file in installed.iterdir():
        if not file.name.startswith(("python", "activate")):
            (tools / file.name).symlink_to(file)
    (tools / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    (tools / "python").chmod(0o755)
    (tools / "activate").write_text(f'PATH="{tools}:$PATH"\n', encoding="utf-8")
    (folder / ".venv/.installed").touch()  # newer than what it depends on: pip is not called
    path = [p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != installed]
    environment = {**copy_of_built.environment, "PATH": os.pathsep.join(path), "PIP_NO_INDEX": "1"}
    for name in ("VIRTUAL_ENV", "MAKELEVEL", "MAKEFLAGS", "MFLAGS"):  # of the `make test` around
        environment.pop(name, None)
    return Project(folder, environment)


def make_own_text_the_miniature(project: Project, **params: str) -> None:
    """Replace the preset `own-text` by the params of the project with some changed."""
    file = project.folder / "params.yaml"
    text = file.read_text(encoding="utf-8")
    project.set_params(**params)
    file.rename(project.folder / "presets/own-text.yaml")
    file.write_text(text, encoding="utf-8")


# Decisions are left out: their commands are those of their time.
SCRIPTED = [file for file in GUIDES if file.parent.name != "decisions" and script(file)]


@pytest.mark.parametrize("guide", SCRIPTED, ids=relative)
def test_shell_blocks_run_in_order_in_a_fresh_shell(guide: Path, clone: Project) -> None:
    commands = script(guide)
    assert "||" not in commands and "&&" not in commands  # `bash -e` overlooks what fails in them
    brings_texts = re.search(r"(?m)^cp .* texts/", commands)  # so that all stages run again
    make_own_text_the_miniature(clone, **(SHORT if brings_texts else {}))
    done = clone.run("bash", "--norc", "-euxo", "pipefail", "-c", commands, BASH_ENV="")
    assert done.returncode == 0, done.stdout
