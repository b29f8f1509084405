"""What the closing report says."""

import json
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from stages.evaluate.baselines import SEES
from stages.report.words import data_line, few_documents
from stages.tools.report import scores_table

FIGURES = {"val_loss": 4.0, "perplexity": 54.598, "bits_per_byte": 2.0}
METRICS: dict[str, Any] = {
    **FIGURES,
    "context": 128,
    "baselines": dict.fromkeys(SEES, FIGURES),
}
STATISTICS: dict[str, Any] = {
    "documents": 1_040,
    "tokens": 51_318,
    "bytes_per_token": 1.01,
    "dropped": {"duplicate": 1},
    "leak": {"share": 0.25, "train_compared": 1.0, "val_compared": 1.0},
}


def shown(metrics: dict[str, Any]) -> str:
    """The table of scores as it is printed, its columns wide enough for every line."""
    console = Console(width=200)
    with console.capture() as captured:
        console.print(scores_table(metrics))
    return captured.get()


def test_the_table_says_what_each_predictor_sees() -> None:
    heading, *rows = shown(METRICS).splitlines()
    assert "context" in heading
    assert [row.split()[0] for row in rows] == [*SEES, "this"]
    for row, sees in zip(rows, [*SEES.values(), "up to 128 tokens"], strict=True):
        assert row.rstrip().endswith(sees)
        assert all(figure in row for figure in ("4.000", "54.598", "2.000"))


def test_the_table_says_who_read_a_part_of_the_training_text() -> None:
    parts = {"kneser_ney": {"train_tokens": 16_777_216}, "ppmd": {"train_bytes": 67_108_864}}
    baselines = {name: {**FIGURES, **parts.get(name, {})} for name in SEES}
    text = shown({**METRICS, "baselines": baselines})
    assert "(counted in the last 16,777,216 tokens of training text)" in text
    assert "(read the last 67 MB of training text)" in text
    assert "training text" not in shown(METRICS)


@pytest.mark.parametrize(("n", "words"), [(1, "1 held-out document"), (9, "9 held-out documents")])
def test_few_held_out_documents_are_warned_of(n: int, words: str) -> None:
    warning = few_documents(n)
    assert warning is not None
    assert warning.startswith(f"only {words}: metrics depend strongly on split.seed")
    assert "corpus.separator" in warning


def test_ten_documents_are_not() -> None:
    assert few_documents(10) is None


@pytest.mark.parametrize(
    ("dropped", "words"),
    [({"duplicate": 1}, "1 duplicate dropped"), ({}, "nothing dropped")],
)
def test_the_text_is_described_in_words(dropped: dict[str, int], words: str) -> None:
    assert data_line({**STATISTICS, "dropped": dropped}) == (
        f"1,040 documents, 51,318 tokens, 1.01 bytes per token; {words};\n"
        "25.00% of the validation text is in the training text"
    )


def test_the_report_of_a_run_has_the_warning_and_every_predictor(built: Any) -> None:
    done = built.run(sys.executable, "-m", "stages", "report")
    assert isinstance(done, subprocess.CompletedProcess)
    assert done.returncode == 0, done.stdout
    manifest = json.loads((built.folder / "data/shards/manifest.json").read_text())
    held_back = manifest["splits"]["val"]["documents"]
    assert held_back < 10
    assert str(few_documents(held_back)) in " ".join(done.stdout.split())
    assert all(name in done.stdout for name in [*SEES, "this model"])
