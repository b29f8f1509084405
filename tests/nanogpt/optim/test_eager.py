"""Optimizers that import no compiler, and compute what PyTorch's own do."""

import subprocess
import sys

import torch

from nanogpt.optim.eager import AdamW

SCRIPT = """
import sys, torch
from nanogpt.optim.eager import AdamW
from nanogpt.optim.muon import Muon
p = torch.nn.Parameter(torch.ones(4, 4))
muon = Muon([p], lr=0.1, weight_decay=0.0, dtype=torch.float32)
for optimizer in (AdamW([p], fused=True), muon):
    p.grad = torch.ones(4, 4)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad(set_to_none=True)
sys.exit("torch._dynamo" in sys.modules)
"""


def test_no_compiler_is_imported() -> None:
    assert subprocess.run([sys.executable, "-c", SCRIPT], check=False).returncode == 0


def test_adamw_is_that_of_pytorch() -> None:
    updated = []
    for kind in (torch.optim.AdamW, AdamW):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 10))
        optimizer = kind([p], lr=0.1, weight_decay=0.2, fused=True)
        for step in range(3):
            p.grad = torch.sin(p.detach() * (step + 1))
            optimizer.step()
        updated.append(p.detach().clone())
    assert torch.equal(*updated)
    assert updated[0].requires_grad is False
