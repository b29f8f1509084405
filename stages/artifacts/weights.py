"""The record of the weights that training starts from, and checks against it."""

import json
from pathlib import Path

from nanogpt.files import file_sha256

WEIGHTS = Path("data/weights.json")


def check_initial_folder(folder: Path) -> None:
    """Raise ValueError if the folder of initial weights does not exist."""
    if not folder.is_dir():
        raise ValueError(
            f"train.init_from: there is no folder {folder}; weights/README.md says how to get one"
        )


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 of the weights in a folder."""
    return file_sha256(folder / "model.safetensors")


def check_recorded(init_from: str, recorded: Path) -> None:
    """Raise ValueError unless the weights are those that the stage `weights` recorded."""
    current = {"folder": init_from, "sha256": weights_sha256(Path(init_from))}
    if not recorded.exists() or json.loads(recorded.read_text()) != current:
        raise ValueError(
            f"the weights in {init_from} are not those that {recorded} records; "
            "run `dvc repro weights` to record them"
        )
