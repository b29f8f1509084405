"""The stage `evaluate`: figures of the whole split, the same every time."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts.shards import Shards
from stages.evaluate import stage as evaluate
from stages.evaluate.params import EvaluateParams
from stages.runtime.settings import Settings

SETTINGS = Settings(device="cpu")


def evaluated(
    built: Any,
    out: Path,
    context: int | None = None,
    stride: int | float | None = None,
    adapt_rate: float = 0.0,
) -> dict[str, Any]:
    """Return the metrics of the built model."""
    params = EvaluateParams(context=context, stride=stride, adapt_rate=adapt_rate)
    model, shards = built.folder / "models/gpt", Shards.open(built.folder / "data/shards")
    return evaluate.run(params, model, shards, out / "m.json", out / "plots", settings=SETTINGS)


def test_evaluation_is_the_same_every_time(built: Any, tmp_path: Path) -> None:
    first = evaluated(built, tmp_path / "a", stride=0.5, adapt_rate=0.2)
    assert evaluated(built, tmp_path / "b", stride=0.5, adapt_rate=0.2) == first
    kept = json.loads((built.folder / "metrics/evaluation.json").read_text())
    # Learned on another number of threads there: sums in bfloat16 are rounded in another order.
    assert first.pop("adaptive") == pytest.approx(kept.pop("adaptive"), rel=2**-9)
    assert first == kept


def test_a_model_that_learns_as_it_reads_is_reported_separately(built: Any, tmp_path: Path) -> None:
    plain = evaluated(built, tmp_path / "a")
    assert "adaptive" not in plain
    both = evaluated(built, tmp_path / "b", adapt_rate=0.2)
    learning = both.pop("adaptive")
    assert both == plain
    assert learning["val_loss"] != plain["val_loss"]
    ratio = learning["bits_per_byte"] / learning["val_loss"]
    assert ratio == pytest.approx(plain["bits_per_byte"] / plain["val_loss"])


def test_less_context_predicts_worse(built: Any, tmp_path: Path) -> None:
    short = evaluated(built, tmp_path / "a", context=2)
    assert short["tokens"] == evaluated(built, tmp_path / "b")["tokens"]
    assert short["val_loss"] > evaluated(built, tmp_path / "c")["val_loss"]


def test_a_context_longer_than_the_models_is_refused(built: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"evaluate\.context is 17, but the model's block_size is 16"
    ):
        evaluated(built, tmp_path, context=17)


def test_a_stride_shows_each_token_with_more_before_it(built: Any, tmp_path: Path) -> None:
    apart = evaluated(built, tmp_path / "a", context=8)
    assert evaluated(built, tmp_path / "b", context=8, stride=8) == apart
    assert (apart["context"], apart["stride"]) == (8, 8)
    overlapping = evaluated(built, tmp_path / "c", context=8, stride=2)
    assert overlapping["tokens"] == apart["tokens"]
    assert overlapping["val_loss"] < apart["val_loss"]
    assert evaluated(built, tmp_path / "d", context=8, stride=0.25) == overlapping


def test_a_stride_that_leaves_gaps_is_refused(built: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"evaluate\.stride 17 is longer than the window of 16 tokens"
    ):
        evaluated(built, tmp_path, stride=17)
    with pytest.raises(
        ValueError, match=r"evaluate\.stride 5 is longer than the window of 4 tokens"
    ):
        evaluated(built, tmp_path, context=4, stride=5)


def test_another_tokenizer_than_the_models_is_refused(built: Any, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(built.folder / "models/gpt", model)
    about = json.loads((model / "tokenizer/tokenizer.json").read_text())
    about["characters"] = about["characters"][::-1]
    (model / "tokenizer/tokenizer.json").write_text(json.dumps(about))
    shards = Shards.open(built.folder / "data/shards")
    with pytest.raises(ValueError, match="a different tokenizer"):
        evaluate.run(
            EvaluateParams(context=None, stride=None, adapt_rate=0.0),
            model,
            shards,
            tmp_path / "m",
            tmp_path / "p",
            settings=SETTINGS,
        )


def test_a_token_beyond_the_vocabulary_is_refused(built: Any, tmp_path: Path) -> None:
    import numpy as np

    folder = tmp_path / "shards"
    shutil.copytree(built.folder / "data/shards", folder)
    tokens = np.load(folder / "val/00000.npy")
    tokens[100] = 999
    np.save(folder / "val/00000.npy", tokens)
    with pytest.raises(ValueError, match="token id 999 is beyond the model's vocabulary"):
        evaluate.run(
            EvaluateParams(context=None, stride=None, adapt_rate=0.0),
            built.folder / "models/gpt",
            Shards.open(folder),
            tmp_path / "m.json",
            tmp_path / "plots",
            settings=SETTINGS,
        )
    assert not (tmp_path / "m.json").exists()
