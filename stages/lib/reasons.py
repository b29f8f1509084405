"""Why files and documents were left out or dropped, in words; manifests count them by reason."""

from collections.abc import Mapping
from reprlib import Repr

ENCRYPTED = "encrypted file"
WITHOUT_TEXT = "PDF without text"
NEEDS_EXTRA = "PDF that needs the extra office"
WITH_EXTRA = "`pip install '.[office]'` and then `dvc repro --force download` read PDFs, too"


class LeftOut(Exception):
    """A file is left out and not refused, for the reason that its message is."""


def brief(held: object) -> str:
    """Return what something in a file is, as far as a message needs it."""
    shown = Repr()
    shown.maxlist, shown.maxstring = 20, 80
    return shown.repr(held)


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


def and_left_out(skipped: Mapping[str, int]) -> str:
    """Return what was left out and how often, to be said after the rest; nothing of nothing."""
    counts = ", ".join(f"{reason} ({count})" for reason, count in sorted(skipped.items()))
    hint = f" ({WITH_EXTRA})" if NEEDS_EXTRA in skipped else ""
    return f"; left out: {counts}{hint}" if counts else ""
