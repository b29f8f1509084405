"""Run this machine's training processes: as many as set, or one per GPU.

torchrun starts several; a single one is this process itself, so that torch is imported once. It is
not the launcher, which does without torch: importing it takes seconds.
"""

import argparse
import os
import runpy
import signal
import sys
from typing import TYPE_CHECKING

import torch

from nanogpt.runtime import choose_device
from stages.runtime.errors import EXIT_CODES
from stages.runtime.redaction import redact_tracebacks
from stages.runtime.settings import Settings, read_settings
from stages.runtime.supervise import die_with_parent

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

TOGETHER_SECONDS = 10  # torchrun waits for 30 between SIGTERM and SIGKILL


def main() -> None:
    """Run `-m stages.runtime.torchrun WINDOWS MODULE [ARGUMENTS]`."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.runtime.torchrun",
        description=f"{__doc__} `python -m stages train` is the command to start a training run.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("windows", type=int, help="windows of tokens per step")
    parser.add_argument("module", help="what each process runs")
    parser.add_argument("arguments", nargs="*", help="its arguments")
    options = parser.parse_args()
    redact_tracebacks()
    die_with_parent()
    settings = read_settings()
    try:
        count = process_count(settings, options.windows)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_CODES["input"])
    command = [options.module, *options.arguments]
    if count == 1 and not settings.torchrun:
        for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):  # of a job that this is not part of
            os.environ.pop(name, None)
        sys.argv = command
        runpy.run_module(options.module, run_name="__main__", alter_sys=True)
    else:
        run_torchrun(torchrun_arguments(settings, count, command))


def run_torchrun(arguments: list[str]) -> None:
    """Run torchrun in this process; exit as the first process that failed did."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun  # importing takes half a second

    sys.argv[0] = "NANOGPT_TORCHRUN"  # torchrun's messages name this as the source of its options
    signal.signal(signal.SIGTERM, lambda *_: None)  # meant for the ranks, which get it as well
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        sys.exit(exit_code_of(error))


def exit_code_of(error: "ChildFailedError") -> int:
    """Return 128 + N, as a shell does, if signal N killed a process on this machine, else 1.

    A process whose peer was killed fails at the same moment. The others get SIGTERM from torchrun
    then, and SIGKILL much later.
    """
    start = min(failure.timestamp for failure in error.failures.values())
    first = [f.exitcode for f in error.failures.values() if f.timestamp < start + TOGETHER_SECONDS]
    return next((128 - code for code in first if code < 0 and code != -signal.SIGTERM), 1)


def process_count(settings: Settings, windows: int) -> int:
    """Return how many processes to start on this machine: as set, else one per GPU, else one.

    By default the number divides `windows`, the windows per update, so some GPUs may stay unused.
    Raises ValueError if the chosen device, or one of the GPUs, is missing.
    """
    on_gpu = choose_device(settings.device).type == "cuda"
    available = torch.cuda.device_count() if on_gpu else 1
    if settings.processes is None:
        used = largest_divisor(windows, available)
        if used < available:
            reason = f"more would not evenly divide {windows} windows per step"
            print(f"train: using {used} of {available} GPUs; {reason}", flush=True)
        return used
    if on_gpu and settings.processes > available:
        raise ValueError(
            f"NANOGPT_PROCESSES={settings.processes}, but only {available} GPUs are visible on "
            "this machine"
        )
    return settings.processes


def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of `number` that is at most `limit`."""
    return max(n for n in range(1, limit + 1) if number % n == 0)


def torchrun_arguments(settings: Settings, processes: int, module: list[str]) -> list[str]:
    """Return torchrun's command line: its options, the module to run and that one's arguments."""
    extra = settings.torchrun.split() or ["--standalone"]
    no_logs = f"--log-dir={os.devnull}"  # torchrun never removes its own log folders
    no_kill = "--signals-to-handle=SIGHUP"  # on SIGTERM it would kill the ranks 30 s later
    return [no_logs, no_kill, *extra, f"--nproc-per-node={processes}", "-m", *module]


if __name__ == "__main__":
    main()
