"""Tokens to nanoGPT and llm.c and back, bit for bit; the tests write their formats themselves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nanogpt.files import file_sha256
from stages.__main__ import parsed
from stages.artifacts.shards import Shards
from stages.evaluate import stage as evaluate
from stages.evaluate.params import EvaluateParams
from stages.lib.split import SplitParams
from stages.runtime.settings import Settings
from stages.shard import stage as shard
from stages.shard.params import ShardParams
from stages.tokenizers.tokenizer import BpeTokenizer, load_tokenizer
from stages.tools import token_files

FORMS = ["nanogpt", "llmc"]
EOT = 50_256
TEXTS = ["Hello world", "¡Olé! 日本語 🙂", "", "the quick brown fox " * 20]


@pytest.fixture(scope="module")
def shards(tokens: Path, split: SplitParams, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write shards with one file per split, as imported ones have."""
    out = tmp_path_factory.mktemp("shards") / "shards"
    params = ShardParams(shard_tokens=token_files.SHARD_TOKENS, weights=None, max_repetition=1)
    shard.run(params, split, tokens, out)
    return out


@pytest.fixture
def command(workspace: Path) -> Callable[..., None]:
    """Return a function that runs the command in an empty folder."""

    def run(*arguments: object) -> None:
        given = [str(argument) for argument in arguments]
        options = parsed("token-files", token_files, given)
        token_files.run_tool(options, Settings(device="cpu"))

    return run


@pytest.fixture
def gpt2(workspace: Path, gpt2_file: Path) -> BpeTokenizer:
    """Put GPT-2's ranks into the workspace's cache; return its tokenizer."""
    (workspace / ".cache").mkdir()
    shutil.copy(gpt2_file, workspace / ".cache")
    found = token_files.named_tokenizer(workspace, None)
    assert isinstance(found, BpeTokenizer)
    return found


def stream_of(shards: Path, split: str) -> NDArray[np.int64]:
    """Return all tokens of a split."""
    stream = Shards.open(shards).stream(split)
    return stream.read(0, len(stream))


def llmc_bytes(tokens: list[int], magic: int = 20240520, version: int = 1) -> bytes:
    """Return a file as llm.c's `write_datafile` writes it."""
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(tokens)
    return header.tobytes() + np.array(tokens, np.uint16).tobytes()


def put(folder: Path, **contents: bytes) -> Path:
    """Create a folder of .bin files."""
    folder.mkdir()
    for name, content in contents.items():
        (folder / f"{name}.bin").write_bytes(content)
    return folder


def test_nanogpt_gets_its_raw_files(shards: Path, command: Callable[..., None]) -> None:
    command("to-nanogpt", "out", "--shards", shards)
    for split in ("train", "val"):
        found = np.fromfile(f"out/{split}.bin", np.uint16)
        assert np.array_equal(found, stream_of(shards, split))
    assert json.loads(Path("out/source.json").read_text()) == {
        "shards_manifest_sha256": file_sha256(shards / "manifest.json")
    }


def test_llmc_gets_a_header_and_an_end_of_text_token_before_each_document(
    shards: Path, command: Callable[..., None]
) -> None:
    command("to-llmc", "out", "--shards", shards)
    for split in ("train", "val"):
        stream = stream_of(shards, split).tolist()
        expected = llmc_bytes([stream[-1], *stream[:-1]])
        assert Path(f"out/{split}_000000.bin").read_bytes() == expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("piece", [7, 1 << 22])
def test_a_round_trip_gives_the_same_shards_bit_for_bit(
    shards: Path,
    command: Callable[..., None],
    digests: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    piece: int,
) -> None:
    monkeypatch.setattr(token_files, "CHUNK_TOKENS", piece)
    command(f"to-{form}", "there", "--shards", shards)
    command(f"from-{form}", "there", "back")
    before, after = digests(shards), digests(Path("back"))
    manifests = [json.loads((f / "manifest.json").read_text()) for f in (shards, Path("back"))]
    assert before.pop("manifest.json") != after.pop("manifest.json")
    assert after == before
    assert manifests[1]["splits"] == manifests[0]["splits"]  # bytes of text, counted again
    assert manifests[1]["tokenizer_fingerprint"] == manifests[0]["tokenizer_fingerprint"]


@pytest.mark.parametrize("form", FORMS)
def test_many_files_are_one_stream(
    shards: Path, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(token_files, "SHARD_TOKENS", 1000)
    command(f"to-{form}", "there", "--shards", shards)
    files = sorted(Path("there").glob("train*.bin"))
    sizes = {(file.stat().st_size - 1024) // 2 for file in files}
    assert form == "nanogpt" or (len(files) > 3 and max(sizes) - min(sizes) <= 1)
    command(f"from-{form}", "there", "back")
    assert len(list(Path("back/train").glob("0*.npy"))) > 3
    for split in ("train", "val"):
        assert np.array_equal(stream_of(Path("back"), split), stream_of(shards, split))


def test_importing_and_exporting_llmc_files_gives_the_same_files(
    gpt2: BpeTokenizer, command: Callable[..., None]
) -> None:
    stream = [token for text in TEXTS for token in (EOT, *gpt2.encode(text).tolist())]
    train, val = stream * 3, [*stream, EOT]  # one ends within a document, one after a separator
    names = {"fineweb_train_000001": train[:50], "fineweb_train_000002": train[50:]}
    contents = {name: llmc_bytes(tokens) for name, tokens in names.items()}
    command("from-llmc", put(Path("theirs"), fineweb_val_000000=llmc_bytes(val), **contents), "in")
    command("to-llmc", "out", "--shards", "in")
    assert Path("out/train_000000.bin").read_bytes() == llmc_bytes(train)
    assert Path("out/val_000000.bin").read_bytes() == llmc_bytes(val)


def test_bytes_and_documents_of_gpt2_tokens_are_counted(
    gpt2: BpeTokenizer, command: Callable[..., None]
) -> None:
    stream = [token for text in TEXTS for token in (*gpt2.encode(text).tolist(), EOT)]
    content = np.array(stream, np.uint16).tobytes()
    command("from-nanogpt", put(Path("theirs"), train=content, val=content[:-2]), "in")
    manifest = json.loads(Path("in/manifest.json").read_text())
    expected = {
        "documents": len(TEXTS),
        "tokens": len(stream),
        "bytes": sum(len(text.encode()) for text in TEXTS),
    }
    for split in ("train", "val"):  # to the one that ends within a document a separator is added
        assert expected.items() <= manifest["splits"][split].items()
        ends = np.load(f"in/{split}/ends.npy").tolist()
        starts = [0, *(end for end in ends[:-1])]
        found = stream_of(Path("in"), split)
        assert [
            gpt2.decode(found[a : b - 1].tolist()) for a, b in zip(starts, ends, strict=True)
        ] == TEXTS
    assert manifest["imported"] == {
        "format": "nanogpt",
        "sha256": {f"{s}.bin": file_sha256(Path(f"theirs/{s}.bin")) for s in ("train", "val")},
    }


def test_imported_tokens_can_be_trained_and_evaluated_on(
    shards: Path,
    workspace: Path,
    command: Callable[..., None],
    train_tiny: Callable[[Path, Path], None],
) -> None:
    command("to-nanogpt", "there", "--shards", shards)
    command("from-nanogpt", "there", "back")
    train_tiny(workspace / "back", workspace / "models/gpt")
    result = evaluate.run(
        EvaluateParams(context=None, stride=None, adapt_rate=0.0),
        workspace / "models/gpt",
        Shards.open(workspace / "back"),
        workspace / "metrics.json",
        workspace / "plots",
        settings=Settings(device="cpu"),
    )
    described = Shards.open(shards).manifest["splits"]["val"]
    assert (result["tokens"], result["bytes"]) == (described["tokens"], described["bytes"])
    assert result["bits_per_byte"] > 0


GOOD = llmc_bytes([EOT, 1, 2])


@pytest.mark.parametrize(
    ("form", "content", "words"),
    [
        ("nanogpt", b"123", "has 3 bytes, an odd number"),
        ("nanogpt", b"", "holds no tokens"),
        ("nanogpt", np.array([1, 60_000], np.uint16).tobytes(), "contains token ID 60000"),
        ("llmc", llmc_bytes([1], magic=20240522), "does not begin with 20240520"),
        ("llmc", llmc_bytes([1], magic=20240801), "32-bit token IDs of Llama 3"),
        ("llmc", llmc_bytes([1], version=2), "has version 2, not 1"),
        (
            "llmc",
            llmc_bytes([1, 50_257]),
            "contains token ID 50257, but the vocabulary ends at 50256",
        ),
        ("llmc", GOOD[:-1], "has 1,029 bytes, but 1,030 by its header"),
        ("llmc", GOOD + b"12", "has 1,032 bytes, but 1,030 by its header"),
        ("llmc", GOOD[:1000], "does not begin with"),
        ("llmc", b"", "does not begin with"),
        ("llmc", llmc_bytes([]), "holds no tokens"),
    ],
)
def test_an_invalid_file_is_refused_by_name(
    gpt2: BpeTokenizer, command: Callable[..., None], form: str, content: bytes, words: str
) -> None:
    good = GOOD if form == "llmc" else GOOD[1024:]
    folder = put(Path("theirs"), train=good, val=content)
    with pytest.raises(ValueError, match=words) as caught:
        command(f"from-{form}", folder, "in/shards")
    assert str(caught.value).startswith("theirs/val.bin ")
    assert list(Path("in").iterdir()) == []


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_split_is_named(
    gpt2: BpeTokenizer, command: Callable[..., None], form: str
) -> None:
    with pytest.raises(ValueError, match=r"theirs holds no .*val.*\.bin"):
        command(f"from-{form}", put(Path("theirs"), train=GOOD), "in")


def test_a_vocabulary_in_a_pickle_is_not_read(command: Callable[..., None]) -> None:
    folder = put(Path("theirs"), train=b"12", val=b"12")
    (folder / "meta.pkl").write_bytes(b"not a pickle")
    with pytest.raises(ValueError, match=r"meta\.pkl says .* --tokenizer"):
        command("from-nanogpt", folder, "in")


def test_the_named_tokenizer_is_used(shards: Path, command: Callable[..., None]) -> None:
    command("to-nanogpt", "there", "--shards", shards)
    shutil.rmtree("there/tokenizer")
    Path("there/meta.pkl").write_bytes(b"not a pickle")
    command("from-nanogpt", "there", "back", "--tokenizer", shards / "tokenizer")
    found, expected = (load_tokenizer(f / "tokenizer") for f in (Path("back"), shards))
    assert found == expected


def test_ids_of_more_than_16_bits_are_refused(
    tokens: Path, split: SplitParams, tmp_path: Path, command: Callable[..., None]
) -> None:
    shutil.copytree(tokens, tmp_path / "tokens")
    file = tmp_path / "tokens/manifest.json"
    wide = {"n_vocab": 65_537, "dtype": "uint32"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **wide}))
    params = ShardParams(shard_tokens=1024, weights=None, max_repetition=1)
    shard.run(params, split, tmp_path / "tokens", tmp_path / "shards")
    with pytest.raises(
        ValueError, match="a vocabulary of 65,537 tokens, but these files allow 65,536 at most"
    ):
        command("to-nanogpt", "out", "--shards", tmp_path / "shards")


def test_nothing_is_overwritten(shards: Path, command: Callable[..., None]) -> None:
    Path("out").mkdir()
    with pytest.raises(ValueError, match="out already exists"):
        command("to-nanogpt", "out", "--shards", shards)


def test_a_vocabulary_other_than_gpt2s_is_reported(
    shards: Path, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command("to-nanogpt", "out", "--shards", shards)
    assert "the 29 tokens are not GPT-2's" in capsys.readouterr().out
