"""The flow `build`: every stage of dvc.yaml as a task, from text to an evaluated model.

Directly, in the project itself:   python -m pipelines.build [--target STAGE] [--force]
As a deployment, in a workspace:   prefect deployment run build/local --watch
"""

import argparse
import json
import os
import sys
import time
import uuid
from typing import Annotated, Any

import httpx
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings
from prefect.states import Cancelled, Failed
from pydantic import JsonValue

from pipelines.dag import stage_names
from pipelines.page import PrefectConsole
from pipelines.parameters import Overrides, choice, preset_names
from pipelines.request import AlreadyRunning, Request
from pipelines.stage_run import Console, StageFailed
from pipelines.watch import RunCancelled
from stages.runtime.errors import EXIT_CODES, EXPECTED, Interrupted, kind_of
from stages.runtime.redaction import redact_tracebacks, redacted

CONNECT_SECONDS = 60.0  # a server that is just starting, or a busy machine, answers late
FAILURES = (StageFailed, *EXPECTED)

AS_IT_IS, ALL = "params.yaml", "all"  # the form would send null for an empty choice
Preset = Annotated[str, choice([AS_IT_IS, *preset_names()])]
Target = Annotated[str, choice([ALL, *stage_names()])]


@flow(name="build", log_prints=True)
def build(
    preset: Preset = AS_IT_IS,
    experiment: str = "",
    target: Target = ALL,
    force: bool = False,
    overrides: Overrides = Overrides(),  # noqa: B008  # frozen; the form shows it
) -> State[Any] | None:
    """Build a model from text: run every stage that is out of date, and retry transient failures.

    A deployment run works in a workspace of its own and becomes a DVC experiment.

    Args:
        preset: the params to start from.
        experiment: a name for the result; if empty, derived from the preset and the overrides.
        target: the last stage to run.
        force: run stages even when nothing they depend on has changed.
        overrides: values for keys of params.yaml, such as {"train.max_steps": 2000}.

    """
    request = Request(
        preset=None if preset == AS_IT_IS else preset,
        overrides=overrides.given(),
        target=None if target == ALL else target,
        force=force,
        experiment=experiment or None,
    )
    run_id = str(flow_run.get_id())
    tags = {"prefect.flow_run": str(flow_run.get_name()), "prefect.flow_run_id": run_id}
    console = PrefectConsole(run_id)
    try:
        console.take_over()
        if deployment.get_id() or request.needs_workspace:
            request.build_experiment(console, run_id, tags)
        else:
            request.build_in_place(console, tags)
    except RunCancelled as error:
        return Cancelled(message=str(error))
    except AlreadyRunning:  # after a network cut, a server takes a living run for dead
        console.leave_to_other()
        os._exit(0)  # reports no state
    except FAILURES as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Failed(message=redacted(str(error)), data=error)
    return None


def main() -> None:
    """Run `python -m pipelines.build`."""
    parser = argparse.ArgumentParser(
        description="run the pipeline with retries; recorded in Prefect if PREFECT_API_URL is set"
    )
    parser.add_argument("--target", help="the last stage to run; all of them by default")
    parser.add_argument("--force", action="store_true", help="run stages that are up to date too")
    parser.add_argument("--preset", help="params to start from instead of params.yaml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of params.yaml, such as train.max_steps=2000 (repeatable)",
    )
    parser.add_argument("--experiment", help="run in a workspace, and save it under this name")
    options = parser.parse_args()
    redact_tracebacks()
    try:
        request = Request(
            options.preset,
            dict(map(assignment, options.set)),
            options.target,
            options.force,
            options.experiment,
        )
        if PREFECT_API_URL.value():
            run_recorded(request)
        else:
            run_plainly(request)
    except FAILURES as error:
        print(redacted(f"build: {error}"), file=sys.stderr)
        sys.exit(exit_code(error))


def assignment(text: str) -> tuple[str, JsonValue]:
    """Return the key and the value of `KEY=VALUE`, which is JSON or else a string."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: write KEY=VALUE, such as train.max_steps=2000")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def run_plainly(request: Request) -> None:
    """Run without Prefect: the same stages and policies, recorded nowhere."""
    console = Console()
    if request.needs_workspace:
        request.build_experiment(console, uuid.uuid4().hex, {})
    else:
        request.build_in_place(console, {})


def run_recorded(request: Request) -> None:
    """Run as a flow run of Prefect's server. Raises what ended it."""
    wait_for_server()
    public_url = redacted(PREFECT_UI_URL.value())  # the base of the links that Prefect prints
    with temporary_settings({PREFECT_UI_URL: public_url}):
        state = build(
            preset=request.preset or AS_IT_IS,
            overrides=Overrides(**request.overrides),
            target=request.target or ALL,
            force=request.force,
            experiment=request.experiment or "",
            return_state=True,
        )
    if state.is_cancelled():
        raise Interrupted("the run was cancelled; what was trained is kept")
    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        raise error if isinstance(error, FAILURES) else RuntimeError(state.message)


def wait_for_server() -> None:
    """Wait until Prefect's server answers. Raises ConnectionError if it does not."""
    url = str(PREFECT_API_URL.value())
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            httpx.get(f"{url.rstrip('/')}/health", timeout=10).raise_for_status()
            return
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"Prefect's server at {redacted(url)} does not answer "
                    f"({redacted(str(error))}); start it (`make up`), or unset PREFECT_API_URL to "
                    "run without it"
                ) from None
            time.sleep(1)


def exit_code(error: BaseException) -> int:
    """Return the exit code for the error that ended the run, by its kind of failure."""
    return EXIT_CODES[error.kind if isinstance(error, StageFailed) else kind_of(error)]


if __name__ == "__main__":
    main()
