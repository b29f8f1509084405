"""The command-line entry point: `python -m stages NAME` runs a stage of dvc.yaml or a tool.

A stage is a folder with a `stage.py`, which has `run_stage(settings)`; a tool is a module in
`tools/`, which has `run_tool(options, settings)` and, where it takes arguments,
`add_arguments(parser)`. Before a stage starts, all params are checked.
"""

import argparse
import ast
import gc
import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from stages.runtime.errors import EXIT_CODES

if TYPE_CHECKING:
    from stages.runtime.settings import Settings

HERE = Path(__file__).parent
STAGES = {file.parent.name: file for file in sorted(HERE.glob("*/stage.py"))}
TOOLS = {
    file.stem.replace("_", "-"): file
    for file in sorted((HERE / "tools").glob("*.py"))
    if file.stem != "__init__"
}

# What a stage's workers import: their server imports it while the stage itself is imported.
PRELOADED = {"download": "stages.download.file_groups", "tokenize": "stages.tokenize.pool"}


def summary(file: Path) -> str:
    """Return the first line of a module's docstring without importing it."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.splitlines()[0]


class Help(argparse.Action):
    """Print the usage and a line on every stage and tool."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the help and exit with code 0."""
        from stages.runtime.yaml_files import DVC_FILE, read_params

        stages = read_params(HERE.parent / DVC_FILE)["stages"]  # in the order they run
        print(f"{parser.format_usage()}\n{parser.description}")
        for title, files in (("stages", {name: STAGES[name] for name in stages}), ("tools", TOOLS)):
            print(f"\n{title}:")
            for name, file in files.items():
                print(f"  {name:<18}{summary(file)}")
        parser.exit()


def command() -> tuple[str, list[str]]:
    """Return the NAME on the command line and the arguments after it."""
    parser = argparse.ArgumentParser(
        prog="python -m stages",
        usage="python -m stages NAME [ARGUMENTS]",
        description=(
            "Run a stage or a tool; `python -m stages NAME --help` describes one in detail."
        ),
        add_help=False,
    )
    parser.add_argument("-h", "--help", action=Help, nargs=0)
    parser.add_argument("name", choices=[*STAGES, *TOOLS])
    return parser.parse_args(sys.argv[1:2]).name, sys.argv[2:]


def parsed(name: str, module: ModuleType, arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments of one command as its module describes them."""
    parser = argparse.ArgumentParser(
        prog=f"python -m stages {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    return parser.parse_args(arguments)


def checked(stage: str, module: ModuleType, settings: "Settings") -> None:
    """Check the params of this stage and all later ones, then run the stage."""
    from stages.params.preflight import check_before

    gc.freeze()  # as `run_command` does with everything imported before it
    check_before(stage)
    module.run_stage(settings)


def main() -> None:
    """Run the command that is named on the command line."""
    name, arguments = command()
    if name in PRELOADED and not arguments:
        from stages.runtime.pool import start_server

        start_server(PRELOADED[name])
    if name in TOOLS:
        module = import_module(f"stages.tools.{TOOLS[name].stem}")
    elif name == "sample" and arguments:  # with a prompt: print, write nothing
        module = import_module("stages.sample.prompt")
    else:
        module = import_module(f"stages.{name}.stage")
    options = parsed(name, module, arguments)
    from stages.runtime.entry import run_command

    if hasattr(module, "run_tool"):
        run_command(name, partial(module.run_tool, options), keeps_nothing=True)
    else:
        run_command(name, partial(checked, name, module))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # before `run_command`, which would report it
        sys.exit(EXIT_CODES["interrupted"])
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
