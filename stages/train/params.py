"""The sections `model` and `train`: what is trained, and how."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainValidator, field_validator, model_validator

from nanogpt.config import GPTConfig, OptimConfig, TrainConfig
from stages.lib.config_sections import config_from, with_fields_of
from stages.lib.params import Section

FRACTION, STEPS = "a fraction of max_steps below 1, such as 0.01", "a number of steps, such as 10"


@with_fields_of(GPTConfig, without=["vocab_size"])
class ModelParams(Section):
    """The section `model`: GPTConfig but for vocab_size, which the tokenizer decides."""

    heading: ClassVar[str] = "the shape of the GPT and its design choices"

    @model_validator(mode="after")
    def is_a_model(self) -> "ModelParams":
        """Refuse what GPTConfig refuses."""
        self.shape()
        return self

    def shape(self) -> GPTConfig:
        """Return the config with GPT-2's vocabulary, for checks that do not depend on its size."""
        return self.config(GPTConfig.vocab_size)

    def config(self, vocab_size: int) -> GPTConfig:
        """Return the config of a model with a vocabulary of this size."""
        return config_from(self, GPTConfig, vocab_size=vocab_size)


def fraction_or_steps(value: object) -> int | float:
    """Return a fraction of max_steps (a float below 1) or a number of steps (an int) as it is.

    Raises ValueError for anything else; 1.0 too, which could mean one step or all of them.
    """
    if (type(value) is int and value >= 0) or (type(value) is float and 0 <= value < 1):
        return value
    raise ValueError(f"{value!r} is neither {FRACTION}, nor {STEPS}")


def steps_of(amount: int | float, max_steps: int) -> int:
    """Return an amount, a fraction of max_steps or a number of steps, as a number of steps."""
    return amount if isinstance(amount, int) else round(amount * max_steps)


FractionOrSteps = Annotated[int | float, PlainValidator(fraction_or_steps)]


@with_fields_of(OptimConfig, TrainConfig, without=["optim", "warmup_steps", "decay_steps"])
class TrainOptions(Section):
    """OptimConfig and TrainConfig but for the schedule's lengths, which are in other units."""


class TrainParams(TrainOptions):
    """The section `train`: the library's options, and what else a training run needs."""

    heading: ClassVar[str] = "optimization and training schedule"

    renamed: ClassVar[dict[str, tuple[str, str]]] = {
        f"{name}_steps": (name, f"{FRACTION}, or {STEPS}") for name in ("warmup", "decay")
    }

    init_from: str | None = Field(
        description="null: from scratch | weights to finetune, such as weights/gpt2"
    )
    warmup: FractionOrSteps = Field(
        description="warmup length: a fraction of max_steps (0.01) or steps (10)"
    )
    decay: FractionOrSteps = Field(description="length of the decay at the end, in the same units")
    keep: Literal["best", "last"] = Field(description="best | last: which weights become the model")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        description="auto (bfloat16 where it is fast) | float32 | bfloat16 | float16"
    )

    @field_validator("init_from")
    @classmethod
    def init_is_in_weights(cls, init_from: str | None) -> str | None:
        """Refuse a folder outside of `weights/`, the only one that DVC watches."""
        if init_from is None:
            return None
        parts = Path(init_from).parts
        if len(parts) < 2 or parts[0] != "weights" or ".." in parts:
            raise ValueError(f"{init_from!r} is not a folder in weights/, such as weights/gpt2")
        return init_from

    @model_validator(mode="after")
    def schedule_fits(self) -> "TrainParams":
        """Require that warmup and decay fit into the run, before fractions are rounded."""
        amounts, max_steps = (self.warmup, self.decay), self.unscheduled().max_steps
        wanted = sum(n if isinstance(n, int) else n * max_steps for n in amounts)
        if wanted > max_steps * (1 + 1e-9):  # 0.7 + 0.2 + 0.1 is not 1 in floating point
            steps = " + ".join(str(steps_of(n, max_steps)) for n in amounts)
            raise ValueError(
                f"warmup {self.warmup} + decay {self.decay} ({steps} steps) are more than "
                f"max_steps {max_steps}"
            )
        return self

    def unscheduled(self) -> TrainConfig:
        """Return the config without warmup and decay."""
        optim = config_from(self, OptimConfig, warmup_steps=0, decay_steps=0)
        return config_from(self, TrainConfig, optim=optim)

    def config(self) -> TrainConfig:
        """Return the config, with warmup and decay in whole updates."""
        config = self.unscheduled()
        warmup, decay = self.schedule_updates()
        optim = replace(config.optim, warmup_steps=warmup, decay_steps=decay)
        return replace(config, optim=optim)

    def schedule_updates(self) -> tuple[int, int]:
        """Return (warmup, decay) as numbers of steps that fit into max_steps.

        A warmup above 0 has at least one step; where fractions are rounded up, the decay takes what
        is left.
        """
        max_steps = self.unscheduled().max_steps
        warmup = max(steps_of(self.warmup, max_steps), int(self.warmup > 0))
        return warmup, min(steps_of(self.decay, max_steps), max_steps - warmup)


def check_batch(model: ModelParams, train: TrainParams) -> None:
    """Raise ValueError if a batch is not a whole number of windows."""
    batch_tokens, block_size = train.config().batch_tokens, model.shape().block_size
    if batch_tokens % block_size:
        raise ValueError(
            f"train.batch_tokens {batch_tokens} is not a multiple of model.block_size {block_size}"
        )


SECTIONS = {"model": ModelParams, "train": TrainParams}
