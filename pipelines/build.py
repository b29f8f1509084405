"""The flow `build`: every stage of dvc.yaml as a task, from text to an evaluated model.

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
from stages.params.preflight import check_project
from stages.runtime.errors import EXIT_CODES, EXPECTED, Kind, kind_of
from stages.runtime.redaction import redact_tracebacks, redacted

OUTPUT_LINES = 200  # the last lines of a command's output, where DVC reports why it failed


class StageFailed(Exception):
    """A stage failed; its `kind` decides whether a retry may help."""

    def __init__(self, stage: str, kind: Kind, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.kind = kind


def run_stage(name: str, *, force: bool) -> None:
    """Run one stage by DVC if it is out of date. Raises StageFailed."""
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
        output = deque[str](maxlen=OUTPUT_LINES)

        def log(line: str) -> None:
            output.append(redacted(line))
            logger.info(output[-1])

        if run_command(command + ["--force"] * force, environment, log) == 0:
            return
        kind, message = failure(status, output)
    raise StageFailed(name, kind, message)


def retry_on(kinds: set[Kind]) -> Callable[[Task[..., Any], TaskRun, State[Any]], bool]:
    """Return a Prefect retry condition: whether the failure is of one of these kinds."""

    def condition(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
        error = state.result(raise_on_failure=False)
        return isinstance(error, StageFailed) and error.kind in kinds

    return condition


def stage_task(stage: Stage) -> Task[..., None]:
    """Return a stage as a task, with retries for the failures that may pass.

    A lock becomes free and a network recovers; an interrupted run resumes from its checkpoint.
    Invalid params or data fail however often they are tried, and a full disk needs a person.
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
        retry_condition_fn=retry_on(kinds),
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
        stage_task(stage)(stage.name, force=force)
    if {"evaluate", "sample"} <= {stage.name for stage in stages}:
        create_markdown_artifact(result_markdown(), key="result", description="metrics and samples")


def main() -> None:
    """Run `python -m pipelines.build`."""
    parser = argparse.ArgumentParser(description="run the pipeline as a Prefect flow")
    parser.add_argument("--target", help="the last stage to run; all of them by default")
    parser.add_argument("--force", action="store_true", help="run stages that are up to date too")
    options = parser.parse_args()
    redact_tracebacks()
    public_url = redacted(PREFECT_UI_URL.value())  # the base of the links that Prefect prints
    with temporary_settings({PREFECT_UI_URL: public_url}):
        state = build(target=options.target, force=options.force, return_state=True)
    if not state.is_completed():
        print(redacted(f"build: {state.message}"), file=sys.stderr)
        sys.exit(exit_code(state.result(raise_on_failure=False)))


def exit_code(error: object) -> int:
    """Return the exit code for the error that ended the flow, by its kind of failure."""
    if isinstance(error, StageFailed):
        return EXIT_CODES[error.kind]
    return EXIT_CODES[kind_of(error)] if isinstance(error, EXPECTED) else 1


if __name__ == "__main__":
    main()
