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

    heading: ClassVar[str] = "which documents are worth training on"

    unicode: Form | None = Field(description="Unicode normalization: NFC | NFKC; null: none")
    min_bytes: int | None = Field(
        ge=1, description="drop shorter documents (UTF-8 bytes: 1 to 4 per character)"
    )
    max_bytes: int | None = Field(ge=1, description="drop longer documents")
    filters: list[FilterName] = Field(
        description="your own filters: file names in filters/, e.g. [english]"
    )
    deduplicate: bool = Field(description="keep only the first of documents with identical text")
    near_duplicates: float | None = Field(
        ge=0.5,
        le=0.95,
        description="near-duplicate threshold, e.g. 0.8 (similarity of 5-word shingles); null: off",
    )

    @model_validator(mode="after")
    def check_bounds_and_filters(self) -> "CleanParams":
        """Refuse a lower bound above the upper one, and a filter named twice."""
        if self.min_bytes and self.max_bytes and self.min_bytes > self.max_bytes:
            raise ValueError(f"min_bytes {self.min_bytes} is more than max_bytes {self.max_bytes}")
        if len(set(self.filters)) < len(self.filters):
            raise ValueError(f"filters {self.filters} contains a duplicate")
        return self


SECTIONS = {"clean": CleanParams}
