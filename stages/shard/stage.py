"""Stage `shard`: write the tokens of training and validation as memory-mapped files.

A split is one long stream, cut into `.npy` files of shard_tokens: each document is followed by an
end-of-text token. `ends.npy` holds where each document ends in it, after that token. Documents that
`shard.weights` repeats are repeated pass by pass: all of them once, then all once more.
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
from stages.artifacts.shards import SHARDS, VERSION
from stages.artifacts.tokenized import Sizes, Tokenized, TokenizedPart
from stages.artifacts.tokens import TOKENS
from stages.lib.params import load_section
from stages.lib.split import SplitParams, split_documents
from stages.runtime.settings import Settings
from stages.shard.mixture import check_weights, corpus_repeats, document_copies
from stages.shard.params import ShardParams
from stages.shard.split_writer import SplitWriter

Mask = NDArray[np.bool_]  # (documents,)
Copies = NDArray[np.uint8]  # (documents,) how often each occurs in the training stream
T = TypeVar("T")

WRITERS = 2  # threads


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which documents each stream has, and how often."""

    sizes: Sizes
    is_val: Mask
    copies: Copies
    mixture: dict[str, Any] | None  # of the training stream, for the manifest

    @property
    def passes(self) -> list[Mask]:
        """Return a mask for each pass of the training stream: documents with 1, 2, ... copies."""
        return [self.copies > number for number in range(int(self.copies.max()))]

    def ends(self, passes: Sequence[Mask]) -> NDArray[np.int64]:
        """Return where each document ends in a stream of these passes."""
        return np.cumsum(np.concatenate([self.sizes.tokens[mask] for mask in passes]))

    def n_bytes(self, passes: Sequence[Mask]) -> int:
        """Return the bytes of text in a stream of these passes."""
        return sum(int(self.sizes.bytes[mask].sum()) for mask in passes)


def make_plan(params: ShardParams, split: SplitParams, tokens: Tokenized) -> Plan:
    """Decide which documents go where.

    Raises ValueError if the corpora cannot be split or mixed as the params ask.
    """
    hashes, sizes = tokens.text_hashes(), tokens.sizes()
    is_val = split_documents(hashes, split)
    copies = (~is_val).astype(np.uint8)
    if params.weights is None:
        return Plan(sizes=sizes, is_val=is_val, copies=copies, mixture=None)
    check_weights(params.weights, {part.corpus for part in tokens.parts})
    n_tokens = sum_by_corpus(tokens, sizes.tokens * copies)
    repeats = corpus_repeats(n_tokens, params.weights, params.max_repetition)
    for part in tokens.parts:
        copies[part.rows] *= document_copies(hashes[part.rows], repeats[part.corpus], split.seed)
    mixture = describe_mixture(params, repeats, sum_by_corpus(tokens, sizes.tokens * copies))
    return Plan(sizes=sizes, is_val=is_val, copies=copies, mixture=mixture)


def describe_mixture(
    params: ShardParams, repeats: Mapping[str, Fraction], n_tokens: Mapping[str, int]
) -> dict[str, Any]:
    """Return the repeats of each corpus and its tokens in the stream, for the manifest."""
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


def sum_by_corpus(tokens: Tokenized, counts: NDArray[np.int64]) -> dict[str, int]:
    """Return the sum of counts (documents,) over the documents of each corpus."""
    sums = Counter({part.corpus: 0 for part in tokens.parts})
    for part in tokens.parts:
        sums[part.corpus] += int(counts[part.rows].sum())
    return dict(sums)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Documents of one part that are consecutive in a stream, from its token `first` on."""

    split: str
    mask: Mask
    first: int


def segments(plan: Plan, tokens: Tokenized) -> Iterator[tuple[TokenizedPart, list[Segment]]]:
    """Yield each part with the segments to write from it, once for each time it must be read."""
    written = Counter[str]()

    def segment(split: str, mask: Mask, part: TokenizedPart) -> Segment:
        first = written[split]
        written[split] += int(plan.sizes.tokens[part.rows][mask[part.rows]].sum())
        return Segment(split=split, mask=mask, first=first)

    for number, mask in enumerate(plan.passes):
        for part in tokens.parts:
            if number == 0:
                yield part, [segment("train", mask, part), segment("val", plan.is_val, part)]
            elif mask[part.rows].any():
                yield part, [segment("train", mask, part)]


def spread_out(items: Sequence[T], n: int) -> list[T]:
    """Return the items in another order, in which n neighbors were far from each other."""
    step = -(-len(items) // n)
    return [item for start in range(step) for item in items[start::step]]


def write(plan: Plan, tokens: Tokenized, writers: Mapping[str, SplitWriter]) -> None:
    """Write both splits, WRITERS parts at a time.

    Parts written at a time are far from each other, so that they go to different files: the
    operating system lets one thread at a time write to a file. Raises ValueError if a token is
    beyond the vocabulary, OSError if writing fails; either stops the other threads.
    """

    def write_part(part: TokenizedPart, of_part: Sequence[Segment]) -> None:
        positions = [segment.first for segment in of_part]
        for documents in tokens.documents(part):
            for number, segment in enumerate(of_part):
                values = tokens.concatenate(documents.select(segment.mask))
                writers[segment.split].write(positions[number], values)
                positions[number] += len(values)
        if len(plan.passes) == 1:
            drop_cached(part.file)  # makes room in the page cache for what is written

    with ThreadPoolExecutor(WRITERS) as pool:
        futures = [
            pool.submit(write_part, part, of_part)
            for part, of_part in spread_out([*segments(plan, tokens)], WRITERS)
        ]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def run(params: ShardParams, split: SplitParams, tokens: Path, out: Path) -> None:
    """Write both splits, the tokenizer and the manifest.

    Raises ValueError if the corpora cannot be split or mixed as the params ask, or if a token is
    beyond the vocabulary.
    """
    source = Tokenized.open(tokens)
    plan = make_plan(params, split, source)
    streams = {"train": plan.passes, "val": [plan.is_val]}
    ends = {name: plan.ends(passes) for name, passes in streams.items()}
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
                name: writers[name].finish(ends[name], plan.n_bytes(passes))
                for name, passes in streams.items()
            },
        }
        shutil.copytree(tokens / "tokenizer", folder / "tokenizer")
        write_json(folder / "manifest.json", manifest)
    for name, described in manifest["splits"].items():
        print(f"shard: {name} {described['documents']:,} documents, {described['tokens']:,} tokens")


def run_stage(settings: Settings) -> None:
    """Run `python -m stages shard`."""
    run(load_section("shard", ShardParams), load_section("split", SplitParams), TOKENS, SHARDS)
