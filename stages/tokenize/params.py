"""The sections `tokenize` and `split`: which tokenizer, and which documents it never sees."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from stages.lib.params import Section
from stages.lib.split import SplitParams

AUTO: Literal["auto"] = "auto"
LEAST, MOST = 257, 1 << 20  # of vocab_size; 256 are the single bytes, one is the end-of-text token

Engine = Literal["tiktoken", "gigatoken"]


class TokenizeParams(Section):
    """The section `tokenize`."""

    heading: ClassVar[str] = "turn text into tokens"

    tokenizer: Literal["gpt2", "char", "bytes", "bpe"] = Field(
        description="bpe (learned from your text) | char | bytes | gpt2 (50,257 tokens)"
    )
    vocab_size: int | Literal["auto"] | None = Field(
        description="for bpe: vocabulary size, or auto: chosen from the corpus size"
    )
    engine: Engine = Field(
        description="tiktoken | gigatoken (gpt2 only: same tokens, faster at scale)"
    )

    @field_validator("vocab_size", mode="before")
    @classmethod
    def vocab_size_is_a_size(cls, value: object) -> object:
        """Accept a number in the range, `auto` or null."""
        if value in (AUTO, None) or (type(value) is int and LEAST <= value <= MOST):
            return value
        raise ValueError(f"{value!r} is neither auto nor a number from {LEAST} to {MOST:,}")

    @model_validator(mode="after")
    def vocab_size_is_for_bpe(self) -> "TokenizeParams":
        """Require a size where the vocabulary is learned, and only there."""
        if (self.tokenizer == "bpe") != (self.vocab_size is not None):
            wanted = "auto or a number such as 1024" if self.tokenizer == "bpe" else "null"
            raise ValueError(
                f"vocab_size is {self.vocab_size}, tokenizer `{self.tokenizer}` takes {wanted}"
            )
        return self

    @model_validator(mode="after")
    def engine_knows_the_vocabulary(self) -> "TokenizeParams":
        """Refuse gigatoken for other tokenizers: it has GPT-2's pretokenization pattern only."""
        if self.engine == "gigatoken" and self.tokenizer != "gpt2":
            raise ValueError(
                f"engine gigatoken is for tokenizer `gpt2` only; `{self.tokenizer}` takes tiktoken"
            )
        return self


SECTIONS = {"tokenize": TokenizeParams, "split": SplitParams}
