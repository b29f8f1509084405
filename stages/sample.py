"""Stage `sample`: text the model writes, from prompts in the params, the same for the same seed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from nanogpt.files import whole_folder
from stages.command import main
from stages.params import Section, load_section
from stages.settings import Settings
from stages.tracking import Tracker

if TYPE_CHECKING:
    from nanogpt.model import GPT
    from nanogpt.runtime import Runtime
    from stages.tokenizer import Tokenizer

MODEL, OUT = Path("models/gpt"), Path("samples")


class SampleParams(Section):
    """The section `sample`."""

    prompts: list[str] = Field(min_length=1)
    samples_per_prompt: int = Field(ge=1, le=1024)
    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(ge=0, le=100)
    top_k: int | None = Field(ge=1)
    top_p: float = Field(gt=0, le=1)
    seed: int = Field(ge=0, lt=2**63)


def continuations(
    prompt: str, params: SampleParams, model: "GPT", tokenizer: "Tokenizer", runtime: "Runtime"
) -> list[str]:
    """samples_per_prompt texts that follow the prompt, each up to its separator."""
    import torch

    from nanogpt.generate import Sampling, generate

    ids = [tokenizer.separator, *tokenizer.encode(prompt).tolist()]  # as at a document's start
    tokens = generate(
        model,
        torch.tensor([ids] * params.samples_per_prompt),
        params.max_new_tokens,
        sampling=Sampling(temperature=params.temperature, top_k=params.top_k, top_p=params.top_p),
        runtime=runtime,
        generator=torch.Generator().manual_seed(params.seed),
    )
    rows = torch.stack(list(tokens), dim=1).tolist()  # (samples_per_prompt, max_new_tokens)
    return [tokenizer.decode(until(row, tokenizer.separator)) for row in rows]


def until(row: list[int], end: int) -> list[int]:
    """The ids before the first `end`."""
    return row[: row.index(end)] if end in row else row


def run(params: SampleParams, model: Path, out: Path, *, device: str) -> list[dict[str, Any]]:
    """Write `samples.txt` to read and `samples.jsonl` to process; the samples."""
    import torch

    from nanogpt.checkpoint import load_model
    from nanogpt.runtime import Runtime, choose_device
    from stages.tokenizer import load_tokenizer

    where = choose_device(device)
    gpt, tokenizer = load_model(model, where), load_tokenizer(model / "tokenizer")
    runtime = Runtime(device=where, dtype=torch.float32)
    samples = [
        {"prompt": prompt, "number": number, "text": text}
        for prompt in params.prompts
        for number, text in enumerate(continuations(prompt, params, gpt, tokenizer, runtime))
    ]
    with whole_folder(out) as folder:
        lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        (folder / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
        texts = (f"{sample['prompt']}{sample['text']}\n" for sample in samples)
        rule = "\n" + "-" * 72 + "\n\n"
        (folder / "samples.txt").write_text(rule.join(texts), encoding="utf-8")
    return samples


def run_stage(settings: Settings) -> None:
    """`python -m stages.sample`."""
    samples = run(load_section("sample", SampleParams), MODEL, OUT, device=settings.device)
    print(f"sample: {len(samples)} samples in {OUT / 'samples.txt'}")
    origin = json.loads((MODEL / "lineage.json").read_text())
    with Tracker(origin["model_id"], enabled=settings.tracking) as tracker:
        tracker.record_files("artifacts", OUT, path="samples")


if __name__ == "__main__":
    main("sample", run_stage)
