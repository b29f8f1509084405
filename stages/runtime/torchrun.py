"""Start this machine's training processes with torchrun: as many as set, or one per GPU.

This runs in a process of its own, so that the launcher need not import torch, which takes seconds.
"""

import argparse
import os
import signal
import sys

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from nanogpt.runtime import choose_device
from stages.runtime.errors import EXIT_CODES
from stages.runtime.redaction import redact_tracebacks
from stages.runtime.settings import Settings, read_settings
from stages.runtime.supervise import die_with_parent

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
    sys.argv[0] = "NANOGPT_TORCHRUN"  # torchrun's messages name this as the source of its options
    try:
        torchrun(torchrun_arguments(settings, count, [options.module, *options.arguments]))
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        sys.exit(exit_code_of(error))


def exit_code_of(error: ChildFailedError) -> int:
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
    own = [no_logs, *extra, f"--nproc-per-node={processes}"]
    return [*own, "-m", *module]


if __name__ == "__main__":
    main()
