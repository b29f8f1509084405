"""Optimizers and learning-rate schedules.

`adamw` is the recipe of GPT-3 and nanoGPT: AdamW, with weight decay on matrices only. `muon` gives
the hidden matrices to Muon (Jordan et al. 2024) and leaves embeddings, head and vectors to AdamW.
"""

import math
from concurrent.futures import Executor

import torch
from torch import nn

from nanogpt.config import OptimConfig
from nanogpt.optim.eager import AdamW
from nanogpt.optim.muon import Muon


def lr_ratio(step: int, config: OptimConfig, max_steps: int) -> float:
    """Return the learning rate of update `step` (from 0) as a fraction of the peak.

    Both schedules warm up linearly over warmup_steps and decay over the last decay_steps to
    min_lr_ratio: `cosine` along half a wave (Loshchilov and Hutter 2017), `warmup_stable_decay`
    linearly, after a plateau (Hu et al. 2024).
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    decay_start = max(config.warmup_steps, max_steps - config.decay_steps)
    if step < decay_start:
        return 1.0
    progress = min(1.0, (step - decay_start) / max(1, max_steps - decay_start))
    decay = 1 - progress
    if config.schedule == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * progress))
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * decay


def build_optimizers(
    model: nn.Module,
    config: OptimConfig,
    dtype: torch.dtype = torch.float32,
    pool: Executor | None = None,
    workers: int = 1,
) -> list[torch.optim.Optimizer]:
    """Return one or two optimizers that together hold every parameter of `model` once.

    `dtype` is that of the matrix products in training. Muon uses it too, except float16, whose
    range is too small for it, and shares its matrices among the `workers` threads of `pool`.
    """
    named = list(model.named_parameters())
    hidden = [p for name, p in named if p.ndim == 2 and name.startswith("h.")]
    vectors = [p for _, p in named if p.ndim < 2]
    outer = [p for name, p in named if p.ndim == 2 and not name.startswith("h.")]
    matrices = outer if config.optimizer == "muon" else hidden + outer
    optimizers: list[torch.optim.Optimizer] = [
        AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            fused=True,
        )
    ]
    if config.optimizer == "muon":
        optimizers.append(
            Muon(
                hidden,
                lr=config.muon_learning_rate,
                weight_decay=config.weight_decay,
                dtype=torch.float32 if dtype == torch.float16 else dtype,
                pool=pool,
                workers=workers,
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_lr(optimizers: list[torch.optim.Optimizer], ratio: float) -> None:
    """Set the learning rate of every parameter group to `ratio` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * ratio
