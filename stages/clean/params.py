"""The section `clean`: what makes a document worth learning from."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from stages.artifacts.clean import Form
from stages.lib.params import Section

FILTERS = Path("filters")

FilterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class CleanParams(Section):
    """The section `clean`."""

    unicode: Form | None
    min_bytes: int | None = Field(ge=1)
    max_bytes: int | None = Field(ge=1)
    filters: list[FilterName]
    deduplicate: bool
    near_duplicates: float | None = Field(ge=0.5, le=0.95)

    @model_validator(mode="after")
    def something_passes(self) -> "CleanParams":
        """Bounds leave room between them, and a filter is asked once."""
        if self.min_bytes and self.max_bytes and self.min_bytes > self.max_bytes:
            raise ValueError(f"min_bytes {self.min_bytes} is more than max_bytes {self.max_bytes}")
        if len(set(self.filters)) < len(self.filters):
            raise ValueError(f"filters {self.filters} names one twice")
        return self


SECTIONS = {"clean": CleanParams}
