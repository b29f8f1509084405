"""README and docs name only what exists: files, headings, commands, settings, dated runs."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from stages.__main__ import STAGES, TOOLS
from stages.runtime.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
NOTES = ROOT / "docs/lab-notes.md"
FOLDERS = ("docs", "docs/decisions", "infra", "benchmarks", "weights", "filters")
# The lab notes are left out: they are about past commits, with the names of their time.
GUIDES = sorted(
    {ROOT / "README.md", *(f for d in FOLDERS for f in (ROOT / d).glob("*.md"))} - {NOTES}
)

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_FILE = re.compile(
    r"(?:nanogpt|stages|pipelines|benchmarks|tests|infra|docs|presets)/[\w/.-]+\.(?:py|md|sh|yaml)"
)
TEST_FILE = re.compile(r"(?<![\w/])test_\w+\.py")
MODULE = re.compile(
    r"python3? -m ((?:stages|pipelines|benchmarks)(?:\.[a-z]\w*)*)(?![\w.])(?: ([a-z][a-z0-9-]*))?"
)
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
