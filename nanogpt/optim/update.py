"""The update of the weights by accumulated gradients: unscaled, clipped, applied."""

import torch
from torch import Tensor, nn

from nanogpt.runtime import Runtime, full_tensor


def loss_scaler(runtime: Runtime) -> torch.amp.GradScaler:
    """Return a scaler that keeps small gradients from vanishing in float16; elsewhere it is off."""
    return torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)


def unscale(optimizers: list[torch.optim.Optimizer], scaler: torch.amp.GradScaler) -> None:
    """Divide the gradients by the loss scale; does nothing without a scaler."""
    for optimizer in optimizers:
        scaler.unscale_(optimizer)


def clip_gradients(model: nn.Module, limit: float) -> float:
    """Clip the norm of all gradients to `limit`, unless it is 0; return the norm before that."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm: Tensor = full_tensor(nn.utils.get_total_norm(gradients))
    if limit:
        nn.utils.clip_grads_with_norm_(model.parameters(), limit, norm)
    return norm.item()


def update_weights(
    optimizers: list[torch.optim.Optimizer], scaler: torch.amp.GradScaler, *, skipped: bool
) -> None:
    """Apply the optimizers, unless the update is skipped, and free the gradients."""
    for optimizer in optimizers:
        if not skipped:
            scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
