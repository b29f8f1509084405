"""`make use PRESET=name [KEEP=corpus,sample]`: write a preset to params.yaml.

presets/shakespeare.yaml is complete; every other preset has only what differs from it. The comments
in params.yaml are the descriptions of the keys. The sections to keep stay as they are in
params.yaml, comments included: they are copied as text. An edited params.yaml is saved next to the
new one, and nothing is written until the result has been validated.
"""

import argparse
import shutil
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ruamel.yaml import YAML

from nanogpt.files import atomic_write
from stages.formats.presets import PRESETS
from stages.params.presets import preset_text
from stages.params.sections import SECTIONS, check_content
from stages.runtime.settings import Settings
from stages.runtime.yaml_files import PARAMS_FILE, ParamsError, parse_params, read_params


def use(name: str, presets: Path, params: Path, keep: Sequence[str] = ()) -> Path | None:
    """Write a preset to the params file, except for the sections to keep.

    Returns the file to which edited params were saved, if any. Raises ValueError if there is no
    such preset or section, or if the result is not valid.
    """
    known = {file.stem: file for file in sorted(presets.glob("*.yaml"))}
    if name not in known:
        raise ValueError(f"PRESET={name!r} is not one of {', '.join(known)}")
    if unknown := [section for section in keep if section not in SECTIONS]:
        raise ValueError(f"KEEP={','.join(unknown)!r} is not one of {', '.join(SECTIONS)}")
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


def with_kept(preset: str, params: Path, keep: Sequence[str]) -> str:
    """Return the text of a preset with some sections as they are in another file.

    Raises ParamsError if that file lacks one, or does not have it on lines of its own.
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
        content = parse_params(text, params)
    except ParamsError:  # for example, an anchor in another section
        content = {}
    if content == expected:
        return text
    raise ParamsError(
        f"{params}: {', '.join(keep)} cannot be copied line by line; start each section on a "
        "line of its own, and use no anchors"
    )


def section_texts(text: str) -> dict[str, str]:
    """Return the lines of each top-level key, with the comments right above it.

    The text before the first key is under the key "".
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
    """Add the arguments."""
    parser.add_argument("preset", metavar="NAME", help=f"a file in {PRESETS}/, without .yaml")
    parser.add_argument(
        "--keep",
        default="",
        metavar="SECTIONS",
        help=f"sections to leave as they are in {PARAMS_FILE}, for example corpus,sample",
    )


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages preset NAME [--keep SECTIONS]`."""
    keep = [section.strip() for section in options.keep.split(",") if section.strip()]
    saved = use(options.preset, PRESETS, PARAMS_FILE, keep)
    kept = f" except your {', '.join(keep)}" if keep else ""
    print(f"preset: {PARAMS_FILE} is now {PRESETS / options.preset}.yaml{kept}")
    if saved:
        print(f"preset: your edited params were saved to {saved}")
