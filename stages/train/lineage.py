"""The lineage of a model: corpus, tokenizer, shards, params, code, libraries, hardware."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nanogpt.files import file_sha256
from nanogpt.runtime import Runtime
from stages.artifacts.shards import Shards
from stages.runtime.inputs import code_md5
from stages.train.initial_weights import origin_of

LIBRARIES = ("torch", "numpy", "tiktoken", "pyarrow", "safetensors")


class GitError(Exception):
    """Git cannot answer; the message says why."""


def git(*arguments: str) -> str:
    """Return git's output, without taking locks that could disturb the user's own git commands.

    Raises GitError with git's message, and with the command that git suggests if there is one.
    """
    command = ["git", "--no-optional-locks", "-c", "core.quotePath=false", *arguments]
    try:
        process = subprocess.run(
            command,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": ""},  # messages in one language
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise GitError(f"git cannot be run ({error.strerror})") from None
    if process.returncode != 0:
        messages = [line.strip() for line in process.stderr.splitlines() if line.strip()]
        code = process.returncode
        reason = messages[0].partition(": ")[2] if messages else f"exit code {code}"
        advice = [
            f"; to allow it, run `{line}`" for line in messages if line.startswith("git config ")
        ]
        raise GitError(f"git failed: {reason}{''.join(advice)}")
    return process.stdout.rstrip("\n")


def code_state() -> dict[str, Any]:
    """Return the commit, the tracked files that differ from it, and the MD5 of each code file.

    If git cannot tell the first two, `git_problem` says why.
    """
    commit = changed = problem = None
    try:
        commit = current_commit()
        changed = [line[3:] for line in git("status", "--porcelain", "-uno").splitlines()]
    except GitError as error:
        problem = str(error)
    return {
        "git_commit": commit,
        "git_changed": changed,
        "git_problem": problem,
        "files_md5": code_md5("train"),
    }


def current_commit() -> str:
    """Return the checked-out commit. Raises GitError if this code is not part of one."""
    git("rev-parse", "--git-dir")
    head = ("rev-parse", "--verify", "--quiet")
    try:
        commit = git(*head, "HEAD")
    except GitError:
        raise GitError("the repository has no commit yet") from None
    try:
        git(*head, f"{commit}:./stages")
    except GitError:
        repository = git("rev-parse", "--show-toplevel")
        raise GitError(f"the repository in {repository} is another project's") from None
    return commit


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or the type of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def hardware(runtime: Runtime) -> dict[str, Any]:
    """Return the hardware of a training run and how it is used."""
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
    """Return everything that determined a model, as JSON-serializable values."""
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
