import hashlib
import json
import random
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.artifacts.clean import CleanCorpus
from stages.clean.params import CleanParams
from stages.clean.stage import exact_duplicates, run
from stages.download import corpus_writer as corpus_on_disk
from stages.lib.text_hash import text_hash

PLAIN = {
    "unicode": None,
    "min_bytes": None,
    "max_bytes": None,
    "filters": [],
    "deduplicate": True,
    "near_duplicates": None,
}
NO_X = 'def keep(text: str) -> bool:\n    return "x" not in text\n'
NO_DIGIT = "def keep(text: str) -> bool:\n    return not any(map(str.isdigit, text))\n"
SHORT_TEXTS = st.lists(st.text(alphabet="abx1ﬁé", min_size=1, max_size=4), min_size=1, max_size=30)

MakeCorpus = Callable[[list[str], Path], CleanCorpus]


def params(**values: Any) -> CleanParams:
    return CleanParams(**{**PLAIN, **values})


def reasons(folder: Path) -> list[str | None]:
    """Why each document is dropped, in order."""
    files = sorted(folder.glob("*.parquet"))
    return [reason for f in files for reason in pq.read_table(f).column("dropped").to_pylist()]


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


@pytest.fixture(scope="module")
def filters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two filters."""
    folder = tmp_path_factory.mktemp("filters")
    (folder / "no_x.py").write_text(NO_X)
    (folder / "no_digit.py").write_text(NO_DIGIT)
    return folder


def verdicts_by_hand(params: CleanParams, texts: list[str]) -> list[str | None]:
    """What the documentation says, in the plainest Python."""
    seen: set[str] = set()
    found: list[str | None] = []
    for text in texts:
        form = unicodedata.normalize(params.unicode, text) if params.unicode else text
        reason = None
        if params.min_bytes and len(form.encode()) < params.min_bytes:
            reason = "too short"
        elif params.max_bytes and len(form.encode()) > params.max_bytes:
            reason = "too long"
        elif "no_x" in params.filters and "x" in form:
            reason = "filter no_x"
        elif "no_digit" in params.filters and "1" in form:
            reason = "filter no_digit"
        elif params.deduplicate and form in seen:
            reason = "duplicate"
        else:
            seen.add(form)
        found.append(reason)
    return found


@settings(max_examples=15, deadline=None)
@given(
    texts=SHORT_TEXTS,
    chosen=st.fixed_dictionaries(
        {
            "unicode": st.sampled_from([None, "NFC", "NFD", "NFKC", "NFKD"]),
            "min_bytes": st.sampled_from([None, 1, 2]),
            "max_bytes": st.sampled_from([None, 3, 9]),
            "filters": st.sampled_from([[], ["no_x"], ["no_x", "no_digit"]]),
            "deduplicate": st.booleans(),
        }
    ),
)
def test_the_verdicts_are_what_the_documentation_says(
    tmp_path_factory: pytest.TempPathFactory,
    make_corpus: MakeCorpus,
    filters: Path,
    texts: list[str],
    chosen: dict[str, Any],
) -> None:
    folder = tmp_path_factory.mktemp("given")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_on_disk, "GROUP_BYTES", 10)
        patch.setattr(corpus_on_disk, "PART_BYTES", 12)
        corpus = make_corpus(texts, folder / "made").corpus
    asked = params(**chosen)
    expected = verdicts_by_hand(asked, texts)
    if None not in expected:
        with pytest.raises(ValueError, match="would drop every document"):
            run(asked, corpus, folder / "clean", filters=filters)
        assert not (folder / "clean").exists()
        return
    run(asked, corpus, folder / "clean", filters=filters)
    assert reasons(folder / "clean") == expected
    kept = [t for t, reason in zip(texts, expected, strict=True) if reason is None]
    forms = [unicodedata.normalize(asked.unicode, t) if asked.unicode else t for t in kept]
    cleaned = CleanCorpus.open(corpus, folder / "clean")
    assert list(cleaned.texts()) == forms
    assert list(cleaned.text_hashes()) == [text_hash(form.encode()) for form in forms]
    written = manifest(folder / "clean")
    assert written["kept"] + sum(written["dropped"].values()) == written["documents"] == len(texts)
    assert written["bytes"] == sum(len(form.encode()) for form in forms)
    assert written["dropped"] == dict(Counter(reason for reason in expected if reason))


def sentences(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"word{draw.randrange(500)}" for _ in range(count))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_corpus: MakeCorpus) -> Path:
    """90 documents in several parts of several row groups, with all that can be dropped."""
    texts = []
    for n in range(30):
        said = sentences(n // 2, 60)
        nearly = said.replace(said.split()[-1], "at last")
        texts += [sentences(n, 60) + "x" * (n % 3), nearly if n % 4 else said, "é" * (n + 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_on_disk, "GROUP_BYTES", 6_000)
        patch.setattr(corpus_on_disk, "PART_BYTES", 10_000)
        made = make_corpus(texts, tmp_path_factory.mktemp("corpus") / "made").corpus
    groups = [pq.read_metadata(file).num_row_groups for file in sorted(made.glob("*.parquet"))]
    assert len(groups) > 1
    assert max(groups) > 1
    return made


ALL = params(unicode="NFD", min_bytes=30, max_bytes=80_000, filters=["no_x"], near_duplicates=0.8)


@pytest.fixture(scope="module")
def made(corpus: Path, filters: Path) -> Path:
    """What one process makes of that corpus by all the rules."""
    run(ALL, corpus, corpus.parent / "judged", filters=filters, workers=1)
    return corpus.parent / "judged"


@pytest.mark.parametrize(
    ("workers", "asked"), [(2, ALL), (7, params(min_bytes=30, filters=["no_x"]))]
)
def test_the_bytes_do_not_depend_on_the_number_of_workers(
    corpus: Path,
    filters: Path,
    workers: int,
    asked: CleanParams,
    tmp_path: Path,
    digests: Callable[[Path], dict[str, str]],
) -> None:
    run(asked, corpus, tmp_path / "alone", filters=filters, workers=1)
    run(asked, corpus, tmp_path / "together", filters=filters, workers=workers)
    assert digests(tmp_path / "together") == digests(tmp_path / "alone")


def test_no_text_is_read_that_no_rule_asks_for(corpus: Path, filters: Path, tmp_path: Path) -> None:
    """Its size and hash are next to it."""
    without = tmp_path / "corpus"
    shutil.copytree(corpus, without)
    for file in without.glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns("text"), file)
    plain = params(min_bytes=20, max_bytes=1000)
    for folder, out in ((corpus, "with"), (without, "without")):
        run(plain, folder, tmp_path / out, filters=filters)
    assert reasons(tmp_path / "with") == reasons(tmp_path / "without")
    assert set(reasons(tmp_path / "with")) >= {"too short", "duplicate"}
    with pytest.raises(KeyError):
        run(params(unicode="NFC"), without, tmp_path / "normal", filters=filters)


def test_a_corpus_of_another_version_is_refused(
    corpus: Path, filters: Path, tmp_path: Path
) -> None:
    older = tmp_path / "corpus"
    shutil.copytree(corpus, older)
    about = {**manifest(older), "version": 1}
    (older / "manifest.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="has version 1, not 2; run `dvc repro download`"):
        run(params(), older, tmp_path / "out", filters=filters)


def test_hashes_are_those_of_the_texts_that_are_kept(
    corpus: Path, filters: Path, tmp_path: Path
) -> None:
    for form in (None, "NFD"):
        run(params(unicode=form), corpus, tmp_path / "out", filters=filters)
        cleaned = CleanCorpus.open(corpus, tmp_path / "out")
        texts = [text.encode() for text in cleaned.texts()]
        assert list(cleaned.text_hashes()) == [text_hash(text) for text in texts]


def test_every_reason_is_counted_by_part_and_in_all(corpus: Path, made: Path) -> None:
    written = manifest(made)
    assert set(written["dropped"]) == {"too short", "filter no_x", "duplicate", "near duplicate"}
    parts = written["files"]
    assert len(parts) > 1
    for key in ("documents", "kept", "bytes"):
        assert written[key] == sum(part[key] for part in parts)
    counts = sum((Counter(part["dropped"]) for part in parts), Counter())
    assert written["dropped"] == dict(counts)
    for part in parts:
        dropped = pq.read_table(made / part["name"]).column("dropped").to_pylist()
        assert part["documents"] == len(dropped) == pq.read_metadata(corpus / part["name"]).num_rows
        assert part["dropped"] == dict(Counter(reason for reason in dropped if reason))
        content = (made / part["name"]).read_bytes()
        assert part["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_manifest_names_what_it_was_made_from(corpus: Path, made: Path, filters: Path) -> None:
    written = manifest(made)
    content = (corpus / "manifest.json").read_bytes()
    assert written["corpus_manifest_sha256"] == hashlib.sha256(content).hexdigest()
    assert written["clean"] == ALL.model_dump()
    code = (filters / "no_x.py").read_bytes()
    assert written["filters"] == {"no_x": hashlib.sha256(code).hexdigest()}


@given(names=st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=40))
def test_the_first_of_equal_documents_stays(names: list[tuple[str, bool]]) -> None:
    hashes = [text_hash(name.encode()) for name, _ in names]
    packed = np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, 16)
    among = np.array([counts for _, counts in names], dtype=bool)
    seen: set[str] = set()
    expected = []
    for name, counts in names:
        expected.append(counts and name in seen)
        seen |= {name} if counts else set()
    assert exact_duplicates(packed, among).tolist() == expected


def test_hashes_that_share_a_half_are_no_duplicates() -> None:
    halves = [(1, 1), (1, 2), (2, 1), (1, 1), (2, 2), (1, 2)]
    packed = np.array(halves, dtype=np.uint64).view(np.uint8)
    found = exact_duplicates(packed, np.ones(6, dtype=bool))
    assert found.tolist() == [False, False, False, True, False, True]


def test_a_filter_that_fails_stops_the_stage_and_leaves_nothing(
    corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "fails.py").write_text("def keep(text):\n    return 1 / text.count('w') > 0\n")
    with pytest.raises(ValueError, match=r"fails\.py raised ZeroDivisionError") as caught:
        run(params(filters=["fails"]), corpus, tmp_path / "o/clean", filters=tmp_path)
    assert "document texts.jsonl#3" in str(caught.value)
    assert list((tmp_path / "o").iterdir()) == []  # not even a part


def test_verdicts_take_the_place_of_older_ones_only_when_they_are_complete(
    corpus: Path, tmp_path: Path, digests: Callable[[Path], dict[str, str]]
) -> None:
    run(params(), corpus, tmp_path / "clean")
    before = digests(tmp_path / "clean")
    with pytest.raises(ValueError, match="would drop every document") as caught:
        run(params(min_bytes=10**6), corpus, tmp_path / "clean")
    assert "(90 too short); loosen clean.min_bytes" in str(caught.value)
    assert digests(tmp_path / "clean") == before


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"min_bytes": 5, "max_bytes": 4}, "min_bytes 5 is more than max_bytes 4"),
        ({"filters": ["a", "a"]}, "contains a duplicate"),
        ({"filters": ["../a"]}, "pattern"),
        ({"min_bytes": 0}, "greater than or equal to 1"),
        ({"near_duplicates": 0.3}, r"greater than or equal to 0\.5"),
        ({"near_duplicates": 1.0}, r"less than or equal to 0\.95"),
        ({"unicode": "NFX"}, "NFKD"),
    ],
)
def test_nonsense_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        params(**values)


def test_the_command_uses_the_projects_own_filters(
    run_python: Callable[..., Any], workspace: Path, make_corpus: MakeCorpus
) -> None:
    made = make_corpus(["to be or not", "être ou ne pas être"], workspace / "made")
    (workspace / "data").mkdir()
    made.corpus.rename(workspace / "data/corpus")
    (workspace / "filters").mkdir()
    (workspace / "filters/ascii.py").write_text("def keep(text):\n    return text.isascii()\n")
    params = (Path(__file__).parents[3] / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(params.replace("filters: []", "filters: [ascii]"))
    done = run_python("-m", "stages", "clean")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 documents kept; 1 by filter ascii dropped" in done.stdout
