"""The section `shard`: how tokens become files, and how corpora are mixed."""

from typing import Annotated, ClassVar

from pydantic import Field

from stages.lib.params import Section

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ShardParams(Section):
    """The section `shard`."""

    heading: ClassVar[str] = "write the tokens as files for training"

    shard_tokens: int = Field(ge=1024, le=1 << 32, description="maximum tokens per file")
    weights: dict[str, Weight] | None = Field(
        min_length=1,
        description="for mixtures: fraction of each in training, {name: 0.7, …}",
    )
    max_repetition: int = Field(
        ge=1, le=100, description="with weights: maximum number of times a document occurs"
    )


SECTIONS = {"shard": ShardParams}
