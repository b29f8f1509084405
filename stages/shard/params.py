"""The section `shard`: how tokens become files, and how corpora are mixed."""

from typing import Annotated

from pydantic import Field

from stages.lib.params import Section

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ShardParams(Section):
    """The section `shard`."""

    shard_tokens: int = Field(ge=1024, le=1 << 32)
    weights: dict[str, Weight] | None = Field(min_length=1)
    max_repetition: int = Field(ge=1, le=100)


SECTIONS = {"shard": ShardParams}
