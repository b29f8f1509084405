"""Counter-based dropout: masks that depend only on the window and the position in the model.

A stateful generator hands out its numbers in the order of the calls, so its masks change with the
micro-batch, the number of processes and the device. Here every number is a hash (a counter-based
generator, Salmon et al. 2011) of the window's key, the position in the model and the index in the
tensor. It takes only integer arithmetic, so every device draws the same masks, compiled or not,
and a backward pass that recomputes activations draws them again.

Shapes: B windows, P positions in the model, N numbers per window, W = N / 2 words of two numbers.
"""

import torch
from torch import Tensor

# Odd, as integers wrap: the golden ratio, whose multiples spread out, and multipliers found by a
# search for low bias, of 64 bits (MurmurHash3, Appleby 2011) and 32 (hash-prospector, Wellons).
GOLDEN, FINISH_64 = 0x1E3779B1, 0x2127599BF4325C37
FIRST_32, SECOND_32 = 0x21F0AAAD, 0x735A2D97

NUMBER_BITS = 15  # per random number, so p is rounded to a multiple of 2^-15


def place_keys(keys: Tensor, n_places: int) -> Tensor:
    """Derive a key of two int32 for each place, (P, B, 2), from the windows' keys (B,) int64."""
    places = torch.arange(1, n_places + 1, device=keys.device)
    mixed = keys + GOLDEN * places[:, None]  # (P, B)
    mixed = (mixed ^ (mixed >> 32)) * FINISH_64
    mixed = mixed ^ (mixed >> 32)
    return torch.stack((mixed & 0x3FFFFFFF, mixed >> 32), dim=-1).int()


def random_numbers(key: Tensor, n: int) -> Tensor:
    """Return n uniform integers of NUMBER_BITS bits per window, (B, N), from its key (B, 2)."""
    counters = torch.arange((n + 1) // 2, dtype=torch.int32, device=key.device)
    # Both terms have 30 bits, so their sum has a zero sign bit and no two counters share a word.
    # With the sign set, the arithmetic shifts below would map a word and its complement to one.
    words = (counters * GOLDEN & 0x3FFFFFFF) + key[:, :1]  # (B, W)
    words ^= words >> 16
    words = torch.add(key[:, 1:], words, alpha=FIRST_32)
    words ^= words >> 15
    words *= SECOND_32
    words ^= words >> 15
    words &= 0x7FFF7FFF
    if torch.compiler.is_compiling():  # a view would split the fused kernel
        halves = torch.arange(0, 32, 16, dtype=torch.int32, device=key.device)
        return (words[..., None] >> halves & 0x7FFF).flatten(1)[:, :n]
    return words.view(torch.int16)[:, :n]


def dropout(x: Tensor, p: float, key: Tensor | None) -> Tensor:
    """Zero each element of x (B, ...) with probability p and divide the others by 1 - p.

    key (B, 2) decides which; without one, x is returned as it is.
    """
    if key is None:
        return x
    total = 1 << NUMBER_BITS
    dropped = min(round(p * total), total - 1)
    keep = random_numbers(key, x.numel() // x.size(0)) >= dropped
    return x * keep.reshape(x.shape).to(x.dtype).mul_(total / (total - dropped))
