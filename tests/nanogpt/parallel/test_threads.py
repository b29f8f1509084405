"""Threads that share an update: the same sums as one thread makes, resumed bit for bit."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nanogpt.config import GPTConfig, TrainConfig
from nanogpt.data.stream import TokenStream
from nanogpt.model.gpt import GPT
from nanogpt.parallel.threads import default_workers, worker_pool
from nanogpt.runtime import Runtime
from nanogpt.train.events import Evaluated, StepDone, TrainEvent
from nanogpt.train.validation import Evaluation, evaluate_split

CPU = torch.device("cpu")
Training = Callable[..., Iterator[TrainEvent]]
Build = Callable[[GPTConfig], GPT]


def muon(plan: TrainConfig) -> TrainConfig:
    """Return the plan with Muon, which shares its matrices among the threads too."""
    return replace(plan, optim=replace(plan.optim, optimizer="muon"))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_workers_sum_what_one_thread_sums_in_two_passes(
    modern: GPTConfig,
    plan: TrainConfig,
    training: Training,
    seeded: Build,
    dtype: torch.dtype,
    dropout: float,
) -> None:
    one, modern = Runtime(device=CPU, dtype=dtype), replace(modern, dropout=dropout)
    models = [seeded(modern), seeded(modern)]
    half = plan.batch_tokens // 2
    alone = list(
        training(models[0], muon(plan), runtime=one, micro_batch_tokens=half, folder="one")
    )
    threads: set[str] = set()

    def note(model: GPT, *_: object) -> None:
        if model.training:
            threads.add(threading.current_thread().name)

    models[1].register_forward_hook(note)
    shared = list(training(models[1], muon(plan), runtime=replace(one, workers=2)))
    assert threads and all(name.startswith("worker") for name in threads)
    expected = [(e.step, e.loss) for e in alone if isinstance(e, StepDone | Evaluated)]
    assert [(e.step, e.loss) for e in shared if isinstance(e, StepDone | Evaluated)] == expected
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_resumed_training_of_two_workers_ends_in_the_same_bits(
    modern: GPTConfig, plan: TrainConfig, training: Training, seeded: Build, tmp_path: Path
) -> None:
    two = Runtime(device=CPU, dtype=torch.float32, workers=2)
    whole, parts = seeded(modern), seeded(modern)
    list(training(whole, plan, runtime=two, folder=tmp_path / "whole"))
    for event in training(parts, plan, runtime=two, folder=tmp_path / "parts"):
        if isinstance(event, Evaluated):
            break
    resumed = seeded(modern)
    list(training(resumed, plan, runtime=two, folder=tmp_path / "parts"))
    for p, q in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_evaluation_by_workers_is_the_same(
    modern: GPTConfig, seeded: Build, val_stream: TokenStream, cpu: Runtime
) -> None:
    model = seeded(modern)

    threads: set[str] = set()
    model.register_forward_hook(lambda *_: threads.add(threading.current_thread().name))

    def evaluate(workers: int) -> Evaluation:
        runtime = replace(cpu, workers=workers)
        with worker_pool(workers) as pool:
            return evaluate_split(model, val_stream, runtime=runtime, batch_tokens=64, pool=pool)

    one = evaluate(1)
    threads.clear()
    three = evaluate(3)
    assert all(name.startswith("worker") for name in threads)
    assert three.loss == pytest.approx(one.loss, rel=1e-12)
    assert three.tokens == one.tokens == len(val_stream)


def test_workers_are_as_many_as_cores_and_sequences_allow(
    modern: GPTConfig, seeded: Build, cpu: Runtime
) -> None:
    torch.set_num_threads(4)
    model = seeded(modern)
    assert default_workers(model, 16 * 128, cpu) == 4
    assert default_workers(model, 16 * 99, cpu) == 3  # 99 sequences do not divide among two
    assert default_workers(model, 1024, cpu) == 2  # of 512 tokens each
    assert default_workers(model, 256, cpu) == 1
    assert default_workers(model, 2048, replace(cpu, recompute=True)) == 1
    assert default_workers(model, 2048, replace(cpu, distributed=True, world_size=2)) == 1
    assert default_workers(model, 2048, replace(cpu, compile=True)) == 1


def test_a_pool_divides_the_cores_and_gives_them_back() -> None:
    torch.set_num_threads(4)
    with worker_pool(2) as pool:
        assert pool is not None
        assert list(pool.map(lambda _: torch.get_num_threads(), range(2))) == [2, 2]
    assert torch.get_num_threads() == 4
    with worker_pool(1) as none:
        assert none is None
        assert torch.get_num_threads() == 4
