"""Every option of a model, of its training and of sampling: type, range, default and meaning.

One field per option. The sections of params.yaml, their checks and their comments are made of these
fields (`stages/lib/params.py`). The defaults are GPT-2's (Radford et al. 2019), so that a config
that was saved before an option existed still means the same model.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal


@dataclass(frozen=True, kw_only=True)
class Range:
    """The values that a number may have."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    zero_or: float | None = None  # the least value above 0 that can be calculated with

    def check(self, value: float) -> float:
        """Return a value. Raises ValueError if it is above 0 and too small."""
        if self.zero_or and 0 < value < self.zero_or:
            raise ValueError(
                f"{value!r} is too small to calculate with; give 0, or {self.zero_or} or more"
            )
        return value


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a GPT and each of its design choices."""

    vocab_size: int = 50_257
    block_size: Annotated[int, Range(ge=8, le=1 << 17), "tokens the model sees at once"] = 1024
    n_layer: Annotated[int, Range(ge=1, le=256), "layers: more are slower and abler"] = 12
    n_head: Annotated[
        int, Range(ge=1, le=256), "attention heads per layer; n_embd must be a multiple"
    ] = 12
    n_embd: Annotated[int, Range(ge=8, le=1 << 15), "width: numbers per token"] = 768
    dropout: Annotated[
        float, Range(ge=0, lt=1), "0.1 or 0.2 when a small corpus is read many times"
    ] = 0.0
    bias: Annotated[bool, "whether linear layers and LayerNorm have biases (GPT-2: true)"] = True
    position: Annotated[Literal["learned", "rotary"], "rotary | learned (GPT-2)"] = "learned"
    norm: Annotated[
        Literal["layernorm", "rmsnorm"], "rmsnorm (without weights) | layernorm (GPT-2)"
    ] = "layernorm"
    activation: Annotated[
        Literal["gelu", "gelu_exact", "relu2"],  # gelu is the tanh form, as in GPT-2
        "relu2 | gelu (GPT-2) | gelu_exact (nanoGPT)",
    ] = "gelu"
    qk_norm: Annotated[bool, "normalise queries and keys: steadier at high learning rates"] = False
    zero_init_proj: Annotated[bool, "every layer starts as doing nothing"] = False
    tie_weights: Annotated[bool, "true: one matrix for reading and predicting tokens (GPT-2)"] = (
        True
    )
    logit_softcap: Annotated[
        float,
        Range(ge=0, le=1e6, zero_or=0.01),
        "15.0 keeps predictions from overconfidence; 0 turns it off",
    ] = 0.0
    ngram_table: Annotated[
        int,
        Range(ge=0, le=1 << 24),
        "rows of each hashed n-gram table alongside the embedding; 0: none",
    ] = 0
    ngram_order: Annotated[
        int, Range(ge=2, le=8), "the longest n-grams with a table: 2 is pairs of tokens"
    ] = 2
    mask_documents: Annotated[
        bool, "true: a document does not see the one before it; gains almost nothing"
    ] = False

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.position == "rotary" and (self.n_embd // self.n_head) % 2:
            raise ValueError(
                f"n_embd / n_head is {self.n_embd // self.n_head}; rotary positions need it even"
            )

    @property
    def ngram_orders(self) -> range:
        """The lengths of the n-grams that have a table each."""
        return range(2, self.ngram_order + 1) if self.ngram_table else range(0)

    @property
    def eot_token(self) -> int:
        """The token that follows every document: the last one, as in GPT-2's vocabulary."""
        return self.vocab_size - 1

    @property
    def padded_vocab_size(self) -> int:
        """V rounded up to a multiple of 64, the size GPUs multiply fastest."""
        return math.ceil(self.vocab_size / 64) * 64


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How weights are updated, and how the learning rate moves over the run.

    The defaults are nanoGPT's recipe for GPT-2 124M.
    """

    optimizer: Annotated[
        Literal["adamw", "muon"], "muon (for the matrices, AdamW for the rest) | adamw"
    ] = "adamw"
    learning_rate: Annotated[float, Range(gt=0, le=10), "AdamW's highest"] = 6e-4
    muon_learning_rate: Annotated[float, Range(gt=0, le=10), "Muon's highest; unused by adamw"] = (
        0.02
    )
    weight_decay: Annotated[
        float, Range(ge=0, le=10), "pulls matrices towards 0, at this share of the learning rate"
    ] = 0.1
    beta1: Annotated[float, Range(ge=0, lt=1), "AdamW's average of gradients"] = 0.9
    beta2: Annotated[float, Range(ge=0, lt=1), "AdamW's average of their squares"] = 0.95
    grad_clip: Annotated[
        float, Range(ge=0, le=1e6), "scale larger gradients down to this norm; 0 turns it off"
    ] = 1.0
    schedule: Annotated[
        Literal["cosine", "warmup_stable_decay"],
        "warmup_stable_decay: rise, stay, fall along a line | cosine: fall along a wave",
    ] = "cosine"
    warmup_steps: int = 2000
    decay_steps: int = 598_000
    min_lr_ratio: Annotated[
        float, Range(ge=0, le=1), "where the fall ends, as a share of the highest"
    ] = 0.1


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What decides the result of a training, apart from model and data."""

    optim: OptimConfig
    batch_tokens: Annotated[int, Range(ge=8), "tokens per update, over all processes"]
    max_steps: Annotated[int, Range(ge=1), "updates; the length of the training"]
    eval_interval: Annotated[
        int, Range(ge=1), "updates between evaluations, each followed by a checkpoint"
    ]
    eval_tokens: Annotated[int, Range(ge=1), "validation tokens each evaluation reads"]
    non_finite: Annotated[
        Literal["stop", "skip"], "stop | skip: what to do when a loss or gradient is no number"
    ]
    seed: Annotated[int, Range(ge=0, lt=2**63), "another seed: other weights and another order"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the defaults leave the model's probabilities as they are."""

    temperature: Annotated[
        float,
        Range(ge=0, le=100, zero_or=0.001),
        "0: always the likeliest token; above 1: wilder",
    ] = 1.0
    top_k: Annotated[
        Annotated[int, Range(ge=1)] | None,
        "choose among this many likeliest tokens; null: among all",
    ] = None
    top_p: Annotated[
        float, Range(gt=0, le=1), "among the likeliest that hold this much probability"
    ] = 1.0
    min_p: Annotated[
        float, Range(ge=0, le=1), "and at least this share of the likeliest one's; 0: all of them"
    ] = 0.0
    repetition_penalty: Annotated[
        float,
        Range(ge=0.01, le=100),
        "above 1, such as 1.1: tokens already there become less likely",
    ] = 1.0
