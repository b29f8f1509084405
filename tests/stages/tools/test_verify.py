import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from nanogpt.files import file_sha256
from stages.artifacts.shards import Shards
from stages.clean import stage as clean
from stages.clean.params import CleanParams
from stages.lib.split import SplitParams
from stages.shard import stage as shard
from stages.shard.params import ShardParams
from stages.tools.token_files import export_shards, import_files, named_tokenizer
from stages.tools.verify import verify


@pytest.fixture(scope="module")
def made(
    tokens: Path,
    split: SplitParams,
    train_tiny: Callable[[Path, Path], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """All that the stages make, up to a model."""
    root = tmp_path_factory.mktemp("made")
    for name in ("corpus", "clean", "tokens"):
        shutil.copytree(tokens.parent / name, root / "data" / name)
    params = ShardParams(shard_tokens=1024, weights=None, max_repetition=1)
    shard.run(params, split, tokens, root / "data/shards")
    train_tiny(root / "data/shards", root / "models/gpt")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """The same, to damage."""
    return Path(shutil.copytree(made, tmp_path / "root"))


def test_all_is_as_it_was_written(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert verify(made) == []
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["corpus", "clean", "tokens", "shards", "model"]
    files = [file for file in (made / "data/shards").rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    assert lines[3] == f"shards  {len(files)} files, {size:,} bytes: ok"


FILES = [
    ("data/corpus/part-00000.parquet", "download"),
    ("data/clean/part-00000.parquet", "clean"),
    ("data/tokens/part-00000.arrow", "tokenize"),
    ("data/tokens/tokenizer", "tokenize"),
    ("data/shards/train/00001.npy", "shard"),
    ("data/shards/val/ends.npy", "shard"),
    ("data/shards/tokenizer", "shard"),
    ("models/gpt/model.safetensors", "train"),
    ("models/gpt/config.json", "train"),
    ("models/gpt/tokenizer", "train"),
]


@pytest.mark.parametrize(("name", "stage"), FILES)
def test_one_changed_byte_is_found(root: Path, name: str, stage: str) -> None:
    place = root / name
    file = place / "tokenizer.json" if place.is_dir() else place
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    problems = verify(root)
    assert problems
    for problem in problems:
        assert problem.startswith(str(place))
        assert problem.endswith(f"; run `dvc repro -f {stage}` to rebuild it")


@pytest.mark.parametrize(("name", "stage"), FILES)
def test_a_missing_file_is_found(root: Path, name: str, stage: str) -> None:
    place = root / name
    (place / "tokenizer.json" if place.is_dir() else place).unlink()
    problems = verify(root)
    assert problems
    for problem in problems:
        assert problem.startswith(str(place))
        assert f"`dvc repro -f {stage}`" in problem


@pytest.mark.parametrize("name", ["data/corpus/part-00001.parquet", "data/shards/val/00009.npy"])
def test_a_file_that_nobody_wrote_is_found(root: Path, name: str) -> None:
    (root / name).write_bytes(b"")
    assert verify(root) == [f"{root / name} is not in manifest.json; remove it"]


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"files": 3}', '{"splits": []}'])
@pytest.mark.parametrize(
    "name", ["data/corpus/manifest.json", "data/shards/manifest.json", "models/gpt/lineage.json"]
)
def test_a_damaged_manifest_is_named(root: Path, name: str, content: str) -> None:
    (root / name).write_text(content)
    problems = verify(root)
    assert problems[0].startswith(f"{root / name} is not as it was written")


def test_a_missing_manifest_is_named(root: Path) -> None:
    file = root / "data/tokens/manifest.json"
    file.unlink()
    assert verify(root) == [f"{file} is missing; run `dvc repro -f tokenize` to rebuild it"]


def test_a_folder_made_from_another_is_found(root: Path) -> None:
    params = CleanParams(**{**clean_params(root), "unicode": "NFC"})
    clean.run(params, root / "data/corpus", root / "data/clean")
    assert verify(root) == [
        f"{root / 'data/tokens'} was not built from the current {root / 'data/clean'}; "
        "run `dvc repro tokenize` to bring them back in sync"
    ]


def clean_params(root: Path) -> dict[str, object]:
    """What the verdicts were reached by."""
    params: dict[str, object] = json.loads((root / "data/clean/manifest.json").read_text())["clean"]
    return params


def test_a_model_from_other_shards_is_found(root: Path) -> None:
    manifest = root / "data/shards/manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert verify(root) == [
        f"{root / 'models/gpt'} was not built from the current {root / 'data/shards'}; "
        "run `dvc repro train` to bring them back in sync"
    ]


def test_a_model_that_no_longer_fits_the_code_is_found(root: Path) -> None:
    config = root / "models/gpt/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "n_embd": 32}))
    lineage = root / "models/gpt/lineage.json"
    about = json.loads(lineage.read_text())
    for file in about["files"]:
        file["sha256"] = file_sha256(root / "models/gpt" / file["name"])
    lineage.write_text(json.dumps(about))
    (problem,) = verify(root)
    assert "model.safetensors does not fit the model's config" in problem
    assert problem.endswith("; run `dvc repro -f train` to rebuild it")


def test_imported_shards_are_imported_again(root: Path) -> None:
    there, shards = root / "there", root / "data/shards"
    export_shards(Shards.open(shards), "nanogpt", there)
    shutil.rmtree(shards)
    shutil.rmtree(root / "models")
    import_files(there, "nanogpt", named_tokenizer(there, None), shards)
    assert verify(root) == []  # made from none of the tokens that are there
    (shards / "val/ends.npy").unlink()
    assert verify(root) == [
        f"{shards / 'val/ends.npy'} is missing; run `python -m stages token-files` to rebuild it"
    ]


def test_what_is_not_there_yet_is_no_failure(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(root / "data/tokens")
    shutil.rmtree(root / "models")
    capsys.readouterr()
    assert verify(root) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "tokens  not built yet"
    assert lines[4] == "model   not built yet"


def test_nothing_at_all_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing to verify"):
        verify(tmp_path)


def test_the_command_names_all_that_is_wrong_and_fails(
    made: Path, workspace: Path, run_python: Callable[..., object]
) -> None:
    shutil.copytree(made / "data", workspace / "data")
    (workspace / "data/shards/val/00000.npy").write_bytes(b"")
    (workspace / "data/corpus/part-00000.parquet").unlink()
    done = run_python("-m", "stages", "verify")
    assert done.returncode == 2
    assert done.stdout.splitlines()[0].endswith(": 1 problem")
    assert "data/shards/val/00000.npy has sha256 e3b0c4" in done.stderr
    assert "data/corpus/part-00000.parquet is missing" in done.stderr


def lock(root: Path, stage: str, section: str, **changed: object) -> None:
    """Write a dvc.lock in which one stage ran with what its folder says, but for some params."""
    manifest, of_model = {
        "download": ("data/corpus/manifest.json", False),
        "clean": ("data/clean/manifest.json", False),
        "tokenize": ("data/tokens/manifest.json", False),
        "shard": ("data/shards/manifest.json", False),
        "train": ("models/gpt/lineage.json", True),
    }[stage]
    content = json.loads((root / manifest).read_text())
    params = (content["params"] if of_model else content)[section]
    params = {"params.yaml": {section: {**params, **changed}}}
    YAML().dump({"stages": {stage: {"params": params}}}, root / "dvc.lock")


LOCKED = [
    ("download", "corpus", {"glob": "*.md"}),
    ("clean", "clean", {"deduplicate": False}),
    ("tokenize", "tokenize", {"vocab_size": 300}),
    ("tokenize", "split", {"seed": 99}),
    ("shard", "split", {"val_fraction": 0.25}),
    ("shard", "shard", {"shard_tokens": 7}),
    ("train", "model", {"n_layer": 9}),
    ("train", "train", {"learning_rate": 0.7}),
]


@pytest.mark.parametrize(("stage", "section", "changed"), LOCKED)
def test_params_that_dvc_records_otherwise_are_found(
    root: Path, stage: str, section: str, changed: dict[str, object]
) -> None:
    lock(root, stage, section)
    assert verify(root) == []
    lock(root, stage, section, **changed)
    (problem,) = verify(root)
    ((key, value),) = changed.items()
    assert f"was built with {section}.{key} " in problem
    assert f"where dvc.lock records {value!r}" in problem
    assert f"`dvc repro -f {stage}`" in problem


def test_code_that_dvc_records_otherwise_is_found(root: Path) -> None:
    file = root / "models/gpt/lineage.json"
    lineage = json.loads(file.read_text())
    lineage["code"]["files_md5"] = {
        "nanogpt/optim/optimizers.py": "a" * 32,
        "nanogpt/model/gpt.py": "b" * 32,
    }
    file.write_text(json.dumps(lineage))
    deps = [
        {"path": "nanogpt/optim/optimizers.py", "md5": "c" * 32},
        {"path": "nanogpt/model/gpt.py", "md5": "b" * 32},
        {"path": "data/shards", "md5": "d" * 32},
    ]
    YAML().dump({"stages": {"train": {"deps": deps}}}, root / "dvc.lock")
    (problem,) = verify(root)
    assert "by a different version of nanogpt/optim/optimizers.py than dvc.lock records" in problem


def test_a_stage_recorded_with_other_input_than_was_made_is_found(root: Path) -> None:
    stages = {
        "train": {"outs": [{"path": "models/gpt", "md5": "a" * 32}]},
        "evaluate": {"deps": [{"path": "models/gpt", "md5": "b" * 32}]},
        "sample": {"deps": [{"path": "models/gpt", "md5": "a" * 32}]},
    }
    YAML().dump({"stages": stages}, root / "dvc.lock")
    assert verify(root) == [
        "dvc.lock: evaluate ran with a different models/gpt than train produced; "
        "run `dvc repro evaluate` to bring them back in sync"
    ]
