"""Where a model comes from: corpus, tokenizer, shards, params, code, libraries, hardware."""

import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nanogpt.files import file_sha256
from nanogpt.runtime import Runtime
from stages.inputs import code_md5
from stages.tokens.shards import Shards
from stages.training.initial_weights import origin_of

LIBRARIES = ("torch", "numpy", "tiktoken", "pyarrow", "safetensors")


def git(*arguments: str) -> str | None:
    """What git answers, or None outside a repository and without git."""
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


def code_state() -> dict[str, Any]:
    """The commit, which tracked files differ from it, and the MD5 of each module of the stage."""
    changed = git("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": git("rev-parse", "HEAD"),
        "git_changed": None if changed is None else [line[3:] for line in changed.splitlines()],
        "files_md5": code_md5("train"),
    }


def device_name(device: torch.device) -> str:
    """Return a GPU's name, or the kind of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def hardware(runtime: Runtime) -> dict[str, Any]:
    """Return what the model is trained on, and how that is used."""
    return {
        "device": device_name(runtime.device),
        "processes": runtime.world_size,
        "threads": torch.get_num_threads(),
        "workers": runtime.workers,
        "number_format": str(runtime.dtype).removeprefix("torch."),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def lineage(
    shards: Shards, identity: dict[str, Any], fingerprint: str, model_id: str, runtime: Runtime
) -> dict[str, Any]:
    """Everything that went into a model, as JSON."""
    manifest, init_from = shards.manifest, identity["train"]["init_from"]
    return {
        "model_id": model_id,
        "fingerprint": fingerprint,
        "params": {key: identity[key] for key in ("model", "train")},
        "data": {
            "corpus_manifest_sha256": manifest["corpus_manifest_sha256"],
            "tokens_manifest_sha256": manifest["tokens_manifest_sha256"],
            "shards_manifest_sha256": file_sha256(shards.folder / "manifest.json"),
            "tokenizer_fingerprint": manifest["tokenizer_fingerprint"],
        },
        "init_from": origin_of(Path(init_from)) if init_from else None,
        "code": code_state(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "hardware": hardware(runtime),
    }
