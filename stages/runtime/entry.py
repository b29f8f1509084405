"""The entry point of every stage and tool: it times the run and reports failures.

A failure that a user can cause is reported in one message without a traceback; anything else is a
bug and shows its traceback. When NANOGPT_STATUS_FILE is set, the end of the stage is also written
there as JSON: DVC does not pass on exit codes, and the flow decides by the file whether to retry.
"""

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nanogpt.files import atomic_write
from stages.runtime.errors import EXIT_CODES, EXPECTED, OutOfMemory, kind_of, message_of
from stages.runtime.inputs import check_unchanged, inputs_of
from stages.runtime.redaction import redact_tracebacks, redacted
from stages.runtime.settings import PREFIX, Settings, read_settings
from stages.runtime.status import Status
from stages.runtime.supervise import dvc_ancestors, on_exit, terminate_self

TIMES = Path("runs/times")


def run_command(name: str, run: Callable[[Settings], None], *, keeps_nothing: bool = False) -> None:
    """Run a stage or a tool; exit the process with its exit code when it fails.

    Unless `keeps_nothing`, record its duration, and fail if one of its inputs changed meanwhile.
    """
    redact_tracebacks()
    gc.freeze()  # imported modules live to the end: spare the collector from scanning them
    if "DVC_STAGE" in os.environ:  # DVC does not stop its stages when it is killed
        on_exit(dvc_ancestors(), terminate_self)
    started = time.perf_counter()
    status_file = os.environ.get(f"{PREFIX}STATUS_FILE")  # needed even if the settings are invalid
    debug = False
    try:
        settings = read_settings()
        debug = settings.debug
        keeps_nothing |= settings.join  # the leader of the run records it
        start = None if keeps_nothing else inputs_of(name)
        run(settings)
        if start:
            check_unchanged(name, start)
        if not keeps_nothing:
            seconds = round(time.perf_counter() - started, 2)
            atomic_write(TIMES / f"{name}.json", json.dumps({"seconds": seconds}))
        if status_file:
            Status(name, "done").write(Path(status_file))
    except EXPECTED as error:
        if debug:
            print(redacted(traceback.format_exc()), end="", file=sys.stderr)
        fail(status_of(name, error), status_file)


def status_of(stage: str, error: BaseException) -> Status:
    """Return the status of a stage that ended with an expected exception, secrets redacted."""
    status = Status(stage, kind_of(error), redacted(message_of(error)))
    if isinstance(error, OutOfMemory):
        tokens, window = error.micro_batch_tokens, error.window_tokens
        return replace(status, micro_batch_tokens=tokens, window_tokens=window)
    return status


def fail(status: Status, file: str | None) -> None:
    """Report a failure and exit the process."""
    print(f"{status.stage}: {status.message}", file=sys.stderr, flush=True)
    if file:
        try:
            status.write(Path(file))
        except OSError as error:  # a full disk, for instance: the exit code still shows the kind
            print(f"{status.stage}: {file} cannot be written: {error}", file=sys.stderr)
    assert status.kind != "done"
    sys.exit(EXIT_CODES[status.kind])
