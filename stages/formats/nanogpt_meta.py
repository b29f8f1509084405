"""The alphabet of nanoGPT's character recipe, from its meta.pkl or from its text.

A pickle can run anything when it is read. Of this one only dicts, strings and numbers are admitted:
whatever is not plain data is reached by a global name, and every such name is refused
(docs.python.org/3/library/pickle.html, "Restricting Globals").
"""

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from stages.tokenizers.tokenizer import SEPARATOR, CharTokenizer

# What a pickle that is none, or a hostile one, makes the unpickler raise.
FAULTS = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError),
    *(LookupError, ArithmeticError, MemoryError),
)


class PlainUnpickler(pickle.Unpickler):
    """Reads plain data alone."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse every class and function."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def meta_tokenizer(file: Path) -> tuple[CharTokenizer, int]:
    """Return the tokenizer that a meta.pkl describes and how many ids the file has.

    They are those of the characters, and of a separator where the tokens went to nanoGPT from here.
    Nothing in the file is run. Raises ValueError when it is no such file, or its ids are not in the
    order of the characters.
    """
    try:
        content = PlainUnpickler(io.BytesIO(file.read_bytes())).load()
    except FAULTS:
        content = None
    stoi = content.get("stoi") if isinstance(content, dict) else None
    if not is_vocabulary(stoi):
        raise ValueError(
            f"{file} is no meta.pkl of nanoGPT: it must hold a dict whose `stoi` gives each "
            "character its id, and nothing but dicts, strings and whole numbers; nothing in it was "
            "run"
        )
    characters = sorted(stoi, key=stoi.__getitem__)
    if characters[-1:] == [SEPARATOR]:
        characters.pop()
    if characters != sorted(characters) or any(len(character) != 1 for character in characters):
        raise ValueError(
            f"{file}: the ids are not in the order of the characters, in which nanoGPT's "
            "prepare.py gives them; a `char` tokenizer has no other order"
        )
    return CharTokenizer("".join(characters)), len(stoi)


def is_vocabulary(stoi: Any) -> TypeGuard[dict[str, int]]:
    """Return whether it is a dict of strings that have the numbers from 0 on."""
    return (
        isinstance(stoi, dict)
        and len(stoi) > 0
        and all(type(key) is str and type(value) is int for key, value in stoi.items())
        and sorted(stoi.values()) == list(range(len(stoi)))
    )


def text_tokenizer(file: Path) -> CharTokenizer:
    """Return the tokenizer of the characters in a file, as nanoGPT's prepare.py orders them.

    Raises ValueError when the file is not UTF-8.
    """
    try:
        return CharTokenizer("".join(sorted(set(file.read_text(encoding="utf-8")))))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}") from None
