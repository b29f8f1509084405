"""Fine-tuning: a training that starts from existing weights."""

import json
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt.config import GPTConfig
from nanogpt.files import file_sha256
from nanogpt.model.files import load_model, read_config, save_model
from nanogpt.model.gpt import GPT
from stages.artifacts.shards import Shards
from stages.artifacts.weights import check_recorded
from stages.lib.params import Section, parse_section
from stages.lib.split import SplitParams
from stages.params.presets import preset_text
from stages.runtime.settings import Settings
from stages.runtime.yaml_files import PARAMS_FILE, parse_params
from stages.shard import stage as shard
from stages.shard.params import ShardParams
from stages.tokenize.learned import train_bpe
from stages.tokenizers.tokenizer import CharTokenizer, load_tokenizer, save_tokenizer
from stages.tools.convert import from_nanogpt
from stages.train import stage as train
from stages.train.initial_weights import check_initial, load_initial
from stages.train.params import ModelParams, TrainParams
from stages.train.stage import fingerprint_of, identity_of
from stages.train.worker import TrainWorker
from stages.weights import stage as weights

ROOT = Path(__file__).parents[3]
PRESET = parse_params(preset_text(ROOT / "presets/finetune-gpt2.yaml"), PARAMS_FILE)
CPU = torch.device("cpu")
INIT = Path("weights/tiny")
SETTINGS = Settings(device="cpu", tracking=False)
TINY = {"block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 16}
NO_STEP = {"batch_tokens": 32, "max_steps": 1, "learning_rate": 1e-30, "weight_decay": 0.0}


def section(name: str, kind: type[Section], **changes: Any) -> Any:
    """Return a section of the preset, made small."""
    return parse_section(name, kind, {**PRESET[name], **changes}, PARAMS_FILE)


@pytest.fixture
def shards(tokens: Path, split: SplitParams, workspace: Path) -> Path:
    """Write shards of a short text, tokenized by characters, to data/shards of the workspace."""
    folder = workspace / "data/shards"
    folder.parent.mkdir()
    shard.run(ShardParams(shard_tokens=1024, weights=None, max_repetition=1), split, tokens, folder)
    return folder


@pytest.fixture
def initial(shards: Path) -> Path:
    """Create a folder in weights/ with a model for these shards."""
    INIT.mkdir(parents=True)
    n_vocab = Shards.open(shards).manifest["n_vocab"]
    torch.manual_seed(3)
    model = GPT(GPTConfig(vocab_size=n_vocab, **model_params().model_dump()))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)  # none is left so small that 1e-30 moves it
    save_model(INIT, model)
    shutil.copytree(shards / "tokenizer", INIT / "tokenizer")
    (INIT / "source.json").write_text('{"folder": "elsewhere"}\n')
    return INIT


def model_params(**changes: Any) -> ModelParams:
    """Return the section `model` of the preset, made small."""
    return section("model", ModelParams, **{**TINY, **changes})


def train_params(**changes: Any) -> TrainParams:
    """Return the section `train` of the preset, with one step that changes nothing."""
    values = {**NO_STEP, "init_from": str(INIT), "precision": "float32", **changes}
    return section("train", TrainParams, **values)


def trained(model: ModelParams, params: TrainParams, shards: Path) -> tuple[GPT, dict[str, Any]]:
    """Train in this process; return the model and its lineage."""
    identity = identity_of(model, params, shards)
    folder = Path("runs", fingerprint_of(identity))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "identity.json").write_text(json.dumps(identity))
    ended = TrainWorker(
        folder, Shards.open(shards), Path("models/gpt"), SETTINGS, threading.Event()
    ).run()
    assert ended.finished
    made = Path("models/gpt")
    return load_model(made, CPU), json.loads((made / "lineage.json").read_text())


def assert_same_weights(model: GPT, other: GPT) -> None:
    """Assert bitwise equality, with the position embeddings cut to those of `model`."""
    for name, p in model.named_parameters():
        assert torch.equal(p, other.get_parameter(name)[: len(p)]), name


def test_a_training_starts_from_the_weights_and_records_it(initial: Path, shards: Path) -> None:
    model, lineage = trained(model_params(), train_params(), shards)
    assert_same_weights(model, load_model(initial, CPU))
    assert lineage["init_from"] == {
        "folder": "weights/tiny",
        "sha256": file_sha256(initial / "model.safetensors"),
        "source": {"folder": "elsewhere"},
    }


def test_without_init_from_it_starts_from_random_weights(initial: Path, shards: Path) -> None:
    model, lineage = trained(model_params(), train_params(init_from=None), shards)
    assert not torch.equal(model.wte.weight, load_model(initial, CPU).wte.weight)
    assert lineage["init_from"] is None


def test_a_checkpoint_takes_precedence_over_initial_weights(initial: Path, shards: Path) -> None:
    params = train_params(max_steps=2, eval_interval=1, learning_rate=1e-3)
    first, _ = trained(model_params(), params, shards)
    assert not torch.equal(first.wte.weight, load_model(initial, CPU).wte.weight)
    (folder,) = Path("runs").glob("*/step-00000002")
    shutil.rmtree(folder)  # as after a kill in the second step
    resumed, _ = trained(model_params(), params, shards)
    assert_same_weights(resumed, first)


def test_shorter_contexts_take_the_first_positions(initial: Path, shards: Path) -> None:
    model, _ = trained(model_params(block_size=8, dropout=0.1), train_params(), shards)
    assert model.wpe is not None
    assert model.wpe.weight.shape == (8, 16)
    assert_same_weights(model, load_model(initial, CPU))


def test_other_weights_give_another_fingerprint(initial: Path, shards: Path) -> None:
    before = identity_of(model_params(), train_params(), shards)
    file = initial / "model.safetensors"
    assert before["init_weights_sha256"] == file_sha256(file)
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    after = identity_of(model_params(), train_params(), shards)
    assert fingerprint_of(before) != fingerprint_of(after)
    assert identity_of(model_params(), train_params(init_from=None), shards) == {
        **before,
        "train": train_params(init_from=None).model_dump(),
        "init_weights_sha256": None,
    }


def launch(shards: Path, model: ModelParams) -> None:
    """Run the stage."""
    train.run(model, train_params(), shards, Path("models/gpt"), settings=SETTINGS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_layer": 2}, "model.n_layer is 2, but these weights have 1"),
        ({"bias": False}, "model.bias is False, but these weights have True"),
        (
            {"norm": "rmsnorm", "qk_norm": True},
            "model.qk_norm is True, but these weights have False",
        ),
        ({"block_size": 32}, "model.block_size is 32, but these weights have 16"),
    ],
)
def test_a_model_of_another_shape_is_refused_before_it_starts(
    changes: dict[str, Any], words: str, initial: Path, shards: Path
) -> None:
    with pytest.raises(ValueError, match="weights/tiny does not match section `model`") as caught:
        launch(shards, model_params(**changes))
    assert words in str(caught.value)
    assert not Path("runs").exists()


def test_other_tokens_are_refused_before_it_starts(initial: Path, shards: Path) -> None:
    shutil.rmtree(initial / "tokenizer")
    save_tokenizer(initial / "tokenizer", CharTokenizer("abc"))
    with pytest.raises(
        ValueError, match=r"weights/tiny uses a different tokenizer than .*your documents must"
    ):
        launch(shards, model_params())
    assert not Path("runs").exists()


def test_tokens_of_another_kind_are_refused_before_it_starts(initial: Path, shards: Path) -> None:
    shutil.rmtree(initial / "tokenizer")
    save_tokenizer(initial / "tokenizer", train_bpe(["ab ab"], 257))
    with pytest.raises(
        ValueError, match=r"weights/tiny uses a different tokenizer than .*set `tokenize`"
    ):
        launch(shards, model_params())
    assert not Path("runs").exists()


def test_characters_that_the_weights_lack_are_named(initial: Path, shards: Path) -> None:
    known = json.loads((shards / "tokenizer/tokenizer.json").read_text())["characters"]
    shutil.rmtree(initial / "tokenizer")
    save_tokenizer(initial / "tokenizer", CharTokenizer(known[1:] + "ü"))
    with pytest.raises(ValueError, match="uses a different tokenizer than") as caught:
        launch(shards, model_params())
    assert f"missing: ['ü'], extra: [{known[0]!r}]" in str(caught.value)


def test_a_training_starts_from_a_character_model_of_nanogpt(shards: Path) -> None:
    tokenizer = load_tokenizer(shards / "tokenizer")
    assert isinstance(tokenizer, CharTokenizer)
    characters = tokenizer.characters
    shape = model_params(activation="gelu_exact").model_dump()
    torch.manual_seed(4)
    theirs = GPT(GPTConfig(vocab_size=len(characters), **shape))
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)  # none is left so small that 1e-30 moves it
    weights = {f"transformer.{name}": p.detach() for name, p in theirs.named_parameters()}
    weights["transformer.wte.weight"] = theirs.wte.weight.detach()[: len(characters)]
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    sizes = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias")
    args = {**{name: shape[name] for name in sizes}, "vocab_size": len(characters)}
    torch.save({"model": weights, "model_args": args}, "ckpt.pt")
    Path("meta.pkl").write_bytes(pickle.dumps({"stoi": {c: i for i, c in enumerate(characters)}}))
    from_nanogpt(Path("ckpt.pt"), INIT, "meta.pkl", None)
    assert json.loads((INIT / "config.json").read_text())["vocab_size"] == len(characters) + 1
    process_group = model_params(activation="gelu_exact")
    check_initial(INIT, process_group.model_dump(), shards / "tokenizer")
    model, _ = trained(process_group, train_params(), shards)
    assert_same_weights(model, load_model(INIT, CPU))


def test_a_missing_folder_is_refused_with_the_way_out(shards: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder weights/tiny; weights/README\.md says how"):
        launch(shards, model_params())


def test_a_folder_without_a_model_is_refused(initial: Path, shards: Path) -> None:
    (initial / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"weights/tiny holds no model: model\.safetensors"):
        launch(shards, model_params())


@pytest.mark.parametrize(
    "folder", ["", "weights", "weights/", "models/gpt", "/weights/gpt2", "weights/../models/gpt"]
)
def test_a_folder_that_dvc_does_not_watch_is_refused(folder: str) -> None:
    with pytest.raises(ValueError, match=r"train\.init_from.* is not a folder in weights/"):
        train_params(init_from=folder)


def test_the_preset_describes_gpt2(tmp_path: Path) -> None:
    assert section("train", TrainParams).init_from == "weights/gpt2"
    sizes = {"block_size": 1024, "n_layer": 12, "n_head": 12, "n_embd": 768}
    assert section("model", ModelParams).model_dump().items() >= sizes.items()


def test_weights_replaced_after_the_check_are_refused(initial: Path) -> None:
    """A slow start leaves time for it between the launcher's check and the training."""
    config = read_config(initial)
    with pytest.raises(ValueError, match=r"model.safetensors was changed after this training run"):
        load_initial(GPT(config), initial, "0" * 64)


def test_weights_that_dvc_does_not_know_are_refused(initial: Path, tmp_path: Path) -> None:
    recorded = tmp_path / "weights.json"
    with pytest.raises(ValueError, match=r"run `dvc repro weights` to record them"):
        check_recorded("weights/tiny", recorded)
    weights.run("weights/tiny", recorded)
    check_recorded("weights/tiny", recorded)
    content = {
        "folder": "weights/tiny",
        "sha256": file_sha256(initial / "model.safetensors"),
    }
    assert json.loads(recorded.read_text()) == content
    file = initial / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match=r"run `dvc repro weights` to record them"):
        check_recorded("weights/tiny", recorded)
    weights.run(None, recorded)
    assert json.loads(recorded.read_text()) == {"folder": None, "sha256": None}


def test_weights_that_are_not_finite_are_refused_before_the_first_step(initial: Path) -> None:
    model = load_model(INIT, CPU)
    with torch.no_grad():
        model.wte.weight[0, 0] = torch.nan
    save_model(INIT, model)
    words = r"^weights/tiny/model\.safetensors: wte\.weight holds 1 of \d+ numbers that are NaN"
    with pytest.raises(ValueError, match=words):
        load_initial(GPT(read_config(INIT)), INIT, weights.weights_sha256(INIT))
