"""`make use PRESET=name [KEEP=corpus,sample]`: one of presets/ becomes params.yaml.

presets/shakespeare.yaml is complete, each other preset has what differs from it. The comments in
params.yaml are the descriptions of the keys. The sections to keep stay as they are in params.yaml,
comments and all: they are moved as text. What was edited is kept next to it, and nothing is written
before the whole has been checked.
"""

import argparse
import shutil
import time
from collections.abc import Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from nanogpt.files import atomic_write
from stages.formats.params_yaml import render
from stages.runtime.settings import Settings
from stages.runtime.yaml_files import PARAMS_FILE, ParamsError, parse_params, read_params
from stages.tools.check import SECTIONS, check_content

PRESETS = Path("presets")
BASE = "shakespeare"  # the preset that is complete


def use(name: str, presets: Path, params: Path, keep: Sequence[str] = ()) -> Path | None:
    """Put a preset in place, but for the sections to keep.

    Returns where params that equal no preset were moved to, if there were any. Raises ValueError
    when there is no such preset or section, and when the whole is not valid.
    """
    known = {file.stem: file for file in sorted(presets.glob("*.yaml"))}
    if name not in known:
        raise ValueError(f"PRESET={name!r} is none of {', '.join(known)}")
    if unknown := [section for section in keep if section not in SECTIONS]:
        raise ValueError(f"KEEP={','.join(unknown)!r} is none of {', '.join(SECTIONS)}")
    text = preset_text(known[name])
    if keep:
        text = with_kept(text, params, keep)
        check_content(parse_params(text, params), params)
    saved = None
    if params.exists() and params.read_text(encoding="utf-8") not in map(
        preset_text, known.values()
    ):
        saved = params.with_name(f"{params.stem}.{time.strftime('%Y%m%d-%H%M%S')}.yaml")
        shutil.copy(params, saved)
    atomic_write(params, text)
    return saved


def preset_content(file: Path) -> dict[str, Any]:
    """Return the params that a preset stands for. Raises ParamsError when they are not valid."""
    own, content = read_params(file), read_params(file.with_name(f"{BASE}.yaml"))
    for section, values in own.items():
        if not isinstance(values, dict):
            raise ParamsError(f"{file}: {section} is {values!r}, where a section should be")
        content[section] = {**content.get(section, {}), **values}
    check_content(content, file)
    return content


def preset_text(file: Path) -> str:
    """Return the params file that a preset stands for; raises as `preset_content` does."""
    header = "".join(takewhile(lambda line: line[:1] == "#", file.open(encoding="utf-8")))
    return render(header, preset_content(file), SECTIONS)


def with_kept(preset: str, params: Path, keep: Sequence[str]) -> str:
    """Return the text of a preset with some sections as they are in another file.

    Raises ParamsError when that file does not have them, or not on lines of their own.
    """
    mine = read_params(params)
    if missing := [section for section in keep if section not in mine]:
        raise ParamsError(f"{params} has no section {', '.join(missing)} to keep")
    theirs = parse_params(preset, params)
    own = section_texts(params.read_text(encoding="utf-8"))
    merged = {**section_texts(preset), **{section: own[section] for section in keep}}
    text = "\n\n".join(filter(None, merged.values())) + "\n"
    expected = {name: mine[name] if name in keep else theirs[name] for name in theirs}
    try:
        found = parse_params(text, params)
    except ParamsError:  # an anchor that is in another section, say
        found = {}
    if found == expected:
        return text
    raise ParamsError(
        f"{params}: {', '.join(keep)} cannot be taken out by lines; begin each section on a line "
        "of its own, and use no anchors"
    )


def section_texts(text: str) -> dict[str, str]:
    """Return the lines of each top-level key, with the comments right above it.

    What comes before all of them is under the key "".
    """
    lines = text.split("\n")
    content = YAML(pure=True).load(text)
    starts = {"": 0} | {str(key): content.lc.key(key)[0] for key in content}
    for key in content:
        while starts[key] and lines[starts[key] - 1].startswith("#"):
            starts[key] -= 1
    bounds = [*starts.values(), len(lines)]
    return {
        key: "\n".join(lines[first:end]).strip("\n")
        for key, (first, end) in zip(starts, pairwise(bounds), strict=True)
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("preset", metavar="NAME", help=f"a file in {PRESETS}/, without .yaml")
    parser.add_argument(
        "--keep",
        default="",
        metavar="SECTIONS",
        help=f"what stays as it is in {PARAMS_FILE}, for example corpus,sample",
    )


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """`python -m stages preset NAME [--keep SECTIONS]`."""
    keep = [section.strip() for section in options.keep.split(",") if section.strip()]
    saved = use(options.preset, PRESETS, PARAMS_FILE, keep)
    but = f" but for your {', '.join(keep)}" if keep else ""
    print(f"preset: {PARAMS_FILE} is now {PRESETS / options.preset}.yaml{but}")
    if saved:
        print(f"preset: your edited params are in {saved}")
