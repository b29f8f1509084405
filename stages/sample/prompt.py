"""Print continuations of a prompt: `python -m stages sample --prompt "To be"`.

They are the same as those of the stage `sample` for the same prompt and seed. Nothing is written to
disk or recorded, and only the section `sample` of params.yaml is read. Without any option this is
the stage `sample`: the prompts in params.yaml, written to samples/.
"""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.artifacts.model import MODEL
from stages.generation.completion import format_samples
from stages.lib.params import load_section, parse_section
from stages.runtime.settings import Settings
from stages.sample.params import SampleParams
from stages.sample.stage import generate_samples

OWN = "instead of the value in params.yaml"
UNDECODED = re.compile("[\udc80-\udcff]")  # bytes that Python could not decode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; the default of each is its value in params.yaml."""
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        required=True,
        help='prompt to continue; may be repeated; "" lets the model choose how to start',
    )
    parser.add_argument("--model", type=Path, help="model folder (default: models/gpt)")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help=OWN)
    parser.add_argument("--temperature", type=float, metavar="T", help=OWN)
    parser.add_argument("--seed", type=int, metavar="S", help=OWN)


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages sample --prompt TEXT`."""
    given = {key: value for key, value in vars(options).items() if value is not None}
    print_samples(given, settings)


def print_samples(given: Mapping[str, Any], settings: Settings) -> None:
    """Print the continuations for the given options: `prompt` and some of the section's keys.

    Raises ValueError if there is no model, or if a value or a prompt is invalid.
    """
    folder: Path = given.get("model", MODEL)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"there is no model in {folder}; run `make run` first, or name a folder with --model"
        )
    options = {key: value for key, value in given.items() if key not in ("prompt", "model")}
    section = load_section("sample", SampleParams)
    prompts = [decode_argument(prompt) for prompt in given["prompt"]]
    content = {**section.model_dump(), **options, "prompts": prompts}
    params = parse_section("sample", SampleParams, content, Path("the command line"))
    print(format_samples(generate_samples(params, folder, device=settings.device)), end="")


def decode_argument(argument: str) -> str:
    r"""Decode a command-line argument as UTF-8.

    Surrogates are allowed: a shell encodes `$'\ud83d\ude00'` as two of them. Raises ValueError if
    the bytes are not UTF-8.
    """
    if not UNDECODED.search(argument):
        return argument
    try:
        return os.fsencode(argument).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompt is not UTF-8: {error}") from None
