"""The processes of a training on this machine, by torchrun: as many as asked for, or one per GPU.

A process of its own: so the launcher does without torch, which takes seconds to import.
"""

import argparse
import os
import sys

import torch
from torch.distributed.run import main as torchrun

from nanogpt.runtime import choose_device
from stages.runtime.errors import EXIT_CODES
from stages.runtime.redaction import redact_tracebacks
from stages.runtime.settings import Settings, read_settings


def main() -> None:
    """`-m stages.runtime.torchrun WINDOWS STATE SHARDS OUT`, the last three for the processes."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.runtime.torchrun",
        description=f"{__doc__} `python -m stages train` is the command to start a training with.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("windows", type=int, help="how many windows of tokens an update has")
    for name in ("state", "shards", "out"):
        parser.add_argument(name)
    given = parser.parse_args()
    redact_tracebacks()
    settings = read_settings()
    try:
        count = process_count(settings, given.windows)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_CODES["input"])
    sys.argv[0] = "NANOGPT_TORCHRUN"  # so torchrun's parser names what held a wrong option
    torchrun(torchrun_arguments(settings, count, [given.state, given.shards, given.out]))


def process_count(settings: Settings, windows: int) -> int:
    """Return how many processes to start here: as set, else one per visible GPU, else one.

    Among more GPUs than `windows` per update divide by, as many as they do. Raises ValueError when
    a device is asked for and missing.
    """
    on_gpu = choose_device(settings.device).type == "cuda"
    there = torch.cuda.device_count() if on_gpu else 1
    if settings.processes is None:
        used = largest_divisor(windows, there)
        if used < there:
            some = f"{used} of {there} GPUs"
            print(f"train: {some}; {windows} windows per update divide by no more", flush=True)
        return used
    if on_gpu and settings.processes > there:
        raise ValueError(
            f"NANOGPT_PROCESSES={settings.processes}, but this machine shows {there} GPUs"
        )
    return settings.processes


def largest_divisor(number: int, most: int) -> int:
    """Return the largest divisor of a number that is `most` or less."""
    return max(n for n in range(1, most + 1) if number % n == 0)


def torchrun_arguments(settings: Settings, processes: int, arguments: list[str]) -> list[str]:
    """Return torchrun's own arguments, then the module to run and its arguments."""
    options = settings.torchrun.split() or ["--standalone"]
    no_logs = f"--log-dir={os.devnull}"  # its own, which it never removes
    own = [no_logs, *options, f"--nproc-per-node={processes}"]
    return [*own, "-m", "stages.train.worker", *arguments]


if __name__ == "__main__":
    main()
