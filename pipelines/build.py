"""The flow `build`: every stage of dvc.yaml as a task, from text to a measured model.

Directly:          python -m pipelines.build [--target STAGE] [--force]
As a deployment:   prefect deployment run build/local --watch
"""

import argparse
import json
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import PREFECT_UI_URL, temporary_settings
from prefect.tasks import Task, exponential_backoff

from pipelines.dag import Stage, read_stages
from pipelines.failure import failure
from pipelines.result import result_markdown
from pipelines.runner import run_command
from stages.runtime.errors import EXIT_CODES, EXPECTED, Kind, kind_of
from stages.runtime.redaction import redact_tracebacks, redacted
from stages.tools.check import check_project

PRINTED_LINES = 200  # the last of what a command prints, among which DVC says why it failed


class StageFailed(Exception):
    """A stage ended without its output; `kind` says whether trying again may help."""

    def __init__(self, stage: str, kind: Kind, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.kind = kind


def run_stage(name: str, *, force: bool) -> None:
    """Let DVC run one stage if it is out of date. Raises StageFailed."""
    logger = get_run_logger()
    with tempfile.TemporaryDirectory() as folder:
        status = Path(folder) / "status.json"
        tags = {
            "prefect.flow_run": str(flow_run.get_name()),
            "prefect.flow_run_id": flow_run.get_id(),
        }
        environment = {
            **os.environ,
            "NANOGPT_STATUS_FILE": str(status),
            "NANOGPT_TAGS": json.dumps(tags),
        }
        command = [sys.executable, "-m", "dvc", "repro", "--single-item", name]
        printed = deque[str](maxlen=PRINTED_LINES)

        def say(line: str) -> None:
            printed.append(redacted(line))
            logger.info(printed[-1])

        if run_command(command + ["--force"] * force, environment, say) == 0:
            return
        kind, message = failure(status, printed)
    raise StageFailed(name, kind, message)


def may_help(kinds: set[Kind]) -> Callable[[Task[..., Any], TaskRun, State[Any]], bool]:
    """A Prefect retry condition: the failure is of one of these kinds."""

    def condition(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
        error = state.result(raise_on_failure=False)
        return isinstance(error, StageFailed) and error.kind in kinds

    return condition


def task_of(stage: Stage) -> Task[..., None]:
    """The stage as a task, with the retries its nature asks for.

    What another process holds is free after a while, and a network may answer again; an interrupted
    training continues from its checkpoint. A mistake in the params or the data stays one however
    often it is tried, and a full disk needs a person.
    """
    kinds: set[Kind] = {"busy"}
    if stage.network:
        kinds |= {"network"}
    if stage.resumable:
        kinds |= {"crash", "interrupted"}
    return task(
        name=stage.name,
        retries=5,
        retry_delay_seconds=exponential_backoff(backoff_factor=2),
        retry_jitter_factor=0.5,
        retry_condition_fn=may_help(kinds),
    )(run_stage)


@flow(name="build", log_prints=True)
def build(target: str | None = None, force: bool = False) -> None:
    """Bring the pipeline up to date, or one stage of it and what that depends on.

    Args:
        target: the last stage to run; all of them when empty.
        force: run stages even when nothing they depend on has changed.

    """
    check_project()
    stages = read_stages(Path.cwd(), target)
    for stage in stages:
        task_of(stage)(stage.name, force=force)
    if {"evaluate", "sample"} <= {stage.name for stage in stages}:
        create_markdown_artifact(result_markdown(), key="result", description="figures and samples")


def main() -> None:
    """`python -m pipelines.build`."""
    parser = argparse.ArgumentParser(description="run the pipeline as a Prefect flow")
    parser.add_argument("--target", help="the last stage to run; all of them by default")
    parser.add_argument("--force", action="store_true", help="run stages that are up to date too")
    arguments = parser.parse_args()
    redact_tracebacks()
    with temporary_settings({PREFECT_UI_URL: redacted(PREFECT_UI_URL.value())}):  # its links' root
        state = build(target=arguments.target, force=arguments.force, return_state=True)
    if not state.is_completed():
        print(redacted(f"build: {state.message}"), file=sys.stderr)
        sys.exit(exit_code(state.result(raise_on_failure=False)))


def exit_code(error: object) -> int:
    """Return the exit code for what ended the flow: that of the kind of failure it was."""
    if isinstance(error, StageFailed):
        return EXIT_CODES[error.kind]
    return EXIT_CODES[kind_of(error)] if isinstance(error, EXPECTED) else 1


if __name__ == "__main__":
    main()
