"""Baselines to compare a model with: n-gram models and a compressor.

Each is trained on the same training split as the model and measured on the same validation split.
"""

import math
from dataclasses import dataclass

from nanogpt.evaluate import kneser_ney, ngram
from stages.artifacts.shards import Shards
from stages.evaluate import ppmd

SEES = {  # the context from which each predicts a token
    "uniform": "none",
    "unigram": "none; token frequencies only",
    "bigram": "1 token; smoothing tuned on the validation text",
    "kneser_ney": f"{kneser_ney.ORDER - 1} tokens, across windows",
    "ppmd": "all preceding text, and learns from it",
}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The loss of a baseline on the validation split, in nats per token.

    `read` says how much of the training split was used, by unit; it is empty if all of it was.
    """

    loss: float
    read: dict[str, int]


def measure(shards: Shards) -> dict[str, Baseline]:
    """Measure every baseline; the names are those in SEES."""
    return {
        **{name: Baseline(loss=loss, read={}) for name, loss in simple_losses(shards).items()},
        "kneser_ney": measure_kneser_ney(shards),
        "ppmd": measure_ppmd(shards),
    }


def simple_losses(shards: Shards) -> dict[str, float]:
    """Return the losses of the baselines that see at most one token, in nats per token."""
    train, val = shards.stream("train"), shards.stream("val")
    counts = ngram.count_tokens(train, shards.n_vocab)
    return {
        "uniform": ngram.uniform_loss(len(counts)),
        "unigram": ngram.unigram_loss(counts, val),
        "bigram": ngram.bigram_loss(counts, train, val, shards.eot_token),
    }


def measure_kneser_ney(shards: Shards) -> Baseline:
    """Measure modified Kneser-Ney, with counts of the training split only."""
    train = shards.stream("train")
    model = kneser_ney.count(train, shards.n_vocab, shards.eot_token)
    truncated = len(train) > kneser_ney.MAX_TOKENS
    read = {"train_tokens": kneser_ney.MAX_TOKENS} if truncated else {}
    return Baseline(loss=model.loss(shards.stream("val")), read=read)


def measure_ppmd(shards: Shards) -> Baseline:
    """Measure PPMd, with its bits converted to nats per token."""
    encoded = ppmd.encode(shards)
    train, val = shards.split("train"), shards.split("val")
    truncated = encoded.train_bytes < train.bytes + train.documents
    read = {"train_bytes": encoded.train_bytes} if truncated else {}
    return Baseline(loss=encoded.val_bits * math.log(2) / val.tokens, read=read)


def best(baselines: dict[str, dict[str, float]]) -> tuple[str, float]:
    """Return the name and the bits per byte of the best baseline."""
    scores = {name: metrics["bits_per_byte"] for name, metrics in baselines.items()}
    name = min(scores, key=scores.__getitem__)
    return name, scores[name]
