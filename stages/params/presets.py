"""Presets as complete, validated params."""

from itertools import takewhile
from pathlib import Path
from typing import Any

from stages.formats.params_yaml import render
from stages.formats.presets import BASE, overlaid
from stages.params.sections import SECTIONS, check_content
from stages.runtime.yaml_files import read_params


def preset_content(file: Path) -> dict[str, Any]:
    """Return the complete params of a preset. Raises ParamsError if they are not valid."""
    content = overlaid(read_params(file.with_name(f"{BASE}.yaml")), file)
    check_content(content, file)
    return content


def preset_text(file: Path) -> str:
    """Return the params file of a preset as text; raises as `preset_content` does."""
    header = "".join(takewhile(lambda line: line[:1] == "#", file.open(encoding="utf-8")))
    return render(header, preset_content(file), SECTIONS)
