"""Report on a finished run: what was built, how good it is, what to do next.

`python -m stages report` prints it. With --html FILE it is one page that can be emailed, with
everything in it: it needs no server and no internet. REVISION is a commit, a branch, a tag, an
experiment (`dvc exp show` lists them) or `workspace`, the working tree; several are compared.
`make report` writes report.html.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stages.artifacts.model import LINEAGE, MODEL
from stages.artifacts.shards import SHARDS
from stages.artifacts.statistics import STATISTICS
from stages.evaluate.baselines import SEES
from stages.evaluate.stage import RESULT
from stages.report.words import data_line, few_documents, partly
from stages.runtime.entry import TIMES
from stages.runtime.settings import Settings
from stages.runtime.yaml_files import DVC_FILE, read_params
from stages.sample.stage import OUT as SAMPLES

SAMPLE_LINES = 24
ADAPTIVE = "this model, adaptive"
NEXT = """\
source .venv/bin/activate            once per terminal, for the dvc and python commands
python -m stages sample --prompt "…" continue a prompt of your own
make report                          report.html: this run as one page, to send
make ui                              browse the run: curves, metrics, samples, the model
dvc metrics show                     the metrics; dvc plots show: the plots
dvc exp run -S train.max_steps=N     train for N steps instead; the data stages are reused
your own text: put files into texts/, make use PRESET=own-text, make run"""


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises ValueError if the file is missing."""
    if not file.is_file():
        raise ValueError(f"{file} is missing; run `dvc repro` to create it")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def scores_table(metrics: dict[str, Any]) -> Table:
    """Return the metrics of the baselines and the model, and the context that each sees."""
    columns = ("", "loss (nats)", "perplexity", "bits per byte", "context")
    table = Table(*columns, box=None, header_style="bold")
    own = f"up to {metrics['context']} tokens"
    sees = {**SEES, "this model": own, ADAPTIVE: f"{own}, plus everything read so far"}
    rows = [*metrics["baselines"].items(), ("this model", metrics)]
    if "adaptive" in metrics:
        rows.append((ADAPTIVE, metrics["adaptive"]))
    for name, scores in rows:
        values = (scores["val_loss"], scores["perplexity"], scores["bits_per_byte"])
        style = "bold green" if name in ("this model", ADAPTIVE) else None
        shown = (f"{value:,.3f}" for value in values)
        table.add_row(name, *shown, sees[name] + partly(scores), style=style)
    return table


def facts_table(metrics: dict[str, Any], manifest: dict[str, Any], run: dict[str, Any]) -> Table:
    """Return the sizes and times of a run."""
    table = Table.grid(padding=(0, 2))
    table.add_row("the text", data_line(read_json(STATISTICS / "statistics.json")))
    train, val = manifest["splits"]["train"], manifest["splits"]["val"]
    table.add_row("parameters", f"{run['n_params']:,}")
    table.add_row(
        "training text", f"{train['tokens']:,} tokens in {train['documents']:,} documents"
    )
    table.add_row("validation text", f"{val['tokens']:,} tokens in {val['documents']:,} documents")
    files = {stage: TIMES / f"{stage}.json" for stage in read_params(DVC_FILE)["stages"]}
    seconds = {s: read_json(file)["seconds"] for s, file in files.items() if file.exists()}
    table.add_row("last run of each stage", ", ".join(f"{s} {t:.0f} s" for s, t in seconds.items()))
    table.add_row("total", f"{sum(seconds.values()):.0f} s")
    table.add_row("standard error", f"{metrics['standard_error']:.3f} nats, over windows")
    return table


def first_sample() -> str:
    """Return the beginning of the first sample."""
    line = (SAMPLES / "samples.jsonl").read_text(encoding="utf-8").split("\n")[0]
    sample = json.loads(line)
    lines = f"{sample['prompt']}{sample['text']}".splitlines()
    return "\n".join(lines[:SAMPLE_LINES])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--html", metavar="FILE", type=Path, help="write one page to this file")
    parser.add_argument(
        "revisions", metavar="REVISION", nargs="*", help="what the page shows (default: workspace)"
    )


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages report`. Raises ValueError if a revision cannot be shown."""
    if options.html is not None:
        from stages.report.page import write_page  # matplotlib and jinja2, a second or so

        write_page(options.html, options.revisions)
        print(f"report: {options.html}, {options.html.stat().st_size / 1e3:,.0f} kB")
    elif options.revisions:
        raise ValueError("REVISION needs an output file: add --html report.html")
    else:
        print_report()


def print_report() -> None:
    """Print the report on the run in the working tree."""
    metrics, manifest = read_json(RESULT), read_json(SHARDS / "manifest.json")
    console = Console(width=96)
    console.print()
    console.print(Panel(scores_table(metrics), title="loss on held-out text", expand=False))
    if warning := few_documents(manifest["splits"]["val"]["documents"]):
        console.print(Text(warning, "yellow"))
    console.print(facts_table(metrics, manifest, read_json(MODEL / LINEAGE)))
    console.print(
        Panel(Text(first_sample()), title=f"a sample ({SAMPLES / 'samples.txt'} has more)")
    )
    console.print(Panel(Text(NEXT), title="next steps", expand=False))
