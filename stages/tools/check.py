"""Check the entire params file, as is done before any stage runs: `python -m stages check [FILE]`.

A mistake in a late section stops the first stage, not the last. Constraints that span sections are
checked here too.
"""

import argparse
from pathlib import Path

from stages.params.preflight import check_project
from stages.params.sections import check_params
from stages.runtime.settings import Settings
from stages.runtime.yaml_files import PARAMS_FILE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, default=PARAMS_FILE)


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages check [FILE]`."""
    if options.file == PARAMS_FILE:
        check_project()
    else:
        check_params(options.file)
