"""The character vocabulary of a nanoGPT model, from its meta.pkl or from its text.

Loading a pickle can run arbitrary code. This loader accepts only dicts, strings and numbers:
everything else is looked up by a global name, and every such name is refused
(docs.python.org/3/library/pickle.html, "Restricting Globals").
"""

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from stages.tokenizers.tokenizer import SEPARATOR, CharTokenizer

# What the unpickler raises for a damaged or malicious file.
FAULTS = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError),
    *(LookupError, ArithmeticError, MemoryError),
)


class PlainUnpickler(pickle.Unpickler):
    """An unpickler of plain data only."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse every class and function."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def meta_tokenizer(file: Path) -> tuple[CharTokenizer, int]:
    """Return the tokenizer that a meta.pkl describes, and its vocabulary size in that file.

    That counts the characters, and an end-of-text token if nanoGPT was trained on tokens exported
    from here. No code in the file is run. Raises ValueError if it is not a meta.pkl, or its ids are
    not in the order of the characters.
    """
    try:
        content = PlainUnpickler(io.BytesIO(file.read_bytes())).load()
    except FAULTS:
        content = None
    stoi = content.get("stoi") if isinstance(content, dict) else None
    if not is_vocabulary(stoi):
        raise ValueError(
            f"{file} is not a meta.pkl of nanoGPT: it must hold a dict whose `stoi` gives each "
            "character its token ID, and nothing but dicts, strings and integers; no code in "
            "it was run"
        )
    characters = sorted(stoi, key=stoi.__getitem__)
    if characters[-1:] == [SEPARATOR]:
        characters.pop()
    if characters != sorted(characters) or any(len(character) != 1 for character in characters):
        raise ValueError(
            f"{file}: the token IDs are not in sorted character order, which nanoGPT's prepare.py "
            "produces and a `char` tokenizer requires"
        )
    return CharTokenizer("".join(characters)), len(stoi)


def is_vocabulary(stoi: Any) -> TypeGuard[dict[str, int]]:
    """Return whether `stoi` is a dict that maps strings to the ids from 0 on."""
    return (
        isinstance(stoi, dict)
        and len(stoi) > 0
        and all(type(key) is str and type(value) is int for key, value in stoi.items())
        and sorted(stoi.values()) == list(range(len(stoi)))
    )


def text_tokenizer(file: Path) -> CharTokenizer:
    """Return a tokenizer of the characters in a file, in the order of nanoGPT's prepare.py.

    Raises ValueError if the file is not UTF-8.
    """
    try:
        return CharTokenizer("".join(sorted(set(file.read_text(encoding="utf-8")))))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}") from None
