"""Stage `sample`: text the model writes, from prompts in the params, the same for the same seed.

Texts are written many at a time; which share a batch changes none of them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from nanogpt.files import whole_folder
from stages.lib.params import Section, Text, load_section, zero_or_at_least
from stages.runtime.entry import main
from stages.runtime.settings import Settings
from stages.tracking.mlflow_run import Tracker

if TYPE_CHECKING:
    from nanogpt.model.gpt import GPT, GPTConfig
    from stages.tokenizers.tokenizer import Tokenizer

MODEL, OUT = Path("models/gpt"), Path("samples")
CACHE_BYTES = 1 << 30  # memory that the texts of one batch may take while they are written


class SampleParams(Section):
    """The section `sample`."""

    prompts: list[Text] = Field(min_length=1)
    samples_per_prompt: int = Field(ge=1, le=1024)
    max_new_tokens: int = Field(ge=1, le=1 << 20)
    temperature: Annotated[float, Field(ge=0, le=100), zero_or_at_least(0.001)]
    top_k: int | None = Field(ge=1)
    top_p: float = Field(gt=0, le=1)
    min_p: float = Field(ge=0, le=1)
    repetition_penalty: float = Field(ge=0.01, le=100)
    stop: list[Annotated[Text, Field(min_length=1)]]
    seed: int = Field(ge=0, lt=2**63)


def continuations(
    prompts: Sequence[str],
    seeds: Sequence[int],
    params: SampleParams,
    model: "GPT",
    tokenizer: "Tokenizer",
) -> list[str]:
    """The text that follows each prompt, up to its separator or the first of params.stop."""
    import torch

    from nanogpt.generate.decode import Sampling, generate

    # as at a document's start
    ids = [[tokenizer.separator, *tokenizer.encode(prompt).tolist()] for prompt in prompts]
    steps = generate(
        model,
        [torch.tensor(row) for row in ids],
        params.max_new_tokens,
        sampling=Sampling(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
        ),
        seeds=seeds,
        stop_tokens=[tokenizer.separator],
    )
    written: list[list[int]] = [[] for _ in prompts]
    unfinished = set(range(len(prompts)))
    for tokens in steps:
        for row, token in enumerate(tokens.tolist()):
            written[row].append(token)
        unfinished -= {row for row in unfinished if stopped(written[row], params.stop, tokenizer)}
        if not unfinished:
            break
    return [cut(tokenizer.decode(until(row, tokenizer.separator)), params.stop) for row in written]


def stopped(ids: Sequence[int], stop: Sequence[str], tokenizer: "Tokenizer") -> bool:
    """Whether the newest id is the separator or completes a stop string."""
    longest = max((len(string.encode()) for string in stop), default=0)
    tail = tokenizer.decode(ids[-longest:]) if longest else ""  # an id has one byte or more
    return ids[-1] == tokenizer.separator or any(string in tail for string in stop)


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


def written(params: SampleParams, model: Path, *, device: str) -> list[dict[str, Any]]:
    """Return samples_per_prompt texts for each prompt, those of the first prompt first.

    Raises ValueError when a prompt has characters that the model's tokenizer does not know.
    """
    import torch

    from nanogpt.data.stream import mix
    from nanogpt.generate.gemv import decoding_copy
    from nanogpt.runtime import Runtime, choose_device
    from nanogpt.train.checkpoint import load_model
    from stages.tokenizers.tokenizer import load_tokenizer

    runtime = Runtime(device=choose_device(device), dtype=torch.float32)
    gpt = decoding_copy(load_model(model, runtime.device), runtime)
    tokenizer = load_tokenizer(model / "tokenizer")
    numbers = range(params.samples_per_prompt)
    prompts = [prompt for prompt in params.prompts for _ in numbers]
    seeds = [mix(params.seed, number) for _ in params.prompts for number in numbers]
    texts, size = [], rows_per_batch(gpt.config, params.max_new_tokens)
    for i in range(0, len(prompts), size):
        batch = slice(i, i + size)
        texts += continuations(prompts[batch], seeds[batch], params, gpt, tokenizer)
    return [
        {"prompt": prompt, "number": i % len(numbers), "text": text}
        for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]


def to_read(samples: Sequence[dict[str, Any]]) -> str:
    """Return the texts with their prompts, a rule between one and the next."""
    rule = "\n" + "-" * 72 + "\n\n"
    return rule.join(f"{sample['prompt']}{sample['text']}\n" for sample in samples)


def run(params: SampleParams, model: Path, out: Path, *, device: str) -> list[dict[str, Any]]:
    """Write `samples.txt` to read and `samples.jsonl` to process; the samples."""
    samples = written(params, model, device=device)
    with whole_folder(out) as folder:
        lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        (folder / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / "samples.txt").write_text(to_read(samples), encoding="utf-8")
    return samples


def run_stage(settings: Settings) -> None:
    """`python -m stages.sample.stage`."""
    samples = run(load_section("sample", SampleParams), MODEL, OUT, device=settings.device)
    print(f"sample: {len(samples)} samples in {OUT / 'samples.txt'}")
    origin = json.loads((MODEL / "lineage.json").read_text())
    with Tracker(origin["model_id"], enabled=settings.tracking) as tracker:
        tracker.record_files("artifacts", OUT, path="samples")


if __name__ == "__main__":
    main("sample", run_stage)
