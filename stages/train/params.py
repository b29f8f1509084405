"""The sections `model` and `train`: what is trained, and how."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainValidator, field_validator, model_validator

from stages.lib.params import Section, zero_or_at_least

SHARE, UPDATES = "a share of max_steps below 1, such as 0.01", "a number of updates, such as 10"


class ModelParams(Section):
    """The section `model`: GPTConfig but for vocab_size, which the tokenizer decides."""

    block_size: int = Field(ge=8, le=1 << 17)
    n_layer: int = Field(ge=1, le=256)
    n_head: int = Field(ge=1, le=256)
    n_embd: int = Field(ge=8, le=1 << 15)
    dropout: float = Field(ge=0, lt=1)
    bias: bool
    position: Literal["learned", "rotary"]
    norm: Literal["layernorm", "rmsnorm"]
    activation: Literal["gelu", "gelu_exact", "relu2"]
    qk_norm: bool
    zero_init_proj: bool
    tie_weights: bool
    logit_softcap: Annotated[float, Field(ge=0, le=1e6), zero_or_at_least(0.01)]
    ngram_table: int = Field(ge=0, le=1 << 24)
    ngram_order: int = Field(ge=2, le=8)
    mask_documents: bool

    @model_validator(mode="after")
    def heads_divide_channels(self) -> "ModelParams":
        """Each head gets an equal share of the channels, an even one for rotary positions."""
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.position == "rotary" and self.n_embd // self.n_head % 2:
            raise ValueError(
                f"n_embd / n_head is {self.n_embd // self.n_head}; rotary positions need it even"
            )
        return self


def share_or_updates(value: object) -> int | float:
    """Return a share of max_steps (a float below 1) or a number of updates (an int) as it is.

    Raises ValueError at anything else; 1.0 too, which could mean one update or all of them.
    """
    if (type(value) is int and value >= 0) or (type(value) is float and 0 <= value < 1):
        return value
    raise ValueError(f"{value!r} is neither {SHARE}, nor {UPDATES}")


def updates_of(amount: int | float, max_steps: int) -> int:
    """Return how many updates a share of max_steps is, rounded, or a number of updates."""
    return amount if isinstance(amount, int) else round(amount * max_steps)


ShareOrUpdates = Annotated[int | float, PlainValidator(share_or_updates)]


class TrainParams(Section):
    """The section `train`."""

    renamed: ClassVar[dict[str, tuple[str, str]]] = {
        f"{name}_steps": (name, f"{SHARE}, or {UPDATES}") for name in ("warmup", "decay")
    }

    init_from: str | None
    batch_tokens: int = Field(ge=8)
    max_steps: int = Field(ge=1)
    optimizer: Literal["adamw", "muon"]
    learning_rate: float = Field(gt=0, le=10)
    muon_learning_rate: float = Field(gt=0, le=10)
    weight_decay: float = Field(ge=0, le=10)
    beta1: float = Field(ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    grad_clip: float = Field(ge=0, le=1e6)
    schedule: Literal["cosine", "warmup_stable_decay"]
    warmup: ShareOrUpdates
    decay: ShareOrUpdates
    min_lr_ratio: float = Field(ge=0, le=1)
    eval_interval: int = Field(ge=1)
    eval_tokens: int = Field(ge=1)
    keep: Literal["best", "last"]
    non_finite: Literal["stop", "skip"]
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    seed: int = Field(ge=0, lt=2**63)

    @field_validator("init_from")
    @classmethod
    def init_is_in_weights(cls, init_from: str | None) -> str | None:
        """DVC watches `weights/` and no other folder."""
        if init_from is None:
            return None
        parts = Path(init_from).parts
        if len(parts) < 2 or parts[0] != "weights" or ".." in parts:
            raise ValueError(f"{init_from!r} is no folder in weights/, such as weights/gpt2")
        return init_from

    @model_validator(mode="after")
    def schedule_fits(self) -> "TrainParams":
        """Warm-up and decay must fit into the run; shares are compared before they are rounded."""
        amounts = (self.warmup, self.decay)
        wanted = sum(n if isinstance(n, int) else n * self.max_steps for n in amounts)
        if wanted > self.max_steps * (1 + 1e-9):  # 0.7 + 0.2 + 0.1 is not 1 in floating point
            updates = " + ".join(str(updates_of(n, self.max_steps)) for n in amounts)
            raise ValueError(
                f"warmup {self.warmup} + decay {self.decay} ({updates} updates) are more than "
                f"max_steps {self.max_steps}"
            )
        return self

    def schedule_updates(self) -> tuple[int, int]:
        """Return (warm-up, decay) in whole updates, which fit into max_steps.

        A warm-up that is asked for has one update at least; where shares are rounded up, the decay
        takes what is left.
        """
        warmup = max(updates_of(self.warmup, self.max_steps), int(self.warmup > 0))
        return warmup, min(updates_of(self.decay, self.max_steps), self.max_steps - warmup)


def check_batch(model: ModelParams, train: TrainParams) -> None:
    """Raise ValueError when a batch holds no whole number of windows."""
    if train.batch_tokens % model.block_size:
        raise ValueError(
            f"train.batch_tokens {train.batch_tokens} is not a multiple of model.block_size "
            f"{model.block_size}"
        )


SECTIONS = {"model": ModelParams, "train": TrainParams}
