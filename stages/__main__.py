"""A stage as DVC starts it, `python -m stages NAME`: all params are checked before it begins.

It is sooner at work than `python -m stages.NAME`: what its workers are copied from imports while
the stage itself is imported.
"""

import argparse
import gc
import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from stages.failures import EXIT_CODES

if TYPE_CHECKING:
    from stages.settings import Settings

STAGES = ("download", "clean", "tokenize", "shard", "statistics", "train", "evaluate", "sample")
WORK = {"download": "stages.texts.bundles", "tokenize": "stages.tokens.pool"}  # what workers import


def checked(stage: str, settings: "Settings") -> None:
    """Run a stage, unless something in the params would stop it or a later one."""
    run_stage = import_module(f"stages.{stage}").run_stage
    from stages.check import check_before

    gc.freeze()  # as `stages.command.main` does with what it finds imported
    check_before(stage)
    run_stage(settings)


def main() -> None:
    """`python -m stages NAME`."""
    parser = argparse.ArgumentParser(prog="python -m stages", description="Run one stage.")
    parser.add_argument("stage", choices=STAGES)
    name = parser.parse_args().stage
    if name in WORK:
        from stages.processes import start_server

        start_server(WORK[name])
    from stages.command import main as run  # settings and all take their time

    run(name, partial(checked, name))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # while `stages.command`, which would tell of it, was imported
        sys.exit(EXIT_CODES["interrupted"])
