"""Dynamic evaluation: the loss of a model that keeps learning from what it has read.

Compressors such as PPMd learn as they read, so a fair comparison lets the model do so too (Krause
et al. 2018, "Dynamic Evaluation of Neural Sequence Models"). Windows follow each other in the order
of the text, and each is predicted before the model is updated on it. The weights drift towards the
text; the metric describes a model that reads it once, not the weights that are saved.
"""

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace

import torch
from torch import Tensor

from nanogpt.config import OptimConfig
from nanogpt.data.stream import TokenStream, check_vocabulary
from nanogpt.model.gpt import GPT
from nanogpt.optim.optimizers import build_optimizers
from nanogpt.parallel.gradients import add_gradients
from nanogpt.runtime import Runtime, fastest_dtype
from nanogpt.train.validation import split_windows, window_at

# As few as keep a device busy: the sooner the model learns from a window, the more it helps.
UPDATE_TOKENS = 512


def adaptive_loss(
    model: GPT,
    stream: TokenStream,
    optim: OptimConfig,
    *,
    runtime: Runtime,
    rate: float,
    pool: Executor | None = None,
) -> float:
    """Return the mean loss in nats per token of a model that learns as it reads.

    It is updated by the optimizers of its training, at `rate` times their peak learning rates.
    Changes the model in place. Raises ValueError at a token beyond the vocabulary.
    """
    scaled_optim = replace(
        optim,
        learning_rate=optim.learning_rate * rate,
        muon_learning_rate=optim.muon_learning_rate * rate,
        weight_decay=0.0,
        beta2=0.999,  # updates on few tokens are noisy, so average over more of them
    )
    optimizers = build_optimizers(model, scaled_optim, runtime.dtype, pool, runtime.workers)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=False)
    model.eval()  # no dropout: the predictions are what is measured
    total = 0.0
    for rows in batches_in_order(stream, model.config.block_size, model.config.eot_token):
        check_vocabulary(rows.numpy(), model.config.vocab_size)
        rows = rows.to(runtime.device)
        parts = rows.chunk(runtime.workers if len(rows) % runtime.workers == 0 else 1)
        batches = ((part[:, :-1], part[:, 1:], None) for part in parts)
        loss, _ = add_gradients(model, batches, len(parts), scaler, runtime, pool)
        total += loss.item() * rows[:, 1:].numel()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return total / len(stream)


def adaptive_runtime(model: GPT) -> Runtime:
    """Return the runtime for `adaptive_loss`: the model's device, in its fastest number format.

    Not in float16, which would need a loss scaler. On a CPU with several cores, two threads share
    an update; it has too few tokens for more.
    """
    device = model.wte.weight.device
    dtype = fastest_dtype(device)
    dtype = torch.float32 if dtype == torch.float16 else dtype
    two = device.type == "cpu" and torch.get_num_threads() > 1
    return Runtime(device=device, dtype=dtype, workers=2 if two else 1)


def batches_in_order(stream: TokenStream, block_size: int, eot_token: int) -> Iterator[Tensor]:
    """Yield all tokens once, as rows (B, 1 + T) of about UPDATE_TOKENS; the last may be shorter."""
    starts = split_windows(len(stream), block_size, block_size)
    size = max(1, UPDATE_TOKENS // block_size)
    full = len(stream) // block_size  # windows of full length
    for i in range(0, full, size):
        windows = [
            window_at(stream, s, block_size, eot_token) for s in starts[i : min(i + size, full)]
        ]
        yield torch.stack(windows)
    if full < len(starts):
        yield window_at(stream, starts[full], block_size, eot_token)[None]
