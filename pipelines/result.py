"""The results of a run on Prefect's page: metrics, also of earlier runs, plots, samples."""

import base64
import hashlib
import json
import os
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    Artifact,
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from stages.artifacts.corpus import CORPUS
from stages.artifacts.model import MODEL, read_lineage
from stages.evaluate.stage import RESULT
from stages.sample.stage import OUT as SAMPLES
from stages.tools.report import read_json
from stages.tools.watch import page
from stages.tracking.note import result_part, samples_part
from stages.tracking.titles import size_of

SHOWN_SAMPLES = 2
SHOWN_RUNS = 20  # of the same corpus
PICTURES = {
    "loss": Path("plots/run.png"),
    "document-lengths": Path("statistics/lengths.png"),
    "token-frequencies": Path("statistics/frequencies.png"),
}
COLUMNS = ("bits_per_byte", "perplexity", "val_loss")


def create_artifacts(title: str) -> None:
    """Create all artifacts of a finished run from the files in the current folder."""
    create_markdown_artifact(result_markdown(), key="result", description="metrics and samples")
    key = f"runs-on-{corpus_id()}"
    rows = [metrics_row(title), *earlier_rows(key)][:SHOWN_RUNS]
    create_table_artifact(rows, key=key, description="this run and earlier ones on the same corpus")
    for name, file in PICTURES.items():
        if file.exists():
            data = base64.b64encode(file.read_bytes()).decode()
            create_image_artifact(f"data:image/png;base64,{data}", key=name, description=str(file))
    for url in mlflow_links():
        create_link_artifact(url, link_text="the run in MLflow", key="mlflow")


def result_markdown() -> str:
    """Return the metrics next to the baselines, and the first samples, as Markdown."""
    lines = (SAMPLES / "samples.jsonl").read_text(encoding="utf-8")
    shown = map(json.loads, lines.removesuffix("\n").split("\n")[:SHOWN_SAMPLES])
    return f"{result_part(read_json(RESULT))}\n\n{samples_part(shown)}"


def model_size() -> str:
    """Return the size of the trained model, such as 1.3M."""
    return size_of(read_lineage(MODEL)["n_params"])


def metrics_row(title: str) -> dict[str, Any]:
    """Return the row of this run in the table of runs."""
    metrics = read_json(RESULT)
    return {"run": title, **{name: round(metrics[name], 4) for name in COLUMNS}}


def earlier_rows(key: str) -> list[dict[str, Any]]:
    """Return the rows of the last table with this key."""
    last = Artifact.get(key)
    assert not isinstance(last, Coroutine)  # which it is in asynchronous flows
    rows: list[dict[str, Any]] = json.loads(str(last.data)) if last and last.data else []
    return rows


def corpus_id() -> str:
    """Return a short hash of the corpus."""
    return hashlib.sha256((CORPUS / "manifest.json").read_bytes()).hexdigest()[:8]


def mlflow_links() -> Iterator[str]:
    """Yield the address of the model's run in MLflow, if it was recorded."""
    from stages.tracking.local_store import experiment_name
    from stages.tracking.store import connect, find_run, is_server, store_errors, tracking_uri

    try:
        client = connect()
        experiment = client.get_experiment_by_name(experiment_name())
        run_id = find_run(client, experiment, read_lineage(MODEL)["model_id"])
    except store_errors():  # MLflow may be down; what it missed is sent later
        return
    if run_id is not None:
        local = f"http://127.0.0.1:{os.environ.get('UI_PORT', '5001')}"
        server = tracking_uri() if is_server(tracking_uri()) else local
        yield page(server, client.get_run(run_id).info.experiment_id, run_id, "model-metrics")
