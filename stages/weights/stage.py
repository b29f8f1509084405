"""Stage `weights`: which weights a training starts from, by the hash of their file.

The training depends on this stage's file and not on the folder `weights/`: it starts again when the
weights it is to start from are others, and not when something is put next to them.
"""

import json
from pathlib import Path

from nanogpt.files import file_sha256, write_whole
from stages.lib.params import read_params
from stages.runtime.entry import main
from stages.runtime.settings import Settings

OUT = Path("data/weights.json")


def check_initial_folder(folder: Path) -> None:
    """Raise ValueError when there is no such folder."""
    if not folder.is_dir():
        raise ValueError(
            f"train.init_from: there is no folder {folder}; weights/README.md says how to get one"
        )


def weights_sha256(folder: Path) -> str:
    """What distinguishes these weights from any others."""
    return file_sha256(folder / "model.safetensors")


def check_recorded(init_from: str, recorded: Path) -> None:
    """Raise ValueError when the weights are not those that this stage found last."""
    found = {"folder": init_from, "sha256": weights_sha256(Path(init_from))}
    if not recorded.exists() or json.loads(recorded.read_text()) != found:
        raise ValueError(
            f"the weights in {init_from} are not those that {recorded} records; "
            "`dvc repro weights` records these"
        )


def run(init_from: str | None, out: Path) -> None:
    """Write the folder's name and the hash of its weights; null for both where none is named."""
    if init_from:
        check_initial_folder(Path(init_from))
    sha256 = weights_sha256(Path(init_from)) if init_from else None
    write_whole(out, json.dumps({"folder": init_from, "sha256": sha256}, indent=2) + "\n")
    print(f"weights: {init_from}, sha256 {sha256}" if init_from else "weights: drawn at random")


def run_stage(settings: Settings) -> None:
    """`python -m stages.weights.stage`."""
    run(read_params()["train"]["init_from"], OUT)


if __name__ == "__main__":
    main("weights", run_stage)
