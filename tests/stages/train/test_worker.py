"""What each process of a training makes of the params."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt.model.gpt import GPT
from nanogpt.runtime import Runtime
from stages.lib.params import load_section
from stages.train.lineage import device_name
from stages.train.params import ModelParams, TrainParams
from stages.train.precision import format_of, number_format_line
from stages.train.worker import workers_of

PARAMS = Path(__file__).parents[3] / "params.yaml"
CPU = torch.device("cpu")
HERE = device_name(CPU)


def test_the_schedule_reaches_the_library_in_whole_updates() -> None:
    params = load_section("train", TrainParams, PARAMS)
    assert (params.max_steps, params.warmup, params.decay) == (1000, 0.01, 0.4)
    config = params.config()
    assert (config.optim.warmup_steps, config.optim.decay_steps) == (10, 400)
    assert (config.optim.schedule, config.max_steps) == (params.schedule, 1000)


def test_a_shorter_run_rises_and_falls_in_the_same_shares() -> None:
    params = load_section("train", TrainParams, PARAMS)
    config = params.model_copy(update={"max_steps": 200}).config()
    assert (config.optim.warmup_steps, config.optim.decay_steps) == (2, 80)


def test_a_process_imports_mlflow_only_to_record(run_python: Callable[..., Any]) -> None:
    """So all processes but the first do without its memory and the seconds that it takes."""
    script = "import sys; import stages.train.worker; print('mlflow' in sys.modules)"
    assert run_python("-c", script).stdout == "False\n"


def bfloat16_gains(monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    """Pretend to be on a processor on which bfloat16 is so many times as fast as float32."""
    monkeypatch.setattr("nanogpt.runtime.bfloat16_gain", lambda device: gain)
    monkeypatch.setattr("stages.train.precision.bfloat16_gain", lambda device: gain)


@pytest.mark.parametrize(
    ("earlier", "gain", "expected"),
    [
        ({}, 3.0, None),
        ({"device": HERE, "number_format": "bfloat16"}, 3.0, torch.bfloat16),
        ({"device": HERE, "number_format": "float32"}, 3.0, torch.float32),
        ({"device": HERE, "number_format": "bfloat16"}, 0.01, None),
        ({"device": "another processor", "number_format": "float32"}, 3.0, None),
    ],
)
def test_a_resumed_training_multiplies_as_before_where_it_can(
    monkeypatch: pytest.MonkeyPatch,
    earlier: dict[str, str],
    gain: float,
    expected: torch.dtype | None,
) -> None:
    bfloat16_gains(monkeypatch, gain)
    assert format_of(earlier, CPU) == expected


def test_an_emulated_format_is_said_with_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    bfloat16_gains(monkeypatch, 0.02)
    line = number_format_line(Runtime(device=CPU, dtype=torch.bfloat16))
    assert line.startswith(f"train: on {HERE}, computing in bfloat16, as set by `train.precision`")
    assert "50 times slower than float32" in line
    assert number_format_line(Runtime(device=CPU, dtype=torch.float32)).endswith("in float32")


@pytest.mark.parametrize(
    ("earlier", "expected"),
    [
        ({}, 4),
        ({"processes": 1, "device": HERE, "workers": 2}, 2),
        ({"processes": 2, "device": HERE, "workers": 1}, 4),
        ({"processes": 1, "device": "another processor", "workers": 2}, 4),
        ({"processes": 1, "device": HERE}, 4),
    ],
)
def test_a_resumed_training_keeps_its_workers(earlier: dict[str, object], expected: int) -> None:
    """The order of its sums depends on them."""
    batch_tokens = load_section("train", TrainParams, PARAMS).config().batch_tokens
    config = load_section("model", ModelParams, PARAMS).config(vocab_size=64)
    with torch.device("meta"):
        model = GPT(replace(config, n_layer=1))
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        runtime = Runtime(device=CPU, dtype=torch.float32)
        assert workers_of(earlier, model, batch_tokens, runtime) == expected
    finally:
        torch.set_num_threads(threads)
