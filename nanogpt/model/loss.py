"""The loss of next-token prediction, without ever holding all logits.

For each token a model has as many logits as there are words in its vocabulary: at GPT-2's 50,257
they outweigh everything else in memory. They are made here a chunk of tokens at a time, and the
gradients with them, so that no chunk is made twice.

Shapes: N tokens, C channels, V padded vocabulary.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits in a chunk: on a CPU what its cache holds, elsewhere what keeps thousands of cores busy.
CHUNK_LOGITS = {"cpu": 1 << 18}
CHUNK_LOGITS_ELSEWHERE = 1 << 28

# With fewer tokens, a large head's matrix is read so often that it takes longer than multiplying.
MIN_CHUNK_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class Head:
    """What happens to logits after the matrix product."""

    vocab_size: int  # those beyond are padding and never predicted
    softcap: float  # s tanh(logits / s), as in Gemma 2 (2024); 0 leaves them as they are

    def squash(self, logits: Tensor) -> Tensor:
        """tanh(logits / s), or the logits themselves without a soft cap."""
        return torch.tanh(logits / self.softcap) if self.softcap else logits

    def stretch(self, squashed: Tensor) -> Tensor:
        """What `squash` gave (..., V) as logits, the padding at -inf.

        Without a soft cap that is done in place.
        """
        logits = squashed * self.softcap if self.softcap else squashed
        logits[..., self.vocab_size :] = -math.inf
        return logits

    def __call__(self, logits: Tensor) -> Tensor:
        """Final logits (..., V), in float32 at least; may overwrite those given."""
        return self.stretch(self.squash(upcast(logits)))


def upcast(x: Tensor) -> Tensor:
    """The tensor in float32 at least, as exponentials and sums need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def chunks(n_tokens: int, n_logits: int, device: torch.device) -> Iterator[slice]:
    """As few slices as may be over all tokens, of equal size but for the last."""
    most = CHUNK_LOGITS.get(device.type, CHUNK_LOGITS_ELSEWHERE) // n_logits
    most = max(MIN_CHUNK_TOKENS, most)
    size = max(1, math.ceil(n_tokens / math.ceil(n_tokens / most)))
    return (slice(i, min(i + size, n_tokens)) for i in range(0, n_tokens, size))


def token_losses(x: Tensor, weight: Tensor, targets: Tensor, head: Head) -> Tensor:
    """Loss in nats (N,) of each target (N,), from hidden states (N, C) and the head's (V, C)."""
    parts = [
        F.cross_entropy(head(F.linear(x[s], weight)), targets[s], reduction="none")
        for s in chunks(len(x), len(weight), x.device)
    ]
    return torch.cat(parts)


def mean_loss(x: Tensor, weight: Tensor, targets: Tensor, head: Head) -> Tensor:
    """The mean of `token_losses`, a scalar, its gradients made along with it."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    loss: Tensor = MeanLoss.apply(x, weight, targets, head)  # type: ignore[no-untyped-call] # torch leaves apply() untyped
    return loss


class MeanLoss(torch.autograd.Function):
    """Cross entropy of a linear head, forward and backward in one pass over chunks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, head: Head) -> Tensor:
        w = weight.to(x.dtype)
        total = torch.zeros((), device=x.device, dtype=weight.dtype)
        x_grad = torch.empty_like(x)
        weight_grad = torch.zeros_like(weight)
        ids = torch.arange(len(w), device=x.device)
        for s in chunks(len(x), len(w), x.device):
            squashed = head.squash(upcast(x[s] @ w.t()))
            log_p = head.stretch(squashed).log_softmax(dim=1)
            target = targets[s, None]
            total -= log_p.gather(1, target).sum()
            grad = log_p.exp_()  # of the logits: softmax, less one at the target
            if torch.compiler.is_compiling():  # then all this is one pass, which no scatter is
                grad -= (ids == target).to(grad)
            else:
                grad.scatter_add_(1, target, grad.new_full(target.shape, -1.0))
            if head.softcap:
                grad = torch.ops.aten.tanh_backward(grad, squashed)
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
