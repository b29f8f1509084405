"""How much arithmetic a model takes, and how much of its device's that is (MFU)."""

import re

import torch

from nanogpt.model.gpt import GPT

# Dense matrix products per second in bfloat16, or in float16 where a GPU has no bfloat16, by
# NVIDIA's data sheets (half of what they print "with sparsity"). The first that matches counts.
PEAK_FLOPS = {
    r"B200": 2250e12,
    r"H200 NVL": 835e12,
    r"H200|GH200": 989e12,
    r"H100 PCIe": 756e12,
    r"H100 NVL": 835e12,
    r"H100": 989e12,
    r"A100|A800": 312e12,
    r"A40": 149.7e12,
    r"A30": 165e12,
    r"A10G": 70e12,
    r"A10": 125e12,
    r"L40S": 362e12,
    r"L40": 181e12,
    r"L4": 121e12,
    r"RTX 4090(?! D| Laptop)": 165.2e12,
    r"RTX 3090(?! Ti)": 71e12,
    r"V100-PCIE": 112e12,
    r"V100": 125e12,
    r"T4": 65e12,
}


def flops_per_token(model: GPT) -> int:
    """Return the FLOPs of one token, forward and backward.

    6 N for N parameters outside of looked-up tables, and 12 L C T for attention (Chowdhery et al.
    2022, appendix B).
    """
    c = model.config
    looked_up = 0 if c.tie_weights else model.wte.weight.numel()
    looked_up += model.wpe.weight.numel() if model.wpe is not None else 0
    looked_up += sum(p.numel() for p in model.ngrams.parameters())
    return 6 * (model.n_params() - looked_up) + 12 * c.n_layer * c.n_embd * c.block_size


def peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """Return the most FLOP/s a device reaches in `dtype`; None where that is not known for sure."""
    if dtype not in (torch.bfloat16, torch.float16):
        return None
    for pattern, flops in PEAK_FLOPS.items():
        if re.search(rf"\b({pattern})\b", device_name):
            return flops
    return None
