"""Texts that continue a prompt, to the terminal: `python -m stages sample --prompt "To be"`.

The same texts as the stage `sample` writes into a file for the same prompt and seed. Nothing is
written to the disk, nothing recorded, and of params.yaml only the section `sample` is read.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.lib.params import load_section, parse_section
from stages.runtime.settings import Settings
from stages.sample.stage import MODEL, SampleParams, to_read, written

UNDECODED = re.compile("[\udc80-\udcff]")  # bytes that Python found to be no text


def write_texts(given: Mapping[str, Any], settings: Settings) -> None:
    """Print the texts for the options that were given: `prompt` and some of the section's keys.

    Raises ValueError when there is no model, or a value or a prompt that it cannot take.
    """
    folder: Path = given.get("model", MODEL)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"there is no model in {folder}; run `make run` first, or name a folder by --model"
        )
    options = {key: value for key, value in given.items() if key not in ("prompt", "model")}
    own = load_section("sample", SampleParams)
    prompts = [typed(prompt) for prompt in given["prompt"]]
    content = {**own.model_dump(), **options, "prompts": prompts}
    params = parse_section("sample", SampleParams, content, Path("the command line"))
    print(to_read(written(params, folder, device=settings.device)), end="")


def typed(argument: str) -> str:
    r"""Return an argument of the command line with its bytes read as UTF-8.

    They may hold surrogates, which `$'\ud83d\ude00'` of a shell writes each for itself. Raises
    ValueError at bytes that are no UTF-8.
    """
    if not UNDECODED.search(argument):
        return argument
    try:
        return os.fsencode(argument).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompt is not UTF-8: {error}") from None
