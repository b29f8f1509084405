"""Arithmetic counted by hand, and peaks of devices by their names."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nanogpt.config import GPTConfig
from nanogpt.flops import flops_per_token, peak_flops
from nanogpt.model.gpt import GPT


def test_arithmetic_is_what_pytorch_counts(
    config: GPTConfig, seeded: Callable[[GPTConfig], GPT]
) -> None:
    """PyTorch counts every product but those of attention on CPUs, and no vectors."""
    model = seeded(replace(config, bias=False))
    idx = torch.zeros(3, 16, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(idx, idx).backward()
    attention = 12 * config.n_layer * config.n_embd * 16
    vectors = sum(p.numel() for p in model.parameters() if p.ndim < 2)
    per_token = flops_per_token(model) - 6 * vectors - attention
    assert counter.get_total_flops() == 3 * 16 * per_token


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("Tesla T4", 65e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA H200 NVL", 835e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("Tesla V100-PCIE-16GB", 112e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("Some GPU of the year 2030", None),
        ("CPU", None),
    ],
)
def test_a_peak_is_known_or_it_is_not(name: str, peak: float | None) -> None:
    assert peak_flops(name, torch.bfloat16) == peak
    assert peak_flops(name, torch.float32) is None
