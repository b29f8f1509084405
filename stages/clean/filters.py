"""Filters of the user's own: files of Python in `filters/`, which decide by its text what is kept.

A filter is asked for each document alone, so that its answer depends on nothing else. What goes
wrong inside one stops the stage: a document is never dropped, or kept, by accident.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Filter:
    """One file's function `keep`."""

    file: Path
    function: Callable[[str], bool]

    def keeps(self, text: str, document: str) -> bool:
        """The function's answer. Raises ValueError with filter and document when it gives none."""
        try:
            answer = self.function(text)
        except Exception as error:  # the user's code may raise anything: it is named and reported
            raise ValueError(
                f"{self.file} raised {type(error).__name__} at document {document}: {error}"
            ) from error
        if answer is True or answer is False:
            return answer
        raise ValueError(
            f"{self.file} answered {answer!r} at document {document}; `keep` must return True or "
            "False"
        )


def filter_file(folder: Path, name: str) -> Path:
    """Where the filter of that name is. Raises ValueError when it is not there."""
    file = folder / f"{name}.py"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.py"))) or "none"
        raise ValueError(
            f"clean.filters names {name!r}, but there is no {file}; there are: {known}"
        )
    return file


def load_filter(folder: Path, name: str) -> Filter:
    """The filter of that name. Raises ValueError when it is not there or cannot be loaded."""
    file = filter_file(folder, name)
    spec = importlib.util.spec_from_file_location(f"filter_{name}", file)
    assert spec is not None  # the file ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code, as above
        raise ValueError(f"{file} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(function := getattr(module, "keep", None)):
        raise ValueError(f"{file} has no function `keep`; write `def keep(text: str) -> bool:`")
    return Filter(file, function)
