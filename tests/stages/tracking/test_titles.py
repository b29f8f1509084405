"""Titles of runs name the corpus or the preset, and what was changed."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from stages.params.presets import preset_content
from stages.tracking.titles import Origin, corpus_name, nearest_preset, size_of, title_of

PRESETS = Path(__file__).parents[3] / "presets"


def content(name: str, **changes: Any) -> dict[str, Any]:
    """Return the params of a preset with some changed, by `section__key`."""
    params = deepcopy(preset_content(PRESETS / f"{name}.yaml"))
    for dotted, value in changes.items():
        section, key = dotted.split("__")
        params[section][key] = value
    return params


def test_a_title_names_what_was_changed() -> None:
    assert title_of("shakespeare", {}) == "shakespeare"
    assert title_of("shakespeare", {"train.learning_rate": 0.02}) == "shakespeare · lr 0.02"
    assert title_of("own-text", {"train.keep": "last"}) == "own-text · train.keep last"
    signed = {"corpus.urls": [{"url": "https://host/text?X-Amz-Signature=5ec237"}]}
    assert title_of("web", signed) == "web · corpus.urls …"
    assert title_of("web", {"corpus.separator": "-" * 50}).endswith("corpus.separator …")


def test_what_is_changed_most_often_comes_first() -> None:
    changes = {"clean.min_bytes": 9, "train.max_steps": 50, "train.learning_rate": 0.1}
    assert title_of("web", changes) == "web · lr 0.1, steps 50, clean.min_bytes 9"


def test_a_size_is_short() -> None:
    assert [size_of(n) for n in (28_832, 999_999, 1_311_872, 124_439_808)] == [
        *("29K", "1.0M", "1.3M", "124.4M")
    ]


def test_a_title_has_room_for_a_few_changes() -> None:
    changes = {f"model.k{n}": n for n in range(6)}
    assert title_of("web", changes) == "web · model.k0 0, model.k1 1, model.k2 2, 3 more"
    assert title_of("web", dict(list(changes.items())[:4])).endswith("model.k3 3")


def test_a_corpus_is_named_by_its_source() -> None:
    assert corpus_name({"source": "files", "path": "texts/songs"}) == "songs"
    assert corpus_name({"source": "huggingface", "huggingface": {"name": "a/web"}}) == "web"


@pytest.mark.parametrize("name", sorted(file.stem for file in PRESETS.glob("*.yaml")))
def test_params_are_named_by_the_nearest_preset(name: str) -> None:
    assert nearest_preset(content(name), PRESETS) == Origin(name, {}, name)
    longer = content(name, train__max_steps=123_456, sample__seed=9)
    assert nearest_preset(longer, PRESETS) == Origin(name, {"train.max_steps": 123_456}, name)


def test_params_for_another_corpus_are_named_by_that() -> None:
    songs = content("own-text", corpus__path="texts/songs", model__n_layer=3)
    assert nearest_preset(songs, PRESETS) == Origin("own-text", {"model.n_layer": 3}, "songs")


def test_without_presets_the_corpus_is_the_name(tmp_path: Path) -> None:
    assert nearest_preset(content("own-text"), tmp_path) == Origin(None, {}, "texts")
