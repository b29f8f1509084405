"""Where a model comes from: corpus, tokenizer, shards, params, code, libraries, hardware."""

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
    """Git does not answer; the message says why."""


def git(*arguments: str) -> str:
    """Return what git answers, taking no lock that could disturb the user's own git.

    Raises GitError with git's reason, and the command that git itself recommends if there is one.
    """
    command = ["git", "--no-optional-locks", "-c", "core.quotePath=false", *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": ""},  # reasons in one language
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise GitError(f"git cannot be run ({error.strerror})") from None
    if done.returncode != 0:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = said[0].partition(": ")[2] if said else f"it ended with {done.returncode}"
        advice = [f"; allow it by `{line}`" for line in said if line.startswith("git config ")]
        raise GitError(f"git says: {reason}{''.join(advice)}")
    return done.stdout.rstrip("\n")


def code_state() -> dict[str, Any]:
    """Return the commit, the tracked files that differ from it, and the MD5 of each module.

    Where git does not give the first two, `git_problem` says why.
    """
    commit = changed = problem = None
    try:
        commit = own_commit()
        changed = [line[3:] for line in git("status", "--porcelain", "-uno").splitlines()]
    except GitError as error:
        problem = str(error)
    return {
        "git_commit": commit,
        "git_changed": changed,
        "git_problem": problem,
        "files_md5": code_md5("train"),
    }


def own_commit() -> str:
    """Return the commit that is checked out. Raises GitError where this code is of none."""
    git("rev-parse", "--git-dir")
    head = ("rev-parse", "--verify", "--quiet")
    try:
        commit = git(*head, "HEAD")
    except GitError:
        raise GitError("the repository has no commit yet") from None
    try:
        git(*head, f"{commit}:./stages")
    except GitError:
        where = git("rev-parse", "--show-toplevel")
        raise GitError(f"the repository in {where} is another project's") from None
    return commit


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
