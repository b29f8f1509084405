"""Text out of a model, one token at a time, each token's keys and values computed once."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpt.model import GPT, KVCache
from nanogpt.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. temperature 0 takes the likeliest."""

    temperature: float
    top_k: int | None
    top_p: float


def filtered_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """(B, V) logits into probabilities, zero outside top_k and top_p (Holtzman et al. 2020)."""
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        kth = logits.topk(min(sampling.top_k, logits.size(1))).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    probabilities = logits.softmax(dim=1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=1, descending=True)
        beyond = ordered.cumsum(1) - ordered >= sampling.top_p
        beyond[:, 0] = False  # the first token always stays
        probabilities = probabilities.scatter(1, order, ordered.masked_fill(beyond, 0.0))
        probabilities = probabilities / probabilities.sum(1, keepdim=True)
    return probabilities


@torch.inference_mode()
def generate(
    model: GPT,
    prompt: Tensor,
    max_new_tokens: int,
    *,
    sampling: Sampling,
    runtime: Runtime,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Yield (B,) new tokens, max_new_tokens times, after the prompt (B, T), T at least 1.

    When the context is full, its later half is kept and read again.
    """
    model.eval()
    block_size = model.config.block_size
    context = prompt[:, -block_size:].to(runtime.device)  # (B, T)
    unread, cache = context, new_cache(model, len(prompt), runtime)
    for _ in range(max_new_tokens):
        if cache.length + unread.size(1) > block_size:
            unread = context = context[:, -(block_size // 2 or 1) :]
            cache = new_cache(model, len(prompt), runtime)
        with runtime.autocast():
            logits = model(unread, cache=cache)[:, -1]  # (B, V padded)
        probabilities = filtered_probabilities(logits.cpu(), sampling)
        unread = torch.multinomial(probabilities, 1, generator=generator).to(runtime.device)
        context = torch.cat((context[:, -block_size:], unread), dim=1)
        yield unread[:, 0].cpu()


def new_cache(model: GPT, batch: int, runtime: Runtime) -> KVCache:
    """An empty cache in the number format of the runtime."""
    return KVCache(model.config, batch, runtime.device, runtime.dtype)
