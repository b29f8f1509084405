"""Autoregressive generation with a KV cache, one token per row and step.

A row depends on its prompt, its seed and the sampling options, not on the other rows: it comes out
the same alone or in any batch, up to rounding. Small functions, as in gpt-fast: `prefill` reads the
prompts, `decode_one_token` appends a token, `sample` chooses the next; `generate` is the loop.

Shapes: B rows, T time, C channels, V padded vocabulary, K candidates for the next token.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from nanogpt.config import Sampling
from nanogpt.model.cache import KVCache
from nanogpt.model.gpt import GPT
from nanogpt.rng import mix


def apply_repetition_penalty(logits: Tensor, sequences: Tensor, penalty: float) -> Tensor:
    """Lower the logits (B, V) of the tokens in sequences (B, T) (CTRL, Keskar et al. 2019).

    The paper divides by the penalty, which would raise negative logits: these are multiplied.
    """
    seen = logits.gather(1, sequences)
    return logits.scatter(1, sequences, torch.where(seen > 0, seen / penalty, seen * penalty))


def candidates(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return probabilities (B, K) and tokens (B, K) to sample from, given logits (B, V).

    Filters by top_k, then by top_p (nucleus sampling, Holtzman et al. 2020), then by min_p: at
    least that share of the likeliest token's probability (Nguyen et al. 2024). Tokens filtered out
    have probability 0 or are left out. Temperature 0 is greedy.
    """
    if sampling.temperature == 0:
        likeliest = logits.argmax(1, keepdim=True)
        return torch.ones_like(likeliest, dtype=logits.dtype), likeliest
    if sampling.top_k is not None:
        logits, tokens = logits.topk(min(sampling.top_k, logits.size(1)))
    elif sampling.top_p < 1:
        logits, tokens = logits.sort(descending=True)
    else:
        tokens = torch.arange(logits.size(1), device=logits.device).expand_as(logits)
    probabilities = (logits / sampling.temperature).softmax(dim=1)
    if sampling.top_p < 1:  # here they are sorted in descending order
        beyond = probabilities.cumsum(1) - probabilities >= sampling.top_p
        beyond[:, 0] = False  # the likeliest always stays
        probabilities = probabilities.masked_fill(beyond, 0.0)
    if sampling.min_p > 0:
        least = sampling.min_p * probabilities.amax(1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    return probabilities / probabilities.sum(1, keepdim=True), tokens


def uniforms(seeds: Sequence[int], i: int) -> Tensor:
    """Return a number in [0, 1) for the i-th new token of each row, (B,), from the rows' seeds."""
    return torch.tensor([(mix(seed, i) >> 40) / 2**24 for seed in seeds])  # exact in float32


def sample(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """Sample tokens (B,) from logits (B, V) by inverse transform of uniform numbers (B,).

    A token of probability 0 is never chosen.
    """
    probabilities, tokens = candidates(logits, sampling)
    # float64: a parallel cumsum must not rise where a probability is 0 (MPS has no float64)
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    cumulated = probabilities.cumsum(1, dtype=dtype)
    thresholds = uniform.to(cumulated)[:, None] * cumulated[:, -1:]
    return tokens.gather(1, torch.searchsorted(cumulated, thresholds, right=True))[:, 0]


def pad_right(sequences: Sequence[Tensor], width: int) -> Tensor:
    """Stack sequences of tokens as (B, width), each padded with its own first token."""
    return torch.stack([torch.cat((t, t[:1].expand(width - len(t)))) for t in sequences])


def prefill(model: GPT, prompts: Sequence[Tensor], cache: KVCache, rows: Sequence[int]) -> Tensor:
    """Read 1-D prompts of any lengths into these rows of the cache; return logits (rows, V).

    What the rows held is dropped. Prompts are padded on the right: as no token attends to a later
    one, none attends to the padding.
    """
    lengths = [len(prompt) for prompt in prompts]
    idx = pad_right(prompts, max(lengths)).to(cache.device)
    cache.reset(rows, idx.size(1))
    x = model.hidden(idx, cache)  # (rows, T, C)
    for row, length in zip(rows, lengths, strict=True):
        cache.lengths[row] = length
    return model.logits(x[range(len(lengths)), [length - 1 for length in lengths]])


def next_logits(model: GPT, tokens: Tensor, cache: KVCache) -> Tensor:
    """Return the logits (B, V) that follow tokens (B,), for which the cache has made room."""
    return model.logits(model.hidden(tokens[:, None], cache)[:, 0])


@functools.cache
def compiled_next_logits() -> Callable[[GPT, Tensor, KVCache], Tensor]:
    """Return `next_logits` compiled into fewer and larger kernels, for shapes that never change."""
    return torch.compile(next_logits, fullgraph=True, dynamic=False)


def decode_one_token(
    model: GPT, tokens: Tensor, cache: KVCache, *, compile: bool = False
) -> Tensor:
    """Append one of tokens (B,) to each row; return the logits (B, V) of the next ones."""
    cache.advance(1, all_slots=compile)
    forward = compiled_next_logits() if compile else next_logits
    return forward(model, tokens, cache)


def truncate_full_rows(
    model: GPT, cache: KVCache, sequences: Tensor, lengths: Sequence[int]
) -> None:
    """Keep only the later half of the context of each full row, with room for the next token.

    `lengths` are those of the sequences (B, T) so far, without that token.
    """
    full = [row for row, length in enumerate(cache.lengths) if length == cache.block_size]
    keep = cache.block_size // 2 - 1
    if full and keep > 0:
        kept = [sequences[row, lengths[row] - keep : lengths[row]] for row in full]
        prefill(model, kept, cache, full)
    elif full:
        cache.reset(full, 0)


@torch.inference_mode()
def generate(
    model: GPT,
    prompts: Sequence[Tensor],
    max_new_tokens: int,
    *,
    sampling: Sampling,
    seeds: Sequence[int],
    stop_tokens: Sequence[int] = (),
    compile: bool = False,
) -> Iterator[Tensor]:
    """Yield the next token of every row, (B,) on the model's device, up to max_new_tokens times.

    Prompts are 1-D, each of at least one token, each with its own seed. A row that has met a stop
    token repeats it; once all have, the iterator ends. When a row's context is full, its later half
    is kept and read again. Everything is computed in the number format of the weights (see
    `decoding_copy`).
    """
    model.eval()
    weight, rows = model.wte.weight, range(len(prompts))
    cache = KVCache(model.config, len(prompts), weight.device, weight.dtype)
    logits = prefill(model, [prompt[-cache.block_size :] for prompt in prompts], cache, rows)
    lengths = [len(prompt) for prompt in prompts]
    sequences = pad_right(prompts, max(lengths) + max_new_tokens).to(weight.device)
    stops = torch.tensor(stop_tokens, dtype=torch.long, device=weight.device)
    tokens = sequences[:, 0]
    stopped = torch.zeros(len(rows), dtype=torch.bool, device=weight.device)
    for i in range(max_new_tokens):
        if i > 0:
            truncate_full_rows(model, cache, sequences, [n + i - 1 for n in lengths])
            logits = decode_one_token(model, tokens, cache, compile=compile)
        if sampling.repetition_penalty != 1:
            logits = apply_repetition_penalty(logits, sequences, sampling.repetition_penalty)
        chosen = sample(logits, uniforms(seeds, i), sampling)
        tokens = torch.where(stopped, tokens, chosen) if stop_tokens else chosen
        sequences[rows, [n + i for n in lengths]] = tokens
        yield tokens
        if stop_tokens and (stopped := torch.isin(tokens, stops)).all():
            return
