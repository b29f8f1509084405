"""The number of processes that share an update, and the command line of torchrun."""

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from stages.runtime.settings import Settings
from stages.runtime.torchrun import (
    exit_code_of,
    largest_divisor,
    process_count,
    torchrun_arguments,
)


@pytest.mark.parametrize(
    ("windows", "gpus", "processes"),
    [(128, 8, 8), (12, 8, 6), (60, 7, 6), (7, 8, 7), (11, 8, 1), (3, 1, 1)],
)
def test_the_number_of_gpus_divides_the_windows_of_an_update(
    windows: int, gpus: int, processes: int
) -> None:
    assert largest_divisor(windows, gpus) == processes


def test_a_cpu_gets_one_process_or_as_many_as_set() -> None:
    assert process_count(Settings(device="cpu"), windows=12) == 1
    assert process_count(Settings(device="cpu", processes=4), windows=12) == 4


def test_the_users_options_replace_standalone() -> None:
    own = ["--log-dir=/dev/null", "--signals-to-handle=SIGHUP"]
    module = ["-m", "stages.train.worker", "state", "shards", "out"]
    alone = torchrun_arguments(Settings(), 2, module[1:])
    assert alone == [*own, "--standalone", "--nproc-per-node=2", *module]
    nodes = "--nnodes=2 --rdzv-endpoint=host:29500"
    among = torchrun_arguments(Settings(torchrun=nodes), 1, module[1:])
    assert among == [*own, *nodes.split(), "--nproc-per-node=1", *module]


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([(1, 0)], 1),
        ([(-9, 0)], 137),
        ([(1, 0), (-9, 0)], 137),  # the first one lost its peer, the second was killed
        ([(1, 1), (-9, 0)], 137),
        ([(1, 0), (-9, 31)], 1),  # the second did not end when torchrun asked it to
        ([(1, 0), (-15, 0)], 1),
        ([(-15, 0), (-11, 0)], 139),
    ],
)
def test_a_signal_that_killed_a_process_is_in_the_exit_code(
    failures: list[tuple[int, int]], expected: int
) -> None:
    found = {
        rank: ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file="")
        for rank, (code, _) in enumerate(failures)
    }
    for failure, (_, seconds) in zip(found.values(), failures, strict=True):
        failure.timestamp = 1_000 + seconds
    assert exit_code_of(ChildFailedError("train", found)) == expected
