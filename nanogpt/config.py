"""The options of a model, its training and sampling: type, range, default and description.

One field per option. The sections of params.yaml, their checks and their comments are generated
from these fields (`stages/lib/config_sections.py`). The defaults are GPT-2's architecture (Radford
et al. 2019), so that a config that was saved before an option existed still means the same model.
What only a whole run has (`init_from`, `keep`, `precision`, `warmup` and `decay`) is in
`stages/train/params.py`.
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
    zero_or: float | None = None  # the smallest usable value above 0

    def check(self, value: float) -> float:
        """Return `value`. Raises ValueError if it is above 0 and too small."""
        if self.zero_or and 0 < value < self.zero_or:
            raise ValueError(
                f"{value!r} is too small to calculate with; give 0, or {self.zero_or} or more"
            )
        return value


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a GPT and each of its design choices."""

    vocab_size: int = 50_257
    block_size: Annotated[int, Range(ge=8, le=1 << 17), "context length, in tokens"] = 1024
    n_layer: Annotated[
        int, Range(ge=1, le=256), "number of transformer layers; more: better but slower"
    ] = 12
    n_head: Annotated[int, Range(ge=1, le=256), "attention heads per layer; must divide n_embd"] = (
        12
    )
    n_embd: Annotated[int, Range(ge=8, le=1 << 15), "embedding dimension (model width)"] = 768
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
    qk_norm: Annotated[bool, "normalize queries and keys: more stable at high learning rates"] = (
        False
    )
    zero_init_proj: Annotated[
        bool, "initialize residual projections to zero, so every block starts as the identity"
    ] = False
    tie_weights: Annotated[
        bool, "true: share the input embedding and output head weights (GPT-2)"
    ] = True
    logit_softcap: Annotated[
        float,
        Range(ge=0, le=1e6, zero_or=0.01),
        "soft-cap logits at this value (e.g. 15.0) to avoid overconfidence; 0: off",
    ] = 0.0
    ngram_table: Annotated[
        int,
        Range(ge=0, le=1 << 24),
        "rows in each hashed n-gram embedding table; 0: no tables",
    ] = 0
    ngram_order: Annotated[int, Range(ge=2, le=8), "largest n with a table; 2: bigrams only"] = 2
    mask_documents: Annotated[
        bool, "true: no attention across documents; has almost no effect on loss"
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
    learning_rate: Annotated[float, Range(gt=0, le=10), "peak learning rate of AdamW"] = 6e-4
    muon_learning_rate: Annotated[
        float, Range(gt=0, le=10), "peak learning rate of Muon; ignored with adamw"
    ] = 0.02
    weight_decay: Annotated[
        float, Range(ge=0, le=10), "decoupled weight decay, applied to matrices only"
    ] = 0.1
    beta1: Annotated[
        float, Range(ge=0, lt=1), "AdamW decay rate for the running mean of gradients"
    ] = 0.9
    beta2: Annotated[
        float, Range(ge=0, lt=1), "AdamW decay rate for the running mean of squared gradients"
    ] = 0.95
    grad_clip: Annotated[
        float, Range(ge=0, le=1e6), "clip the gradient norm to this value; 0: off"
    ] = 1.0
    schedule: Annotated[
        Literal["cosine", "warmup_stable_decay"],
        "warmup_stable_decay: plateau, then linear decay | cosine: cosine decay",
    ] = "cosine"
    warmup_steps: int = 2000  # in params.yaml `warmup`, as a fraction of max_steps or in steps
    decay_steps: int = 598_000  # likewise `decay`
    min_lr_ratio: Annotated[
        float, Range(ge=0, le=1), "final learning rate as a fraction of the peak"
    ] = 0.1


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What decides the result of a training run, apart from model and data."""

    optim: OptimConfig
    batch_tokens: Annotated[int, Range(ge=8), "tokens per step, over all processes"]
    max_steps: Annotated[int, Range(ge=1), "number of optimizer steps"]
    eval_interval: Annotated[
        int, Range(ge=1), "steps between evaluations; each is followed by a checkpoint"
    ]
    eval_tokens: Annotated[int, Range(ge=1), "validation tokens read by each evaluation"]
    non_finite: Annotated[
        Literal["stop", "skip"],
        "stop | skip: what to do when a loss or gradient is NaN or infinite",
    ]
    seed: Annotated[int, Range(ge=0, lt=2**63), "random seed for initialization and data order"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the defaults leave the model's probabilities as they are."""

    temperature: Annotated[
        float,
        Range(ge=0, le=100, zero_or=0.001),
        "0: greedy decoding; higher values: more random",
    ] = 1.0
    top_k: Annotated[
        Annotated[int, Range(ge=1)] | None,
        "sample from the k most likely tokens; null: no limit",
    ] = None
    top_p: Annotated[
        float,
        Range(gt=0, le=1),
        "nucleus sampling: smallest set of tokens with this total probability; 1.0: off",
    ] = 1.0
    min_p: Annotated[
        float,
        Range(ge=0, le=1),
        "drop tokens below this fraction of the top probability; 0: off",
    ] = 0.0
    repetition_penalty: Annotated[
        float,
        Range(ge=0.01, le=100),
        "above 1, e.g. 1.1: penalize tokens that have appeared; 1.0: off",
    ] = 1.0
