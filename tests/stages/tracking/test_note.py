"""The note on a model's page: a verdict, its samples, how to use it."""

from pathlib import Path
from typing import Any

import pytest

from stages.tracking.delivery import note_entry
from stages.tracking.note import SAMPLE_CHARACTERS, USE, result_part, samples_part
from stages.tracking.outbox import Outbox


def evaluation(bits: float) -> dict[str, Any]:
    """Return the metrics of a model, next to two baselines of 1.5 and 2 bits per byte."""

    def scores(bits: float) -> dict[str, float]:
        return {"bits_per_byte": bits, "perplexity": 2 * bits, "val_loss": bits / 2}

    baselines = {"bigram": scores(2.0), "ppmd": scores(1.5)}
    counts = {"tokens": 1_000, "bytes": 3_000, "standard_error": 0.01}
    return {**scores(bits), **counts, "baselines": baselines}


@pytest.mark.parametrize(
    ("bits", "verdict"), [(1.25, "0.250 better than ppmd"), (1.6, "0.100 worse than ppmd")]
)
def test_the_verdict_compares_with_the_best_baseline(bits: float, verdict: str) -> None:
    first, *table = result_part(evaluation(bits)).splitlines()
    assert first == f"**{bits:.3f} bits per byte of unseen text**, {verdict}."
    assert f"| **this model** | {bits:.4f} | {2 * bits:.2f} | {bits / 2:.4f} |" in table
    assert "| bigram | 2.0000 | 4.00 | 1.0000 |" in table


def test_an_adaptive_score_is_a_row_of_its_own() -> None:
    scores = {"bits_per_byte": 1.1, "perplexity": 3.0, "val_loss": 0.9}
    assert "| this model, adaptive | 1.1000 |" in result_part(
        {**evaluation(1.25), "adaptive": scores}
    )


def test_samples_cannot_end_their_block_and_are_short() -> None:
    text = samples_part([{"prompt": "To be", "text": "\n```\nnot"}])
    assert text.splitlines()[1:] == ["````text", "To be", "```", "not", "````"]
    long = samples_part([{"prompt": "", "text": "x" * 10_000}])
    assert f"{'x' * SAMPLE_CHARACTERS}…" in long
    assert len(long) < SAMPLE_CHARACTERS + 100


def test_a_note_has_the_newest_of_each_part_in_order(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for part, text in (
        ("use", USE),
        ("samples", "old"),
        ("result", "good"),
        ("samples", "new {run_id}"),
    ):
        outbox.append("note", part=part, text=text)
    entries = [batch[0] for batch, _ in outbox.batches(500)]
    assert len(entries) == 4
    entry = note_entry(outbox, "abc", entries[-1])
    assert entry["kind"] == "tags"
    note = entry["values"]["mlflow.note.content"]
    assert note.startswith("good\n\nnew {run_id}\n\n## Use it")
    assert 'load_model("runs:/abc/model")' in note
    assert "stages lineage abc" in note
