"""Text out of a model, one token at a time, each token's keys and values computed once.

What a row becomes depends on its prompt, its seed and the sampling, not on the other rows: the
same alone or in any batch, up to rounding. Small functions, as in gpt-fast: `prefill` reads
prompts, `decode_one_token` adds one, `sample` chooses; `generate` is the loop over them.

Shapes: B rows, T time, C channels, V vocabulary (padded), K candidates for the next token.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from nanogpt.config import Sampling
from nanogpt.model.cache import KVCache
from nanogpt.model.gpt import GPT
from nanogpt.rng import mix


def penalised(logits: Tensor, texts: Tensor, penalty: float) -> Tensor:
    """(B, V) logits with those of the tokens in texts (B, T) made smaller (Keskar et al. 2019).

    The paper divides by the penalty, which would make negative logits larger: these are multiplied.
    """
    seen = logits.gather(1, texts)
    return logits.scatter(1, texts, torch.where(seen > 0, seen / penalty, seen * penalty))


def candidates(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities (B, K) and ids (B, K) of the tokens to choose among, from logits (B, V).

    top_k, then top_p (Holtzman et al. 2020), then min_p: at least that share of the likeliest's
    probability (Nguyen et al. 2024). What is filtered out has probability 0 or no place.
    """
    if sampling.temperature == 0:
        likeliest = logits.argmax(1, keepdim=True)
        return torch.ones_like(likeliest, dtype=logits.dtype), likeliest
    if sampling.top_k is not None:
        logits, ids = logits.topk(min(sampling.top_k, logits.size(1)))
    elif sampling.top_p < 1:
        logits, ids = logits.sort(descending=True)
    else:
        ids = torch.arange(logits.size(1), device=logits.device).expand_as(logits)
    probabilities = (logits / sampling.temperature).softmax(dim=1)
    if sampling.top_p < 1:  # they are in descending order
        beyond = probabilities.cumsum(1) - probabilities >= sampling.top_p
        beyond[:, 0] = False  # the first token always stays
        probabilities = probabilities.masked_fill(beyond, 0.0)
    if sampling.min_p > 0:
        least = sampling.min_p * probabilities.amax(1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    return probabilities / probabilities.sum(1, keepdim=True), ids


def uniforms(seeds: Sequence[int], i: int) -> Tensor:
    """(B,) numbers in [0, 1) for the i-th new token of rows with these seeds."""
    return torch.tensor([(mix(seed, i) >> 40) / 2**24 for seed in seeds])  # exact in float32


def sample(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """(B,) tokens from logits (B, V): where the cumulated probabilities exceed uniform (B,).

    A token of probability 0 is never chosen.
    """
    probabilities, ids = candidates(logits, sampling)
    # float64: sums in parallel must not rise where a probability is 0 (MPS knows no float64)
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    cumulated = probabilities.cumsum(1, dtype=dtype)
    thresholds = uniform.to(cumulated)[:, None] * cumulated[:, -1:]
    return ids.gather(1, torch.searchsorted(cumulated, thresholds, right=True))[:, 0]


def right_padded(texts: Sequence[Tensor], width: int) -> Tensor:
    """(B, width) tokens: each text, then its own first token over and over."""
    return torch.stack([torch.cat((t, t[:1].expand(width - len(t)))) for t in texts])


def prefill(model: GPT, prompts: Sequence[Tensor], cache: KVCache, rows: Sequence[int]) -> Tensor:
    """Read prompts, 1-D and of any lengths, into emptied rows of the cache; logits (rows, V).

    They are padded on the right: no token sees a later one, so none sees the padding.
    """
    lengths = [len(prompt) for prompt in prompts]
    idx = right_padded(prompts, max(lengths)).to(cache.device)
    cache.restart(rows, idx.size(1))
    x = model.hidden(idx, cache)  # (rows, T, C)
    for row, length in zip(rows, lengths, strict=True):
        cache.lengths[row] = length
    return model.logits(x[range(len(lengths)), [length - 1 for length in lengths]])


def next_logits(model: GPT, tokens: Tensor, cache: KVCache) -> Tensor:
    """Logits (B, V) after tokens (B,), for which the cache has made room."""
    return model.logits(model.hidden(tokens[:, None], cache)[:, 0])


@functools.cache
def compiled_next_logits() -> Callable[[GPT, Tensor, KVCache], Tensor]:
    """`next_logits` in fewer and larger kernels; its shapes must stay the same."""
    return torch.compile(next_logits, fullgraph=True, dynamic=False)


def decode_one_token(
    model: GPT, tokens: Tensor, cache: KVCache, *, compile: bool = False
) -> Tensor:
    """Logits (B, V) of what follows when each row is extended by one of tokens (B,)."""
    cache.advance(1, all_slots=compile)
    read = compiled_next_logits() if compile else next_logits
    return read(model, tokens, cache)


def forget_first_halves(model: GPT, cache: KVCache, texts: Tensor, lengths: Sequence[int]) -> None:
    """Let each full row keep the later half of its text, with room for the token that comes next.

    The texts (B, T) count up to `lengths`, that token excluded.
    """
    full = [row for row, length in enumerate(cache.lengths) if length == cache.block_size]
    keep = cache.block_size // 2 - 1
    if full and keep > 0:
        kept = [texts[row, lengths[row] - keep : lengths[row]] for row in full]
        prefill(model, kept, cache, full)
    elif full:
        cache.restart(full, 0)


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

    Prompts are 1-D, each of at least one token, each with its seed. A row that met a stop token
    repeats it; when all have, the iterator ends. When a row's context is full, its later half is
    kept and read again. All is computed in the number format of the weights (see `decoding`).
    """
    model.eval()
    weight, rows = model.wte.weight, range(len(prompts))
    cache = KVCache(model.config, len(prompts), weight.device, weight.dtype)
    logits = prefill(model, [prompt[-cache.block_size :] for prompt in prompts], cache, rows)
    ends = [len(prompt) for prompt in prompts]
    texts = right_padded(prompts, max(ends) + max_new_tokens).to(weight.device)
    stops = torch.tensor(stop_tokens, dtype=torch.long, device=weight.device)
    tokens, stopped = texts[:, 0], torch.zeros(len(rows), dtype=torch.bool, device=weight.device)
    for i in range(max_new_tokens):
        if i > 0:
            forget_first_halves(model, cache, texts, [end + i - 1 for end in ends])
            logits = decode_one_token(model, tokens, cache, compile=compile)
        if sampling.repetition_penalty != 1:
            logits = penalised(logits, texts, sampling.repetition_penalty)
        chosen = sample(logits, uniforms(seeds, i), sampling)
        tokens = torch.where(stopped, tokens, chosen) if stop_tokens else chosen
        texts[rows, [end + i for end in ends]] = tokens
        yield tokens
        if stop_tokens and (stopped := torch.isin(tokens, stops)).all():
            return
