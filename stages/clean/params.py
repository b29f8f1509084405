"""The section `clean` of params.yaml: which documents are worth training on."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from stages.artifacts.clean import Form
from stages.lib.params import Section

FILTERS = Path("filters")

FilterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class CleanParams(Section):
    """Parameters of the stage `clean`."""

    unicode: Form | None
    min_bytes: int | None = Field(ge=1)
    max_bytes: int | None = Field(ge=1)
    filters: list[FilterName]
    deduplicate: bool
    near_duplicates: float | None = Field(ge=0.5, le=0.95)

    @model_validator(mode="after")
    def check_bounds_and_filters(self) -> "CleanParams":
        """Refuse a lower bound above the upper one, and a filter named twice."""
        if self.min_bytes and self.max_bytes and self.min_bytes > self.max_bytes:
            raise ValueError(f"min_bytes {self.min_bytes} is more than max_bytes {self.max_bytes}")
        if len(set(self.filters)) < len(self.filters):
            raise ValueError(f"filters {self.filters} names one twice")
        return self


SECTIONS = {"clean": CleanParams}
