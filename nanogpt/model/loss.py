"""The cross-entropy of next-token prediction, without holding all logits in memory.

Each token has one logit per entry of the vocabulary: at GPT-2's 50,257 they outweigh everything
else in memory. They are computed here one chunk of tokens at a time, and the gradients along with
them, so that no chunk is computed twice.

Shapes: N tokens, C channels, V padded vocabulary.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits per chunk: on a CPU as many as its cache holds, elsewhere enough to keep thousands of cores
# busy.
CHUNK_LOGITS = {"cpu": 1 << 18}
CHUNK_LOGITS_ELSEWHERE = 1 << 28

# With fewer tokens, the matrix of a large head is read so often that reading it takes longer than
# multiplying.
MIN_CHUNK_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class LogitTransform:
    """What is applied to logits after the matrix product: the soft cap and the padding mask."""

    vocab_size: int  # logits beyond are padding, which is never predicted
    softcap: float  # s tanh(logits / s), as in Gemma 2 (2024); 0 turns it off

    def softcap_tanh(self, logits: Tensor) -> Tensor:
        """Return tanh(logits / s), or the logits themselves without a soft cap."""
        return torch.tanh(logits / self.softcap) if self.softcap else logits

    def scale_and_mask(self, capped: Tensor) -> Tensor:
        """Scale the result of `softcap_tanh` (..., V) by s and set the padding to -inf.

        Works in place without a soft cap.
        """
        logits = capped * self.softcap if self.softcap else capped
        logits[..., self.vocab_size :] = -math.inf
        return logits

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the final logits (..., V), in float32 at least; may overwrite the input."""
        return self.scale_and_mask(self.softcap_tanh(upcast(logits)))


def upcast(x: Tensor) -> Tensor:
    """Convert a tensor to float32 at least, as exponentials and sums need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def chunks(n_tokens: int, n_logits: int, device: torch.device) -> Iterator[slice]:
    """Cut n_tokens tokens of n_logits logits each into as few slices as possible, of equal size."""
    most = CHUNK_LOGITS.get(device.type, CHUNK_LOGITS_ELSEWHERE) // n_logits
    most = max(MIN_CHUNK_TOKENS, most)
    size = max(1, math.ceil(n_tokens / math.ceil(n_tokens / most)))
    return (slice(i, min(i + size, n_tokens)) for i in range(0, n_tokens, size))


def token_losses(x: Tensor, weight: Tensor, targets: Tensor, transform: LogitTransform) -> Tensor:
    """Return the loss in nats of each target, (N,).

    x (N, C) are hidden states, weight (V, C) is the head's matrix, targets (N,) are tokens.
    """
    parts = [
        F.cross_entropy(transform(F.linear(x[s], weight)), targets[s], reduction="none")
        for s in chunks(len(x), len(weight), x.device)
    ]
    return torch.cat(parts)


def mean_loss(x: Tensor, weight: Tensor, targets: Tensor, transform: LogitTransform) -> Tensor:
    """Return the mean of `token_losses`, a scalar; its gradients are computed along with it."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    loss: Tensor = MeanLoss.apply(x, weight, targets, transform)  # type: ignore[no-untyped-call] # torch leaves apply() untyped
    return loss


class MeanLoss(torch.autograd.Function):
    """Cross-entropy of a linear head, forward and backward in one pass over the chunks."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, transform: LogitTransform
    ) -> Tensor:
        w = weight.to(x.dtype)
        total = torch.zeros((), device=x.device, dtype=weight.dtype)
        x_grad = torch.empty_like(x)
        weight_grad = torch.zeros_like(weight)
        vocabulary = torch.arange(len(w), device=x.device)
        for s in chunks(len(x), len(w), x.device):
            capped = transform.softcap_tanh(upcast(x[s] @ w.t()))
            log_p = transform.scale_and_mask(capped).log_softmax(dim=1)
            target = targets[s, None]
            total -= log_p.gather(1, target).sum()
            grad = log_p.exp_()  # with respect to the logits: softmax, minus one at the target
            if torch.compiler.is_compiling():  # fuses with all the rest, which a scatter does not
                grad -= (vocabulary == target).to(grad)
            else:
                grad.scatter_add_(1, target, grad.new_full(target.shape, -1.0))
            if transform.softcap:
                grad = torch.ops.aten.tanh_backward(grad, capped)
            grad = grad.to(x.dtype)
            x_grad[s] = grad @ w
            weight_grad += grad.t() @ x[s]
        ctx.save_for_backward(x_grad, weight_grad)
        return total / len(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_grad, weight_grad = ctx.saved_tensors
        scale = gradients[0] / len(x_grad)
        return (upcast(x_grad) * scale).to(x_grad.dtype), weight_grad * scale, None, None
