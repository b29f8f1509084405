"""`make use PRESET=name`: one of presets/ becomes params.yaml, an edited one is kept beside it."""

import shutil
import sys
import time
from pathlib import Path

from nanogpt.files import write_whole
from stages.check import check_params
from stages.command import main
from stages.params import PARAMS_FILE
from stages.settings import Settings

PRESETS = Path("presets")


def use(name: str, presets: Path, params: Path) -> Path | None:
    """Put a preset in place; where params that equal no preset were moved to, if there were any.

    Raises ValueError when there is no such preset.
    """
    known = {file.stem: file for file in sorted(presets.glob("*.yaml"))}
    if name not in known:
        raise ValueError(f"PRESET={name!r} is none of {', '.join(known)}")
    check_params(known[name])
    saved = None
    if params.exists() and params.read_bytes() not in [f.read_bytes() for f in known.values()]:
        saved = params.with_name(f"{params.stem}.{time.strftime('%Y%m%d-%H%M%S')}.yaml")
        shutil.copy(params, saved)
    write_whole(params, known[name].read_text(encoding="utf-8"))
    return saved


def run_stage(settings: Settings) -> None:
    """`python -m stages.preset NAME`."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    saved = use(name, PRESETS, PARAMS_FILE)
    print(f"preset: {PARAMS_FILE} is now {PRESETS / name}.yaml")
    if saved:
        print(f"preset: your edited params are in {saved}")


if __name__ == "__main__":
    main("preset", run_stage)
