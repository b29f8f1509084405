"""A stage as DVC starts it: `python -m stages NAME` is `python -m stages.NAME`, but sooner at work.

What the workers of a stage are copied from imports while the stage itself is imported.
"""

import argparse
from importlib import import_module

from stages.processes import start_server

STAGES = ("download", "clean", "tokenize", "shard", "statistics", "train", "evaluate", "sample")
WORK = {"download": "stages.texts.bundles", "tokenize": "stages.tokens.pool"}  # what workers import


def main() -> None:
    """`python -m stages NAME`."""
    parser = argparse.ArgumentParser(prog="python -m stages", description="Run one stage.")
    parser.add_argument("stage", choices=STAGES)
    name = parser.parse_args().stage
    if name in WORK:
        start_server(WORK[name])
    from stages.command import main as run  # settings and all take their time

    run(name, import_module(f"stages.{name}").run_stage)


if __name__ == "__main__":
    main()
