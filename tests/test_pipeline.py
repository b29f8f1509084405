"""The whole pipeline for real: all stages by DVC, and what runs again after which change."""

import getpass
import json
import re
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

STAGES = [
    *("download", "clean", "tokenize", "shard", "statistics"),
    *("weights", "train", "evaluate", "sample"),
]


NEUTRAL_MODULES = (
    "stages/__main__.py",
    "stages/runtime/pool.py",
    "stages/tracking/recorder.py",
    "stages/serve/mlflow_model.py",
    "stages/tools/report.py",
    "stages/report/page.py",
    "stages/params/sections.py",
    "stages/formats/dvc_lock.py",
    "nanogpt/convert/gpt2.py",
    "nanogpt/flops.py",
    "nanogpt/estimate.py",
)


def stages_run(output: str) -> list[str]:
    """The stages `dvc repro` said it ran."""
    return re.findall(r"Running stage '(\w+)'", output)


def out_of_date(project: Any) -> set[str]:
    """The stages whose own dependencies or params `dvc status` finds changed."""
    with chdir(project.folder):
        return set(Repo().status())


def test_every_output_is_there(built: Any) -> None:
    for name in (
        "data/corpus/manifest.json",
        "data/tokens/tokenizer/tokenizer.json",
        "data/shards/train/00000.npy",
        "data/shards/val/ends.npy",
        "models/gpt/model.safetensors",
        "models/gpt/lineage.json",
        "models/gpt/train.csv",
        "plots/run.png",
        "statistics/statistics.json",
        "statistics/lengths.png",
        "statistics/frequencies.png",
        "samples/samples.txt",
        "samples/samples.jsonl",
    ):
        assert (built.folder / name).stat().st_size > 0, name


def test_nothing_is_left_in_the_folder_for_temporary_files(built: Any, shared: Path) -> None:
    left = {path.name for path in (shared / "temporary").iterdir()}
    assert left <= {f"torchinductor_{getpass.getuser()}"}


def test_metrics_hold_the_figures_and_their_baselines(built: Any) -> None:
    metrics = json.loads((built.folder / "metrics/evaluation.json").read_text())
    manifest = json.loads((built.folder / "data/shards/manifest.json").read_text())
    figures = {"val_loss", "perplexity", "bits_per_byte"}
    counts = {"tokens", "bytes", "context", "stride"}
    assert set(metrics) == figures | counts | {"standard_error", "baselines", "adaptive"}
    assert set(metrics["adaptive"]) == figures
    assert (metrics["context"], metrics["stride"]) == (16, 8)
    names = ["uniform", "unigram", "bigram", "kneser_ney", "ppmd"]
    assert list(metrics["baselines"]) == names
    assert all(set(baseline) == figures for baseline in metrics["baselines"].values())
    assert metrics["tokens"] == manifest["splits"]["val"]["tokens"]
    assert metrics["bytes"] == manifest["splits"]["val"]["bytes"]
    losses = [metrics["baselines"][name]["val_loss"] for name in ("uniform", "unigram", "bigram")]
    assert losses == sorted(losses, reverse=True)
    assert metrics["val_loss"] < losses[1]


def test_the_headline_is_flat_and_says_by_how_much_the_model_wins(built: Any) -> None:
    folder = built.folder / "metrics"
    shown, full = (
        json.loads((folder / f"{n}.json").read_text()) for n in ("evaluate", "evaluation")
    )
    names = {"bits_per_byte", "perplexity", "val_loss", "standard_error"}
    assert set(shown) == names | {"adaptive_bits_per_byte", "margin"}
    assert {name: shown[name] for name in names} == {name: round(full[name], 5) for name in names}
    best = min(baseline["bits_per_byte"] for baseline in full["baselines"].values())
    assert shown["margin"] == round(best - full["bits_per_byte"], 5)


def test_lineage_leads_back_to_the_corpus(built: Any) -> None:
    import hashlib

    def sha256(name: str) -> str:
        return hashlib.sha256((built.folder / name).read_bytes()).hexdigest()

    data = json.loads((built.folder / "models/gpt/lineage.json").read_text())["data"]
    assert data["corpus_manifest_sha256"] == sha256("data/corpus/manifest.json")
    assert data["tokens_manifest_sha256"] == sha256("data/tokens/manifest.json")
    assert data["shards_manifest_sha256"] == sha256("data/shards/manifest.json")


def test_a_second_repro_runs_nothing(built: Any) -> None:
    output = built.repro()
    assert stages_run(output) == []
    assert "Data and pipelines are up to date." in output
    assert out_of_date(built) == set()


def test_result_neutral_settings_run_nothing(built: Any) -> None:
    output = built.repro(NANOGPT_LOG_INTERVAL="3", NANOGPT_DEVICE="cpu", NANOGPT_PROCESSES="2")
    assert stages_run(output) == []


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("nanogpt/config.py", {"train", "evaluate", "sample"}),
        ("nanogpt/runtime.py", {"train", "evaluate", "sample"}),
        ("nanogpt/rng.py", {"clean", "statistics", "train", "sample"}),
        ("nanogpt/files.py", set(STAGES)),
        ("nanogpt/model/attention.py", {"train", "evaluate", "sample"}),
        ("nanogpt/data/loader.py", {"shard", "statistics", "train", "evaluate"}),
        ("nanogpt/optim/muon.py", {"train", "evaluate"}),
        ("nanogpt/parallel/threads.py", {"train", "evaluate"}),
        ("nanogpt/train/loop.py", {"train", "evaluate"}),
        ("nanogpt/evaluate/kneser_ney.py", {"statistics", "evaluate"}),
        ("nanogpt/generate/decode.py", {"sample"}),
        *((f"stages/{stage}/stage.py", {stage}) for stage in STAGES),
        ("stages/tokenizers/pretokenize.py", {"tokenize", "statistics", "evaluate", "sample"}),
        # shared packages, of which a stage depends on single modules
        ("stages/lib/split.py", {"tokenize", "shard"}),
        ("stages/artifacts/tokenized.py", {"shard", "statistics"}),
    ],
)
def test_an_edit_concerns_the_stages_that_depend_on_its_folder(
    built: Any, module: str, stages: set[str]
) -> None:
    file = built.folder / module
    before = file.read_text()
    file.write_text(before + "\n# edited\n")
    try:
        assert out_of_date(built) == stages
    finally:
        file.write_text(before)


def test_edits_in_rooms_that_no_stage_depends_on_concern_none(built: Any) -> None:
    files = [built.folder / module for module in NEUTRAL_MODULES]
    before = [file.read_text() for file in files]
    try:
        for file, text in zip(files, before, strict=True):
            file.write_text(text + "\n# edited\n")
        assert out_of_date(built) == set()
    finally:
        for file, text in zip(files, before, strict=True):
            file.write_text(text)


def test_an_edit_that_changes_no_byte_is_accepted_and_any_other_refused(copy_of_built: Any) -> None:
    project = copy_of_built
    code = project.folder / "stages/clean/stage.py"
    text = code.read_text()
    code.write_text(text + "\n# a remark\n")
    assert out_of_date(project) == {"clean"}
    done = project.run("python", "-m", "stages", "accept")
    assert done.returncode == 0, done.stdout
    assert "all outputs are identical; recorded for clean" in done.stdout
    assert out_of_date(project) == set()
    (entry,) = json.loads((project.folder / "accepted.json").read_text())
    assert entry["path"] == "stages/clean"

    project.run("git", "commit", "-qam", "a remark")
    recorded = (project.folder / "dvc.lock").read_text()
    other = "(CLEAN / 'manifest.json').write_text('{}')"
    code.write_text(f"{text}\nmake = run\ndef run(*a, **k):\n    make(*a, **k)\n    {other}\n")
    done = project.run("python", "-m", "stages", "accept")
    assert done.returncode == 2
    assert "produces different output: data/clean/manifest.json; run" in done.stdout
    code.write_text(f"{text}\ndef run_stage(settings: Settings) -> None:\n    pass\n")
    done = project.run("python", "-m", "stages", "accept")
    assert done.returncode == 2
    assert "the current code produces different output: data/clean/manifest.json" in done.stdout
    code.write_text(text)
    project.set_params(temperature="0.5")
    done = project.run("python", "-m", "stages", "accept")
    assert done.returncode == 2
    assert "sample is out of date for reasons other than" in done.stdout
    assert (project.folder / "dvc.lock").read_text() == recorded


def test_tokenized_parts_outlive_what_dvc_does_with_the_tokens(new_project: Any) -> None:
    output = new_project().repro("--force", "--single-item", "tokenize")
    assert stages_run(output) == ["tokenize"]
    assert "tokenize: 1 of 1 parts were made before" in output


def test_a_changed_text_concerns_the_first_stage(built: Any) -> None:
    file = built.folder / "texts/0.txt"
    before = file.read_text()
    file.write_text(before + "and a line more\n")
    try:
        assert out_of_date(built) == {"download"}
    finally:
        file.write_text(before)


def test_other_train_params_concern_the_training(copy_of_built: Any) -> None:
    copy_of_built.set_params(max_steps="12", decay="4")
    assert out_of_date(copy_of_built) == {"train"}


def test_an_experiment_on_a_changed_corpus_runs_everything(copy_of_built: Any) -> None:
    (copy_of_built.folder / "texts/0.txt").write_text("the moon upon the sea\n" * 60)
    done = copy_of_built.run(
        *("dvc", "exp", "run", "-S", "train.max_steps=12", "-S", "train.decay=4"),
        *("-S", "evaluate.adapt_rate=0.0"),
    )
    assert done.returncode == 0, done.stdout
    assert "Ran experiment" in done.stdout
    ran = stages_run(done.stdout)
    assert sorted([*ran, "weights"]) == sorted(STAGES)  # which depends on no corpus
    assert "resuming after" not in done.stdout  # another run's checkpoint is never picked up
    shown = copy_of_built.run("dvc", "exp", "show", "--json")
    assert shown.returncode == 0
    assert '"max_steps": 12' in shown.stdout


@pytest.mark.parametrize("change", ["corpus.separator=king", "sample.seed=9"])
def test_an_experiment_in_a_copy_without_a_text_is_refused_whatever_it_runs(
    copy_of_built: Any, change: str
) -> None:
    (copy_of_built.folder / "texts/new.txt").write_text("a text that git does not have\n")
    done = copy_of_built.run("dvc", "exp", "run", "--temp", "-S", change)
    assert done.returncode != 0
    assert "without 1 of your texts, which neither git nor DVC keeps: new.txt" in done.stdout


def test_the_dvc_commands_a_user_types(built: Any) -> None:
    for command in (
        *(["metrics", "show"], ["plots", "show"], ["dag"], ["params", "diff"]),
        ["push"],  # which `dvc repro` asks for
    ):
        done = built.run("dvc", *command)
        assert done.returncode == 0, done.stdout
    shown = built.run("dvc", "metrics", "show").stdout
    assert {"bits_per_byte", "perplexity", "margin"} < set(shown.split())
    assert max(map(len, shown.splitlines())) <= 120
    assert any((built.folder / "dvc_remote").iterdir())
    untracked = built.run("git", "status", "--porcelain", "--untracked-files=all").stdout
    assert "dvc_remote" not in untracked
    assert "dvc_plots" not in untracked


def test_a_mistake_in_the_last_section_stops_the_first_stage(
    new_project: Callable[[], Any],
) -> None:
    project = new_project(temperature="-1")
    (project.folder / "texts/0.txt").write_text("the moon upon the sea\n" * 60)
    done = project.run("dvc", "repro")
    assert done.returncode != 0
    assert "sample.temperature is -1" in done.stdout
    assert "Traceback" not in done.stdout
    assert stages_run(done.stdout) == ["download"]
    assert not (project.folder / "data/corpus").exists()


def edit_during_training(project: Any, edit: Callable[[], object]) -> str:
    """Edit something after the first printed update; the output of `dvc repro`, which must fail."""
    process = project.start("dvc", "repro", "train", NANOGPT_LOG_INTERVAL="1")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step") and len([seen for seen in lines if seen[:4] == "step"]) == 1:
            edit()
    assert process.wait(timeout=60) != 0, "".join(lines)
    return "".join(lines)


def locked_train(project: Any) -> dict[str, Any]:
    """What dvc.lock says of the stage `train`."""
    lock = YAML(typ="safe").load(project.folder / "dvc.lock")
    found: dict[str, Any] = lock["stages"].get("train", {})
    return found


def test_what_is_edited_during_a_training_is_not_recorded_with_it(new_project: Any) -> None:
    """DVC would note the new rate with the old one's model, and find it in its run cache later."""
    project = new_project(max_steps="60")
    output = edit_during_training(project, lambda: project.set_params(learning_rate="0.05"))
    assert "train.learning_rate was 0.003, now 0.05" in output
    assert locked_train(project) == {}
    project.set_params(learning_rate="0.003")  # undone: the finished training is written again
    output = project.repro("train")
    assert "step     60" not in output
    assert locked_train(project)["params"]["params.yaml"]["train"]["learning_rate"] == 0.003

    project.set_params(learning_rate="0.05")
    file = project.folder / "nanogpt/optim/optimizers.py"
    text = file.read_text()
    assert "return 1.0\n" in text
    edited = text.replace("return 1.0\n", "return 0.5\n")
    output = edit_during_training(project, lambda: file.write_text(edited))
    assert "step     60" in output  # trained, not taken from DVC's cache
    assert "nanogpt/optim/optimizers.py was edited" in output
    assert locked_train(project)["params"]["params.yaml"]["train"]["learning_rate"] == 0.003
    before = (project.folder / "models/gpt/model.safetensors").read_bytes()
    output = project.repro("train")  # what is finished is of other code
    assert "step     60" in output
    assert "resuming after" not in output
    assert (project.folder / "models/gpt/model.safetensors").read_bytes() != before
    lineage = json.loads((project.folder / "models/gpt/lineage.json").read_text())
    assert lineage["params"]["train"]["learning_rate"] == 0.05
    assert locked_train(project)["params"]["params.yaml"]["train"]["learning_rate"] == 0.05
    done = project.run("python", "-m", "stages", "verify")
    assert done.returncode == 0, done.stdout


def test_weights_next_to_those_named_concern_no_training(copy_of_built: Any) -> None:
    project = copy_of_built
    (project.folder / "weights/other").mkdir()
    (project.folder / "weights/other/model.safetensors").write_bytes(b"some")
    assert stages_run(project.repro()) == ["weights"]
    assert out_of_date(project) == set()
