"""User-defined filters: Python files in `filters/` that decide by its text if a document is kept.

A filter sees one document at a time, so its answer depends on nothing else. An error inside a
filter stops the stage: no document is dropped or kept by accident.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Filter:
    """A filter file with its function `keep`."""

    file: Path
    function: Callable[[str], bool]

    def keeps(self, text: str, document: str) -> bool:
        """Return True if the filter keeps the text.

        Raises ValueError naming the filter and the document when it fails or returns no bool.
        """
        try:
            answer = self.function(text)
        except Exception as error:  # the user's code may raise anything
            raise ValueError(
                f"{self.file} raised {type(error).__name__} on document {document}: {error}"
            ) from error
        if answer is True or answer is False:
            return answer
        raise ValueError(
            f"{self.file} returned {answer!r} for document {document}; `keep` must return True or "
            "False"
        )


def filter_file(folder: Path, name: str) -> Path:
    """Return the path of a filter. Raises ValueError if there is no such file."""
    file = folder / f"{name}.py"
    if not file.is_file():
        available = ", ".join(sorted(path.stem for path in folder.glob("*.py"))) or "none"
        raise ValueError(
            f"clean.filters names {name!r}, but {file} does not exist; available: {available}"
        )
    return file


def load_filter(folder: Path, name: str) -> Filter:
    """Import a filter by its name. Raises ValueError if it is missing or cannot be loaded."""
    file = filter_file(folder, name)
    spec = importlib.util.spec_from_file_location(f"filter_{name}", file)
    assert spec is not None  # the file ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"{file} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(function := getattr(module, "keep", None)):
        raise ValueError(f"{file} has no function `keep`; write `def keep(text: str) -> bool:`")
    return Filter(file, function)
