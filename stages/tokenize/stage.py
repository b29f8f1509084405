"""Stage `tokenize`: make the tokenizer and encode all documents.

The output is the same, byte for byte, for any number of workers, wherever they run and however
often they were killed. A `bpe` vocabulary is learned from training documents only, so that even the
tokenizer has never seen the validation text.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from nanogpt.files import atomic_dir, file_sha256, link, write_json
from stages.artifacts.clean import CLEAN, CleanCorpus
from stages.artifacts.corpus import CORPUS
from stages.artifacts.tokens import TOKENS
from stages.lib.params import load_section
from stages.lib.split import SplitParams, split_documents
from stages.lib.text_hash import hash_rows
from stages.runtime.settings import Settings
from stages.tokenize.engine import adversarial, assert_same_tokens, load_encoder, sample_documents
from stages.tokenize.learned import AUTO_RULE, auto_bpe, train_bpe
from stages.tokenize.params import AUTO, Engine, TokenizeParams
from stages.tokenize.pool import tokenize_locally
from stages.tokenize.token_cache import Task, cached_description, make_tasks, prune
from stages.tokenize.token_parts import Description
from stages.tokenizers.gpt2 import gpt2_ranks
from stages.tokenizers.pretokenize import GPT2_PATTERN
from stages.tokenizers.tokenizer import (
    BpeTokenizer,
    CharTokenizer,
    Tokenizer,
    fingerprint,
    save_tokenizer,
)
from stages.tokenizers.tokens import token_dtype

CACHE = Path(".cache/tokens")


def training_texts(cleaned: CleanCorpus, split: SplitParams) -> Iterator[str]:
    """Yield the text of each training document."""
    is_val = split_documents(hash_rows(cleaned.text_hashes()), split)
    for text, held_out in zip(cleaned.texts(), is_val, strict=True):
        if not held_out:
            yield text


def make_tokenizer(params: TokenizeParams, split: SplitParams, cleaned: CleanCorpus) -> Tokenizer:
    """Return the tokenizer that the params ask for; `char` and `bpe` depend on the corpus."""
    if params.tokenizer == "gpt2":
        return BpeTokenizer.of(GPT2_PATTERN, gpt2_ranks())
    if params.tokenizer == "bytes":
        return BpeTokenizer.of(r"[\s\S]", {bytes([b]): b for b in range(256)})
    if params.tokenizer == "char":
        return CharTokenizer("".join(sorted(set().union(*cleaned.texts()))))
    assert params.vocab_size is not None  # TokenizeParams checks it
    texts = training_texts(cleaned, split)
    return auto_bpe(texts) if params.vocab_size == AUTO else train_bpe(texts, params.vocab_size)


class TokenizeParts(Protocol):
    """Tokenizes parts in this process, in a pool or on a cluster, to the same bytes."""

    def __call__(
        self, tasks: Sequence[Task], tokenizer: Path, engine: Engine
    ) -> Iterator[Description]:
        """Yield the descriptions of the parts in order, each once its file is complete.

        Nothing is tokenized before the first is requested.
        """


def tokenize_missing(
    engine: Engine,
    cleaned: CleanCorpus,
    tasks: Sequence[Task],
    tokenizer: Tokenizer,
    saved: Path,
    tokenize_parts: TokenizeParts,
) -> list[Description]:
    """Tokenize the parts that are not in the cache and return the descriptions of all.

    Raises ValueError if the engine does not give tiktoken's tokens for this corpus.
    """
    descriptions = {
        task.target: description
        for task in tasks
        if (description := cached_description(task.target))
    }
    missing = [task for task in tasks if task.target not in descriptions]
    if descriptions:
        print(f"tokenize: {len(tasks) - len(missing)} of {len(tasks)} parts were made before")
    if missing:
        candidate = None if engine == "tiktoken" else load_encoder(saved, engine)
        made = tokenize_parts(missing, saved, engine)  # starts only when iterated over
        if candidate:
            texts = chain(adversarial(), sample_documents(cleaned))
            assert_same_tokens(candidate, engine, texts, tokenizer)
        descriptions |= {task.target: one for task, one in zip(missing, made, strict=True)}
    return [descriptions[task.target] for task in tasks]


def run(
    params: TokenizeParams,
    split: SplitParams,
    cleaned: CleanCorpus,
    out: Path,
    *,
    cache: Path,
    tokenize_parts: TokenizeParts,
) -> None:
    """Write tokens, tokenizer and manifest, taking parts from the cache where it has them."""
    tokenizer = make_tokenizer(params, split, cleaned)
    tokenizer_fingerprint = fingerprint(tokenizer)
    tasks = make_tasks(cleaned, tokenizer_fingerprint, cache)
    cache.mkdir(parents=True, exist_ok=True)
    with atomic_dir(out) as folder:
        saved = folder / "tokenizer"
        save_tokenizer(saved, tokenizer)
        descriptions = tokenize_missing(
            params.engine, cleaned, tasks, tokenizer, saved, tokenize_parts
        )
        for task in tasks:
            link(task.target, folder / task.name)
        files = [
            {"name": task.name, "corpus": task.part.corpus, **description}
            for task, description in zip(tasks, descriptions, strict=True)
        ]
        manifest = {
            "version": 1,
            "tokenize": params.model_dump(),
            "split": split.model_dump(),
            **({"auto_vocab_size": AUTO_RULE} if params.vocab_size == AUTO else {}),
            "tokenizer_fingerprint": tokenizer_fingerprint,
            "corpus_manifest_sha256": cleaned.manifest["corpus_manifest_sha256"],
            "clean_manifest_sha256": file_sha256(cleaned.folder / "manifest.json"),
            "n_vocab": tokenizer.n_vocab,
            "dtype": np.dtype(token_dtype(tokenizer.n_vocab)).name,
            **totals(descriptions),
            "files": files,
        }
        write_json(folder / "manifest.json", manifest)
    prune(cache, [task.target for task in tasks])
    print(
        f"tokenize: {manifest['tokens']:,} tokens ({manifest['bytes_per_token']} bytes per token), "
        f"vocabulary size {tokenizer.n_vocab:,}"
    )


def totals(descriptions: Sequence[Description]) -> dict[str, int | float]:
    """Return the documents, tokens and bytes of all parts."""
    tokens = sum(description["tokens"] for description in descriptions)
    n_bytes = sum(description["bytes"] for description in descriptions)
    return {
        "documents": sum(description["documents"] for description in descriptions),
        "tokens": tokens,
        "bytes": n_bytes,
        "bytes_per_token": round(n_bytes / tokens, 4),
    }


def choose_runner(settings: Settings) -> TokenizeParts:
    """Return the runner that the settings name: this machine or a Ray cluster."""
    if settings.runner == "local":
        return partial(tokenize_locally, workers=settings.worker_count)
    from stages.tokenize.ray_cluster import tokenize_on_ray

    return partial(tokenize_on_ray, workers=settings.worker_count, shared=settings.shared)


def run_stage(settings: Settings) -> None:
    """Run `python -m stages tokenize`."""
    params = load_section("tokenize", TokenizeParams)
    split = load_section("split", SplitParams)
    cleaned = CleanCorpus.open(CORPUS, CLEAN)
    run(params, split, cleaned, TOKENS, cache=CACHE, tokenize_parts=choose_runner(settings))
