"""What `weights` records of the weights that a training starts from, and whether it is still so."""

import json
from pathlib import Path

from nanogpt.files import file_sha256

WEIGHTS = Path("data/weights.json")


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
