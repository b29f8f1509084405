"""What is predicted of a training, compared with trainings."""

import argparse
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.train_speed import config_of
from nanogpt.config import GPTConfig
from nanogpt.estimate import fitted_memory, gpu_memory, measure_updates, model_size
from nanogpt.model.gpt import GPT
from nanogpt.optim.optimizers import build_optimizers
from nanogpt.runtime import Runtime
from nanogpt.train.checkpoint import Progress, copy_state, optimizer_tensors, save_state
from stages.runtime.settings import Settings
from stages.runtime.yaml_files import read_params
from stages.tools.plan import DATA, known_data, run_tool
from stages.tools.preset import use
from tests.tiny import ADAMW, GPT2, MODERN

ROOT = Path(__file__).parents[3]
PRESETS = ROOT / "presets"
GIB = 1 << 30
H100 = Runtime(device=torch.device("cuda"), dtype=torch.bfloat16, compile=True)
CPU = Runtime(device=torch.device("cpu"), dtype=torch.float32)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("config", [GPT2, replace(MODERN, n_layer=12, ngram_table=100)])
def test_sizes_are_those_of_a_real_model_and_of_its_checkpoint(
    config: GPTConfig, optimizer: str, tmp_path: Path
) -> None:
    optim = replace(ADAMW, optimizer=optimizer)
    size = model_size(config, optim)
    model = GPT(config)
    optimizers = build_optimizers(model, optim)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    for one in optimizers:
        one.step()
    assert size.n_params == sum(size.parts.values()) == model.n_params()
    state = optimizer_tensors(optimizers)
    assert size.optimizer_bytes == sum(tensor.nbytes for tensor in state.values())
    written = copy_state(model, optimizers, Progress(step=1, best_step=None, best_loss=None))
    assert written is not None
    folder = save_state(tmp_path, written, {})
    assert size.weights_file == (folder / "model.safetensors").stat().st_size
    assert size.optimizer_file == (folder / "optimizer.safetensors").stat().st_size


# Peaks on an H100 in docs/lab-notes.md, 2026-11-28: passes alone, and whole updates with AdamW.
@pytest.mark.parametrize(
    ("family", "sequences", "optimizer_too", "peak_gib"),
    [
        ("gpt2", 16, False, 8.2),
        ("gpt2", 32, False, 14.4),
        ("gpt2", 60, False, 25.0),
        ("gpt2", 60, True, 26.4),
        ("modern", 32, False, 15.9),
    ],
)
def test_memory_is_near_what_a_gpu_took(
    family: str, sequences: int, optimizer_too: bool, peak_gib: float
) -> None:
    memory = gpu_memory(model_size(config_of("gpt2", family), ADAMW), sequences, H100)
    total = sum(memory.values()) - (0 if optimizer_too else memory["optim"])
    assert total / GIB == pytest.approx(peak_gib, rel=0.05)


def test_less_memory_takes_a_smaller_micro_batch_and_fsdp_shares_the_state() -> None:
    size = model_size(config_of("gpt2", "gpt2"), ADAMW)
    ddp = replace(H100, world_size=8, distributed=True)
    rows = [fitted_memory(size, 491_520, ddp, None, gib * GIB)[0] for gib in (80, 20, 8, 1)]
    assert rows == [60, 30, 12, 1]
    whole = gpu_memory(size, 6, ddp)
    shared = gpu_memory(size, 6, replace(ddp, parallel="fsdp"))
    assert {key for key in whole if whole[key] == 8 * shared[key]} == {"weights", "grads", "optim"}
    again = gpu_memory(size, 6, replace(ddp, recompute=True))
    assert again["acts"] < whole["acts"] / 5


def test_an_update_here_is_measured_and_a_long_one_is_not_waited_for() -> None:
    update, token = measure_updates(GPT2, ADAMW, 128, CPU, None)
    assert 0 < 128 * token < update
    started = time.perf_counter()
    update, token = measure_updates(GPT2, ADAMW, 128 * 100_000, CPU, None)
    assert update > 128 * 100_000 * token > time.perf_counter() - started


@pytest.fixture
def project(workspace: Path) -> Path:
    shutil.copytree(PRESETS, workspace / "presets")
    use("shakespeare", PRESETS, workspace / "params.yaml")
    return workspace


def test_shards_count_if_they_were_made_with_these_params(project: Path) -> None:
    content = read_params(Path("params.yaml"))
    assert known_data(content) == (2048, 0, 0, 0)
    split = {"tokens": 900, "bytes": 2700}
    manifest = {"version": 1, "n_vocab": 2000, "splits": {"train": split, "val": split}}
    (project / "data/shards").mkdir(parents=True)
    (project / "data/shards/manifest.json").write_text(json.dumps(manifest))
    made = {"params": {"params.yaml": {name: content[name] for name in DATA}}}
    (project / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"shard": made}}))
    assert known_data(content) == (2000, 900, 1800, 5400)
    content["clean"]["min_bytes"] = 7
    assert known_data(content) == (2048, 0, 0, 0)


def test_a_published_corpus_is_known_without_shards() -> None:
    content = read_params(PRESETS / "gpt2-124m-openwebtext.yaml")
    n_vocab, train_tokens, tokens, _ = known_data(content)
    assert (n_vocab, train_tokens) == (50_257, 9_035_582_198)
    assert tokens - train_tokens == pytest.approx(4_434_897, rel=0.1)  # nanoGPT's val.bin
    content["corpus"]["huggingface"]["max_documents"] = 10
    assert known_data(content) == (50_257, 0, 0, 0)


def planned(preset: str | None, hardware: str | None, **others: float | None) -> None:
    options = {"preset": preset, "hardware": hardware, "mfu": 0.4, "price": None, **others}
    run_tool(argparse.Namespace(**options), Settings(device="cpu"))


@pytest.mark.parametrize("preset", sorted(file.stem for file in PRESETS.glob("*.yaml")))
def test_the_plan_of_each_preset_is_plain_text_of_under_100_columns(
    project: Path, capsys: pytest.CaptureFixture[str], preset: str
) -> None:
    planned(preset, "8xA100-40GB")
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) < 100
    assert "\x1b" not in "".join(lines)
    assert lines[0].split() == ["plan", f"presets/{preset}.yaml"]
    firsts = {line.split()[0] for line in lines if line.strip()}
    assert {"parameters", "tokens", "FLOPs", "checkpoint", "data/shards", "8xA100-40GB"} <= firsts


def test_the_time_and_price_of_gpt2_on_eight_gpus(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned("gpt2-124m-openwebtext", "8xA100-40GB", mfu=0.29)
    line = capsys.readouterr().out.splitlines()[-3].split()
    assert line[:3] == ["8xA100-40GB", "4.04", "days"]  # nanoGPT's README: about 4
    assert line[5:7] == ["$1,000.00", "$1.29"]
    planned("gpt2-124m-openwebtext", "8xH200")
    assert "$" not in capsys.readouterr().out  # no price is known
    planned("gpt2-124m-openwebtext", "8xH200", price=2.0)
    assert "$2.00 per GPU hour (--price)" in capsys.readouterr().out


def test_without_a_known_peak_there_is_no_time(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("precision: auto ", "precision: float32 "))
    planned(None, "H100", price=2.0)
    assert "peak FLOPS unknown for float32" in capsys.readouterr().out


def test_a_model_too_large_for_this_machine_is_not_measured(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = project / "params.yaml"
    params.write_text(
        params.read_text()
        .replace("n_layer: 4 ", "n_layer: 96 ")
        .replace("n_embd: 128 ", "n_embd: 16384 ")
    )
    planned(None, "here")
    out = capsys.readouterr().out
    assert "309," in out
    assert "too large" in out


def test_a_gpu_that_runs_out_of_memory_is_said_to_be_too_small(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def out_of_memory(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("nanogpt.estimate.measure_updates", out_of_memory)
    monkeypatch.setattr(
        "stages.tools.plan.ProcessPoolExecutor", lambda n, context: ThreadPoolExecutor(n)
    )
    planned(None, "here")
    assert "here      too large" in capsys.readouterr().out


def test_the_command_measures_this_machine_and_leaves_nothing(
    project: Path, run_python: Run
) -> None:
    done = run_python("-m", "stages", "plan", "shakespeare", "--hardware", "here")
    assert (done.returncode, done.stderr) == (0, "")
    name, time, unit, update, *_ = done.stdout.splitlines()[-3].split()
    assert (name, unit in ("s", "min", "h")) == ("here", True)
    assert float(time) > float(update) > 0
    assert {file.name for file in project.iterdir()} == {"presets", "params.yaml"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mine"], ("'mine'", "own-text", "shakespeare-char")),
        (["--hardware", "abacus"], ("'abacus'", "8xA100-40GB", "RTX-4090", "here")),
        (["--mfu", "40"], ("--mfu 40.0 must be in (0, 1]",)),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(
    project: Path, run_python: Run, arguments: list[str], words: tuple[str, ...]
) -> None:
    done = run_python("-m", "stages", "plan", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert all(word in done.stderr for word in words)
