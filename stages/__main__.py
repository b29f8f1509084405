"""A stage as DVC starts it, `python -m stages NAME`: all params are checked before it begins.

With a prompt `python -m stages sample` is no stage: it writes to the terminal and nowhere else.

It is sooner at work than `python -m stages.NAME`: what its workers are copied from imports while
the stage itself is imported.
"""

import argparse
import gc
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from stages.runtime.errors import EXIT_CODES

if TYPE_CHECKING:
    from stages.runtime.settings import Settings

STAGES = (
    *("download", "clean", "tokenize", "shard", "statistics"),
    *("weights", "train", "evaluate", "sample"),
)
WORK = {
    "download": "stages.download.file_groups",
    "tokenize": "stages.tokenize.pool",
}  # what workers import


def checked(stage: str, settings: "Settings") -> None:
    """Run a stage, unless something in the params would stop it or a later one."""
    run_stage = import_module(f"stages.{stage}").run_stage
    from stages.tools.check import check_before

    gc.freeze()  # as `stages.runtime.entry.main` does with what it finds imported
    check_before(stage)
    run_stage(settings)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(prog="python -m stages", description="Run one stage.")
    stages = whole.add_subparsers(dest="stage", required=True, metavar=f"{{{','.join(STAGES)}}}")
    for name in STAGES:
        one = stages.add_parser(name, description=f"Run the stage {name} of dvc.yaml.")
        if name == "sample":
            one.description = "Run the stage, or with --prompt write to the terminal instead."
            add_prompt_options(one)
    return whole


def add_prompt_options(sample: argparse.ArgumentParser) -> None:
    """Add what `stages.serve.prompt` takes; what is not given is as params.yaml says."""
    sample.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help='what a text begins with, may be given several times; "" leaves it to the model',
    )
    sample.add_argument("--model", type=Path, help="a model's folder; models/gpt by default")
    sample.add_argument("--max-new-tokens", type=int, metavar="N")
    sample.add_argument("--temperature", type=float, metavar="T")
    sample.add_argument("--seed", type=int, metavar="S")


def main() -> None:
    """`python -m stages NAME`."""
    arguments = parser()
    given = {key: value for key, value in vars(arguments.parse_args()).items() if value is not None}
    name = given.pop("stage")
    if given and "prompt" not in given:
        arguments.error(f"--{next(iter(given)).replace('_', '-')} goes with --prompt")
    if name in WORK:
        from stages.runtime.pool import start_server

        start_server(WORK[name])
    from stages.runtime.entry import main as run  # settings and all take their time

    if given:
        from stages.serve.prompt import write_texts

        run(name, partial(write_texts, given), takes_arguments=True, keeps_nothing=True)
    else:
        run(name, partial(checked, name), takes_arguments=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # while `stages.runtime.entry`, which would report it, was imported
        sys.exit(EXIT_CODES["interrupted"])
