"""`python -m stages convert`: models from and to transformers, and from nanoGPT."""

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from nanogpt.config import Sampling
from nanogpt.files import file_sha256
from nanogpt.generate.decode import generate
from nanogpt.model.files import load_model, save_model
from nanogpt.model.gpt import GPT
from stages.__main__ import parsed
from stages.runtime.entry import run_command
from stages.runtime.settings import Settings
from stages.sample.prompt import print_samples
from stages.tokenize.learned import train_bpe
from stages.tokenizers.gpt2 import CACHE
from stages.tokenizers.tokenizer import (
    CharTokenizer,
    fingerprint,
    load_tokenizer,
    save_tokenizer,
)
from stages.tools import convert as tool
from stages.tools.convert import REVISIONS
from stages.tools.preset import use
from tests.tiny import GPT2

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel  # importing takes seconds

ROOT = Path(__file__).parents[3]
CONFIG_FILE = Path("theirs/config.json")
CPU = torch.device("cpu")
SENTENCES = [f"the king and queen of land number {n} did walk by night. " * 3 for n in range(20)]
TEXT = "the King and queen of the land\ndid walk, by night"
ALPHABET = "".join(sorted(set(TEXT)))
CONFIG = replace(GPT2, vocab_size=300, block_size=32, dropout=0.1)


@pytest.fixture
def model(workspace: Path) -> Path:
    """Create a model folder with a GPT-2 of 300 tokens."""
    folder = workspace / "models/gpt"
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    gpt = GPT(CONFIG)
    with torch.no_grad():
        for p in gpt.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    save_model(folder, gpt)
    save_tokenizer(folder / "tokenizer", train_bpe(SENTENCES, 300))
    (folder / "lineage.json").write_text('{"fingerprint": "abc"}\n')
    return folder


@pytest.fixture
def gpt2_cache(workspace: Path, gpt2_file: Path) -> None:
    """Put GPT-2's ranks where the command looks for them."""
    CACHE.parent.mkdir()
    shutil.copy(gpt2_file, CACHE)


@pytest.fixture
def convert() -> Callable[..., None]:
    """Return a function that runs the command in this process."""

    def run(*arguments: object) -> None:
        options = parsed("convert", tool, [str(argument) for argument in arguments])
        run_command("convert", partial(tool.run_tool, options), keeps_nothing=True)

    return run


@pytest.fixture
def refused(
    convert: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> Callable[..., None]:
    """Return a function that asserts that the command exits with 2 and one line, without OUT."""

    def run(*arguments: object, words: str) -> None:
        capsys.readouterr()  # what transformers said before
        out = Path(str(arguments[2]))
        before = sorted(out.parent.iterdir()) if out.parent.is_dir() else []
        with pytest.raises(SystemExit) as caught:
            convert(*arguments)
        said = capsys.readouterr().err
        assert caught.value.code == 2
        assert said.startswith("convert: ")
        assert said.count("\n") == 1
        assert words in said
        assert (sorted(out.parent.iterdir()) if out.parent.is_dir() else []) == before

    return run


def tiny_gpt2(folder: Path, vocab_size: int = 300, **changes: Any) -> "GPT2LMHeadModel":
    """Save a GPT-2 by transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(2)
    ends = {"bos_token_id": vocab_size - 1, "eos_token_id": vocab_size - 1}
    sizes = {"n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **{**ends, **sizes, **changes}))
    model.save_pretrained(folder)
    return model.eval()


def test_transformers_loads_an_exported_model(model: Path, convert: Callable[..., None]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

    convert("to-hf", model, "out")
    theirs = AutoModelForCausalLM.from_pretrained("out").eval()
    tokenizer = AutoTokenizer.from_pretrained("out")
    ours, own = load_model(model, CPU).eval(), load_tokenizer(model / "tokenizer")
    assert isinstance(theirs, GPT2LMHeadModel)
    text = "the king <|endoftext|> and\n\nthe queen's"
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :32]
    assert ids[0].tolist() == own.encode(text).tolist()[:32]
    difference = ours(ids)[:, :, :300] - theirs(ids).logits
    assert difference.abs().max() <= 1e-4

    prompt = tokenizer("the king", return_tensors="pt").input_ids
    room = 32 - prompt.size(1)
    greedy = Sampling(temperature=0, top_k=None, top_p=1.0)
    written = generate(ours, list(prompt), room, sampling=greedy, seeds=range(len(prompt)))
    assert theirs.generation_config.eos_token_id == own.eot_token
    expected = theirs.generate(
        prompt, max_new_tokens=room, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert [int(t) for t in written] == expected[0, prompt.size(1) :].tolist()


def test_an_exported_model_carries_its_lineage(model: Path, convert: Callable[..., None]) -> None:
    convert("to-hf", model, "out")
    about = json.loads(Path("out/config.json").read_text())
    assert about["architectures"] == ["GPT2LMHeadModel"]
    assert (about["vocab_size"], about["eos_token_id"]) == (300, 299)
    assert load_file("out/model.safetensors")["transformer.wte.weight"].shape == (300, 32)
    assert b'"format":"pt"' in Path("out/model.safetensors").read_bytes()[:200]
    assert json.loads(Path("out/lineage.json").read_text()) == {"fingerprint": "abc"}


def test_exporting_and_importing_gives_the_same_model(
    model: Path, convert: Callable[..., None]
) -> None:
    convert("to-hf", model, "out")
    convert("from-hf", "out", "again", "--tokenizer", model / "tokenizer")
    before, after = load_model(model, CPU), load_model(Path("again"), CPU)
    assert after.config == before.config
    for name, p in before.named_parameters():
        rows = 300 if name == "wte.weight" else len(p)  # the rest is padding
        assert torch.equal(after.get_parameter(name)[:rows], p[:rows]), name
    tokenizer = load_tokenizer(model / "tokenizer")
    assert json.loads(Path("again/source.json").read_text()) == {
        "folder": "out",
        "sha256": {n: file_sha256(Path("out", n)) for n in ("config.json", "model.safetensors")},
        "tokenizer_fingerprint": fingerprint(tokenizer),
    }
    assert fingerprint(load_tokenizer(Path("again/tokenizer"))) == fingerprint(tokenizer)


@pytest.mark.usefixtures("gpt2_cache")
def test_a_gpt2_with_gpt2s_vocabulary_gets_its_tokenizer(
    convert: Callable[..., None], refused: Callable[..., None]
) -> None:
    theirs = tiny_gpt2(Path("theirs"), vocab_size=50_257)
    convert("from-hf", "theirs", "ours")
    tokenizer = load_tokenizer(Path("ours/tokenizer"))
    ids = torch.tensor([tokenizer.encode("Hello world").tolist()])
    assert ids.tolist() == [[15496, 995]]
    logits = load_model(Path("ours"), CPU).eval()(ids)[:, :, :50_257]
    assert (logits - theirs(ids).logits).abs().max() <= 1e-4

    convert("to-hf", "ours", "back")  # with a tokenizer.json that is GPT-2's
    convert("from-hf", "back", "again")
    assert file_sha256(Path("again/model.safetensors")) == file_sha256(
        Path("ours/model.safetensors")
    )
    vocab = json.loads(Path("back/tokenizer.json").read_text())["model"]["vocab"]
    Path("theirs/vocab.json").write_text(json.dumps(vocab | {"he": 1, '"': 258}))
    refused("from-hf", "theirs", "out", words="theirs/vocab.json is not GPT-2's")


@pytest.mark.usefixtures("gpt2_cache")
def test_a_padded_checkpoint_of_nanogpt_gets_gpt2s_tokenizer(
    convert: Callable[..., None], workspace: Path
) -> None:
    theirs = tiny_gpt2(workspace / "theirs", vocab_size=50_304, activation_function="gelu")
    weights = {
        name: w.t().contiguous()
        if name.endswith(("attn.weight", "proj.weight", "fc.weight"))
        else w
        for name, w in theirs.state_dict().items()
    }
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 16, "vocab_size": 50_304}
    checkpoint = {"model": weights, "model_args": {**sizes, "bias": True, "dropout": 0.0}}
    torch.save(checkpoint, "ckpt.pt")
    convert("from-nanogpt", "ckpt.pt", "ours")
    ours = load_model(Path("ours"), CPU).eval()
    assert ours.config.vocab_size == load_tokenizer(Path("ours/tokenizer")).n_vocab == 50_257
    ids = torch.tensor([[0, 7, 50_256]])
    expected = theirs(ids).logits[:, :, :50_257]
    assert (ours(ids)[:, :, :50_257] - expected).abs().max() <= 1e-4
    source = json.loads(Path("ours/source.json").read_text())
    assert source["nanogpt"] == "ckpt.pt"
    assert source["sha256"] == {"ckpt.pt": file_sha256(Path("ckpt.pt"))}


def character_checkpoint() -> "GPT2LMHeadModel":
    """Write a ckpt.pt of nanoGPT's character recipe, meta.pkl and text; return the model."""
    Path("input.txt").write_text(TEXT)
    stoi = {character: i for i, character in enumerate(ALPHABET)}
    meta = {"vocab_size": len(stoi), "itos": dict(enumerate(ALPHABET)), "stoi": stoi}
    Path("meta.pkl").write_bytes(pickle.dumps(meta))
    theirs = tiny_gpt2(Path("theirs"), vocab_size=len(stoi), activation_function="gelu")
    weights = {
        name: w.t().contiguous()
        if name.endswith(("attn.weight", "proj.weight", "fc.weight"))
        else w
        for name, w in theirs.state_dict().items()
        if not name.endswith("bias")  # which are zeros
    }
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 16, "vocab_size": len(stoi)}
    progress = {"iter_num": 60, "best_val_loss": torch.tensor(3.4), "config": {"device": "cpu"}}
    optimizer = {"state": {0: {"step": torch.tensor(60.0)}}, "param_groups": [{"lr": 1e-3}]}
    model_args = {**sizes, "bias": False, "dropout": 0.2}
    torch.save(
        {"model": weights, "optimizer": optimizer, "model_args": model_args, **progress}, "ckpt.pt"
    )
    return theirs


@pytest.mark.parametrize(
    "vocabulary",
    [["--tokenizer", "meta.pkl"], ["--text", "input.txt"], ["--tokenizer", "own"]],
    ids=" ".join,
)
def test_a_character_model_of_nanogpt_gets_an_end_of_text_token(
    convert: Callable[..., None], workspace: Path, vocabulary: list[str]
) -> None:
    theirs = character_checkpoint()
    save_tokenizer(Path("own"), CharTokenizer(ALPHABET))
    convert("from-nanogpt", "ckpt.pt", "ours", *vocabulary)
    tokenizer = load_tokenizer(Path("ours/tokenizer"))
    assert tokenizer == CharTokenizer(ALPHABET)
    ours = load_model(Path("ours"), CPU).eval()
    assert ours.config.vocab_size == tokenizer.n_vocab == len(ALPHABET) + 1
    ids = torch.tensor([[ALPHABET.index(character) for character in "the King\n"]])
    assert tokenizer.encode("the King\n").tolist() == ids[0].tolist()
    found = ours(ids)[:, :, : len(ALPHABET)]
    assert (found - theirs(ids).logits).abs().max() <= 1e-5
    sources = {
        file: file_sha256(Path(file)) for file in ["ckpt.pt", *vocabulary[1:]] if "." in file
    }
    assert json.loads(Path("ours/source.json").read_text()) == {
        "nanogpt": "ckpt.pt",
        "sha256": sources,
        "tokenizer_fingerprint": fingerprint(tokenizer),
    }
    use("own-text", ROOT / "presets", Path("params.yaml"))
    given = {"prompt": ["", "the"], "model": Path("ours"), "max_new_tokens": 20}
    print_samples(given, Settings(device="cpu"))


def test_a_vocabulary_that_is_not_the_checkpoints_is_refused(
    refused: Callable[..., None], workspace: Path
) -> None:
    character_checkpoint()
    ids = len(ALPHABET)
    refused(
        "from-nanogpt", "ckpt.pt", "out", words=f"vocab_size is {ids}, but GPT-2's is 50257; pass"
    )
    refused("from-nanogpt", "ckpt.pt", "out", words="--tokenizer data/NAME/meta.pkl")
    Path("less.txt").write_text(TEXT.replace("K", "k"))
    words = f"vocab_size is {ids}, but less.txt has {ids - 1} characters"
    refused("from-nanogpt", "ckpt.pt", "out", "--text", "less.txt", words=words)
    arguments = ("from-nanogpt", "ckpt.pt", "out", "--tokenizer")
    refused(*arguments, "none.pkl", words="No such file or directory: 'none.pkl'")
    refused(*arguments, "input.txt", words="input.txt is not a meta.pkl of nanoGPT")
    save_tokenizer(Path("less"), CharTokenizer(ALPHABET[2:]))
    words = f"ckpt.pt: vocab_size is {ids}, the tokenizer has {ids - 1} tokens"
    refused(*arguments, "less", words=words)


class Malicious:
    """An object that creates a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("run",)


def test_files_that_would_run_code_are_refused_without_running_it(
    refused: Callable[..., None], workspace: Path
) -> None:
    character_checkpoint()
    arguments = ("from-nanogpt", "ckpt.pt", "out", "--tokenizer", "meta.pkl")
    Path("meta.pkl").write_bytes(pickle.dumps({"stoi": Malicious()}))
    refused(*arguments, words="no code in it was run")
    torch.save({"model": {}, "model_args": {}, "config": Malicious()}, "ckpt.pt")
    refused(*arguments, words="ckpt.pt is damaged or not a nanoGPT checkpoint: it must be")
    assert not Path("run").exists()


def test_a_vocabulary_that_is_not_gpt2s_needs_a_tokenizer(
    model: Path, refused: Callable[..., None]
) -> None:
    tiny_gpt2(Path("theirs"), vocab_size=301)
    own = model / "tokenizer"
    refused("from-hf", "theirs", "out", words="vocab_size is 301, but GPT-2's is 50257; pass")
    refused("from-hf", "theirs", "out", "--tokenizer", own, words="301, but the tokenizer has 300")
    refused("from-hf", "theirs", "out", "--tokenizer", "none", words="none holds no tokenizer like")
    refused("from-hf", "theirs", "out", "--tokenizer", "theirs", words="holds no tokenizer like")
    torch.save({"model": {}, "model_args": {"vocab_size": 65}}, "ckpt.pt")
    refused("from-nanogpt", "ckpt.pt", "out", words="ckpt.pt: vocab_size is 65")


def test_an_unsupported_import_is_refused(refused: Callable[..., None], workspace: Path) -> None:
    refused("from-hf", "gpt3", "out", words="gpt3 is not one of gpt2, gpt2-medium")
    refused("from-hf", "theirs", "out", "--revision", "main", words="--revision is only for gpt2")
    tiny_gpt2(Path("theirs"), activation_function="relu")
    refused("from-hf", "theirs", "out", words="theirs/config.json: activation_function is 'relu'")
    Path("theirs/config.json").write_text("{")
    refused("from-hf", "theirs", "out", words="theirs/config.json is not JSON")
    refused("from-nanogpt", "none.pt", "out", words="none.pt")


INDEX = Path("theirs/model.safetensors.index.json")


def test_sharded_weights_give_the_same_model(convert: Callable[..., None], model: Path) -> None:
    theirs = tiny_gpt2(Path("whole"))
    theirs.save_pretrained("theirs", max_shard_size="4KB")
    files = sorted(Path("theirs").glob("model-*.safetensors"))
    assert len(files) > 2
    for folder in ("whole", "theirs"):
        convert("from-hf", folder, f"{folder}-ours", "--tokenizer", model / "tokenizer")
    found = Path("theirs-ours/model.safetensors").read_bytes()
    assert found == Path("whole-ours/model.safetensors").read_bytes()
    named = json.loads(Path("theirs-ours/source.json").read_text())["sha256"]
    assert named == {file.name: file_sha256(file) for file in [CONFIG_FILE, INDEX, *files]}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda _, file: file.unlink(), "names model-00001-of-"),
        (lambda _, file: file.write_bytes(file.read_bytes()[:-9]), ".safetensors is damaged"),
        (lambda index, _: index.pop("weight_map"), "json is damaged: it has no `weight_map`"),
        (lambda index, _: index.update(weight_map=[]), "json is damaged: it has no `weight_map`"),
        (
            lambda index, _: index["weight_map"].pop("transformer.h.0.ln_1.weight"),
            "does not hold what model.safetensors.index.json says; differing: ['transformer.",
        ),
        (
            lambda index, _: index["weight_map"].update(more="../models/gpt/model.safetensors"),
            "names '../models/gpt/model.safetensors', which is not a file in its folder",
        ),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(
    refused: Callable[..., None],
    model: Path,
    damage: Callable[[dict[str, Any], Path], object],
    words: str,
) -> None:
    tiny_gpt2(Path("whole")).save_pretrained("theirs", max_shard_size="4KB")
    index = json.loads(INDEX.read_text())
    damage(index, min(Path("theirs").glob("model-*.safetensors")))
    INDEX.write_text(json.dumps(index))
    refused("from-hf", "theirs", "out", "--tokenizer", model / "tokenizer", words=words)


def test_weights_that_are_not_finite_are_refused(refused: Callable[..., None], model: Path) -> None:
    theirs = tiny_gpt2(Path("theirs"))
    with torch.no_grad():
        theirs.transformer.h[0].mlp.c_fc.weight[0, 0] = torch.nan
    theirs.save_pretrained("theirs")
    arguments = ("from-hf", "theirs", "out", "--tokenizer", model / "tokenizer")
    words = "theirs/model.safetensors: transformer.h.0.mlp.c_fc.weight holds 1 of 256 numbers"
    refused(*arguments, words=words)
    character_checkpoint()
    content = torch.load("ckpt.pt", weights_only=True)
    weights = {f"module.{name}": value for name, value in content["model"].items()}
    weights["module.lm_head.weight"] = weights["module.transformer.wte.weight"].fill_(torch.inf)
    torch.save({**content, "model": weights}, "ckpt.pt")
    arguments = ("from-nanogpt", "ckpt.pt", "out", "--tokenizer", "meta.pkl")
    refused(*arguments, words="ckpt.pt: module.transformer.wte.weight holds")


def test_damaged_weights_are_refused(refused: Callable[..., None], model: Path) -> None:
    tiny_gpt2(Path("theirs"))
    file = Path("theirs/model.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    arguments = ("from-hf", "theirs", "out", "--tokenizer", model / "tokenizer")
    refused(*arguments, words="theirs/model.safetensors is damaged")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm": "rmsnorm", "qk_norm": True}, "norm is 'rmsnorm', GPT-2's 'layernorm'; qk_norm"),
        ({"vocab_size": 301}, "the tokenizer has 300 tokens, but the model has 301"),
        ({"n_heads": 2}, "config.json is not a valid model config"),
    ],
)
def test_an_unsupported_export_is_refused(
    model: Path, refused: Callable[..., None], change: dict[str, Any], words: str
) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused("to-hf", model, "out", words=words)


def test_a_folder_without_a_model_is_refused(refused: Callable[..., None], workspace: Path) -> None:
    refused("to-hf", "none", "out", words="none holds no model: config.json, model.safetensors")


def test_an_existing_output_folder_is_refused(model: Path, refused: Callable[..., None]) -> None:
    Path("out").mkdir()
    refused("to-hf", model, "out", words="out already exists; remove it or choose another folder")
    assert list(Path("out").iterdir()) == []


class Hub(BaseHTTPRequestHandler):
    """The part of the Hub's protocol that serves one commit's files from the folder `theirs`."""

    commit = "c0ffee" + 34 * "0"

    def answer(self) -> None:
        name = Path(self.path).name
        if self.path == "/api/models/openai-community/gpt2/revision/main":
            content = json.dumps({"id": "openai-community/gpt2", "sha": self.commit}).encode()
        elif self.path == f"/openai-community/gpt2/resolve/{self.commit}/{name}":
            content = Path("theirs", name).read_bytes()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_GET = do_HEAD = answer

    def log_message(self, format: str, *values: object) -> None:
        """Print nothing."""


@pytest.fixture
def hub_at(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Point the Hub's library to a local address and cache, without pauses."""

    def use(url: str) -> None:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(workspace / "cache"))
        monkeypatch.setattr(time, "sleep", lambda seconds: None)

    return use


@pytest.fixture
def hub(hub_at: Callable[[str], None]) -> Iterator[None]:
    """Run a Hub."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        hub_at(f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("revision", ["main", Hub.commit])
def test_the_hubs_files_come_from_one_commit_which_is_noted(
    revision: str, model: Path, convert: Callable[..., None]
) -> None:
    tiny_gpt2(Path("theirs"))
    own = model / "tokenizer"
    convert("from-hf", "gpt2", "out", "--revision", revision, "--tokenizer", own)
    assert load_model(Path("out"), CPU).config.vocab_size == 300
    assert json.loads(Path("out/source.json").read_text()) == {
        "huggingface": "openai-community/gpt2",
        "revision": Hub.commit,
        "sha256": {n: file_sha256(Path("theirs", n)) for n in ("config.json", "model.safetensors")},
        "tokenizer_fingerprint": fingerprint(load_tokenizer(own)),
    }


@pytest.mark.usefixtures("hub")
def test_a_revision_that_the_hub_does_not_have_is_refused(refused: Callable[..., None]) -> None:
    pinned = REVISIONS["gpt2"]
    refused("from-hf", "gpt2", "out", words=f"the Hub has no gpt2 at revision {pinned}")
    arguments = ("from-hf", "gpt2", "out", "--revision", "none")
    refused(*arguments, words="the Hub has no gpt2 at revision none")


@pytest.mark.parametrize("revision", [REVISIONS["gpt2"], "main"])
def test_an_unreachable_hub_exits_with_75(
    revision: str,
    hub_at: Callable[[str], None],
    dead_url: str,
    convert: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub_at(dead_url)
    with pytest.raises(SystemExit) as caught:
        convert("from-hf", "gpt2", "out", "--revision", revision)
    assert caught.value.code == 75
    assert "convert: the Hugging Face Hub could not provide gpt2" in capsys.readouterr().err
    assert not Path("out").exists()


def test_all_names_are_pinned_to_commits() -> None:
    assert list(REVISIONS) == ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    assert all(len(bytes.fromhex(commit)) == 20 for commit in REVISIONS.values())
    assert len(set(REVISIONS.values())) == 4
