"""The stages `evaluate` and `sample` on a trained model: determinism and refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt.model.files import load_model, read_config
from stages.artifacts import model as model_files
from stages.artifacts.shards import Shards
from stages.evaluate import stage as evaluate
from stages.evaluate.params import EvaluateParams
from stages.runtime.settings import Settings
from stages.sample import stage as sample
from stages.sample.params import SampleParams
from stages.tokenizers.tokenizer import CharTokenizer

SETTINGS = Settings(device="cpu")

SAMPLE = SampleParams(
    prompts=["the king", "and"],
    samples_per_prompt=2,
    max_new_tokens=40,
    temperature=0.8,
    top_k=None,
    top_p=0.9,
    min_p=0.01,
    repetition_penalty=1.1,
    stop=[],
    seed=7,
)


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
    kept = json.loads((built.folder / "metrics/evaluate.json").read_text())
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
    with pytest.raises(ValueError, match=r"evaluate\.context is 17, the model takes 16"):
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
    with pytest.raises(ValueError, match=r"evaluate\.stride 17 is more than the 16 tokens"):
        evaluated(built, tmp_path, stride=17)
    with pytest.raises(ValueError, match=r"evaluate\.stride 5 is more than the 4 tokens"):
        evaluated(built, tmp_path, context=4, stride=5)


def test_another_tokenizer_than_the_models_is_refused(built: Any, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(built.folder / "models/gpt", model)
    about = json.loads((model / "tokenizer/tokenizer.json").read_text())
    about["characters"] = about["characters"][::-1]
    (model / "tokenizer/tokenizer.json").write_text(json.dumps(about))
    shards = Shards.open(built.folder / "data/shards")
    with pytest.raises(ValueError, match="another tokenizer"):
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


def test_samples_depend_only_on_seed_and_prompt(built: Any, tmp_path: Path) -> None:
    model = built.folder / "models/gpt"
    first = sample.run(SAMPLE, model, tmp_path / "a", device="cpu")
    again = sample.run(SAMPLE, model, tmp_path / "b", device="cpu")
    other = sample.run(SAMPLE.model_copy(update={"seed": 8}), model, tmp_path / "c", device="cpu")
    assert first == again != other
    assert [s["prompt"] for s in first] == ["the king", "the king", "and", "and"]
    assert first[0]["text"] != first[1]["text"]
    lines = (tmp_path / "a/samples.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == first
    assert first[0]["prompt"] + first[0]["text"] in (tmp_path / "a/samples.txt").read_text()


def test_samples_do_not_depend_on_the_others_in_their_batch(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built.folder / "models/gpt"
    together = sample.run(SAMPLE, model, tmp_path / "a", device="cpu")
    fewer = SAMPLE.model_copy(update={"prompts": ["and"], "samples_per_prompt": 1})
    assert sample.run(fewer, model, tmp_path / "b", device="cpu") == [together[2]]
    monkeypatch.setattr(model_files, "CACHE_BYTES", 1)
    assert model_files.rows_per_batch(load_model(model, torch.device("cpu")).config, 30) == 1
    assert sample.run(SAMPLE, model, tmp_path / "c", device="cpu") == together


def test_samples_end_before_the_first_stop_string(built: Any, tmp_path: Path) -> None:
    model = built.folder / "models/gpt"
    free = sample.run(SAMPLE, model, tmp_path / "a", device="cpu")
    stop = [free[0]["text"][10:14], free[1]["text"][20:22]]  # longer than a token, both of them
    params = SAMPLE.model_copy(update={"stop": stop})
    for before, after in zip(
        free, sample.run(params, model, tmp_path / "b", device="cpu"), strict=True
    ):
        ends = [before["text"].index(string) for string in stop if string in before["text"]]
        assert after["text"] == before["text"][: min(ends, default=None)]


def test_a_stop_string_is_detected_with_its_last_token() -> None:
    tokenizer = CharTokenizer("abé")
    ids = tokenizer.encode("abéab").tolist()
    found = [n for n in range(1, 6) if model_files.stopped(ids[:n], ["éa"], tokenizer)]
    assert found[0] == 4
    assert model_files.stopped([0, tokenizer.eot_token], [], tokenizer)
    assert not model_files.stopped([tokenizer.eot_token, 0], [], tokenizer)


def test_an_empty_prompt_lets_the_model_begin(built: Any, tmp_path: Path) -> None:
    params = SAMPLE.model_copy(update={"prompts": [""], "temperature": 0.0})
    first, second = sample.run(params, built.folder / "models/gpt", tmp_path / "out", device="cpu")
    assert (first["prompt"], len(first["text"])) == ("", 40)
    assert first["text"] == second["text"]
    assert (tmp_path / "out/samples.txt").read_text().startswith(first["text"] + "\n")


def test_a_prompt_with_unknown_characters_is_refused(built: Any, tmp_path: Path) -> None:
    params = SAMPLE.model_copy(update={"prompts": ["König"]})
    with pytest.raises(ValueError, match="'K' is not in the vocabulary"):
        sample.run(params, built.folder / "models/gpt", tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_long_samples_need_no_more_memory_than_short_ones(built: Any) -> None:
    config = read_config(built.folder / "models/gpt")
    long, short = (model_files.rows_per_batch(config, tokens) for tokens in (1 << 20, 30))
    assert long * (1 << 20) * 8 <= model_files.CACHE_BYTES < short * (1 << 20) * 8
