"""Removal of what must not leave this machine: secrets, and the folders that hold its files."""

import re
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, TypeVar, cast

from stages.runtime.redaction import redacted

OUTSIDE = re.compile(r"file:|~|\.\.[/\\]")  # relative to something else than the project
NAMED = 3  # parts that a path needs to name a folder's owner: the root, users' homes, a name
T = TypeVar("T")


def shareable(content: T) -> T:
    """Return content without secrets, and without the folders of paths outside the project.

    Of such a path, which may hold the name of its owner, only the last part stays.
    """
    return cast(T, without_folders(redacted(content)))


def without_folders(content: Any) -> Any:
    """Shorten each string in `content` that is a path outside the project."""
    if isinstance(content, str):
        return shortened(content)
    if isinstance(content, dict):
        return {key: without_folders(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_folders(value) for value in content]
    return content


def shortened(text: str) -> str:
    """Return the last part of a path outside the project, and any other text as it is."""
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(text)
        is_long = len(path.parts) >= NAMED or text.startswith("~")
        if is_long and (path.is_absolute() or OUTSIDE.match(text)):
            return f"…/{path.name}"
    return text


def legible(text: str) -> str:
    """Return text with a dot for each character that HTML does not allow.

    A model of bytes may write control characters and unpaired surrogates.
    """
    return "".join(
        "·" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c
        for c in text.replace("\r\n", "\n")
    )
