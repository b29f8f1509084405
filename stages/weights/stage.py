"""Stage `weights`: record the hash of the weights that training starts from.

The stage `train` depends on this record and not on the folder `weights/`. So it runs again if the
initial weights change, but not if other files are added next to them.
"""

import json
from pathlib import Path

from nanogpt.files import atomic_write
from stages.artifacts.weights import WEIGHTS, check_initial_folder, weights_sha256
from stages.runtime.settings import Settings
from stages.runtime.yaml_files import read_params


def run(init_from: str | None, out: Path) -> None:
    """Write the name of the folder and the hash of its weights, both null if there is none.

    Raises ValueError if the folder does not exist.
    """
    if init_from:
        check_initial_folder(Path(init_from))
    sha256 = weights_sha256(Path(init_from)) if init_from else None
    atomic_write(out, json.dumps({"folder": init_from, "sha256": sha256}, indent=2) + "\n")
    print(
        f"weights: {init_from}, sha256 {sha256}" if init_from else "weights: random initialization"
    )


def run_stage(settings: Settings) -> None:
    """Run `python -m stages weights`."""
    run(read_params()["train"]["init_from"], WEIGHTS)
