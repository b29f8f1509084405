"""The sections `model` and `train`: what is trained, and how."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainValidator, field_validator, model_validator

from nanogpt.config import GPTConfig, OptimConfig, TrainConfig
from stages.lib.params import section_of

SHARE, UPDATES = "a share of max_steps below 1, such as 0.01", "a number of updates, such as 10"


class ModelParams(
    section_of(GPTConfig, without=["vocab_size"])  # type: ignore[misc]  # made of its fields
):
    """The section `model`: GPTConfig but for vocab_size, which the tokenizer decides."""

    heading: ClassVar[str] = "the shape of the GPT and its design choices"

    @model_validator(mode="after")
    def is_a_model(self) -> "ModelParams":
        """What GPTConfig refuses is refused here."""
        GPTConfig(**self.model_dump())
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


class TrainParams(
    section_of(  # type: ignore[misc]  # made of their fields
        OptimConfig, TrainConfig, without=["optim", "warmup_steps", "decay_steps"]
    )
):
    """The section `train`: OptimConfig and TrainConfig, and what a whole training has besides."""

    heading: ClassVar[str] = "how its weights are learned"

    renamed: ClassVar[dict[str, tuple[str, str]]] = {
        f"{name}_steps": (name, f"{SHARE}, or {UPDATES}") for name in ("warmup", "decay")
    }

    init_from: str | None = Field(
        description="null: from nothing | weights to finetune, such as weights/gpt2"
    )
    warmup: ShareOrUpdates = Field(
        description="rising: a share of max_steps (0.01), or updates (10)"
    )
    decay: ShareOrUpdates = Field(description="falling, at the end: likewise")
    keep: Literal["best", "last"] = Field(description="best | last: which weights become the model")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        description="auto (bfloat16 where it is fast) | float32 | bfloat16 | float16"
    )

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
