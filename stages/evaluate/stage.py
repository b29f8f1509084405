"""Stage `evaluate`: the model's loss on the full validation split, compared with baselines.

Compare models by bits per byte, which does not depend on the tokenizer.
"""

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt.files import atomic_dir, atomic_write
from stages.artifacts.model import MODEL, read_lineage
from stages.artifacts.shards import SHARDS, Shards
from stages.artifacts.statistics import STATISTICS
from stages.evaluate.params import EvaluateParams, stride_in
from stages.lib.params import load_section
from stages.runtime.settings import Settings
from stages.tracking.note import result_part
from stages.tracking.registry import text_id
from stages.tracking.tracker import Tracker

if TYPE_CHECKING:
    import torch

    from nanogpt.model.gpt import GPT
    from nanogpt.train.validation import Evaluation

METRICS, PLOTS = Path("metrics/evaluate.json"), Path("plots")
RESULT = Path("metrics/evaluation.json")  # all metrics, including those of the baselines

BATCH_TOKENS = 8_192  # fits any device in float32; nothing probes the memory before


def check_tokenizer(model: Path, shards: Shards) -> None:
    """Raise ValueError if model and shards were made with different tokenizers."""
    from stages.tokenizers.tokenizer import fingerprint, load_tokenizer

    if fingerprint(load_tokenizer(model / "tokenizer")) != shards.manifest["tokenizer_fingerprint"]:
        raise ValueError(
            f"{model} was trained with a different tokenizer than {shards.folder} uses; "
            "run `dvc repro` to bring them back in sync"
        )


def loss_metrics(loss: float, n_tokens: int, n_bytes: int) -> dict[str, float]:
    """Return a loss in nats per token, the perplexity and the bits per byte of text."""
    from nanogpt.train.validation import bits_per_byte

    return {
        "val_loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": bits_per_byte(loss, n_tokens, n_bytes),
    }


def run(
    params: EvaluateParams,
    model: Path,
    shards: Shards,
    metrics: Path,
    plots: Path,
    *,
    settings: Settings,
) -> dict[str, Any]:
    """Evaluate a model; write and return the metrics, and write the plots."""
    from nanogpt.model.files import load_model
    from nanogpt.runtime import choose_device
    from stages.evaluate.baselines import measure

    check_tokenizer(model, shards)
    device = choose_device(settings.device)
    gpt = load_model(model, device)
    context, stride = context_and_stride(params, gpt.config.block_size)
    batch_tokens = settings.micro_batch_tokens or BATCH_TOKENS
    evaluation = evaluate_model(gpt, shards, context, stride, batch_tokens, device)
    n_bytes = shards.split("val").bytes
    adaptive = adaptive_metrics(gpt, model, shards, params.adapt_rate) if params.adapt_rate else {}
    result = {
        **loss_metrics(evaluation.loss, evaluation.tokens, n_bytes),
        "standard_error": evaluation.standard_error,
        "tokens": evaluation.tokens,
        "bytes": n_bytes,
        "context": context,
        "stride": stride,
        **adaptive,
        "baselines": {
            name: {**loss_metrics(baseline.loss, evaluation.tokens, n_bytes), **baseline.read}
            for name, baseline in measure(shards).items()
        },
    }
    atomic_write(metrics.with_name(RESULT.name), json.dumps(result, indent=2) + "\n")
    atomic_write(metrics, json.dumps(headline(result), indent=2) + "\n")
    with atomic_dir(plots) as folder:
        draw(model, result, evaluation, folder)
    return result


def context_and_stride(params: EvaluateParams, block_size: int) -> tuple[int, int]:
    """Return the length of the windows and how far apart they start, in tokens.

    Raises ValueError if the model's context is shorter, or the windows would leave gaps.
    """
    if params.context is not None and params.context > block_size:
        raise ValueError(
            f"evaluate.context is {params.context}, but the model's block_size is {block_size}"
        )
    context = params.context or block_size
    return context, stride_in(context, params.stride)


def evaluate_model(
    gpt: "GPT",
    shards: Shards,
    context: int,
    stride: int,
    batch_tokens: int,
    device: "torch.device",
) -> "Evaluation":
    """Return the loss on the full validation split, in float32: the same on any hardware."""
    import torch

    from nanogpt.parallel.threads import default_workers, worker_pool
    from nanogpt.runtime import Runtime
    from nanogpt.train.validation import evaluate_split

    plain = Runtime(device=device, dtype=torch.float32)
    runtime = replace(plain, workers=default_workers(gpt, batch_tokens, plain))
    with worker_pool(runtime.workers) as pool:
        return evaluate_split(
            gpt,
            shards.stream("val"),
            runtime=runtime,
            batch_tokens=batch_tokens,
            block_size=context,
            stride=stride,
            pool=pool,
        )


def headline(result: dict[str, Any]) -> dict[str, float]:
    """Return the headline metrics, flat, for the columns of `dvc metrics show` and `dvc exp show`.

    `margin` is how many bits per byte the best baseline needs more.
    """
    from stages.evaluate.baselines import best

    names = ("bits_per_byte", "perplexity", "val_loss", "standard_error")
    flat = {name: round(result[name], 5) for name in names}
    if "adaptive" in result:
        flat["adaptive_bits_per_byte"] = round(result["adaptive"]["bits_per_byte"], 5)
    _, least = best(result["baselines"])
    return {**flat, "margin": round(least - result["bits_per_byte"], 5)}


def adaptive_metrics(gpt: "GPT", model: Path, shards: Shards, rate: float) -> dict[str, Any]:
    """Return the loss of a model that keeps learning as it reads; this modifies `gpt`."""
    from nanogpt.config import OptimConfig
    from nanogpt.evaluate.adapt import adaptive_loss, adaptive_runtime
    from nanogpt.parallel.threads import worker_pool

    trained = read_lineage(model)["params"]["train"]
    steps: dict[str, Any] = {"warmup_steps": 0, "decay_steps": 0}  # a constant learning rate
    names = [field.name for field in fields(OptimConfig) if field.name not in steps]
    optim = OptimConfig(**{name: trained[name] for name in names}, **steps)
    split, runtime = shards.split("val"), adaptive_runtime(gpt)
    with worker_pool(runtime.workers) as pool:
        loss = adaptive_loss(
            gpt,
            shards.stream("val"),
            optim,
            runtime=runtime,
            rate=rate,
            pool=pool,
        )
    return {"adaptive": loss_metrics(loss, split.tokens, split.bytes)}


def draw(model: Path, result: dict[str, Any], evaluation: "Evaluation", folder: Path) -> None:
    """Draw the plot of a run, and write its data for `dvc plots`."""
    from stages.evaluate.plots import draw_run
    from stages.lib.plots import write_table

    scores = {name: b["bits_per_byte"] for name, b in result["baselines"].items()}
    scores["model"] = result["bits_per_byte"]
    if "adaptive" in result:
        scores["model, learning"] = result["adaptive"]["bits_per_byte"]
    write_table(folder / "bits_per_byte.csv", ("predictor", "bits_per_byte"), scores.items())
    by_position = enumerate(evaluation.loss_by_position.tolist(), start=1)
    write_table(folder / "loss_by_position.csv", ("position", "loss"), by_position)
    runs = zip(evaluation.runs[0].tolist(), evaluation.runs[1].astype(int).tolist(), strict=True)
    write_table(folder / "val_losses.csv", ("loss", "tokens"), runs)  # for paired comparisons
    draw_run(model / "train.csv", model / "val.csv", result, folder / "run.png")


def record(result: dict[str, Any], model: Path, shards: Shards, *, enabled: bool) -> None:
    """Add metrics, plots and the statistics of the data to the model's run, and register it."""
    origin = read_lineage(model)
    flat = {f"val/full/{name}": value for name, value in headline(result).items()}
    with Tracker(origin["model_id"], enabled=enabled) as tracker:
        tracker.record("result", step=origin["step"], values=flat, dataset="shards/val")
        tracker.record("note", part="result", text=result_part(result))
        for file in (METRICS, RESULT):
            tracker.record_files("artifacts", file, path="evaluate")
        tracker.record_files("artifacts", PLOTS, path="evaluate")
        if origin["data"]["tokens_manifest_sha256"] and STATISTICS.is_dir():  # imported have none
            tracker.record_files("artifacts", STATISTICS, path="statistics")
        tracker.record("register", text=text_id(shards.manifest))


def run_stage(settings: Settings) -> None:
    """Run `python -m stages evaluate`."""
    from stages.evaluate.baselines import best

    params = load_section("evaluate", EvaluateParams)
    shards = Shards.open(SHARDS)
    result = run(params, MODEL, shards, METRICS, PLOTS, settings=settings)
    name, least = best(result["baselines"])
    print(
        f"evaluate: loss {result['val_loss']:.4f}, perplexity {result['perplexity']:.2f}, "
        f"{result['bits_per_byte']:.4f} bits per byte "
        f"(best baseline: {name} {least:.4f})"
    )
    if "adaptive" in result:
        score = result["adaptive"]["bits_per_byte"]
        print(f"evaluate: {score:.4f} bits per byte with dynamic evaluation")
    record(result, MODEL, shards, enabled=settings.tracking)
