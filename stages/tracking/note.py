"""The note at the top of a model's page in MLflow: what it is worth, what it writes, how to use it.

Each stage records its part; they are put together when they are delivered.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.tracking.outbox import Entry

PARTS = ("result", "samples", "use")  # in this order
SAMPLE_CHARACTERS = 600
NOTE_CHARACTERS = 5_000  # below MLflow's limit for a tag, 8,000
USE = """\
## Use it

```sh
mlflow models serve -m runs:/{run_id}/model --env-manager local   # a web service
```

```python
import mlflow
model = mlflow.pyfunc.load_model("runs:/{run_id}/model")
model.predict(["To be"], params={"temperature": 0.7})
```

In the project, while this is the model in models/gpt: `python -m stages sample --prompt "To be"`.
To train it further: `python -m stages convert from-mlflow {run_id} weights/mine`, then
`train.init_from: weights/mine` in params.yaml.
To restore it to models/gpt: `dvc exp apply NAME` if it was an experiment, otherwise
`git restore --source=COMMIT params.yaml dvc.lock`, with the commit that keeps its dvc.lock, and
`dvc checkout`. `python -m stages lineage {run_id}` shows what it was made of, and whether that is
still here."""


def result_part(evaluation: Mapping[str, Any]) -> str:
    """Return the verdict on a model and the table of baselines, as Markdown.

    `evaluation` is what metrics/evaluation.json holds.
    """
    baselines = evaluation["baselines"]
    best = min(baselines, key=lambda name: float(baselines[name]["bits_per_byte"]))
    margin = baselines[best]["bits_per_byte"] - evaluation["bits_per_byte"]
    verdict = f"{abs(margin):.3f} {'better' if margin > 0 else 'worse'} than {best}"
    scores = {"**this model**": evaluation}
    if "adaptive" in evaluation:
        scores["this model, adaptive"] = evaluation["adaptive"]
    rows = [
        f"| {name} | {s['bits_per_byte']:.4f} | {s['perplexity']:.2f} | {s['val_loss']:.4f} |"
        for name, s in {**scores, **baselines}.items()
    ]
    return "\n".join(
        [
            f"**{evaluation['bits_per_byte']:.3f} bits per byte of unseen text**, {verdict}.",
            "",
            "| | bits per byte | perplexity | loss (nats per token) |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Over {evaluation['tokens']:,} tokens, {evaluation['bytes']:,} bytes; "
            f"standard error of the loss {evaluation['standard_error']:.4f}.",
        ]
    )


def samples_part(samples: Iterable[Mapping[str, Any]]) -> str:
    """Return samples, each with its prompt, as Markdown; the end of long ones is left out."""
    texts = [f"{sample['prompt']}{sample['text']}" for sample in samples]
    shown = [t if len(t) <= SAMPLE_CHARACTERS else f"{t[:SAMPLE_CHARACTERS]}…" for t in texts]
    return "\n".join(["## Samples", *(fenced(text) for text in shown)])


def fenced(text: str) -> str:
    """Return text as a block of code that it cannot end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def note_of(entries: Iterable["Entry"], run_id: str) -> str:
    """Return the note made of the newest entry for each part."""
    newest = {entry["part"]: entry["text"] for entry in entries if entry["kind"] == "note"}
    if "use" in newest:
        newest["use"] = newest["use"].replace("{run_id}", run_id)
    return "\n\n".join(newest[part] for part in PARTS if part in newest)[:NOTE_CHARACTERS]
