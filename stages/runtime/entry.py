"""How every stage and tool runs: its time is kept, its failure is reported.

What a user can cause ends in one message without a traceback; anything else is a bug and shows
its traceback. When NANOGPT_STATUS_FILE is set, an expected failure is written there as JSON too:
DVC passes on no exit code, and the flow decides by it whether to try again.
"""

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from nanogpt.files import atomic_write
from stages.runtime.errors import EXIT_CODES, EXPECTED, Kind, kind_of, message_of
from stages.runtime.inputs import check_unchanged, inputs_of
from stages.runtime.redaction import redact_tracebacks, redacted
from stages.runtime.settings import PREFIX, Settings, read_settings
from stages.runtime.supervise import ask_to_stop, dvc_ancestors, on_exit

TIMES = Path("runs/times")


def run_command(name: str, run: Callable[[Settings], None], *, keeps_nothing: bool = False) -> None:
    """Run a stage or a tool, and leave the process with its exit code when it fails.

    Unless it keeps nothing, its time is noted, and it fails if what it depends on was changed
    meanwhile.
    """
    redact_tracebacks()
    gc.freeze()  # what was imported stays: nothing in it to collect again and at the end
    if "DVC_STAGE" in os.environ:  # DVC does not stop its stages when it is killed
        on_exit(dvc_ancestors(), ask_to_stop)
    started = time.perf_counter()
    status_file = os.environ.get(f"{PREFIX}STATUS_FILE")  # written even if the settings are wrong
    debug = False
    try:
        settings = read_settings()
        debug = settings.debug
        keeps_nothing |= settings.join  # the training's leader does
        start = None if keeps_nothing else inputs_of(name)
        run(settings)
        if start:
            check_unchanged(name, start)
        if not keeps_nothing:
            seconds = round(time.perf_counter() - started, 2)
            atomic_write(TIMES / f"{name}.json", json.dumps({"seconds": seconds}))
    except EXPECTED as error:
        if debug:
            print(redacted(traceback.format_exc()), end="", file=sys.stderr)
        fail(name, kind_of(error), message_of(error), status_file)


def fail(stage: str, kind: Kind, message: str, status_file: str | None) -> None:
    """Report what went wrong, without secrets, and leave the process."""
    message = redacted(message)
    print(f"{stage}: {message}", file=sys.stderr, flush=True)
    if status_file:
        status = {"stage": stage, "kind": kind, "message": message}
        try:
            atomic_write(Path(status_file), json.dumps(status))
        except OSError as error:  # of a full disk, say: the exit code is right all the same
            print(f"{stage}: {status_file} cannot be written: {error}", file=sys.stderr)
    sys.exit(EXIT_CODES[kind])
