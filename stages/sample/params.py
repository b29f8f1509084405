"""The section `sample`: what the model is asked to write, and how freely."""

from pydantic import Field

from stages.artifacts.model import WritingParams
from stages.lib.params import Text


class SampleParams(WritingParams):
    """The section `sample`."""

    prompts: list[Text] = Field(min_length=1)
    samples_per_prompt: int = Field(ge=1, le=1024)


SECTIONS = {"sample": SampleParams}
