"""What each process of a training makes of the params."""

from pathlib import Path

from stages.params import load_section
from stages.train import TrainParams
from stages.training.train_process import train_config

PARAMS = Path(__file__).parents[3] / "params.yaml"


def test_the_schedule_reaches_the_library_in_whole_updates() -> None:
    params = load_section("train", TrainParams, PARAMS)
    assert (params.max_steps, params.warmup, params.decay) == (1000, 0.01, 0.4)
    config = train_config(params)
    assert (config.optim.warmup_steps, config.optim.decay_steps) == (10, 400)
    assert (config.optim.schedule, config.max_steps) == (params.schedule, 1000)


def test_a_shorter_run_rises_and_falls_in_the_same_shares() -> None:
    params = load_section("train", TrainParams, PARAMS)
    config = train_config(params.model_copy(update={"max_steps": 200}))
    assert (config.optim.warmup_steps, config.optim.decay_steps) == (2, 80)
