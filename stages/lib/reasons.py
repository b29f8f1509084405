"""Reasons for leaving out files and dropping documents, by which manifests count them."""

from collections.abc import Mapping
from reprlib import Repr

ENCRYPTED = "encrypted file"
WITHOUT_TEXT = "PDF without text"
NEEDS_EXTRA = "PDF that needs the extra office"
WITH_EXTRA = (
    "to read PDFs too, run `.venv/bin/pip install -e '.[office]'` and "
    "`.venv/bin/dvc repro --force download`"
)


class LeftOut(Exception):
    """Raised for a file that is left out, not refused; the message is the reason."""


def brief(value: object) -> str:
    """Return a repr of a value in a file, shortened for a message."""
    short = Repr()
    short.maxlist, short.maxstring = 20, 80
    return short.repr(value)


def in_words(dropped: Mapping[str, int]) -> str:
    """Return counts as in `2 duplicates and 1 too short`; `nothing` if nothing was dropped."""
    parts = [counted(reason, count) for reason, count in dropped.items()]
    *before, last = parts or ["nothing"]
    return f"{', '.join(before)} and {last}" if before else last


def counted(reason: str, count: int) -> str:
    """Return the count for one reason, which is a noun, an adjective or `filter NAME`."""
    if reason.startswith("filter "):
        return f"{count:,} by {reason}"
    plural = "s" if reason.endswith("duplicate") and count != 1 else ""
    return f"{count:,} {reason}{plural}"


def and_left_out(skipped: Mapping[str, int]) -> str:
    """Return a suffix for a message that lists what was left out; empty if nothing was."""
    counts = ", ".join(f"{reason} ({count})" for reason, count in sorted(skipped.items()))
    hint = f" ({WITH_EXTRA})" if NEEDS_EXTRA in skipped else ""
    return f"; left out: {counts}{hint}" if counts else ""
