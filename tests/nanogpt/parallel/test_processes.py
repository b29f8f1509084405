"""Two and four processes compute what one does, and take over from each other."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt.config import GPTConfig, TrainConfig
from nanogpt.data.stream import TokenStream
from nanogpt.files import file_sha256
from nanogpt.model.files import save_model
from nanogpt.model.gpt import GPT
from nanogpt.parallel.processes import check_optimizer
from nanogpt.runtime import Runtime
from nanogpt.train.checkpoint import checkpoint_folder
from nanogpt.train.events import Evaluated, StepDone, TrainEvent

CPU = torch.device("cpu")

RANKS = """
import json, os, socket, sys, traceback
from dataclasses import replace
from pathlib import Path
from threading import Event
import torch
import torch._dynamo, torch.distributed.fsdp  # slow, and here for all processes
from nanogpt.model.files import load_model
from nanogpt.train.checkpoint import checkpoints, copy_state, load_state, save_state
from nanogpt.data.stream import TokenStream
from nanogpt.optim.optimizers import OptimConfig, build_optimizers
from nanogpt.parallel.processes import wrap
from nanogpt.runtime import process_group
from nanogpt.config import TrainConfig
from nanogpt.train.events import CheckpointWritten, Ended, Evaluated, StepDone
from nanogpt.train.loop import train
from nanogpt.train import trainer
from nanogpt.train.trainer import check_same_step, reduce_over_processes

folder = Path(sys.argv[1])
torch.set_num_threads(1)
plan = json.loads((folder / "plan.json").read_text())
plan = TrainConfig(optim=OptimConfig(**plan.pop("optim")), **plan)
identity = {"seed": plan.seed}

def run(name, runtime, double, folder_of, stop_after):
    stop = Event()
    trainer.AGREEMENT_SECONDS = 0.0 if stop_after else 2.0  # at each micro-batch
    model = load_model(folder / "model", runtime.device)
    seen = {"steps": {}, "evaluations": {}, "written": [], "ended": None}
    for event in train(
        model.double() if double else model,
        TokenStream.open([folder / "train.npy"]),
        TokenStream.open([folder / "val.npy"]),
        plan,
        runtime=runtime,
        folder=folder / folder_of,
        identity=identity,
        micro_batch_tokens=32,
        stop=stop,
    ):
        if isinstance(event, StepDone) and event.step == stop_after and runtime.rank == 1:
            stop.set()
        match event:
            case StepDone(): seen["steps"][event.step] = event.loss, event.grad_norm
            case Evaluated(): seen["evaluations"][event.step] = event.loss
            case CheckpointWritten(): seen["written"].append(event.step)
            case Ended(): seen["ended"] = event.progress.step
    half = torch.tensor(0.5)
    seen["agreed"] = [reduce_over_processes(half, runtime.rank == 1, 2.0 * runtime.rank, runtime),
                      reduce_over_processes(half, False, 0.0, runtime)]
    try:
        check_same_step(10 * runtime.rank, runtime)
    except ValueError as error:
        seen["refused"] = str(error)
    seen["held"] = sum(p.to_local().numel() if runtime.sharded else p.numel()
                       for p in model.parameters())
    (folder / f"{name}-{runtime.rank}.json").write_text(json.dumps(seen))

def copy(name, runtime):
    # a checkpoint read by all of them, and written again
    model = load_model(folder / "model", runtime.device)
    wrap(model, runtime)
    optimizers = build_optimizers(model, plan.optim)
    progress, _ = load_state(checkpoints(folder / name)[-1], model, optimizers, identity)
    if state := copy_state(model, optimizers, progress, keep=runtime.rank == 0):
        save_state(folder / f"{name}-again", state, identity)

def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]

def work(world, rank, port, jobs):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()})
    with process_group("cpu", torch.float32, None) as plain:
        for job in jobs:
            dtype = getattr(torch, job["dtype"])
            runtime = replace(plain, dtype=dtype, parallel=job["parallel"])
            if job["again"]:
                copy(job["name"], runtime)
            run(job["name"], runtime, job["double"], job["folder"], job["stop_after"])

for world, jobs in json.loads((folder / "jobs.json").read_text()).items():
    port, children = free_port(), []
    for rank in range(int(world)):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                work(int(world), rank, port, jobs)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * int(world)
"""


@dataclass(frozen=True)
class Seen:
    """What one process of a training reported, by step."""

    steps: dict[int, tuple[float, float]]  # loss, gradient norm
    evaluations: dict[int, float]
    written: list[int] = field(default_factory=list)
    ended: int | None = None
    agreed: list[Any] = field(default_factory=list)
    refused: str = ""  # when each process began from another step
    held: int = 0


def seen_by(folder: Path, name: str, rank: int = 0) -> Seen:
    """What a process wrote down."""
    values = json.loads((folder / f"{name}-{rank}.json").read_text())
    for key in ("steps", "evaluations"):
        values[key] = {int(step): value for step, value in values[key].items()}
    return Seen(**values)


def seen_in(events: list[TrainEvent]) -> Seen:
    """The same of a training by this process."""
    return Seen(
        steps={e.step: (e.loss, e.grad_norm) for e in events if isinstance(e, StepDone)},
        evaluations={e.step: e.loss for e in events if isinstance(e, Evaluated)},
    )


def assert_near(found: Seen, expected: Seen, abs: float, loss_abs: float | None = None) -> None:
    """Compare evaluations, gradient norms and losses of the steps that were found."""
    for step, loss in found.evaluations.items():
        assert loss == pytest.approx(expected.evaluations[step], abs=abs)
    for step, (loss, grad_norm) in found.steps.items():
        assert loss == pytest.approx(expected.steps[step][0], abs=loss_abs or abs)
        assert grad_norm == pytest.approx(expected.steps[step][1], abs=abs)


def job(name: str, parallel: str, **changes: Any) -> dict[str, Any]:
    """One training by several processes."""
    plain = {"dtype": "float32", "double": False, "again": False, "stop_after": None}
    return {"name": name, "folder": name, "parallel": parallel, **plain, **changes}


def test_several_processes_equal_one_and_take_over_from_each_other(
    tmp_path: Path,
    gpt2: GPTConfig,
    plan: TrainConfig,
    training: Callable[..., Iterator[TrainEvent]],
    seeded: Callable[[GPTConfig], GPT],
    train_stream: TokenStream,
    val_stream: TokenStream,
    python: Callable[..., str],
) -> None:
    """Twenty steps with dropout and clipping, in one pass or several, on uneven sizes."""
    plan = replace(plan, eval_interval=10, max_steps=20, eval_tokens=208)  # all 13 windows
    config = replace(gpt2, n_embd=30, dropout=0.1)  # 30 rows among 4 processes
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", seeded(config))
    (tmp_path / "plan.json").write_text(json.dumps(asdict(plan)))
    np.save(tmp_path / "train.npy", train_stream.shards[0])
    np.save(tmp_path / "val.npy", val_stream.shards[0])

    def alone(folder: str, model: GPT, **changes: Any) -> Seen:
        events = list(training(model, plan, folder=folder, micro_batch_tokens=128, **changes))
        return seen_in(events)

    one, double = alone("one", seeded(config)), alone("one64", seeded(config).double())
    half = alone("half1", seeded(config), runtime=Runtime(device=CPU, dtype=torch.bfloat16))
    shutil.copytree(tmp_path / "one", tmp_path / "begun")
    shutil.rmtree(checkpoint_folder(tmp_path / "begun", 20))
    jobs = {
        2: [
            job("ddp2", "ddp"),
            job("fsdp2", "fsdp", double=True),
            job("half", "fsdp", dtype="bfloat16"),
            job("stopped-ddp", "ddp", stop_after=12),
            job("resumed-ddp", "ddp", folder="stopped-ddp"),
            job("stopped-fsdp", "fsdp", double=True, stop_after=12),
            job("resumed-fsdp", "fsdp", double=True, folder="stopped-fsdp"),
        ],
        4: [job("ddp4", "ddp", double=True), job("begun", "fsdp", again=True)],
    }
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    python(RANKS, tmp_path)
    two, other = seen_by(tmp_path, "ddp2"), seen_by(tmp_path, "ddp2", 1)
    sharded, four = seen_by(tmp_path, "fsdp2"), seen_by(tmp_path, "ddp4")

    assert (two.steps, two.evaluations, two.ended) == (other.steps, other.evaluations, other.ended)
    assert (two.written, other.written, two.ended) == ([10, 20], [], 20)
    assert two.agreed == other.agreed == [[1.0, True, 1.0], [1.0, False, 0.0]]
    for rank in range(4):
        other_step = 0 if rank == 3 else 30
        words = f"the checkpoint of step {10 * rank}, another process that of step {other_step} ("
        assert words in seen_by(tmp_path, "ddp4", rank).refused
    assert list(two.steps) == list(sharded.steps) == list(four.steps) == list(range(1, 21))

    assert_near(two, one, abs=1e-4)
    assert_near(sharded, double, abs=1e-10, loss_abs=1e-6)  # the loss is reported in float32
    assert_near(four, double, abs=1e-10, loss_abs=1e-6)
    # A gradient norm of 1 to 2 in bfloat16 is known to 2^-8; processors round sums differently.
    assert_near(seen_by(tmp_path, "half"), half, abs=2**-8, loss_abs=1e-3)

    # What one process began, four continue, each holding a part, and the state is the same bits.
    resumed = seen_by(tmp_path, "begun")
    assert list(resumed.steps) == list(range(11, 21))
    assert list(resumed.evaluations) == [20]
    assert_near(resumed, one, abs=1e-4)
    held = [seen_by(tmp_path, "begun", rank).held for rank in range(4)]
    assert sum(held) == seeded(config).n_params()
    assert max(held) < 0.3 * sum(held)
    for name in ("model.safetensors", "optimizer.safetensors"):
        copied = checkpoint_folder(tmp_path / "begun-again", 10) / name
        assert file_sha256(copied) == file_sha256(checkpoint_folder(tmp_path / "one", 10) / name)

    # One of two is asked to stop: both abandon the next update after its first micro-batch.
    for kind, uninterrupted in (("ddp", two), ("fsdp", sharded)):
        stopped, rest = seen_by(tmp_path, f"stopped-{kind}"), seen_by(tmp_path, f"resumed-{kind}")
        assert (stopped.written, stopped.ended) == ([10, 12], 12)
        assert seen_by(tmp_path, f"stopped-{kind}", 1).ended == 12
        assert stopped.steps | rest.steps == uninterrupted.steps  # bit for bit
        assert rest.evaluations[20] == uninterrupted.evaluations[20]

    # What two began, one continues.
    for name, expected, model in (
        ("ddp2", one, seeded(config)),
        ("fsdp2", double, seeded(config).double()),
    ):
        shutil.rmtree(checkpoint_folder(tmp_path / name, 20))
        rest = alone(name, model)
        assert list(rest.steps) == list(range(11, 21))
        assert_near(rest, expected, abs=1e-4)


def test_muon_needs_whole_matrices(plan: TrainConfig) -> None:
    sharded = Runtime(
        device=CPU, dtype=torch.float32, world_size=2, distributed=True, parallel="fsdp"
    )
    muon = replace(plan.optim, optimizer="muon")
    check_optimizer(plan.optim, sharded)
    check_optimizer(muon, replace(sharded, parallel="ddp"))
    check_optimizer(muon, replace(sharded, distributed=False))
    with pytest.raises(ValueError, match=r"muon needs full matrices.*=ddp, or train.optimizer"):
        check_optimizer(muon, sharded)


DDP = """
import os, warnings
from dataclasses import asdict
import torch
import torch.distributed as dist
from nanogpt.model.files import load_model
from nanogpt.parallel.processes import wrap
from nanogpt.runtime import Runtime
import sys
from pathlib import Path

cpu = torch.device("cpu")
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/meeting", rank=0, world_size=1)
runtime = Runtime(device=cpu, dtype=torch.float32, distributed=True)
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    wrapped = wrap(load_model(Path(sys.argv[1]) / "model", cpu), runtime)
print([str(warning.message) for warning in warned], wrapped.broadcast_buffers)
dist.destroy_process_group()
"""


def test_torch_has_nothing_to_say_about_how_several_processes_are_set_up(
    lively: Callable[[GPTConfig], GPT],
    modern: GPTConfig,
    python: Callable[..., str],
    tmp_path: Path,
) -> None:
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", lively(modern))
    assert python(DDP, tmp_path).strip() == "[] False"
