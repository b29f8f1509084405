"""Stage `statistics`: what the texts are like, in figures and pictures to look at before training.

How long they are, which tokens they are made of, what was left out and why, and how much of the
validation text can be read in the training text. Counted over the shards, from memory maps: what is
held in memory grows with the vocabulary and the number of documents, never with the text.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt.evaluate.ngram import count_tokens
from nanogpt.files import atomic_dir, file_sha256
from stages.artifacts.shards import Shards
from stages.artifacts.tokens import Tokenized
from stages.runtime.settings import Settings
from stages.statistics.lengths import Histogram, length_histogram
from stages.tokenizers.tokenizer import Tokenizer, load_tokenizer

CORPUS, CLEAN, TOKENS = Path("data/corpus"), Path("data/clean"), Path("data/tokens")
SHARDS, OUT = Path("data/shards"), Path("statistics")

SPLITS = ("train", "val")
QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
TOP_TOKENS = 50
ZIPF_POINTS = 500  # of the curve of frequencies: more are not to be seen on logarithmic axes
LEAK_WORDS = 13  # GPT-3's measure of what test text was seen in training (Brown et al. 2020)
LEAK_TOKENS = 4 << 20  # of a split that are compared: some 12 MB of text, in two or three seconds
DOCUMENT_TOKENS = 1 << 21  # of one document, so that a text of a gigabyte is never held whole

Counts = NDArray[np.int64]


def read_json(file: Path) -> dict[str, Any]:
    """A manifest."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def document_bytes(tokens: Path) -> Counts:
    """(documents,) bytes of text of each."""
    return Tokenized.open(tokens).sizes().bytes


def document_tokens(shards: Shards, split: str) -> Counts:
    """(documents,) tokens of each, its separator not counted."""
    return np.diff(shards.ends(split), prepend=0) - 1


def length_quantiles(n_tokens: Counts, n_bytes: Counts) -> list[dict[str, float]]:
    """The lengths that a share of the documents does not exceed, each measure by itself."""
    tokens, sizes = (
        np.quantile(lengths, QUANTILES, method="inverted_cdf").tolist()
        for lengths in (n_tokens, n_bytes)
    )
    return [
        {"share": share, "tokens": length, "bytes": size}
        for share, length, size in zip(QUANTILES, tokens, sizes, strict=True)
    ]


def most_frequent(counts: Counts, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The tokens that occur most often, with their texts."""
    order = np.argsort(-counts, kind="stable")[:TOP_TOKENS]
    share = counts / counts.sum()
    return [
        {
            "id": token,
            "text": tokenizer.decode([token]),
            "count": int(counts[token]),
            "share": round(float(share[token]), 6),
        }
        for token in order.tolist()
        if counts[token]
    ]


def frequencies(counts: Counts) -> list[tuple[int, int]]:
    """(rank, count) of the tokens that occur, from the most frequent on, at ranks evenly spread."""
    ordered = np.sort(counts[counts > 0])[::-1]
    ranks = np.unique(np.geomspace(1, len(ordered), ZIPF_POINTS).round().astype(np.int64))
    return list(zip(ranks.tolist(), ordered[ranks - 1].tolist(), strict=True))


def of_corpora(
    tokens: dict[str, Any], cleaned: dict[str, Any], mixture: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """What is left of each corpus, what was dropped of it, and its part where they are mixed."""
    sums: dict[str, Counter[str]] = {}
    for file in tokens["files"]:
        sizes = {key: file[key] for key in ("documents", "tokens", "bytes")}
        sums.setdefault(file["corpus"], Counter()).update(sizes)
    for file in cleaned["files"]:
        dropped = file["documents"] - file["kept"]
        sums.setdefault(file["corpus"], Counter()).update(dropped=dropped)
    parts = mixture["corpora"] if mixture else {}
    return [
        {"corpus": corpus, **sizes, "mixture": parts.get(corpus)} for corpus, sizes in sums.items()
    ]


class Excerpt:
    """Documents of a split, evenly spread, so many that they hold about LEAK_TOKENS."""

    def __init__(self, shards: Shards, split: str) -> None:
        self.stream = shards.stream(split)
        ends = shards.ends(split)
        self.numbers = np.arange(0, len(ends), math.ceil(len(self.stream) / LEAK_TOKENS))
        starts = np.where(self.numbers > 0, ends[self.numbers - 1], 0)
        stops = np.minimum(ends[self.numbers] - 1, starts + DOCUMENT_TOKENS)
        self.spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
        n_text = len(self.stream) - len(ends)
        self.share = float((stops - starts).sum() / n_text)

    def texts(self, tokenizer: Tokenizer) -> Iterator[str]:
        """Their texts."""
        for start, stop in self.spans:
            yield tokenizer.decode(self.stream.read(start, stop).tolist())


def leak(shards: Shards, tokenizer: Tokenizer) -> dict[str, Any]:
    """How much of the validation text is word for word in the training text.

    Of splits too large to compare whole documents are, evenly spread; `train_compared` and
    `val_compared` say which share of each text that is.
    """
    from stages.statistics.contamination import overlap

    train, val = Excerpt(shards, "train"), Excerpt(shards, "val")
    found = overlap(train.texts(tokenizer), val.texts(tokenizer), n=LEAK_WORDS)
    return {
        "share": round(found.share, 6),
        "words": LEAK_WORDS,
        "ngrams": found.ngrams,
        "found": found.found,
        "train_compared": round(train.share, 4),
        "val_compared": round(val.share, 4),
        "worst": [
            {"document": int(val.numbers[index]) + 1, "share": round(share, 4)}
            for index, share in found.worst
        ],
    }


def run(corpus: Path, clean: Path, tokens: Path, shards: Shards, out: Path) -> dict[str, Any]:
    """Write figures, tables and pictures; the figures.

    Raises ValueError for shards that were not made from these tokens.
    """
    if shards.manifest["tokens_manifest_sha256"] != file_sha256(tokens / "manifest.json"):
        raise ValueError(
            f"{shards.folder} was not made from {tokens}, so that there are no statistics of it; "
            "`dvc repro -f shard` makes it again"
        )
    totals, cleaned = read_json(tokens / "manifest.json"), read_json(clean / "manifest.json")
    tokenizer = load_tokenizer(shards.tokenizer_folder)
    streams = [shards.stream(split) for split in SPLITS]
    counts = sum(count_tokens(stream, tokenizer.n_vocab) for stream in streams)
    assert isinstance(counts, np.ndarray)  # there are two splits
    lengths = {split: document_tokens(shards, split) for split in SPLITS}
    n_tokens = np.concatenate(list(lengths.values()))
    unseen = int((counts == 0).sum())
    result = {
        **{key: totals[key] for key in ("documents", "bytes", "tokens", "bytes_per_token")},
        "vocabulary": tokenizer.n_vocab,
        "vocabulary_use": round(1 - unseen / tokenizer.n_vocab, 4),
        "unseen_ids": unseen,
        "skipped": read_json(corpus / "manifest.json")["skipped"],
        "dropped": cleaned["dropped"],
        "leak": leak(shards, tokenizer),
        "splits": [
            {"split": name, **{key: described[key] for key in ("documents", "tokens", "bytes")}}
            for name, described in shards.manifest["splits"].items()
        ],
        "corpora": of_corpora(totals, cleaned, shards.manifest.get("mixture")),
        "lengths": length_quantiles(n_tokens, document_bytes(tokens)),
        "top_tokens": most_frequent(counts, tokenizer),
    }
    with atomic_dir(out) as folder:
        text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
        (folder / "statistics.json").write_text(text, encoding="utf-8")
        draw(length_histogram(lengths), frequencies(counts), result, folder)
    return result


def draw(
    lengths: Histogram,
    zipf: list[tuple[int, int]],
    result: dict[str, Any],
    folder: Path,
) -> None:
    """Draw the pictures, and write the tables behind them for `dvc plots`."""
    from stages.lib.plots import write_table
    from stages.statistics.plots import draw_frequencies, draw_lengths

    write_table(folder / "lengths.csv", ("tokens", *lengths.documents), lengths.rows())
    write_table(folder / "tokens.csv", ("rank", "count"), zipf)
    draw_lengths(lengths, folder / "lengths.png")
    top = [(token["text"], token["count"]) for token in result["top_tokens"]]
    draw_frequencies(zipf, top, folder / "frequencies.png")


def leak_line(found: dict[str, Any]) -> str:
    """The result of the leak check in words."""
    whole = min(found["train_compared"], found["val_compared"]) == 1
    return f"{found['share']:.2%} of the validation text is in the training text" + (
        "" if whole else f" (compared with {found['train_compared']:.1%} of it)"
    )


def run_stage(settings: Settings) -> None:
    """`python -m stages statistics`."""
    result = run(CORPUS, CLEAN, TOKENS, Shards.open(SHARDS), OUT)
    print(
        f"statistics: {result['unseen_ids']:,} of {result['vocabulary']:,} ids never occur; "
        f"{leak_line(result['leak'])}"
    )
