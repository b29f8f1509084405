"""The result of a run as Markdown for Prefect's UI."""

import json

from stages.evaluate.stage import RESULT
from stages.sample.stage import OUT as SAMPLES
from stages.tools.report import read_json

SHOWN_SAMPLES = 2


def result_markdown() -> str:
    """Return the metrics next to the baselines, and the first samples, as Markdown."""
    metrics = read_json(RESULT)
    rows = [
        f"| {name} | {s['val_loss']:.4f} | {s['perplexity']:.2f} | {s['bits_per_byte']:.4f} |"
        for name, s in [("**this model**", metrics), *metrics["baselines"].items()]
    ]
    lines = (SAMPLES / "samples.jsonl").read_text(encoding="utf-8").split("\n")[:SHOWN_SAMPLES]
    samples = [f"```text\n{s['prompt']}{s['text']}\n```" for s in map(json.loads, lines)]
    return "\n".join(
        [
            f"# {metrics['bits_per_byte']:.3f} bits per byte of unseen text",
            "",
            "| | loss (nats per token) | perplexity | bits per byte |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Over {metrics['tokens']:,} tokens, {metrics['bytes']:,} bytes; "
            f"standard error of the loss {metrics['standard_error']:.4f}.",
            "",
            "## Samples",
            *samples,
        ]
    )
