"""Stage `statistics`: statistics and plots of the documents, to inspect before training.

They show the lengths of documents, the frequencies of tokens, what was dropped and why, and how
much of the validation text is in the training text. They are computed from the memory-mapped
shards: memory grows with the vocabulary and the number of documents, never with the text.
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
from stages.artifacts.clean import CLEAN
from stages.artifacts.corpus import CORPUS
from stages.artifacts.shards import SHARDS, Shards
from stages.artifacts.statistics import STATISTICS
from stages.artifacts.tokenized import Tokenized
from stages.artifacts.tokens import TOKENS
from stages.runtime.settings import Settings
from stages.statistics.lengths import Histogram, length_histogram
from stages.tokenizers.tokenizer import Tokenizer, load_tokenizer

SPLITS = ("train", "val")
QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
TOP_TOKENS = 50
ZIPF_POINTS = 500  # of the curve of frequencies: on logarithmic axes more would not show
NGRAM_WORDS = 13  # as GPT-3's authors measured contamination (Brown et al. 2020)
SAMPLE_TOKENS = 4 << 20  # compared of a split: some 12 MB of text, in two or three seconds
DOCUMENT_TOKENS = 1 << 21  # compared of one document, so that no gigabyte is decoded at once

Counts = NDArray[np.int64]


def read_json(file: Path) -> dict[str, Any]:
    """Read a manifest."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def document_bytes(tokens: Path) -> Counts:
    """Return the bytes of text of each document (documents,)."""
    return Tokenized.open(tokens).sizes().bytes


def document_tokens(shards: Shards, split: str) -> Counts:
    """Return the tokens of each document (documents,), without its end-of-text token."""
    return np.diff(shards.ends(split), prepend=0) - 1


def length_quantiles(n_tokens: Counts, n_bytes: Counts) -> list[dict[str, float]]:
    """Return quantiles of the lengths in tokens and, independently, of those in bytes."""
    tokens, sizes = (
        np.quantile(lengths, QUANTILES, method="inverted_cdf").tolist()
        for lengths in (n_tokens, n_bytes)
    )
    return [
        {"share": share, "tokens": length, "bytes": size}
        for share, length, size in zip(QUANTILES, tokens, sizes, strict=True)
    ]


def most_frequent(counts: Counts, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return the tokens that occur most often, with their texts."""
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
    """Return (rank, count) of tokens, most frequent first, at ranks evenly spaced by logarithm."""
    ordered = np.sort(counts[counts > 0])[::-1]
    ranks = np.unique(np.geomspace(1, len(ordered), ZIPF_POINTS).round().astype(np.int64))
    return list(zip(ranks.tolist(), ordered[ranks - 1].tolist(), strict=True))


def corpus_statistics(
    tokens: dict[str, Any], cleaned: dict[str, Any], mixture: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Return the sizes of each corpus, how much was dropped, and its share in a mixture."""
    sums: dict[str, Counter[str]] = {}
    for file in tokens["files"]:
        sizes = {key: file[key] for key in ("documents", "tokens", "bytes")}
        sums.setdefault(file["corpus"], Counter()).update(sizes)
    for file in cleaned["files"]:
        dropped = file["documents"] - file["kept"]
        sums.setdefault(file["corpus"], Counter()).update(dropped=dropped)
    mixed = mixture["corpora"] if mixture else {}
    return [
        {"corpus": corpus, **sizes, "mixture": mixed.get(corpus)} for corpus, sizes in sums.items()
    ]


class Sample:
    """Evenly spaced documents of a split, about SAMPLE_TOKENS in all."""

    def __init__(self, shards: Shards, split: str) -> None:
        self.stream = shards.stream(split)
        ends = shards.ends(split)
        self.numbers = np.arange(0, len(ends), math.ceil(len(self.stream) / SAMPLE_TOKENS))
        starts = np.where(self.numbers > 0, ends[self.numbers - 1], 0)
        stops = np.minimum(ends[self.numbers] - 1, starts + DOCUMENT_TOKENS)
        self.spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
        n_text = len(self.stream) - len(ends)
        self.share = float((stops - starts).sum() / n_text)

    def texts(self, tokenizer: Tokenizer) -> Iterator[str]:
        """Yield the text of each document."""
        for start, stop in self.spans:
            yield tokenizer.decode(self.stream.read(start, stop).tolist())


def measure_contamination(shards: Shards, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return how much of the validation text is word for word in the training text.

    Of large splits only evenly spaced documents are compared; `train_compared` and `val_compared`
    are the shares of the text that this makes.
    """
    from stages.statistics.contamination import overlap

    train, val = Sample(shards, "train"), Sample(shards, "val")
    result = overlap(train.texts(tokenizer), val.texts(tokenizer), n=NGRAM_WORDS)
    return {
        "share": round(result.share, 6),
        "words": NGRAM_WORDS,
        "ngrams": result.ngrams,
        "found": result.shared,
        "train_compared": round(train.share, 4),
        "val_compared": round(val.share, 4),
        "worst": [
            {"document": int(val.numbers[index]) + 1, "share": round(share, 4)}
            for index, share in result.worst
        ],
    }


def run(corpus: Path, clean: Path, tokens: Path, shards: Shards, out: Path) -> dict[str, Any]:
    """Write statistics, tables and plots, and return the statistics.

    Raises ValueError if the shards were not made from these tokens.
    """
    if shards.manifest["tokens_manifest_sha256"] != file_sha256(tokens / "manifest.json"):
        raise ValueError(
            f"{shards.folder} was not built from {tokens}; run `dvc repro -f shard` to rebuild it"
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
        "leak": measure_contamination(shards, tokenizer),
        "splits": [
            {"split": name, **{key: described[key] for key in ("documents", "tokens", "bytes")}}
            for name, described in shards.manifest["splits"].items()
        ],
        "corpora": corpus_statistics(totals, cleaned, shards.manifest.get("mixture")),
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
    """Draw the plots, and write the tables behind them for `dvc plots`."""
    from stages.lib.plots import write_table
    from stages.statistics.plots import draw_frequencies, draw_lengths

    write_table(folder / "lengths.csv", ("tokens", *lengths.documents), lengths.rows())
    write_table(folder / "tokens.csv", ("rank", "count"), zipf)
    draw_lengths(lengths, folder / "lengths.png")
    top = [(token["text"], token["count"]) for token in result["top_tokens"]]
    draw_frequencies(zipf, top, folder / "frequencies.png")


def contamination_line(leak: dict[str, Any]) -> str:
    """Return the result of `measure_contamination` as a sentence."""
    complete = min(leak["train_compared"], leak["val_compared"]) == 1
    return f"{leak['share']:.2%} of the validation text is in the training text" + (
        "" if complete else f" (compared with {leak['train_compared']:.1%} of it)"
    )


def run_stage(settings: Settings) -> None:
    """Run `python -m stages statistics`."""
    result = run(CORPUS, CLEAN, TOKENS, Shards.open(SHARDS), STATISTICS)
    print(
        f"statistics: {result['unseen_ids']:,} of {result['vocabulary']:,} tokens in the "
        f"vocabulary never occur; {contamination_line(result['leak'])}"
    )
