"""The stage `sample`: what it writes depends on seed, prompt and params alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt.model.files import load_model
from stages.generation import completion
from stages.sample import stage as sample
from stages.sample.params import SampleParams

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


def test_samples_depend_on_seed_and_prompt_alone(built: Any, tmp_path: Path) -> None:
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


def test_samples_do_not_depend_on_what_shares_their_batch(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built.folder / "models/gpt"
    together = sample.run(SAMPLE, model, tmp_path / "a", device="cpu")
    fewer = SAMPLE.model_copy(update={"prompts": ["and"], "samples_per_prompt": 1})
    assert sample.run(fewer, model, tmp_path / "b", device="cpu") == [together[2]]
    monkeypatch.setattr(completion, "CACHE_BYTES", 1)
    assert completion.rows_per_batch(load_model(model, torch.device("cpu")).config, 30) == 1
    assert sample.run(SAMPLE, model, tmp_path / "c", device="cpu") == together


def test_texts_end_before_the_first_stop_string(built: Any, tmp_path: Path) -> None:
    model = built.folder / "models/gpt"
    free = sample.run(SAMPLE, model, tmp_path / "a", device="cpu")
    stop = [free[0]["text"][10:14], free[1]["text"][20:22]]  # longer than a token, both of them
    params = SAMPLE.model_copy(update={"stop": stop})
    for before, after in zip(
        free, sample.run(params, model, tmp_path / "b", device="cpu"), strict=True
    ):
        ends = [before["text"].index(string) for string in stop if string in before["text"]]
        assert after["text"] == before["text"][: min(ends, default=None)]


def test_an_empty_prompt_leaves_the_beginning_to_the_model(built: Any, tmp_path: Path) -> None:
    params = SAMPLE.model_copy(update={"prompts": [""], "temperature": 0.0})
    first, second = sample.run(params, built.folder / "models/gpt", tmp_path / "out", device="cpu")
    assert (first["prompt"], len(first["text"])) == ("", 40)
    assert first["text"] == second["text"]
    assert (tmp_path / "out/samples.txt").read_text().startswith(first["text"] + "\n")


def test_a_prompt_the_tokenizer_does_not_know_is_refused(built: Any, tmp_path: Path) -> None:
    params = SAMPLE.model_copy(update={"prompts": ["König"]})
    with pytest.raises(ValueError, match="'K' is not in the vocabulary"):
        sample.run(params, built.folder / "models/gpt", tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
