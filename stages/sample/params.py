"""The section `sample`: what the model is asked to write, and how freely."""

from typing import ClassVar

from pydantic import Field

from stages.artifacts.model import GenerationParams
from stages.lib.params import Text


class SampleParams(GenerationParams):
    """The section `sample`."""

    heading: ClassVar[str] = "what the model writes in the end"

    prompts: list[Text] = Field(min_length=1, description="what the texts begin with")
    samples_per_prompt: int = Field(ge=1, le=1024, description="how many texts for each prompt")


SECTIONS = {"sample": SampleParams}
