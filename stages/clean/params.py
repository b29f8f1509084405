"""The section `clean` of params.yaml: which documents are worth training on."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints, model_validator

from stages.artifacts.clean import Form
from stages.lib.params import Section

FILTERS = Path("filters")

FilterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class CleanParams(Section):
    """Parameters of the stage `clean`."""

    heading: ClassVar[str] = "which documents are worth learning from"

    unicode: Form | None = Field(
        description="one form for characters that can be written in several: NFC | NFKC"
    )
    min_bytes: int | None = Field(
        ge=1, description="drop shorter documents; a letter has 1 byte, or up to 4"
    )
    max_bytes: int | None = Field(ge=1, description="drop longer ones")
    filters: list[FilterName] = Field(
        description="your own: names of files in filters/, for example [english]"
    )
    deduplicate: bool = Field(description="of documents with the same text, the first only")
    near_duplicates: float | None = Field(
        ge=0.5,
        le=0.95,
        description="0.8: also of those that share 80 % of their runs of five words",
    )

    @model_validator(mode="after")
    def check_bounds_and_filters(self) -> "CleanParams":
        """Refuse a lower bound above the upper one, and a filter named twice."""
        if self.min_bytes and self.max_bytes and self.min_bytes > self.max_bytes:
            raise ValueError(f"min_bytes {self.min_bytes} is more than max_bytes {self.max_bytes}")
        if len(set(self.filters)) < len(self.filters):
            raise ValueError(f"filters {self.filters} names one twice")
        return self


SECTIONS = {"clean": CleanParams}
