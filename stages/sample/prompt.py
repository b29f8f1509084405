"""Texts that continue a prompt, to the terminal: `python -m stages sample --prompt "To be"`.

The same texts as the stage `sample` writes into a file for the same prompt and seed. Nothing is
written to the disk, nothing recorded, and of params.yaml only the section `sample` is read.
"""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.artifacts.model import MODEL, format_samples
from stages.lib.params import load_section, parse_section
from stages.runtime.settings import Settings
from stages.sample.params import SampleParams
from stages.sample.stage import sampled

UNDECODED = re.compile("[\udc80-\udcff]")  # bytes that Python found to be no text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line; what is not given is as params.yaml says."""
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help='what a text begins with, may be given several times; "" leaves it to the model',
    )
    parser.add_argument("--model", type=Path, help="a model's folder; models/gpt by default")
    parser.add_argument("--max-new-tokens", type=int, metavar="N")
    parser.add_argument("--temperature", type=float, metavar="T")
    parser.add_argument("--seed", type=int, metavar="S")


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """`python -m stages sample --prompt TEXT`. Raises ValueError when there is no prompt."""
    if options.prompt is None:
        raise ValueError("every option goes with --prompt; without any, the stage itself runs")
    write_texts({key: value for key, value in vars(options).items() if value is not None}, settings)


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
    content = {**own.model_dump(), **options, "prompts": [typed(p) for p in given["prompt"]]}
    params = parse_section("sample", SampleParams, content, Path("the command line"))
    print(format_samples(sampled(params, folder, device=settings.device)), end="")


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
