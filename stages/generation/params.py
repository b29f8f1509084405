"""The options of text generation: how a prompt is continued."""

from typing import Annotated

from pydantic import Field

from nanogpt.config import Sampling
from stages.lib.config_sections import config_from, with_fields_of
from stages.lib.params import Section, Text


@with_fields_of(Sampling)
class SamplingOptions(Section):
    """How the next token is chosen."""

    def sampling(self) -> Sampling:
        """Return these options for the library."""
        return config_from(self, Sampling)


class GenerationParams(SamplingOptions):
    """How the next token is chosen, how many there are, and where the text ends."""

    max_new_tokens: int = Field(
        ge=1, le=1 << 20, description="maximum number of tokens to generate"
    )
    stop: list[Annotated[Text, Field(min_length=1)]] = Field(
        description='stop before the first of these strings, e.g. ["\\n\\n"]'
    )
    seed: int = Field(ge=0, lt=2**63, description="random seed for sampling")
