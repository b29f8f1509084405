"""Stage `shard`: token rows to memory-mapped files, training and validation apart.

A split is one long stream, cut into `.npy` files of shard_tokens: document, separator, document,
separator. `ends.npy` holds where each document ends in it, the separator included. Documents that
occur several times, by `shard.weights`, do so in turns: all of them once, then all once more.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nanogpt.files import atomic_dir, drop_cached, file_sha256, write_json
from stages.artifacts.shards import VERSION
from stages.artifacts.tokens import Sizes, Tokenized, TokenizedPart
from stages.lib.params import load_section
from stages.lib.split import SplitParams, split_documents
from stages.runtime.settings import Settings
from stages.shard.mixture import check_weights, corpus_repeats, document_copies
from stages.shard.params import ShardParams
from stages.shard.split_writer import SplitWriter

TOKENS, OUT = Path("data/tokens"), Path("data/shards")

Chosen = NDArray[np.bool_]  # (documents,)
Copies = NDArray[np.uint8]  # (documents,) how often each is in the training stream
T = TypeVar("T")

WRITERS = 2  # threads


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which documents are in which stream, and how often."""

    sizes: Sizes
    is_val: Chosen
    copies: Copies
    mixture: dict[str, Any] | None  # how the training stream is mixed, for the manifest

    @property
    def turns(self) -> list[Chosen]:
        """The documents of the training stream that are in it once, twice and so on."""
        return [self.copies > turn for turn in range(int(self.copies.max()))]

    def ends(self, turns: Sequence[Chosen]) -> NDArray[np.int64]:
        """Where each document ends in a stream."""
        return np.cumsum(np.concatenate([self.sizes.tokens[chosen] for chosen in turns]))

    def n_bytes(self, turns: Sequence[Chosen]) -> int:
        """Bytes of text in a stream."""
        return sum(int(self.sizes.bytes[chosen].sum()) for chosen in turns)


def planned(params: ShardParams, split: SplitParams, tokens: Tokenized) -> Plan:
    """Choose. Raises ValueError when the corpora cannot be split or mixed so."""
    hashes, sizes = tokens.text_hashes(), tokens.sizes()
    is_val = split_documents(hashes, split)
    copies = (~is_val).astype(np.uint8)
    if params.weights is None:
        return Plan(sizes=sizes, is_val=is_val, copies=copies, mixture=None)
    check_weights(params.weights, {part.corpus for part in tokens.parts})
    once = by_corpus(tokens, sizes.tokens * copies)
    repeats = corpus_repeats(once, params.weights, params.max_repetition)
    for part in tokens.parts:
        often = document_copies(hashes[part.rows], repeats[part.corpus], split.seed)
        copies[part.rows] *= often
    mixed = mixture(params, repeats, by_corpus(tokens, sizes.tokens * copies))
    return Plan(sizes=sizes, is_val=is_val, copies=copies, mixture=mixed)


def mixture(
    params: ShardParams, repeats: Mapping[str, Fraction], n_tokens: Mapping[str, int]
) -> dict[str, Any]:
    """How often each corpus is repeated, and how many tokens of the training stream it has."""
    assert params.weights is not None
    return {
        "max_repetition": params.max_repetition,
        "corpora": {
            name: {
                "weight": params.weights[name],
                "repeats": float(repeats[name]),
                "tokens": tokens,
                "share": tokens / sum(n_tokens.values()),
            }
            for name, tokens in n_tokens.items()
        },
    }


def by_corpus(tokens: Tokenized, counts: NDArray[np.int64]) -> dict[str, int]:
    """The sum of the documents' counts (documents,) for each corpus."""
    sums = Counter({part.corpus: 0 for part in tokens.parts})
    for part in tokens.parts:
        sums[part.corpus] += int(counts[part.rows].sum())
    return dict(sums)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Documents of one part that are together in a stream, from its token `first` on."""

    split: str
    chosen: Chosen
    first: int


def stretches(plan: Plan, tokens: Tokenized) -> Iterator[tuple[TokenizedPart, list[Stretch]]]:
    """Every part with the stretches to be written of it, as often as it must be read."""
    first = Counter[str]()

    def stretch(split: str, chosen: Chosen, part: TokenizedPart) -> Stretch:
        start = first[split]
        first[split] += int(plan.sizes.tokens[part.rows][chosen[part.rows]].sum())
        return Stretch(split=split, chosen=chosen, first=start)

    for turn, chosen in enumerate(plan.turns):
        for part in tokens.parts:
            if turn == 0:
                yield part, [stretch("train", chosen, part), stretch("val", plan.is_val, part)]
            elif chosen[part.rows].any():
                yield part, [stretch("train", chosen, part)]


def apart(items: Sequence[T], n: int) -> list[T]:
    """The same, in an order in which any n that follow each other are far from each other."""
    step = -(-len(items) // n)
    return [item for start in range(step) for item in items[start::step]]


def write(plan: Plan, tokens: Tokenized, writers: Mapping[str, SplitWriter]) -> None:
    """Write both splits: WRITERS parts at a time, for their files far from each other.

    The system lets one thread at a time write to a file. Raises ValueError as `documents` does,
    and OSError; then nothing is written any more.
    """

    def write_part(part: TokenizedPart, found: Sequence[Stretch]) -> None:
        places = [stretch.first for stretch in found]
        for documents in tokens.documents(part):
            for number, stretch in enumerate(found):
                some = tokens.separated(documents.chosen(stretch.chosen))
                writers[stretch.split].write(places[number], some)
                places[number] += len(some)
        if len(plan.turns) == 1:
            drop_cached(part.file)  # room for what is written

    with ThreadPoolExecutor(WRITERS) as pool:
        written = [
            pool.submit(write_part, *one) for one in apart([*stretches(plan, tokens)], WRITERS)
        ]
        try:
            for part in written:
                part.result()
        finally:
            pool.shutdown(cancel_futures=True)


def run(params: ShardParams, split: SplitParams, tokens: Path, out: Path) -> None:
    """Write both splits, the tokenizer and the manifest."""
    source = Tokenized.open(tokens)
    plan = planned(params, split, source)
    streams = {"train": plan.turns, "val": [plan.is_val]}
    ends = {name: plan.ends(turns) for name, turns in streams.items()}
    with atomic_dir(out) as folder, ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                SplitWriter(folder / name, int(ends[name][-1]), params.shard_tokens, source.dtype)
            )
            for name in streams
        }
        write(plan, source, writers)
        manifest = {
            "version": VERSION,
            "dtype": source.dtype.name,
            "n_vocab": source.manifest["n_vocab"],
            "separator": source.eot_token,
            "tokenizer_fingerprint": source.manifest["tokenizer_fingerprint"],
            "corpus_manifest_sha256": source.manifest["corpus_manifest_sha256"],
            "tokens_manifest_sha256": file_sha256(tokens / "manifest.json"),
            "split": split.model_dump(),
            "shard": params.model_dump(),
            "mixture": plan.mixture,
            "splits": {
                name: writers[name].finish(ends[name], plan.n_bytes(turns))
                for name, turns in streams.items()
            },
        }
        shutil.copytree(tokens / "tokenizer", folder / "tokenizer")
        write_json(folder / "manifest.json", manifest)
    for name, described in manifest["splits"].items():
        print(f"shard: {name} {described['documents']:,} documents, {described['tokens']:,} tokens")


def run_stage(settings: Settings) -> None:
    """`python -m stages shard`."""
    run(load_section("shard", ShardParams), load_section("split", SplitParams), TOKENS, OUT)
