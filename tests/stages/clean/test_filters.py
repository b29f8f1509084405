import re
from pathlib import Path

import pytest

from stages.clean.filters import load_filter

SHIPPED = Path(__file__).parents[3] / "filters"


def written(folder: Path, code: str) -> Path:
    """A folder with one filter, `mine`."""
    (folder / "mine.py").write_text(code)
    return folder


def test_a_filter_answers_for_a_text(tmp_path: Path) -> None:
    mine = load_filter(written(tmp_path, "def keep(text):\n    return len(text) > 3\n"), "mine")
    assert mine.keeps("long enough", "a.txt")
    assert not mine.keeps("no", "b.txt")


def test_one_that_is_not_there_is_reported_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"'yours', but .*yours\.py does not exist; available: mine"
    ):
        load_filter(written(tmp_path, ""), "yours")
    with pytest.raises(ValueError, match="available: none"):
        load_filter(tmp_path / "nowhere", "mine")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def keep(text:\n", "mine.py cannot be loaded: SyntaxError"),
        ("import no_such_module\n", "mine.py cannot be loaded: ModuleNotFoundError: No module"),
        ("raise RuntimeError('why not')\n", "mine.py cannot be loaded: RuntimeError: why not"),
        ("def kept(text):\n    return True\n", "mine.py has no function `keep`"),
        ("keep = True\n", "mine.py has no function `keep`"),
    ],
)
def test_one_that_cannot_be_used_is_refused(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        load_filter(written(tmp_path, code), "mine")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return text[99]", "mine.py raised IndexError on document a.txt#7: string index"),
        ("pass", "mine.py returned None for document a.txt#7; `keep` must return True or False"),
        ("return 1", "mine.py returned 1 for document a.txt#7"),
    ],
)
def test_one_that_gives_no_answer_stops_at_the_document(
    tmp_path: Path, body: str, words: str
) -> None:
    mine = load_filter(written(tmp_path, f"def keep(text):\n    {body}\n"), "mine")
    with pytest.raises(ValueError, match=re.escape(words)):
        mine.keeps("text", "a.txt#7")


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("Shall I compare thee to a summer's day? Thou art more lovely and more temperate.", True),
        ("Soll ich dich einem Sommertag vergleichen? Er ist wie du so lieblich nicht.", False),
        ("Te comparerai-je à un jour d'été? Tu es plus tendre et bien plus tempéré.", False),
    ],
)
def test_the_shipped_filter_knows_english(text: str, english: bool) -> None:
    assert load_filter(SHIPPED, "english").keeps(text, "sonnet 18") is english


def test_a_missing_library_is_reported_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "py3langid", None)  # as Python notes a failure
    with pytest.raises(
        ValueError, match=r"py3langid is missing; `pip install -e '\.\[language\]'`"
    ):
        load_filter(SHIPPED, "english")
