"""What the page shows of one run, in the order it shows it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.evaluate.baselines import SEES
from stages.evaluate.plots import NAMES, half_window
from stages.report.charts import Chart, Drawing, draw
from stages.report.figures import (
    baseline_style,
    document_lengths,
    gradient_norm,
    learning_curve,
    learning_rate,
    loss_by_position,
    token_frequencies,
)
from stages.report.lineage import Origin, origin_of
from stages.report.run import Run
from stages.report.sharing import legible
from stages.report.verdict import Verdict, commands, verdict_on
from stages.report.words import data_line, few_documents, partly
from stages.runtime.inputs import leaves
from stages.tracking.titles import SHORT, shown, size_of, title_of

WIDE, NARROW, SMALL = (880, 400), (360, 300), (280, 210)  # pixels; NARROW is for phones
BILLION = 1_000_000_000
FEATURED = 2  # samples
SAMPLE_CHARACTERS = 1_200  # of those: longer ones are cut
ALL_CHARACTERS = 200_000  # of all samples together; the rest is left out
TOP_TOKENS = 9
OWN, ADAPTIVE = "this model", "this model, adaptive"


@dataclass(frozen=True, kw_only=True)
class Score:
    """A row of the table of scores."""

    name: str
    style: str
    bits_per_byte: float
    perplexity: float
    loss: float
    share: float  # percent, of the longest bar
    sees: str
    own: bool


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt and the text that follows."""

    prompt: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Token:
    """A frequent token, as text that shows its spaces."""

    text: str
    count: int
    share: float  # percent, of the most frequent one


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run as the page shows it."""

    run: Run
    revision: str
    name: str
    preset: str | None
    size: str
    title: str
    changes: Sequence[tuple[str, str]]  # from the preset, in short
    changed: Sequence[tuple[str, str]]  # the same in full
    verdict: Verdict
    warning: str | None
    key_numbers: Sequence[tuple[str, str]]  # that stand at the top: what, and how much
    scores: Sequence[Score]
    learning: Sequence[Drawing]  # wide and narrow
    window: int  # steps in the moving mean
    small_charts: Sequence[Drawing]
    text_charts: Sequence[Drawing]
    top_tokens: Sequence[Token]
    facts: Sequence[tuple[str, str]]
    samples: Sequence[Sample]
    featured: Sequence[Sample]
    left_out: int  # samples
    params: Mapping[str, Sequence[tuple[str, str]]]  # by section
    origin: Origin
    commands: str


def view_of(run: Run) -> RunView:
    """Return what the page shows of a run."""
    size = size_of(run.lineage["n_params"])
    samples = [Sample(prompt=one["prompt"], text=one["text"]) for one in run.samples]
    kept = within(samples, ALL_CHARACTERS)
    return RunView(
        run=run,
        revision=run.revision.name,
        name=run.name,
        preset=run.preset,
        size=size,
        title=title_of(f"{run.name} {size}", run.changes),
        changes=[(SHORT.get(key, key), shown(value)) for key, value in run.changes.items()],
        changed=[(key, as_yaml(value)) for key, value in run.changes.items()],
        verdict=verdict_on(run.evaluation),
        warning=few_documents(run.shards["splits"]["val"]["documents"]),
        key_numbers=list(key_numbers(run)),
        scores=list(scores_of(run.evaluation)),
        learning=sizes_of(learning_curve(run)),
        window=2 * half_window(len(run.train["step"])) + 1,
        small_charts=[
            draw(chart(run), *SMALL) for chart in (loss_by_position, gradient_norm, learning_rate)
        ],
        text_charts=[
            draw(chart(run.statistics), *SMALL) for chart in (document_lengths, token_frequencies)
        ]
        if run.statistics
        else [],
        top_tokens=top_tokens(run.statistics.facts["top_tokens"]) if run.statistics else [],
        facts=list(facts_of(run)),
        samples=kept,
        featured=[shortened(sample) for sample in featured(samples)],
        left_out=len(samples) - len(kept),
        params={
            section: [(key, as_yaml(value)) for key, value in leaves(values)]
            for section, values in run.params.items()
        },
        origin=origin_of(run),
        commands=commands(run.revision),
    )


def sizes_of(chart: Chart) -> list[Drawing]:
    """Return a chart at the width of the page, and at that of a phone."""
    return [draw(chart, *WIDE), draw(chart, *NARROW)]


def key_numbers(run: Run) -> Iterator[tuple[str, str]]:
    """Yield the numbers that stand at the top of the page."""
    passes = tokens_read(run) / run.shards["splits"]["train"]["tokens"]
    yield "perplexity", perplexity(run.evaluation["perplexity"])
    yield "parameters", amount(run.lineage["n_params"])
    yield "training tokens", amount(tokens_read(run))
    yield "passes over the text", f"{passes:,.1f}" if passes >= 0.1 else f"{passes:.1g}"


def scores_of(evaluation: Mapping[str, Any]) -> Iterator[Score]:
    """Yield the scores of the baselines, then those of the model."""
    own = f"up to {evaluation['context']} tokens"
    sees = {**SEES, OWN: own, ADAPTIVE: f"{own}, plus everything read so far"}
    rows = {**evaluation["baselines"], OWN: evaluation}
    if "adaptive" in evaluation:
        rows[ADAPTIVE] = evaluation["adaptive"]
    longest = max(scores["bits_per_byte"] for scores in rows.values())
    for name, scores in rows.items():
        is_own = name in (OWN, ADAPTIVE)
        yield Score(
            name=NAMES.get(name, name),
            style="training" if is_own else baseline_style(name),
            bits_per_byte=scores["bits_per_byte"],
            perplexity=scores["perplexity"],
            loss=scores["val_loss"],
            share=round(100 * scores["bits_per_byte"] / longest, 2),
            sees=sees.get(name, "") + partly(scores),
            own=is_own,
        )


def tokens_read(run: Run) -> int:
    """Return how many tokens training has read."""
    return int(run.train["step"][-1]) * run.batch_tokens


def amount(number: int) -> str:
    """Return a number in full or, from a billion on, such as 2.05B."""
    return f"{number:,}" if number < BILLION else f"{number / BILLION:,.2f}B"


def perplexity(value: float) -> str:
    """Return a perplexity with three significant digits or all before the point."""
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def facts_of(run: Run) -> Iterator[tuple[str, str]]:
    """Yield the facts about the text."""
    train, val = run.shards["splits"]["train"], run.shards["splits"]["val"]
    if run.statistics:
        yield "the text", data_line(run.statistics.facts)
    yield "training text", f"{train['tokens']:,} tokens in {train['documents']:,} documents"
    yield "validation text", f"{val['tokens']:,} tokens in {val['documents']:,} documents"
    if run.statistics:
        facts = run.statistics.facts
        yield (
            "vocabulary",
            (f"{facts['vocabulary']:,} tokens, of which {facts['unseen_ids']:,} never occur"),
        )


def top_tokens(tokens: Sequence[Mapping[str, Any]]) -> list[Token]:
    """Return the most frequent tokens, their spaces and line breaks visible."""
    most = max((token["count"] for token in tokens), default=1)
    return [
        Token(
            text=legible(token["text"].replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")),
            count=token["count"],
            share=round(100 * token["count"] / most, 2),
        )
        for token in tokens[:TOP_TOKENS]
    ]


def as_yaml(value: Any) -> str:
    """Return a value about as params.yaml has it."""
    is_word = isinstance(value, str) and value.isprintable() and value.strip()
    return str(value) if is_word else json.dumps(value, ensure_ascii=False)


def within(samples: Sequence[Sample], characters: int) -> list[Sample]:
    """Return the first samples, so many that they are no longer than `characters` together."""
    kept = []
    for sample in samples:
        characters -= len(sample.prompt) + len(sample.text)
        if characters < 0:
            break
        kept.append(sample)
    return kept


def featured(samples: Sequence[Sample]) -> list[Sample]:
    """Return samples of different prompts, or the first ones if there is only one prompt."""
    by_prompt = list({sample.prompt: sample for sample in reversed(samples)}.values())[::-1]
    return list(by_prompt if len(by_prompt) >= FEATURED else samples)[:FEATURED]


def shortened(sample: Sample) -> Sample:
    """Return the beginning of a sample."""
    if len(sample.text) <= SAMPLE_CHARACTERS:
        return sample
    return Sample(prompt=sample.prompt, text=f"{sample.text[:SAMPLE_CHARACTERS].rstrip()}…")
