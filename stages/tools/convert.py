"""Bring weights in, and take them out to other formats: `python -m stages convert`.

    from-hf gpt2 weights/gpt2          GPT-2 as OpenAI released it, from the Hugging Face Hub
    from-hf FOLDER OUT                 your own GPT-2, saved by transformers
    from-nanogpt out/ckpt.pt OUT       a nanoGPT checkpoint; for a character model, add
                                       --tokenizer data/shakespeare_char/meta.pkl or
                                       --text input.txt
    from-mlflow MODEL OUT              a model that MLflow has: RUN_ID, models:/NAME/VERSION or
                                       models:/NAME@ALIAS
    to-hf models/gpt OUT               a model of this project for transformers, if it is a GPT-2

An import creates a model folder like `models/gpt`: weights, config, tokenizer, and a `source.json`
with the origin and its SHA-256 (from MLflow, the `lineage.json` of its training). A training run
can start from one in `weights/` (`train.init_from`). This is not a stage of the pipeline: DVC
tracks the contents of `weights/`, not their origin.
"""

import argparse
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nanogpt.convert.gpt2 import (
    config_from_hf,
    config_from_nanogpt,
    config_to_hf,
    gpt2_model,
    read_nanogpt,
    size_of,
    weights_to_hf,
    with_new_row,
)
from nanogpt.convert.hugging_face_files import HF_INDEX, HF_WEIGHTS, read_hf
from nanogpt.files import atomic_dir, file_sha256, write_json
from nanogpt.model.files import load_model, read_config, save_model
from nanogpt.model.gpt import GPT
from stages.artifacts.model import LINEAGE
from stages.formats.hugging_face_tokenizer import save_fast_tokenizer, symbol_vocabulary
from stages.formats.named_tokenizer import GPT2_VOCAB_SIZES, own_tokenizer, tokenizer_named
from stages.formats.nanogpt_meta import meta_tokenizer, text_tokenizer
from stages.runtime.settings import Settings
from stages.tokenizers.gpt2 import gpt2_ranks
from stages.tokenizers.tokenizer import (
    CharTokenizer,
    Tokenizer,
    fingerprint,
    save_tokenizer,
)
from stages.tracking.logged_model import FORMS, download_model, is_reference

# Commits of openai-community/NAME on the Hub.
REVISIONS = {
    "gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    "gpt2-medium": "6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
    "gpt2-large": "32b71b12589c2f8d625668d2335a01cac3249519",
    "gpt2-xl": "15ea56dee5df4983c59b2538573817e1667135e2",
}
HF_FILES = ("config.json", HF_WEIGHTS)
TIMEOUT_SECONDS = 10


def from_hf(name: str, out: Path, revision: str | None, tokenizer_name: str | None) -> None:
    """Convert a GPT-2 from the Hub or a local folder to a model folder."""
    folder, origin = hf_folder(name, revision)
    file = folder / "config.json"
    hf_config = read_json(file)
    with prefix_errors(file):
        config = config_from_hf(hf_config)
        if tokenizer_name is None and config.vocab_size not in GPT2_VOCAB_SIZES:
            raise ValueError(
                f"vocab_size is {config.vocab_size}, but GPT-2's is {GPT2_VOCAB_SIZES[0]}; pass "
                "the model's own tokenizer with --tokenizer, a folder such as models/gpt/tokenizer"
            )
        tokenizer = tokenizer_named("gpt2" if tokenizer_name is None else tokenizer_name)
        if tokenizer.n_vocab != config.vocab_size:
            raise ValueError(
                f"vocab_size is {config.vocab_size}, but the tokenizer has {tokenizer.n_vocab} "
                "tokens"
            )
    if tokenizer_name is None:
        check_vocabulary(folder)
    weights, sources = read_hf(folder)
    model = gpt2_model(config, weights, sources[0], vocab_rows=config.vocab_size, conv1d=True)
    write_model(out, model, tokenizer, origin, [file, *sources])


def hf_folder(name: str, revision: str | None) -> tuple[Path, dict[str, str]]:
    """Return the folder with the files of a GPT-2, downloaded if necessary, and their origin."""
    if name in REVISIONS:
        commit = resolve_revision(name, revision or REVISIONS[name])
        origin = {"huggingface": f"openai-community/{name}", "revision": commit}
        return download_gpt2(name, commit), origin
    if revision is not None:
        raise ValueError(f"--revision is only for {', '.join(REVISIONS)}, not for {name}")
    missing = [file for file in HF_FILES if not Path(name, file).is_file()]
    if Path(name, HF_INDEX).is_file():  # sharded weights
        missing = [file for file in missing if file != HF_WEIGHTS]
    if missing:
        raise ValueError(
            f"{name} is not one of {', '.join(REVISIONS)}, nor a folder as written by "
            f"transformers' `save_pretrained`: {', '.join(missing)} missing"
        )
    return Path(name), {"folder": name}


def from_nanogpt(
    checkpoint: Path, out: Path, tokenizer_name: str | None, text: Path | None
) -> None:
    """Convert a ckpt.pt of nanoGPT to a model folder.

    A character model has no end-of-text token, which this project needs: one is added.
    """
    model_args, weights = read_nanogpt(checkpoint)
    with prefix_errors(checkpoint):
        rows = size_of(model_args, "vocab_size")
        tokenizer, files = nanogpt_tokenizer(tokenizer_name, text, rows)
        if isinstance(tokenizer, CharTokenizer) and rows == len(tokenizer.characters):
            rows, weights = rows + 1, with_new_row(weights)
            model_args = {**model_args, "vocab_size": rows}
        config = config_from_nanogpt(model_args, tokenizer.n_vocab)
    model = gpt2_model(config, weights, checkpoint, vocab_rows=rows, conv1d=False)
    write_model(out, model, tokenizer, {"nanogpt": str(checkpoint)}, [checkpoint, *files])


def nanogpt_tokenizer(
    name: str | None, text: Path | None, vocab_size: int
) -> tuple[Tokenizer, list[Path]]:
    """Return the tokenizer of a nanoGPT model, and the file it was made from, if any.

    Raises ValueError if none is named and it cannot be GPT-2's, or if its size is not the model's.
    """
    if name is None and text is None and vocab_size not in GPT2_VOCAB_SIZES:
        raise ValueError(
            f"vocab_size is {vocab_size}, but GPT-2's is {GPT2_VOCAB_SIZES[0]}; pass the model's "
            "own vocabulary: --tokenizer data/NAME/meta.pkl as nanoGPT wrote it, --text FILE with "
            "the text it learned from, or --tokenizer FOLDER such as models/gpt/tokenizer"
        )
    if text is None and not (name and (name.endswith(".pkl") or Path(name).is_file())):
        return tokenizer_named("gpt2" if name is None else name), []
    if text is None:
        file = Path(name or "")
        tokenizer, size = meta_tokenizer(file)
    else:
        file, tokenizer = text, text_tokenizer(text)
        size = len(tokenizer.characters)
    if size != vocab_size:
        raise ValueError(
            f"vocab_size is {vocab_size}, but {file} has {size} characters; name the one that this "
            "model was trained on"
        )
    return tokenizer, [file]


def to_hf(folder: Path, out: Path) -> None:
    """Convert a model folder to one that transformers loads, with its tokenizer."""
    config = read_config(folder)
    tokenizer = own_tokenizer(folder / "tokenizer")
    if tokenizer.n_vocab != config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.n_vocab} tokens, but the model has "
            f"{config.vocab_size}"
        )
    with prefix_errors(folder / "config.json"):
        hf_config = config_to_hf(config)
    model = load_model(folder, torch.device("cpu"))
    weights = weights_to_hf(config, dict(model.named_parameters()))
    generation_config = {key: hf_config[key] for key in ("bos_token_id", "eos_token_id")}
    with atomic_dir(out) as draft:
        save_file(weights, draft / "model.safetensors", metadata={"format": "pt"})
        write_json(draft / "config.json", hf_config)
        write_json(draft / "generation_config.json", generation_config)
        save_fast_tokenizer(draft, tokenizer, block_size=config.block_size)
        for name in (LINEAGE, "source.json"):
            if (folder / name).is_file():
                shutil.copy(folder / name, draft / name)
    print(f"convert: wrote a GPT-2 for transformers to {out}")


def from_mlflow(reference: str, out: Path) -> None:
    """Download a model of this project from MLflow, verifying every file."""
    if not is_reference(reference):
        raise ValueError(f"{reference!r} does not name a model in MLflow; allowed are {FORMS}")
    download_model(reference, out)
    print(f"convert: wrote {reference} to {out}, all files verified")


def resolve_revision(name: str, revision: str) -> str:
    """Return the commit of a branch, tag or commit on the Hub."""
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi

    with hub_errors(name, revision):
        info = HfApi().model_info(
            f"openai-community/{name}", revision=revision, timeout=TIMEOUT_SECONDS
        )
    assert info.sha is not None  # always set for models on the Hub
    return info.sha


def download_gpt2(name: str, commit: str) -> Path:
    """Download a GPT-2 from the Hub into the Hub's cache; return its folder."""
    from huggingface_hub import hf_hub_download

    with hub_errors(name, commit):
        *_, last_file = (
            hf_hub_download(
                f"openai-community/{name}", file, revision=commit, etag_timeout=TIMEOUT_SECONDS
            )
            for file in HF_FILES
        )
    return Path(last_file).parent


@contextmanager
def hub_errors(name: str, revision: str) -> Iterator[None]:
    """Raise ValueError for an unknown revision, ConnectionError if the Hub cannot be reached."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        yield
    except HfHubHTTPError as error:
        reason, status = " ".join(str(error).split()), error.response.status_code
        if 400 <= status < 500 and status != 429:
            raise ValueError(f"the Hub has no {name} at revision {revision}: {reason}") from None
        raise ConnectionError(f"the Hugging Face Hub could not provide {name}: {reason}") from None
    except (ConnectionError, LocalEntryNotFoundError, httpx2.TransportError) as error:
        raise ConnectionError(
            f"the Hugging Face Hub could not provide {name} ({error.__cause__ or error}); try "
            "again, or name a folder with its files"
        ) from None


def check_vocabulary(folder: Path) -> None:
    """Raise ValueError if the tokenizer next to the weights is not GPT-2's.

    Many GPT-2 models of other languages have a different vocabulary of the same size.
    """
    if (file := folder / "tokenizer.json").is_file():
        vocabulary = read_json(file).get("model", {}).get("vocab")
    elif (file := folder / "vocab.json").is_file():
        vocabulary = read_json(file)
    else:  # there are only weights
        return
    if vocabulary != symbol_vocabulary(gpt2_ranks()):
        raise ValueError(f"{file} is not GPT-2's; pass the model's own tokenizer with --tokenizer")


def write_model(
    out: Path, model: GPT, tokenizer: Tokenizer, origin: dict[str, str], files: list[Path]
) -> None:
    """Write a model folder; `files` are those that the model was made from."""
    source = {
        **origin,
        "sha256": {file.name: file_sha256(file) for file in files},
        "tokenizer_fingerprint": fingerprint(tokenizer),
    }
    with atomic_dir(out) as folder:
        save_model(folder, model)
        save_tokenizer(folder / "tokenizer", tokenizer)
        write_json(folder / "source.json", source)
    print(f"convert: wrote {model.n_params():,} parameters to {out}")


@contextmanager
def prefix_errors(file: Path) -> Iterator[None]:
    """Prefix the message of a ValueError with the file's name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises ValueError if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} does not hold a JSON object")
    return content


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their arguments."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    hf = commands.add_parser("from-hf", help="convert a Hugging Face GPT-2 to a model folder")
    hf.add_argument("source", help=f"{', '.join(REVISIONS)}, or a folder with its files")
    hf.add_argument("--revision", help="Hub revision: commit, tag or branch (default: pinned)")
    nanogpt = commands.add_parser(
        "from-nanogpt", help="convert nanoGPT's ckpt.pt to a model folder"
    )
    nanogpt.add_argument("source", type=Path, help="path of the ckpt.pt")
    folder = "gpt2, or a folder such as models/gpt/tokenizer"
    hf.add_argument("--tokenizer", help=folder)
    vocabulary = nanogpt.add_mutually_exclusive_group()
    vocabulary.add_argument("--tokenizer", help=f"{folder}, or nanoGPT's data/NAME/meta.pkl")
    vocabulary.add_argument(
        "--text", type=Path, help="the text it was trained on: nanoGPT's input.txt"
    )
    mlflow = commands.add_parser("from-mlflow", help="download a model folder from MLflow")
    mlflow.add_argument("source", help=FORMS)
    out = commands.add_parser("to-hf", help="export a model folder for transformers")
    out.add_argument("source", type=Path, help="a model folder, such as models/gpt")
    for command in (hf, nanogpt, mlflow, out):
        command.add_argument("out", type=Path, help="a new folder")


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages convert COMMAND ...`."""
    if options.out.exists():
        raise ValueError(f"{options.out} already exists; remove it or choose another folder")
    if options.command == "from-hf":
        from_hf(options.source, options.out, options.revision, options.tokenizer)
    elif options.command == "from-nanogpt":
        from_nanogpt(options.source, options.out, options.tokenizer, options.text)
    elif options.command == "from-mlflow":
        from_mlflow(options.source, options.out)
    else:
        to_hf(options.source, options.out)
