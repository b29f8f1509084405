"""A stage as DVC starts it: the same stage, whoever its workers are."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

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


def test_it_is_the_same_stage(texts: Path, run_python: Run) -> None:
    found = []
    for how in (["stages", "download"], ["stages.download.stage"]):
        done = run_python("-m", *how, NANOGPT_WORKERS="2")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("download: 4 documents")
        found.append((texts / "data/corpus/manifest.json").read_bytes())
    assert found[0] == found[1]


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
        ("filters: []", "filters: [mine]", "clean.filters names 'mine', but there is no filters/"),
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


@pytest.mark.parametrize("arguments", [[], ["bake"], ["clean", "shard"]])
def test_what_is_no_stage_is_refused_with_those_there_are(
    workspace: Path, run_python: Run, arguments: list[str]
) -> None:
    done = run_python("-m", "stages", *arguments)
    assert done.returncode == 2
    assert "usage: python -m stages" in done.stderr
    assert "download,clean,tokenize" in done.stderr
