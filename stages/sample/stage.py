"""Stage `sample`: text the model writes, from prompts in the params, the same for the same seed.

Texts are written many at a time; which share a batch changes none of them.
"""

import json
from pathlib import Path
from typing import Any

from nanogpt.files import atomic_dir
from stages.artifacts.model import MODEL, format_samples, generate_samples
from stages.lib.params import load_section
from stages.runtime.settings import Settings
from stages.sample.params import SampleParams
from stages.tracking.mlflow_run import Tracker

OUT = Path("samples")


def sampled(params: SampleParams, model: Path, *, device: str) -> list[dict[str, Any]]:
    """Return the texts that the section asks for."""
    number = params.samples_per_prompt
    return generate_samples(params.prompts, params, model, number=number, device=device)


def run(params: SampleParams, model: Path, out: Path, *, device: str) -> list[dict[str, Any]]:
    """Write `samples.txt` to read and `samples.jsonl` to process; the samples."""
    samples = sampled(params, model, device=device)
    with atomic_dir(out) as folder:
        lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        (folder / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / "samples.txt").write_text(format_samples(samples), encoding="utf-8")
    return samples


def run_stage(settings: Settings) -> None:
    """`python -m stages sample`."""
    samples = run(load_section("sample", SampleParams), MODEL, OUT, device=settings.device)
    print(f"sample: {len(samples)} samples in {OUT / 'samples.txt'}")
    origin = json.loads((MODEL / "lineage.json").read_text())
    with Tracker(origin["model_id"], enabled=settings.tracking) as tracker:
        tracker.record_files("artifacts", OUT, path="samples")
