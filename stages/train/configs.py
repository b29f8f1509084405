"""The section `train` as the library's configs."""

from dataclasses import fields

import torch

from nanogpt.config import OptimConfig, TrainConfig
from stages.train.params import TrainParams

DTYPES = {
    "auto": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def train_config(params: TrainParams) -> TrainConfig:
    """Return the library's configs for the section `train`, its schedule in whole updates."""
    warmup, decay = params.schedule_updates()
    values = {**params.model_dump(), "warmup_steps": warmup, "decay_steps": decay}
    optim = OptimConfig(**{field.name: values[field.name] for field in fields(OptimConfig)})
    own = [field.name for field in fields(TrainConfig) if field.name != "optim"]
    return TrainConfig(optim=optim, **{name: values[name] for name in own})
