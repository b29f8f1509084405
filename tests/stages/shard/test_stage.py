import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stages.artifacts.tokenized import Tokenized
from stages.lib.split import SplitParams, split_documents
from stages.lib.text_hash import hash_column, hash_rows, text_hash
from stages.shard.params import ShardParams
from stages.shard.stage import run, spread_out
from stages.tokenizers.tokenizer import CharTokenizer, fingerprint, load_tokenizer, save_tokenizer

AS_IT_IS: dict[str, Any] = {"weights": None, "max_repetition": 1}
SMALL = ShardParams(shard_tokens=1024, **AS_IT_IS)
LARGE = ShardParams(shard_tokens=100_000, **AS_IT_IS)

# sha256 of files that an earlier version wrote one document at a time
GOLDEN = {
    "train/00000.npy": "403fa419bee090f5a95d4fdd739866a491f511a5e0d98581707f67d46ab956b9",
    "train/ends.npy": "ef0d0cd4b5919a053b133dec6af49c142c92a45752af724d0d98736d2c379c5d",
    "val/00000.npy": "cf3a315df40037ea7107d280c416b43bd324e698b8af0b1eefcdbdfa2690e581",
    "val/ends.npy": "2d2d96175993090e7dd24f20c26c5b69411f611cf0b327e3d14604b19cfe53f7",
}


def read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def documents(tokens: Path, split: SplitParams) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each split, in order."""
    rows = [
        row
        for file in sorted(tokens.glob("*.arrow"))
        for row in pa.ipc.open_file(file).read_all().to_pylist()
    ]
    sides = split_documents(hash_rows(row["text_hash"] for row in rows), split)
    return {
        name: [row for row, is_val in zip(rows, sides, strict=True) if is_val == (name == "val")]
        for name in ("train", "val")
    }


def with_manifest(tokens: Path, folder: Path, **changes: Any) -> Path:
    """Return a copy of the tokens with a changed manifest."""
    shutil.copytree(tokens, folder)
    manifest = {**read_json(folder / "manifest.json"), **changes}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def shards(tokens: Path, split: SplitParams, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return shards so small that each split has several."""
    out = tmp_path_factory.mktemp("shards") / "shards"
    run(SMALL, split, tokens, out)
    return out


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_split_is_its_documents_in_order_each_with_an_end_of_text_token(
    tokens: Path, split: SplitParams, shards: Path, name: str
) -> None:
    eot_token = load_tokenizer(tokens / "tokenizer").eot_token
    expected = [[*row["tokens"], eot_token] for row in documents(tokens, split)[name]]
    files = sorted((shards / name).glob("0*.npy"))
    stream = np.concatenate([np.load(file) for file in files])
    assert stream.tolist() == list(chain.from_iterable(expected))
    assert (
        np.load(shards / name / "ends.npy").tolist()
        == np.cumsum([len(document) for document in expected]).tolist()
    )
    sizes = [len(np.load(file)) for file in files]
    assert len(sizes) > 1
    assert set(sizes[:-1]) == {1024}
    assert 0 < sizes[-1] <= 1024


@pytest.mark.parametrize("name", ["train", "val"])
def test_the_manifest_describes_each_split(
    tokens: Path, split: SplitParams, shards: Path, name: str
) -> None:
    rows = documents(tokens, split)[name]
    described = read_json(shards / "manifest.json")["splits"][name]
    assert described["documents"] == len(rows)
    assert described["tokens"] == sum(len(row["tokens"]) + 1 for row in rows)
    assert described["bytes"] == sum(row["n_bytes"] for row in rows)
    ends = (shards / name / "ends.npy").read_bytes()
    assert described["ends_sha256"] == hashlib.sha256(ends).hexdigest()
    for file in described["files"]:
        path = shards / name / file["name"]
        assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert file["tokens"] == len(np.load(path))
    written = {path.name for path in (shards / name).iterdir()}
    assert written == {file["name"] for file in described["files"]} | {"ends.npy"}


def test_the_manifest_records_what_the_shards_were_made_from(
    tokens: Path, split: SplitParams, shards: Path
) -> None:
    manifest, source = read_json(shards / "manifest.json"), read_json(tokens / "manifest.json")
    del manifest["splits"]
    tokens_manifest = (tokens / "manifest.json").read_bytes()
    assert manifest == {
        "version": 1,
        "dtype": "uint16",
        "n_vocab": source["n_vocab"],
        "separator": source["n_vocab"] - 1,
        "tokenizer_fingerprint": source["tokenizer_fingerprint"],
        "corpus_manifest_sha256": source["corpus_manifest_sha256"],
        "tokens_manifest_sha256": hashlib.sha256(tokens_manifest).hexdigest(),
        "split": split.model_dump(),
        "shard": {"shard_tokens": 1024, "weights": None, "max_repetition": 1},
        "mixture": None,
    }


def test_the_tokenizer_is_copied(tokens: Path, shards: Path) -> None:
    own, source = (fingerprint(load_tokenizer(f / "tokenizer")) for f in (shards, tokens))
    assert own == source


def test_the_size_of_the_shards_does_not_change_the_stream(
    tokens: Path, split: SplitParams, shards: Path, tmp_path: Path
) -> None:
    run(LARGE, split, tokens, tmp_path / "shards")
    one_shard = np.load(tmp_path / "shards" / "train" / "00000.npy")
    small = [np.load(file) for file in sorted((shards / "train").glob("0*.npy"))]
    assert len(list((tmp_path / "shards" / "train").glob("0*.npy"))) == 1
    assert one_shard.tolist() == np.concatenate(small).tolist()


def test_the_same_tokens_give_the_same_bytes(
    tokens: Path,
    split: SplitParams,
    shards: Path,
    tmp_path: Path,
    digests: Callable[[Path], dict[str, str]],
) -> None:
    run(SMALL, split, tokens, tmp_path / "shards")
    assert digests(tmp_path / "shards") == digests(shards)


def test_the_files_never_change(
    tokens: Path, split: SplitParams, tmp_path: Path, digests: Callable[[Path], dict[str, str]]
) -> None:
    run(LARGE, split, tokens, tmp_path / "shards")
    actual = digests(tmp_path / "shards")
    assert {name: actual[name] for name in GOLDEN} == GOLDEN


@pytest.mark.parametrize(("n_vocab", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_tokens_are_stored_in_the_type_of_the_vocabulary(
    tokens: Path, split: SplitParams, tmp_path: Path, n_vocab: int, dtype: str
) -> None:
    source = with_manifest(tokens, tmp_path / "tokens", n_vocab=n_vocab, dtype=dtype)
    run(LARGE, split, source, tmp_path / "shards")
    stream = np.load(tmp_path / "shards" / "val" / "00000.npy")
    assert stream.dtype == np.dtype(dtype)
    assert stream[-1] == n_vocab - 1  # the end-of-text token


@pytest.mark.parametrize("too_few", [1, 5])
def test_a_token_beyond_the_vocabulary_is_refused_and_leaves_nothing_behind(
    tokens: Path, split: SplitParams, tmp_path: Path, too_few: int
) -> None:
    n_vocab = read_json(tokens / "manifest.json")["n_vocab"] - too_few
    source = with_manifest(tokens, tmp_path / "tokens", n_vocab=n_vocab)
    with pytest.raises(
        ValueError, match=rf"contains token ID \d+, but the vocabulary ends at {n_vocab - 1}"
    ):
        run(LARGE, split, source, tmp_path / "out" / "shards")
    assert list((tmp_path / "out").iterdir()) == []


LETTERS = "".join(map(chr, range(0x100, 0x180)))  # two bytes each
HALF = SplitParams(val_fraction=0.3, seed=3)


def tokens_of(folder: Path, *parts: tuple[str, int, int]) -> Path:
    """Make a tokens folder of parts: (corpus, number of documents, tokens in each)."""
    tokenizer = CharTokenizer(LETTERS)
    save_tokenizer(folder / "tokenizer", tokenizer)
    random, files = np.random.default_rng(1), []
    for number, (corpus, documents, length) in enumerate(parts):
        tokens = random.integers(len(LETTERS), size=(documents, length)).astype(np.uint16)
        table = {
            "tokens": pa.array(list(tokens), pa.large_list(pa.uint16())),
            "n_tokens": pa.array([length] * documents, pa.int64()),
            "n_bytes": pa.array([2 * length] * documents, pa.int64()),
            "text_hash": hash_column(b"".join(text_hash(row.tobytes()) for row in tokens)),
        }
        name = f"part-{number:05d}.arrow"
        rows = pa.table(table)
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_file(file, rows.schema) as out:
            out.write_table(rows, max_chunksize=7)
        files.append({"name": name, "corpus": corpus, "documents": documents})
    manifest = {
        "n_vocab": tokenizer.n_vocab,
        "dtype": "uint16",
        "tokenizer_fingerprint": fingerprint(tokenizer),
        "corpus_manifest_sha256": "of the corpus",
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def stream_documents(folder: Path) -> list[tuple[int, ...]]:
    """Return the documents of a split in the order of its stream, without end-of-text tokens."""
    stream = np.concatenate([np.load(file) for file in sorted(folder.glob("0*.npy"))])
    ends = np.load(folder / "ends.npy").tolist()
    starts = [0, *ends[:-1]]
    return [tuple(stream[a : b - 1].tolist()) for a, b in zip(starts, ends, strict=True)]


def mixed(folder: Path, weights: dict[str, float], max_repetition: int, *parts: Any) -> Path:
    """Return the shards of a mixture."""
    params = ShardParams(shard_tokens=1024, weights=weights, max_repetition=max_repetition)
    run(params, HALF, tokens_of(folder / "tokens", *parts), folder / "shards")
    return folder / "shards"


TALES, LAWS = ("tales", 30, 9), ("laws", 400, 19)


@pytest.mark.parametrize("n_parts", [2, 3, 10])
def test_parts_written_concurrently_make_one_stream(tmp_path: Path, n_parts: int) -> None:
    tokens = tokens_of(tmp_path / "tokens", *[("tales", 20, 30 + n) for n in range(n_parts)])
    run(SMALL, HALF, tokens, tmp_path / "shards")
    for name, rows in documents(tokens, HALF).items():
        expected = [tuple(row["tokens"]) for row in rows]
        assert stream_documents(tmp_path / "shards" / name) == expected


@pytest.mark.parametrize(("n", "order"), [(1, "abcde"), (2, "adbec"), (9, "abcde")])
def test_neighbors_are_spread_out(n: int, order: str) -> None:
    assert "".join(spread_out("abcde", n)) == order


def test_one_damaged_part_of_many_leaves_nothing_behind(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path / "tokens", *[("tales", 20, 30)] * 9)
    damaged = tokens / "part-00004.arrow"
    content = damaged.read_bytes()
    batch = pa.ipc.open_file(damaged).get_batch(0)
    values = batch.column("tokens").values.to_numpy().tobytes()
    damaged.write_bytes(content.replace(values, b"\xff" * len(values)))
    with pytest.raises(ValueError, match="contains token ID 65535"):
        run(SMALL, HALF, tokens, tmp_path / "out" / "shards")
    assert list((tmp_path / "out").iterdir()) == []


def test_corpora_are_mixed_by_weight(tmp_path: Path) -> None:
    out = mixed(tmp_path, {"tales": 3.0, "laws": 1}, 4, TALES, LAWS)
    rows = documents(tmp_path / "tokens", HALF)
    by_length = {
        name: [tuple(row["tokens"]) for row in rows["train"] if len(row["tokens"]) == length]
        for name, _, length in (TALES, LAWS)
    }
    n_tales, n_laws = len(by_length["tales"]) * 10, len(by_length["laws"]) * 20
    assert 0 < n_tales < 300
    repeats = n_tales * 4 / 3 / n_laws  # of the laws: a quarter of the stream of 4 n / 0.75 tokens
    assert 0.05 < repeats < 0.3

    counts = Counter(stream_documents(out / "train"))
    assert all(counts[row] == 4 for row in by_length["tales"])
    copies = [counts[row] for row in by_length["laws"]]
    assert set(copies) == {0, 1}
    spread = (len(copies) * repeats * (1 - repeats)) ** 0.5  # of a binomial
    assert abs(sum(copies) - len(copies) * repeats) < 3 * spread

    manifest = read_json(out / "manifest.json")
    tokens = {"tales": 4 * n_tales, "laws": 20 * sum(copies)}
    assert manifest["splits"]["train"]["tokens"] == sum(tokens.values())
    assert manifest["splits"]["train"]["bytes"] == 2 * (36 * n_tales // 10 + 19 * sum(copies))
    assert manifest["mixture"] == {
        "max_repetition": 4,
        "corpora": {
            name: {
                "weight": weight,
                "repeats": pytest.approx(often, rel=1e-12),
                "tokens": tokens[name],
                "share": tokens[name] / sum(tokens.values()),
            }
            for name, weight, often in [("tales", 3.0, 4.0), ("laws", 1.0, repeats)]
        },
    }


def test_no_document_is_repeated_before_all_others_have_occurred_once(tmp_path: Path) -> None:
    out = mixed(tmp_path, {"tales": 0.5, "laws": 0.5}, 3, TALES, ("laws", 20, 30))
    train = [tuple(row["tokens"]) for row in documents(tmp_path / "tokens", HALF)["train"]]
    stream = stream_documents(out / "train")
    assert stream[: len(train)] == train
    repeated = [stream.index(document) for document in stream[len(train) :]]
    (third,) = (n for n in range(1, len(repeated)) if repeated[n] <= repeated[n - 1])
    assert 0 < third < len(train)  # where the third pass begins
    assert max(Counter(stream).values()) == 3


def test_validation_documents_occur_once_whatever_the_weights(tmp_path: Path) -> None:
    out = mixed(tmp_path, {"tales": 0.9, "laws": 0.1}, 5, TALES, LAWS)
    val = [tuple(row["tokens"]) for row in documents(tmp_path / "tokens", HALF)["val"]]
    assert stream_documents(out / "val") == val


def test_which_documents_are_repeated_does_not_depend_on_their_position(tmp_path: Path) -> None:
    weights = {"tales": 0.5, "laws": 0.5}
    one = mixed(tmp_path / "one", weights, 4, TALES, LAWS)
    tokens = tmp_path / "one/tokens"
    manifest = read_json(tokens / "manifest.json")
    manifest["files"].reverse()
    (tokens / "manifest.json").write_text(json.dumps(manifest))
    params = ShardParams(shard_tokens=1024, weights=weights, max_repetition=4)
    run(params, HALF, tokens, tmp_path / "other")
    streams = [stream_documents(folder / "train") for folder in (one, tmp_path / "other")]
    assert streams[0] != streams[1]
    assert Counter(streams[0]) == Counter(streams[1])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"tales": 1.0}, "shard.weights has no weight for laws"),
        ({"tales": 1.0, "laws": 1.0, "lores": 1.0}, "names lores; the corpora are laws, tales"),
    ],
)
def test_each_corpus_needs_a_weight_and_each_weight_a_corpus(
    tmp_path: Path, weights: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mixed(tmp_path, weights, 4, TALES, LAWS)
    assert not (tmp_path / "shards").exists()


def test_a_corpus_without_training_documents_is_refused(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path / "tokens", TALES, ("note", 1, 5))
    hashes = Tokenized.open(tokens).text_hashes()
    splits = (SplitParams(val_fraction=0.3, seed=seed) for seed in range(100))
    split = next(split for split in splits if split_documents(hashes, split)[-1])
    params = ShardParams(shard_tokens=1024, weights={"tales": 1.0, "note": 1.0}, max_repetition=1)
    with pytest.raises(ValueError, match="all documents of corpus note are held out"):
        run(params, split, tokens, tmp_path / "shards")
