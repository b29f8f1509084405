"""A trained model's folder, opened to write: the one way from a prompt to its continuation.

Texts are written many at a time; which share a batch changes none of them.
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from nanogpt.config import Sampling
from stages.lib.params import Text, section_of

if TYPE_CHECKING:
    import torch

    from nanogpt.config import GPTConfig
    from nanogpt.model.gpt import GPT
    from stages.tokenizers.tokenizer import Tokenizer

MODEL = Path("models/gpt")
CACHE_BYTES = 1 << 30  # memory that the texts of one batch may take while they are written


class WritingParams(section_of(Sampling)):  # type: ignore[misc]  # made of its fields
    """How a prompt is continued: of the section `sample` all but what is written."""

    max_new_tokens: int = Field(ge=1, le=1 << 20, description="how long a text may grow, in tokens")
    stop: list[Annotated[Text, Field(min_length=1)]] = Field(
        description='end a text before the first of these, for example ["\\n\\n"]'
    )
    seed: int = Field(ge=0, lt=2**63, description="another seed writes other texts")


def open_model(folder: Path, device: "torch.device") -> tuple["GPT", "Tokenizer"]:
    """Read a model to write with, in float32, and its tokenizer."""
    import torch

    from nanogpt.generate.gemv import decoding_copy
    from nanogpt.model.files import load_model
    from nanogpt.runtime import Runtime
    from stages.tokenizers.tokenizer import load_tokenizer

    runtime = Runtime(device=device, dtype=torch.float32)
    model = decoding_copy(load_model(folder, runtime.device), runtime)
    return model, load_tokenizer(folder / "tokenizer")


def continuations(
    prompts: Sequence[str],
    seeds: Sequence[int],
    params: WritingParams,
    model: "GPT",
    tokenizer: "Tokenizer",
) -> list[str]:
    """The text that follows each prompt, up to its separator or the first of params.stop."""
    import torch

    from nanogpt.config import Sampling
    from nanogpt.generate.decode import generate

    # as at a document's start
    ids = [[tokenizer.eot_token, *tokenizer.encode(prompt).tolist()] for prompt in prompts]
    steps = generate(
        model,
        [torch.tensor(row) for row in ids],
        params.max_new_tokens,
        sampling=Sampling(
            **{field.name: getattr(params, field.name) for field in fields(Sampling)}
        ),
        seeds=seeds,
        stop_tokens=[tokenizer.eot_token],
    )
    written: list[list[int]] = [[] for _ in prompts]
    unfinished = set(range(len(prompts)))
    for tokens in steps:
        for row, token in enumerate(tokens.tolist()):
            written[row].append(token)
        unfinished -= {row for row in unfinished if stopped(written[row], params.stop, tokenizer)}
        if not unfinished:
            break
    return [cut(tokenizer.decode(until(row, tokenizer.eot_token)), params.stop) for row in written]


def stopped(ids: Sequence[int], stop: Sequence[str], tokenizer: "Tokenizer") -> bool:
    """Whether the newest id is the separator or completes a stop string."""
    longest = max((len(string.encode()) for string in stop), default=0)
    tail = tokenizer.decode(ids[-longest:]) if longest else ""  # an id has one byte or more
    return ids[-1] == tokenizer.eot_token or any(string in tail for string in stop)


def until(row: list[int], end: int) -> list[int]:
    """The ids before the first `end`."""
    return row[: row.index(end)] if end in row else row


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    return text[: min((text.index(string) for string in stop if string in text), default=None)]


def rows_per_batch(config: "GPTConfig", max_new_tokens: int) -> int:
    """How many texts CACHE_BYTES hold: their keys and values in float32, their tokens in int64."""
    cached = config.n_layer * 2 * config.block_size * config.n_embd * 4
    return max(1, CACHE_BYTES // (cached + max_new_tokens * 8))


def written(
    prompts: Sequence[str], params: WritingParams, folder: Path, *, number: int, device: str
) -> list[dict[str, Any]]:
    """Return `number` texts for each prompt, those of the first prompt first.

    Raises ValueError when a prompt has characters that the model's tokenizer does not know.
    """
    from nanogpt.rng import mix
    from nanogpt.runtime import choose_device

    model, tokenizer = open_model(folder, choose_device(device))
    rows = [(prompt, i) for prompt in prompts for i in range(number)]
    seeds = [mix(params.seed, i) for _, i in rows]
    texts, size = [], rows_per_batch(model.config, params.max_new_tokens)
    for first in range(0, len(rows), size):
        batch = slice(first, first + size)
        begun = [prompt for prompt, _ in rows[batch]]
        texts += continuations(begun, seeds[batch], params, model, tokenizer)
    return [
        {"prompt": prompt, "number": i, "text": text}
        for (prompt, i), text in zip(rows, texts, strict=True)
    ]


def to_read(samples: Sequence[dict[str, Any]]) -> str:
    """Return the texts with their prompts, a rule between one and the next."""
    rule = "\n" + "-" * 72 + "\n\n"
    return rule.join(f"{sample['prompt']}{sample['text']}\n" for sample in samples)
