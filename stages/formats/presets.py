"""Preset files: one complete params file, and overlays that hold only what differs from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.runtime.yaml_files import ParamsError, read_params

PRESETS = Path("presets")
BASE = "shakespeare"  # the preset that is complete


def overlaid(base: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return the base preset with what differs from it in the preset `file`, not validated."""
    content = dict(base)
    for section, values in read_params(file).items():
        if not isinstance(values, dict):
            raise ParamsError(f"{file}: {section} must be a mapping, not {values!r}")
        content[section] = {**content.get(section, {}), **values}
    return content
