"""Estimates of what a training run needs: parameters, memory, bytes on disk, seconds.

Exact are weights, gradients, optimizer state and checkpoints; activations are a model of what a
compiled training run keeps on a GPU, within 3 % of the peaks in docs/lab-notes.md (2026-11-28);
seconds on this machine are measured. No stage depends on this.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from statistics import median

import torch
from torch import Tensor

from nanogpt.config import GPTConfig, OptimConfig
from nanogpt.flops import flops_per_token
from nanogpt.model.attention import MAX_SCORES
from nanogpt.model.gpt import GPT
from nanogpt.model.loss import chunks
from nanogpt.optim.optimizers import build_optimizers
from nanogpt.optim.update import clip_gradients, loss_scaler, unscale, update_weights
from nanogpt.parallel.gradients import add_gradients
from nanogpt.parallel.processes import wrap
from nanogpt.parallel.threads import default_workers, worker_pool
from nanogpt.runtime import Runtime
from nanogpt.train.checkpoint import optimizer_tensors
from nanogpt.train.micro_batch import (
    can_try_sizes,
    default_micro_batch_tokens,
    find_micro_batch_size,
    micro_batch_sizes,
)

PARTS = ("wte", "wpe", "ngrams", "attn", "mlp", "ln_", "lm_head")  # in the names of parameters
FLOAT32 = 4  # bytes


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """A model's parameters, in all, by part and of one layer, and what they amount to."""

    config: GPTConfig
    n_params: int
    parts: Mapping[str, int]
    n_block: int
    flops_per_token: int  # forward and backward
    optimizer_bytes: int
    weights_file: int  # bytes of model.safetensors
    optimizer_file: int


def model_size(config: GPTConfig, optim: OptimConfig) -> ModelSize:
    """Build a model on the meta device and step its optimizers on fake tensors, without memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        model = GPT(config)
    with FakeTensorMode():  # fused AdamW refuses the meta device
        fake = GPT(config)
        optimizers = build_optimizers(fake, optim)
        for p in fake.parameters():
            p.grad = torch.zeros_like(p)
        for optimizer in optimizers:
            optimizer.step()
    weights, state = dict(model.named_parameters()), optimizer_tensors(optimizers)
    parts = {part: sum(p.numel() for name, p in weights.items() if part in name) for part in PARTS}
    return ModelSize(
        config=config,
        n_params=model.n_params(),
        parts={part: n for part, n in parts.items() if n},
        n_block=sum(p.numel() for p in model.h[0].parameters()),
        flops_per_token=flops_per_token(model),
        optimizer_bytes=sum(t.nbytes for t in state.values()),
        weights_file=safetensors_bytes(weights),
        optimizer_file=safetensors_bytes(state),
    )


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the size of a file of float32 tensors: 8 bytes, a header padded to 8, the numbers."""
    header, end = {}, 0
    for name, tensor in sorted(tensors.items()):
        offsets = [end, end := end + tensor.nbytes]
        header[name] = {"dtype": "F32", "shape": [*tensor.shape], "data_offsets": offsets}
    return 8 + math.ceil(len(json.dumps(header, separators=(",", ":"))) / 8) * 8 + end


def gpu_memory(size: ModelSize, sequences: int, runtime: Runtime) -> dict[str, float]:
    """Return the bytes on a GPU at the peak of a micro-batch, by purpose.

    Copies are weights in the format of the products and, under fsdp, those gathered at a time: of
    two layers and all outside of layers.
    """
    c, n, value = size.config, size.n_params, runtime.dtype.itemsize
    share = 1 / runtime.world_size if runtime.sharded else 1
    gathered = FLOAT32 * (n - max(0, c.n_layer - 2) * size.n_block) if runtime.sharded else 0
    chunk = next(chunks(sequences * c.block_size, c.padded_vocab_size, runtime.device)).stop
    return {
        "weights": FLOAT32 * n * share,
        "grads": FLOAT32 * n * share,
        "optim": size.optimizer_bytes * share,
        "copies": gathered + (n * value if value < FLOAT32 else 0),
        "acts": activation_bytes(c, sequences, runtime.dtype, runtime.recompute),
        "logits": c.padded_vocab_size * (2 * value * chunk + FLOAT32 * c.n_embd),  # with gradients
    }


def activation_bytes(c: GPTConfig, sequences: int, dtype: torch.dtype, recompute: bool) -> int:
    """Return what the forward pass keeps for the backward one, counted as in Korthikanti 2022.

    In channels per token and layer: for either norm the sum it reads, its output and, in half
    precision, the float32 between; q, k, v and the mixed values in two layouts; q and k before
    their norm; the MLP's 4 before and after its activation; a mask for either dropout.
    """
    value, channels = dtype.itemsize, sequences * c.block_size * c.n_embd
    residual = value if dtype == torch.bfloat16 else FLOAT32  # see `to_residual_dtype`
    norms = 2 * (residual + value + (FLOAT32 if value < FLOAT32 else 0))
    layer = channels * (norms + value * (5 + 2 * c.qk_norm + 8 + 2 * bool(c.dropout)))
    pairs = sequences * c.n_head * c.block_size**2 if c.dropout else 0
    weights = 3 * value * pairs  # of attention, their mask and product
    rest = channels * (residual + FLOAT32 + 2 * value)  # outside of layers
    if recompute:
        return c.n_layer * channels * residual + layer + weights + rest
    return c.n_layer * layer + weights * (1 if pairs > MAX_SCORES else c.n_layer) + rest


def fitted_memory(
    size: ModelSize,
    batch_tokens: int,
    runtime: Runtime,
    limit_tokens: int | None,
    free_bytes: float,
) -> tuple[int, dict[str, float]]:
    """Return the sequences in the largest micro-batch that fits into free_bytes, and its memory.

    The smallest, where none fits. By default at most as many tokens are tried as in training.
    """
    limit = limit_tokens or default_micro_batch_tokens(runtime)
    for n in micro_batch_sizes(batch_tokens, size.config.block_size, runtime.world_size, limit):
        memory = gpu_memory(size, n, runtime)
        if sum(memory.values()) <= free_bytes:
            break
    return n, memory


def measure_updates(
    config: GPTConfig,
    optim: OptimConfig,
    batch_tokens: int,
    runtime: Runtime,
    limit_tokens: int | None,
) -> tuple[float, float]:
    """Time updates on random tokens for some two seconds, as one process of a training run does.

    Returns the seconds of an update and, per token, of the forward and backward pass. A batch that
    takes longer is extrapolated from its passes and one step of the optimizers.
    """
    device = runtime.device
    model = GPT(config).to(device).train()
    runtime = replace(runtime, workers=default_workers(model, batch_tokens, runtime))
    limit = limit_tokens or default_micro_batch_tokens(runtime)
    sizes = micro_batch_sizes(batch_tokens, config.block_size, runtime.workers, limit)
    if can_try_sizes(runtime):
        sizes = [find_micro_batch_size(model, sizes, runtime)]
    scaler = loss_scaler(runtime)
    with worker_pool(runtime.workers) as pool:
        wrapped = wrap(model, runtime)
        optimizers = build_optimizers(model, optim, runtime.dtype, pool, runtime.workers)

        def timed(sequences: int) -> tuple[float, float]:
            """Return the seconds of a pass by each worker, and of the optimizers' step."""
            shape = (sequences, config.block_size)
            idx = torch.randint(config.vocab_size, shape, device=device)
            batches = repeat((idx, idx, idx[:, 0] if config.dropout else None))
            started = time.perf_counter()
            loss, _ = add_gradients(wrapped, batches, runtime.workers, scaler, runtime, pool)
            loss.item()  # waits for the device, as the norm does
            passed = time.perf_counter()
            unscale(optimizers, scaler)
            clip_gradients(model, optim.grad_clip)
            update_weights(optimizers, scaler, skipped=False)
            return passed - started, time.perf_counter() - passed

        micro, ended = sizes[-1], time.perf_counter() + 2
        times = [timed(micro)]  # makes threads, optimizer state and kernels as well
        if time.perf_counter() < ended:
            one = timed(micro)[0] / micro
            micro = next((n for n in sizes if n * one < 1), micro)
            times = [timed(micro)]
        while time.perf_counter() < ended:
            times.append(timed(micro))
    passes, step = (median(column) for column in zip(*times, strict=True))
    token_seconds = passes / (micro * config.block_size * runtime.workers)
    return batch_tokens * token_seconds + step, token_seconds
