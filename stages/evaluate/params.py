"""The section `evaluate`: the context length and stride of the evaluation."""

from typing import Annotated, ClassVar

from pydantic import Field, PlainValidator, model_validator

from stages.lib.params import Section


def fraction_or_tokens(value: object) -> int | float | None:
    """Return a fraction of the context (a float below 1), a number of tokens or None as it is.

    Raises ValueError for anything else.
    """
    if value is None or (type(value) is float and 0 < value < 1):
        return value
    if type(value) is int and value >= 1:
        return value
    raise ValueError(
        f"{value!r} is neither a number of tokens (at least 1) nor a fraction of the context below "
        "1, such as 0.5; null means windows that do not overlap"
    )


class EvaluateParams(Section):
    """The section `evaluate`."""

    heading: ClassVar[str] = "loss on the full validation split"

    context: int | None = Field(ge=1, description="context length for evaluation; null: block_size")
    stride: Annotated[int | float | None, PlainValidator(fraction_or_tokens)] = Field(
        description=(
            "step between windows, in tokens or as a fraction of context; smaller gives each token "
            "more context but is slower"
        )
    )
    adapt_rate: float = Field(
        ge=0,
        le=1,
        description=(
            "above 0: also run dynamic evaluation, with the training learning rates scaled by this "
            "factor; slower"
        ),
    )

    @model_validator(mode="after")
    def stride_leaves_no_gap(self) -> "EvaluateParams":
        """Every token must be predicted."""
        if self.context is not None:
            stride_in(self.context, self.stride)
        return self


def stride_in(context: int, stride: int | float | None) -> int:
    """Return how many tokens one window of `context` tokens starts after the other.

    Raises ValueError when they would leave gaps between them.
    """
    if isinstance(stride, float):
        return max(1, round(stride * context))
    if stride is not None and stride > context:
        raise ValueError(
            f"evaluate.stride {stride} is longer than the window of {context} tokens, so tokens "
            "would be skipped; set a smaller stride, or null for windows that do not overlap"
        )
    return stride or context


SECTIONS = {"evaluate": EvaluateParams}
