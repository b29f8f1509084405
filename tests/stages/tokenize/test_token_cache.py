"""No part is tokenized twice, whatever was killed, and no damaged part is used."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from nanogpt.files import file_sha256, link
from stages.artifacts.clean import CleanCorpus
from stages.lib.split import SplitParams
from stages.runtime.yaml_files import read_params
from stages.tokenize import stage as tokenize
from stages.tokenize.params import Engine, TokenizeParams
from stages.tokenize.pool import tokenize_locally
from stages.tokenize.token_cache import Task, cached_description, part_key
from stages.tokenize.token_parts import Description
from stages.tokenizers.tokenizer import CharTokenizer, save_tokenizer

ROOT = Path(__file__).parents[3]
MakeParts = Callable[[list[list[str]], Path], CleanCorpus]
Digests = Callable[[Path], dict[str, str]]

BYTES = TokenizeParams(tokenizer="bytes", vocab_size=None, engine="tiktoken")
SPLIT = SplitParams(val_fraction=0.4, seed=1)
SECTIONS = {"tokenize": BYTES.model_dump(), "split": SPLIT.model_dump()}
PARTS = [[f"{part}.{n} " + "of all the land " * 3000 for n in range(6)] for part in range(8)]


class CountingRunner:
    """Tokenizes in this process and records which parts."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(
        self, tasks: Sequence[Task], tokenizer: Path, engine: Engine
    ) -> Iterator[Description]:
        self.names += [task.part.texts.name for task in tasks]
        return tokenize_locally(tasks, tokenizer, engine, workers=1)


def made(corpus: CleanCorpus, folder: Path, params: TokenizeParams = BYTES) -> list[str]:
    """Tokenize into folder/tokens and return the parts that were not in the cache."""
    runner = CountingRunner()
    cache = folder / "cache"
    tokenize.run(params, SPLIT, corpus, folder / "tokens", cache=cache, tokenize_parts=runner)
    return runner.names


def little(count: int, first: int = 0) -> list[list[str]]:
    return [[f"{n}.{row} a little text" for row in range(3)] for n in range(first, first + count)]


@pytest.fixture
def corpus(tmp_path: Path, make_parts: MakeParts) -> CleanCorpus:
    """Return a corpus of three small parts."""
    return make_parts(little(3), tmp_path)


def parts_in(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.arrow"))


def test_an_unchanged_corpus_is_not_tokenized_again(
    corpus: CleanCorpus, tmp_path: Path, digests: Digests, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(made(corpus, tmp_path)) == 3
    first = digests(tmp_path / "tokens")
    shutil.rmtree(tmp_path / "tokens")  # as DVC does before it runs a stage again
    assert "made before" not in capsys.readouterr().out
    assert made(corpus, tmp_path) == []
    assert digests(tmp_path / "tokens") == first
    assert "tokenize: 3 of 3 parts were made before" in capsys.readouterr().out


def test_only_the_new_part_of_a_grown_corpus_is_tokenized(
    corpus: CleanCorpus, tmp_path: Path, make_parts: MakeParts, digests: Digests
) -> None:
    made(corpus, tmp_path)
    grown = make_parts(little(4), tmp_path)
    assert made(grown, tmp_path) == ["part-00003.parquet"]
    assert made(make_parts(little(4), tmp_path / "again"), tmp_path / "again")
    assert digests(tmp_path / "tokens") == digests(tmp_path / "again" / "tokens")


def test_parts_that_the_corpus_no_longer_has_are_removed(
    corpus: CleanCorpus, tmp_path: Path, make_parts: MakeParts
) -> None:
    made(corpus, tmp_path)
    kept = parts_in(tmp_path / "cache")
    (tmp_path / "cache" / ".killed.arrow.123.part").write_bytes(b"half")
    made(make_parts(little(2), tmp_path), tmp_path)
    left = parts_in(tmp_path / "cache")
    assert len(left) == 2
    assert set(left) < set(kept)
    assert len(list((tmp_path / "cache").iterdir())) == 4  # two parts, two records


@pytest.mark.parametrize(
    "damage",
    [
        lambda part: part.write_bytes(part.read_bytes()[:-1]),
        lambda part: part.write_bytes(part.read_bytes()[:-9] + b"x" + part.read_bytes()[-8:]),
        lambda part: part.unlink(),
        lambda part: part.with_suffix(".json").write_text("{"),
        lambda part: part.with_suffix(".json").write_text("[]"),
        lambda part: part.with_suffix(".json").unlink(),
    ],
    ids=["cut", "one byte", "gone", "half a record", "no record", "record gone"],
)
def test_a_damaged_part_is_made_again(
    damage: Callable[[Path], object], corpus: CleanCorpus, tmp_path: Path, digests: Digests
) -> None:
    made(corpus, tmp_path)
    first = digests(tmp_path / "tokens")
    before = {part: file_sha256(part) for part in parts_in(tmp_path / "cache")}
    shutil.rmtree(tmp_path / "tokens")
    damage(parts_in(tmp_path / "cache")[1])
    assert len(made(corpus, tmp_path)) == 1
    assert digests(tmp_path / "tokens") == first
    assert {part: file_sha256(part) for part in parts_in(tmp_path / "cache")} == before


def test_the_key_of_a_part_depends_on_all_that_decides_its_bytes() -> None:
    keys = {
        part_key("t", "v", None, "f"),
        part_key("T", "v", None, "f"),
        part_key("t", "V", None, "f"),
        part_key("t", "v", "NFC", "f"),
        part_key("t", "v", None, "F"),
    }
    assert len(keys) == 5


def test_another_tokenizer_uses_no_cached_part(corpus: CleanCorpus, tmp_path: Path) -> None:
    made(corpus, tmp_path)
    char = TokenizeParams(tokenizer="char", vocab_size=None, engine="tiktoken")
    assert len(made(corpus, tmp_path, char)) == 3


def test_tokens_are_hard_links_into_the_cache(corpus: CleanCorpus, tmp_path: Path) -> None:
    made(corpus, tmp_path)
    inodes = {file.stat().st_ino for file in parts_in(tmp_path / "cache")}
    assert {file.stat().st_ino for file in parts_in(tmp_path / "tokens")} == inodes


def test_a_file_that_cannot_be_linked_is_copied(tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "part", Path("/dev/shm") / f"part-{os.getpid()}"
    source.write_bytes(b"ids")
    if not elsewhere.parent.is_dir() or elsewhere.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    try:
        link(source, elsewhere)
        assert elsewhere.read_bytes() == b"ids"
    finally:
        elsewhere.unlink(missing_ok=True)


def test_a_refused_text_leaves_no_part(corpus: CleanCorpus, tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "char", CharTokenizer("abc"))
    task = Task(part=corpus.parts[0], target=tmp_path / "part.arrow")
    with pytest.raises(ValueError, match="is not in the vocabulary"):
        list(tokenize_locally([task], tmp_path / "char", "tiktoken", workers=1))
    assert cached_description(task.target) is None
    assert not list(tmp_path.glob("*part.arrow*"))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory, make_parts: MakeParts) -> CleanCorpus:
    """Return a corpus of eight parts that take a while."""
    return make_parts(PARTS, tmp_path_factory.mktemp("long") / "data")


@pytest.fixture(scope="module")
def expected(long: CleanCorpus, digests: Digests) -> dict[str, str]:
    """Return the digests of what one process makes of them if it is not killed."""
    made(long, long.corpus.parent)
    return digests(long.corpus.parent / "tokens")


def test_seven_workers_make_the_same_bytes(
    long: CleanCorpus, expected: dict[str, str], tmp_path: Path, digests: Digests
) -> None:
    seven = partial(tokenize_locally, workers=7)
    tokenize.run(
        BYTES, SPLIT, long, tmp_path / "out", cache=tmp_path / "cache", tokenize_parts=seven
    )
    assert digests(tmp_path / "out") == expected


def start(folder: Path, workers: int) -> "subprocess.Popen[bytes]":
    """Start the stage in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "stages", "tokenize"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NANOGPT_WORKERS": str(workers)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def kill_at(process: "subprocess.Popen[bytes]", cache: Path, entries: int, seconds: float) -> bool:
    """Kill a process `seconds` after the cache has `entries`; return False if it ended before."""
    while process.poll() is None and len(list(cache.iterdir())) < entries:
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode in (0, -9), errors.decode()
    return process.returncode == -9


@pytest.mark.parametrize(("workers", "count"), [(1, 14), (2, 6)])
def test_a_run_killed_at_any_point_and_repeated_makes_the_same_bytes(
    workers: int,
    count: int,
    long: CleanCorpus,
    expected: dict[str, str],
    tmp_path: Path,
    digests: Digests,
) -> None:
    shutil.copytree(long.corpus.parent, tmp_path / "data", ignore=lambda *_: ["tokens", "cache"])
    (tmp_path / "params.yaml").write_text(
        json.dumps(read_params(ROOT / "params.yaml") | SECTIONS)  # JSON is YAML
    )
    cache, draw = tmp_path / ".cache" / "tokens", random.Random(workers)
    kills, cached = 0, set()
    while kills < count:
        cache.mkdir(parents=True, exist_ok=True)
        before = len(list(cache.iterdir()))
        completed = not kill_at(
            start(tmp_path, workers), cache, before + draw.randint(0, 5), draw.random() / 25
        )
        kills += not completed
        cached.add(before)
        if completed:
            assert digests(tmp_path / "data" / "tokens") == expected
            shutil.rmtree(cache)
    assert len(cached) > 1  # kills left parts behind for the next run
    process = start(tmp_path, workers)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert digests(tmp_path / "data" / "tokens") == expected
    records = [json.loads(file.read_text()) for file in cache.glob("*.json")]
    assert {record["sha256"] for record in records} <= set(expected.values())
    assert len(records) == len(PARTS)
