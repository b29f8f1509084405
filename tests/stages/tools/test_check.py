import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.params.presets import preset_text
from stages.params.sections import SECTIONS, check_params
from stages.runtime.yaml_files import ParamsError, read_params

ROOT = Path(__file__).parents[3]
PARAMS = ROOT / "params.yaml"
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def edited(folder: Path, changes: dict[str, Any]) -> Path:
    """A copy of params.yaml in which keys such as `train.seed` have other values."""
    content = read_params(PARAMS)
    for key, value in changes.items():
        *path, last = key.split(".")
        place = content
        for name in path:
            place = place[name]
        place[last] = value
    file = folder / "edited.yaml"
    with file.open("w") as out:
        YAML().dump(content, out)
    return file


def test_every_section_comes_back_as_its_model() -> None:
    sections = check_params(PARAMS)
    assert {name: type(section) for name, section in sections.items()} == SECTIONS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.n_head": 3}, ["model", "n_embd 128 is not a multiple of n_head 3"]),
        ({"model.n_embd": 10}, ["model", "rotary", "even"]),
        ({"train.batch_tokens": 1000}, ["train.batch_tokens 1000", "model.block_size 128"]),
        (
            {"train.warmup": 10**6},
            ["warmup 1000000 + decay 0.4 (1000000 + 400 steps) are more than max_steps 1000"],
        ),
        ({"train.warmup": 0.7}, ["warmup 0.7 + decay 0.4 (700 + 400 steps) are more than"]),
        ({"train.decay": True}, ["train.decay: True is neither a fraction of max_steps below 1"]),
        ({"train.decay": "10"}, ["train.decay: '10' is neither", "nor a number of steps"]),
        ({"train.decay": -1}, ["train.decay: -1 is neither"]),
        ({"train.decay": -0.1}, ["train.decay: -0.1 is neither"]),
        ({"train.decay": 1.0}, ["train.decay: 1.0 is neither"]),
        ({"train.decay": float("nan")}, ["train.decay: nan is neither"]),
        ({"train.decay": None}, ["train.decay: None is neither"]),
        ({"evaluate.context": 129}, ["evaluate.context 129", "model.block_size 128"]),
        ({"evaluate.stride": 129}, ["evaluate.stride 129", "window of 128 tokens"]),
        ({"evaluate.context": 64, "evaluate.stride": 65}, ["evaluate.stride 65", "64 tokens"]),
        ({"evaluate.stride": 0}, ["evaluate.stride: 0 is neither", "a fraction of the context"]),
        ({"evaluate.stride": 1.5}, ["evaluate.stride: 1.5 is neither a number of tokens"]),
        ({"evaluate.stride": True}, ["evaluate.stride: True is neither"]),
        ({"evaluate.adapt_rate": 2.0}, ["evaluate.adapt_rate is 2.0", "less than or equal to 1"]),
        ({"tokenize.tokenizer": "char"}, ["tokenize", "vocab_size is", "takes null"]),
        ({"tokenize.vocab_size": None}, ["tokenize", "vocab_size is None", "such as 1024"]),
        ({"tokenize.vocab_size": 256}, ["tokenize.vocab_size: 256 is neither auto", "from 257"]),
        ({"tokenize.vocab_size": True}, ["tokenize.vocab_size: True is neither auto"]),
        ({"tokenize.vocab_size": "2048"}, ["tokenize.vocab_size: '2048' is neither auto"]),
        (
            {"tokenize.vocab_size": "auto", "tokenize.tokenizer": "char"},
            ["vocab_size is auto, tokenizer `char` takes null"],
        ),
        ({"corpus": [1]}, ["corpus is [1], where a section with keys of its own should be"]),
        ({"corpus.package": None}, ["source is package, but corpus.package"]),
        ({"corpus.path": ""}, ["corpus.path is ''", "at least 1"]),
        ({"corpus.source": "url"}, ["source is url, but corpus.urls"]),
        ({"corpus.source": "huggingface"}, ["source is huggingface, but corpus.huggingface"]),
        ({"corpus.source": "mixture"}, ["source is mixture, but corpus.mixture"]),
        ({"corpus.mixture": {}}, ["corpus.mixture is {}", "at least 1"]),
        (
            {"corpus.mixture": {"a b": {"source": "files"}}},
            ["corpus.mixture.a b", "a name of letters"],
        ),
        (
            {"corpus.mixture": {"package": {"source": "files", "seperator": "-"}}},
            ["corpus.mixture.package.seperator", "did you mean corpus.mixture.package.separator?"],
        ),
        ({"corpus.package.sha256": "abc"}, ["corpus.package.sha256: 'abc' is not 64 digits"]),
        ({"corpus.urls": [{"url": "ftp://x", "sha256": "0" * 64}]}, ["not an address such as"]),
        ({"corpus.urls": [{"url": "https:///a", "sha256": "0" * 64}]}, ["not an address such as"]),
        ({"corpus.separator": ""}, ["corpus.separator is ''"]),
        ({"corpus.encoding": "utf-9"}, ["corpus.encoding: 'utf-9' is not a text encoding", "auto"]),
        ({"split.val_fraction": 1}, ["split.val_fraction is 1", "less than 1"]),
        ({"shard.shard_tokens": 10}, ["shard.shard_tokens is 10", "1024"]),
        ({"shard.weights": {"tales": 0}}, ["shard.weights.tales is 0", "greater than 0"]),
        ({"shard.weights": {}}, ["shard.weights is {}", "at least 1"]),
        ({"shard.max_repetition": 0}, ["shard.max_repetition is 0", "equal to 1"]),
        ({"sample.prompts": []}, ["sample.prompts is []", "at least 1"]),
        ({"sample.top_p": 0}, ["sample.top_p is 0", "greater than 0"]),
        ({"sample.stop": [""]}, ["sample.stop.0 is ''", "at least 1"]),
        ({"tokenise": {}}, ["tokenise is not a known key", "did you mean tokenize?"]),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    file = edited(tmp_path, changes)
    with pytest.raises(ParamsError) as caught:
        check_params(file)
    for word in [str(file), *words]:
        assert word in str(caught.value)


def test_the_old_names_of_keys_are_reported_with_the_new_ones(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    text = PARAMS.read_text().replace("  warmup:", "  warmup_steps:")
    file.write_text(text.replace("  decay: 0.4", "  decay_steps: 400"))
    with pytest.raises(ParamsError) as caught:
        check_params(file)
    assert str(caught.value).splitlines() == [
        f"{file}: train.{name}_steps is now train.{name}: a fraction of max_steps below 1, such "
        "as 0.01, or a number of steps, such as 10"
        for name in ("warmup", "decay")
    ]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    changes = {
        "corpus.sauce": "files",
        "model.n_layer": "4",
        "sample.seed": -1,
        "training": {},
    }
    file = edited(tmp_path, changes)
    file.write_text(file.read_text().replace("evaluate:", "evaluation:"))
    with pytest.raises(ParamsError) as caught:
        check_params(file)
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    for word in [
        "training is not a known key; did you mean train?",
        "evaluation is not a known key; did you mean evaluate?",
        "the section `evaluate:` is missing",
        "corpus.sauce is not a known key; did you mean corpus.source?",
        "model.n_layer is '4'",
        "sample.seed is -1",
    ]:
        assert any(word in line for line in lines), word


def test_both_kinds_of_nonsense_between_sections_are_reported_at_once(tmp_path: Path) -> None:
    file = edited(tmp_path, {"train.batch_tokens": 1000, "evaluate.context": 500})
    with pytest.raises(ParamsError) as caught:
        check_params(file)
    assert len(str(caught.value).splitlines()) == 2


def test_a_section_named_by_a_number_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "number.yaml"
    file.write_text(PARAMS.read_text() + "\n7: {}\n")
    with pytest.raises(ParamsError, match="7 is not a known key"):
        check_params(file)


def test_an_unknown_key_inside_a_part_is_reported_with_the_one_it_may_mean(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"did you mean corpus\.package\.version\?"):
        check_params(edited(tmp_path, {"corpus.package.versoin": "1"}))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda file: file.stem)
def test_the_command_accepts_each_preset(run_python: Run, preset: Path, workspace: Path) -> None:
    (workspace / "preset.yaml").write_text(preset_text(preset))
    done = run_python("-m", "stages", "check", "preset.yaml")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "must contain sections"),
        ("train: {max_steps: [\n", "is not valid YAML: line 2, column 1: expected the node"),
        (
            "train: 1\ntrain: 2\n",
            'is not valid YAML: line 2, column 1: found duplicate key "train"',
        ),
        ("train: \x01\n", "is not valid YAML: unacceptable character #x0001"),
        ("train: {max_steps: many}\n", "train.max_steps is 'many'"),
    ],
)
def test_the_command_refuses_a_bad_file_in_words(
    run_python: Run, workspace: Path, content: str, words: str
) -> None:
    (workspace / "params.yaml").write_text(content)
    done = run_python("-m", "stages", "check")
    assert done.returncode == 2
    assert done.stderr.startswith("check: params.yaml")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("texts", "texts/caf\\xe9.txt; rename them"),
        ("songs", "there is no 'songs', which DVC watches"),
        ("pipes", "'pipes/p.txt' is a pipe"),
        ("null", "params.yaml: corpus.path: DVC watches it whatever the source is; name a folder"),
        (".", "params.yaml: corpus.path: '.' is, or holds, what the pipeline itself writes"),
        ("~/songs", "is not expanded by DVC, which watches it; write /"),
    ],
)
def test_the_command_says_what_dvc_would_say_in_words_of_its_own(
    run_python: Run, workspace: Path, path: str, words: str
) -> None:
    for folder in ("texts", "pipes", "filters"):
        (workspace / folder).mkdir()
    (workspace / "texts" / os.fsdecode(b"caf\xe9.txt")).touch()
    os.mkfifo(workspace / "pipes/p.txt")
    text = PARAMS.read_text()
    assert "  path: texts " in text
    (workspace / "params.yaml").write_text(text.replace("  path: texts ", f"  path: {path} "))
    done = run_python("-m", "stages", "check")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("check: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    shutil.rmtree(workspace / "texts")  # whose name pytest could not print
