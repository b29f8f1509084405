"""What the library's tests share: tiny models of both families, a learnable stream, one thread."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt.config import GPTConfig, OptimConfig, TrainConfig
from nanogpt.data.stream import TokenStream
from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime
from nanogpt.train.events import StepDone, TrainEvent
from nanogpt.train.loop import train
from tests.tiny import ADAMW, GPT2, MODERN, PLAN

REPOSITORY = Path(__file__).parents[2]
SEPARATOR = GPT2.eot_token
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, so that equal computations give equal bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def gpt2() -> GPTConfig:
    """A tiny GPT-2."""
    return GPT2


@pytest.fixture
def modern() -> GPTConfig:
    """A tiny model with every modern choice."""
    return MODERN


@pytest.fixture(params=[GPT2, MODERN], ids=["gpt2", "modern"])
def config(request: pytest.FixtureRequest) -> GPTConfig:
    """Each family in turn."""
    return request.param


@pytest.fixture
def seeded() -> Callable[[GPTConfig], GPT]:
    """Build a model with the weights of its initialisation, always the same."""

    def build(config: GPTConfig) -> GPT:
        torch.manual_seed(0)
        return GPT(config)

    return build


@pytest.fixture
def lively() -> Callable[[GPTConfig], GPT]:
    """Build a model in which every weight, zero-initialized ones too, says something."""

    def build(config: GPTConfig) -> GPT:
        torch.manual_seed(1)
        model = GPT(config).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p), alpha=0.15)
        return model

    return build


@pytest.fixture
def cpu() -> Runtime:
    """One process on the processor in float32."""
    return Runtime(device=CPU, dtype=torch.float32)


def random_walk(n_tokens: int, seed: int) -> TokenStream:
    """A stream in which each token is the one before plus 1, 2 or 3: there is log 3 to reach."""
    steps = np.random.default_rng(seed).integers(1, 4, n_tokens)
    return TokenStream([(np.cumsum(steps) % GPT2.vocab_size).astype(np.uint16)])


@pytest.fixture
def train_stream() -> TokenStream:
    """A thousand tokens that a model can learn."""
    return random_walk(1000, seed=1)


@pytest.fixture
def val_stream() -> TokenStream:
    """Some more like those of `train_stream`, in no whole number of windows."""
    return random_walk(203, seed=2)


@pytest.fixture
def adamw() -> OptimConfig:
    """AdamW with a short warm-up and a cosine."""
    return ADAMW


@pytest.fixture
def plan() -> TrainConfig:
    """Ten steps of eight windows, an evaluation on the validation split at steps 4, 8 and 10."""
    return PLAN


@pytest.fixture
def training(
    tmp_path: Path, train_stream: TokenStream, val_stream: TokenStream, cpu: Runtime
) -> Callable[..., Iterator[TrainEvent]]:
    """Train in tmp_path/<folder>, by default on `train_stream`; once stop_after is done, stop."""

    def run(
        model: GPT, plan: TrainConfig, *, stop_after: int | None = None, **changes: Any
    ) -> Iterator[TrainEvent]:
        stop = Event()
        arguments: dict[str, Any] = {
            "train_stream": train_stream,
            "val_stream": val_stream,
            "runtime": cpu,
            "identity": {"seed": plan.seed},
            "micro_batch_tokens": 64,
            "stop": stop,
            **changes,
        }
        arguments["folder"] = tmp_path / arguments.pop("folder", "run")
        for event in train(model, config=plan, **arguments):
            if isinstance(event, StepDone) and event.step == stop_after:
                stop.set()
            yield event

    return run


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., str]:
    """Run a script in a process of its own that finds the library; returns what it printed."""

    def run(script: str, *arguments: object, options: tuple[str, ...] = ()) -> str:
        file = tmp_path / "script.py"
        file.write_text(script)
        done = subprocess.run(
            [sys.executable, *options, str(file), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """Inside, no file may grow beyond 20 kB: a model's fails in the middle of being written."""

    @contextmanager
    def limit() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


KILLING = """
import json, os, signal, sys
from itertools import count
from pathlib import Path

def found_after_kills(prepare, act, look):
    found = []
    for n in count(1):
        prepare()
        pid = os.fork()
        if pid == 0:
            try:
                kill_before_change(n)
                act()
            except BaseException as error:
                print(error, file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        found.append(look())
        if status != signal.SIGKILL:
            assert status == 0
            return found

def kill_before_change(n):
    left = iter(range(n - 1))
    def hook(event, arguments):
        if event in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
"""


@pytest.fixture
def found_after_kills(python: Callable[..., str], tmp_path: Path) -> Callable[[str], list[Any]]:
    """Find out what kill -9 leaves, before each single change to the disk and after the last.

    The script defines prepare(), act(), which is killed, and look(), all in `folder`.
    """

    def run(script: str) -> list[Any]:
        whole = f"{KILLING}\nfolder = Path(sys.argv[1])\n{script}\n"
        whole += "print(json.dumps(found_after_kills(prepare, act, look)))\n"
        return json.loads(python(whole, tmp_path))

    return run
