"""A stage as DVC starts it: the same stage, whoever its workers are."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.__main__ import STAGES, TOOLS, main
from stages.tokenizers.tokenizer import CharTokenizer, save_tokenizer

ROOT = Path(__file__).parents[2]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def texts(workspace: Path) -> Path:
    """A project of four large files."""
    text = (ROOT / "presets" / "shakespeare.yaml").read_text()
    (workspace / "params.yaml").write_text(text.replace("source: package", "source: files", 1))
    (workspace / "texts").mkdir()
    for number in range(4):
        (workspace / "texts" / f"{number}.txt").write_text(
            f"{number}\n" + "so it goes\n" * 3_000_000
        )
    return workspace


def test_its_workers_make_the_corpus(texts: Path, run_python: Run) -> None:
    done = run_python("-m", "stages", "download", NANOGPT_WORKERS="2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("download: 4 documents")
    assert (texts / "data/corpus/manifest.json").exists()


def test_a_mistake_in_a_later_section_stops_the_first_stage(texts: Path, run_python: Run) -> None:
    params = texts / "params.yaml"
    params.write_text(params.read_text().replace("max_steps: 1000", "max_steps: many"))
    done = run_python("-m", "stages", "download")
    assert done.returncode == 2
    assert done.stderr == (
        "download: params.yaml: train.max_steps is 'many': input should be a valid integer\n"
    )
    assert not (texts / "data").exists()


def test_a_prompt_the_vocabulary_lacks_stops_the_training_not_the_sampling(
    texts: Path, run_python: Run
) -> None:
    save_tokenizer(texts / "data/shards/tokenizer", CharTokenizer(" egiost"))
    done = run_python("-m", "stages", "train")
    assert done.returncode == 2
    assert done.stderr.startswith("train: params.yaml: sample.prompts: the character 'A' is not in")
    assert not (texts / "runs").exists()


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            "filters: []",
            "filters: [mine]",
            "clean.filters names 'mine', but filters/mine.py does not exist",
        ),
        ("init_from: null", "init_from: weights/a", "train.init_from: there is no folder weights/"),
    ],
)
def test_what_a_later_stage_would_miss_stops_the_first(
    texts: Path, run_python: Run, before: str, after: str, words: str
) -> None:
    params = texts / "params.yaml"
    params.write_text(params.read_text().replace(before, after))
    done = run_python("-m", "stages", "download")
    assert done.returncode == 2
    assert done.stderr.startswith(f"download: {words}")
    assert not (texts / "data").exists()


@pytest.mark.parametrize("library", ["psutil", "pydantic"])
def test_a_stage_stopped_while_it_is_imported_shows_no_traceback(
    texts: Path, run_python: Run, library: str
) -> None:
    (texts / f"{library}.py").write_text("import os\nos.kill(os.getpid(), 2)\n")
    done = run_python("-m", "stages", "download")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_its_failure_is_reported(run_python: Run) -> None:
    done = run_python("-m", "stages", "tokenize")
    assert done.returncode == 2
    assert done.stderr.startswith("tokenize: params.yaml is missing")


@pytest.mark.parametrize("arguments", [[], ["bake"]])
def test_what_is_no_command_is_refused_with_those_there_are(
    workspace: Path, run_python: Run, arguments: list[str]
) -> None:
    done = run_python("-m", "stages", *arguments)
    assert done.returncode == 2
    assert "usage: python -m stages NAME" in done.stderr
    assert all(name in done.stderr for name in ("download", "verify")) or not arguments


def test_arguments_that_a_stage_does_not_take_are_refused(run_python: Run, workspace: Path) -> None:
    done = run_python("-m", "stages", "clean", "shard")
    assert done.returncode == 2
    assert "unrecognized arguments: shard" in done.stderr
    assert list(workspace.iterdir()) == []


def test_help_names_every_stage_in_order_and_every_tool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["stages", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "]
    assert shown[:3] == ["download", "clean", "tokenize"]
    assert sorted(shown) == sorted([*STAGES, *TOOLS])


@pytest.mark.parametrize("name", [*STAGES, *TOOLS])
def test_help_says_what_a_command_does_and_starts_nothing(
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["stages", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.err) == (0, "")
    assert said.out.startswith(f"usage: python -m stages {name}")
    assert len(said.out.splitlines()) > 5
    assert list(workspace.iterdir()) == []
