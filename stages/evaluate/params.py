"""The section `evaluate`: how much of the text before a token the model sees."""

from typing import Annotated, ClassVar

from pydantic import Field, PlainValidator, model_validator

from stages.lib.params import Section


def share_or_tokens(value: object) -> int | float | None:
    """Return a share of the context (a float below 1), a number of tokens or None as it is.

    Raises ValueError at anything else.
    """
    if value is None or (type(value) is float and 0 < value < 1):
        return value
    if type(value) is int and value >= 1:
        return value
    raise ValueError(
        f"{value!r} is neither a number of tokens from 1 nor a share of the context below 1, "
        "such as 0.5; null is for windows side by side"
    )


class EvaluateParams(Section):
    """The section `evaluate`."""

    heading: ClassVar[str] = "reads the whole validation text"

    context: int | None = Field(
        ge=1, description="tokens seen at once; null is all the model takes"
    )
    stride: Annotated[int | float | None, PlainValidator(share_or_tokens)] = Field(
        description=(
            "from one window to the next: tokens, or a share of context; less than "
            "context: each token is predicted from more before it, in more time"
        )
    )
    adapt_rate: float = Field(
        ge=0,
        le=1,
        description=(
            "above 0: also measured as a model that learns from what it has read, at "
            "this share of the rates of its training; takes longer"
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
            f"evaluate.stride {stride} is more than the {context} tokens of a window and would "
            "leave tokens out; give a smaller one, or null for windows side by side"
        )
    return stride or context


SECTIONS = {"evaluate": EvaluateParams}
