"""The model folder: weights, config, tokenizer, curves, and the lineage that tells its origin."""

import json
from pathlib import Path
from typing import Any

MODEL = Path("models/gpt")
LINEAGE = "lineage.json"  # in the folder


def read_lineage(folder: Path) -> dict[str, Any]:
    """Return the lineage of the model in a folder."""
    lineage: dict[str, Any] = json.loads((folder / LINEAGE).read_text())
    return lineage
