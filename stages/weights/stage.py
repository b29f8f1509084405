"""Stage `weights`: which weights a training starts from, by the hash of their file.

The training depends on this stage's file and not on the folder `weights/`: it starts again when the
weights it is to start from are others, and not when something is put next to them.
"""

import json
from pathlib import Path

from nanogpt.files import atomic_write
from stages.artifacts.weights import WEIGHTS, check_initial_folder, weights_sha256
from stages.runtime.settings import Settings
from stages.runtime.yaml_files import read_params


def run(init_from: str | None, out: Path) -> None:
    """Write the folder's name and the hash of its weights; null for both where none is named."""
    if init_from:
        check_initial_folder(Path(init_from))
    sha256 = weights_sha256(Path(init_from)) if init_from else None
    atomic_write(out, json.dumps({"folder": init_from, "sha256": sha256}, indent=2) + "\n")
    print(f"weights: {init_from}, sha256 {sha256}" if init_from else "weights: drawn at random")


def run_stage(settings: Settings) -> None:
    """`python -m stages weights`."""
    run(read_params()["train"]["init_from"], WEIGHTS)
