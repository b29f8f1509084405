"""Character vocabularies of nanoGPT; a pickle with more than plain data is refused."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.formats.nanogpt_meta import meta_tokenizer, text_tokenizer
from stages.tokenizers.tokenizer import CharTokenizer

TEXT = "Ein König\nund zwei 𝒦inder"
CHARACTERS = "\n EKdeginuwzrö𝒦"


def meta_of(characters: list[str]) -> dict[str, Any]:
    """Return what nanoGPT's prepare.py writes to meta.pkl."""
    stoi = {character: i for i, character in enumerate(characters)}
    return {"vocab_size": len(stoi), "itos": dict(enumerate(characters)), "stoi": stoi}


def write(content: Any, protocol: int | None = None) -> Path:
    """Write a meta.pkl to the current folder."""
    Path("meta.pkl").write_bytes(pickle.dumps(content, protocol))
    return Path("meta.pkl")


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_meta_and_text_give_the_same_vocabulary(protocol: int) -> None:
    Path("input.txt").write_text(TEXT, encoding="utf-8")
    by_text = text_tokenizer(Path("input.txt"))
    by_meta, ids = meta_tokenizer(write(meta_of(sorted(set(TEXT))), protocol))
    assert by_meta == by_text
    assert ids == len(set(TEXT))
    assert by_text.characters == "".join(sorted(CHARACTERS))
    assert by_meta.encode("E K").tolist() == [sorted(set(TEXT)).index(c) for c in "E K"]


@pytest.mark.usefixtures("workspace")
def test_the_end_of_text_token_of_exported_tokens_is_not_a_character() -> None:
    found = meta_tokenizer(write(meta_of(["a", "b", "<|endoftext|>"])))
    assert found == (CharTokenizer("ab"), 3)


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(
    "characters", [["b", "a"], ["a", "bc"], ["<|endoftext|>", "a"], ["a", "<|endoftext|>", "b"]]
)
def test_another_order_is_refused(characters: list[str]) -> None:
    with pytest.raises(
        ValueError, match=r"meta\.pkl: the token IDs are not in sorted character order"
    ):
        meta_tokenizer(write(meta_of(characters)))


class Runs:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("call", [(os.mkdir, "run"), (eval, "__import__('os').mkdir('run')")])
def test_code_is_not_run(protocol: int, call: tuple[Any, ...]) -> None:
    content = {**meta_of(["a", "b"]), "more": Runs(*call)}
    pickle.loads(pickle.dumps(content, protocol))
    Path("run").rmdir()  # so the pickle does what it is made for
    with pytest.raises(ValueError, match="nothing but dicts, strings and integers") as caught:
        meta_tokenizer(write(content, protocol))
    assert str(caught.value).startswith("meta.pkl is not a meta.pkl of nanoGPT")
    assert not Path("run").exists()


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(
    "content",
    [
        *([], {}, "a", {"stoi": {}}, {"stoi": ["a"]}, {"stoi": {"a": 1}}, {"stoi": {"a": True}}),
        *({"stoi": {"a": 0, "b": 0}}, {"stoi": {0: 0}}, {"stoi": {"a": 0.0}}, {"stoi": {b"a": 0}}),
    ],
)
def test_plain_data_of_another_kind_is_refused(content: Any) -> None:
    with pytest.raises(ValueError, match=r"is not a meta\.pkl of nanoGPT"):
        meta_tokenizer(write(content))


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no pickle", b"\x80\x04", b"\x80\xff.", b"\x80\x04N", b"(.", b"}R.", b"Na."),
        *(
            b"}}b.",
            b"I1\nI2\n\x86\x81.",
            b"\x82\x01.",
            b"h\x00.",
            b"Pa\n.",
            b"X\x01\x00\x00\x00\xff.",
        ),
    ],
)
def test_a_damaged_or_contrived_file_is_refused(content: bytes) -> None:
    Path("meta.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a meta\.pkl of nanoGPT"):
        meta_tokenizer(Path("meta.pkl"))


@pytest.mark.usefixtures("workspace")
def test_text_in_another_encoding_is_refused() -> None:
    Path("input.txt").write_bytes("König".encode("cp1252"))
    with pytest.raises(ValueError, match=r"input\.txt is not UTF-8"):
        text_tokenizer(Path("input.txt"))
