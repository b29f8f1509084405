"""Facts of a run in words, for the page and for the terminal."""

from collections.abc import Mapping
from typing import Any

from stages.lib.reasons import in_words
from stages.statistics.stage import contamination_line

FEW_DOCUMENTS = 10  # held out: with fewer, the metrics depend on which ones


def partly(scores: Mapping[str, float]) -> str:
    """Return how much of the training text a baseline read, if not all of it."""
    if "train_tokens" in scores:
        return f" (counted in the last {scores['train_tokens']:,} tokens of training text)"
    if "train_bytes" in scores:
        return f" (read the last {scores['train_bytes'] / 1e6:,.0f} MB of training text)"
    return ""


def few_documents(n: int) -> str | None:
    """Return a warning if n held-out documents are too few for stable metrics, else None."""
    if n >= FEW_DOCUMENTS:
        return None
    held_out = "1 held-out document" if n == 1 else f"{n} held-out documents"
    return (
        f"only {held_out}: metrics depend strongly on split.seed; add documents or set "
        "corpus.separator"
    )


def data_line(statistics: Mapping[str, Any]) -> str:
    """Return two lines that describe the corpus."""
    return (
        f"{statistics['documents']:,} documents, {statistics['tokens']:,} tokens, "
        f"{statistics['bytes_per_token']:.2f} bytes per token; "
        f"{in_words(statistics['dropped'])} dropped;\n"
        f"{contamination_line(statistics['leak'])}"
    )
