"""The sections `tokenize` and `split`: which tokenizer, and which documents it never sees."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from stages.lib.params import Section
from stages.lib.split import SplitParams

AUTO: Literal["auto"] = "auto"
LEAST, MOST = 257, 1 << 20  # of vocab_size; 256 are the single bytes, one is the separator

Engine = Literal["tiktoken", "gigatoken"]


class TokenizeParams(Section):
    """The section `tokenize`."""

    heading: ClassVar[str] = "text becomes tokens: numbers, one per piece of text"

    tokenizer: Literal["gpt2", "char", "bytes", "bpe"] = Field(
        description="bpe (learned from your text) | char | bytes | gpt2 (50,257 pieces)"
    )
    vocab_size: int | Literal["auto"] | None = Field(
        description="for bpe: how many pieces, or auto: as many as the text carries"
    )
    engine: Engine = Field(
        description="tiktoken | gigatoken (same tokens, quicker on gigabytes; for gpt2)"
    )

    @field_validator("vocab_size", mode="before")
    @classmethod
    def vocab_size_is_a_size(cls, value: object) -> object:
        """A number in the range, or what may replace one."""
        if value in (AUTO, None) or (type(value) is int and LEAST <= value <= MOST):
            return value
        raise ValueError(f"{value!r} is neither auto nor a number from {LEAST} to {MOST:,}")

    @model_validator(mode="after")
    def vocab_size_is_for_bpe(self) -> "TokenizeParams":
        """Only a vocabulary that is learned has a size to choose."""
        if (self.tokenizer == "bpe") != (self.vocab_size is not None):
            wanted = "auto or a number such as 1024" if self.tokenizer == "bpe" else "null"
            raise ValueError(
                f"vocab_size is {self.vocab_size}, tokenizer `{self.tokenizer}` takes {wanted}"
            )
        return self

    @model_validator(mode="after")
    def engine_knows_the_vocabulary(self) -> "TokenizeParams":
        """Of the patterns we split text by, gigatoken has GPT-2's alone."""
        if self.engine == "gigatoken" and self.tokenizer != "gpt2":
            raise ValueError(
                f"engine gigatoken is for tokenizer `gpt2` only; `{self.tokenizer}` takes tiktoken"
            )
        return self


SECTIONS = {"tokenize": TokenizeParams, "split": SplitParams}
