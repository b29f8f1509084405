"""Why documents were dropped, in words; the manifests of `clean` count them by reason."""

from collections.abc import Mapping


def in_words(dropped: Mapping[str, int]) -> str:
    """Return such as `2 duplicates and 1 too short`; `nothing` when nothing was dropped."""
    parts = [counted(reason, count) for reason, count in dropped.items()]
    *before, last = parts or ["nothing"]
    return f"{', '.join(before)} and {last}" if before else last


def counted(reason: str, count: int) -> str:
    """Return how many were dropped for one reason: a noun, an adjective or `filter NAME`."""
    if reason.startswith("filter "):
        return f"{count:,} by {reason}"
    plural = "s" if reason.endswith("duplicate") and count != 1 else ""
    return f"{count:,} {reason}{plural}"
