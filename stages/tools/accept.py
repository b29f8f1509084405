"""`make accept`: keep existing outputs after a code edit that does not change them.

DVC reruns a stage when a file of its code was edited, even if only a comment changed. Here both the
code that dvc.lock records (found in git) and the current code run these stages on a miniature: your
params with a tiny model and a few made-up documents. If all outputs are identical byte for byte,
`dvc commit` records the new code with the existing outputs. If one differs, or if more than code
was changed, nothing is recorded.

The miniature trains on this machine's CPU and reads local files. It proves nothing about code that
runs only on a GPU, over the network, or for file types missing from the miniature corpus.
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Collection, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML

from nanogpt.files import write_json
from stages.artifacts.model import LINEAGE
from stages.formats.dvc_lock import (
    ACCEPTED,
    folder_md5,
    locked_stages,
    read_accepted,
    run_dvc,
)
from stages.runtime.errors import Crashed
from stages.runtime.inputs import folder_files
from stages.runtime.settings import PREFIX, Settings
from stages.runtime.yaml_files import DVC_FILE, PARAMS_FILE, read_params
from stages.tokenizers.gpt2 import CACHE

CODE = ("nanogpt", "stages")
COMMITS = 200  # of the code, newest first, that are compared with dvc.lock
RUN_SPECIFIC = ("code", "model_id", "hardware", "libraries", "sessions")  # in lineage.json
ENVIRONMENT = {"NANOGPT_TRACKING": "false", "NANOGPT_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages accept`.

    Raises ValueError if more than code was changed, if no commit has the code that dvc.lock
    records, or if an output of the miniature differs.
    """
    stages = edited_stages(json.loads(run_dvc("status", "--json")))
    if not stages:
        print("accept: no stage is out of date")
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        commit = code_of_lock(folder / "old/code", stages)
        for part in CODE:
            copy_files(Path(part), folder / "current/code" / part)
        print(
            f"accept: comparing {', '.join(stages)} at {commit[:12]} with the current code",
            flush=True,
        )
        differing = compare_outputs(folder / "old", folder / "current", stages)
    if differing:
        files = ", ".join(differing)
        raise ValueError(f"the current code produces different output: {files}; run `dvc repro`")
    locked = locked_stages(Path())
    run_dvc("commit", "--force", *stages)
    record(stages, locked)
    print(f"accept: all outputs are identical; recorded for {', '.join(stages)}")


def compare_outputs(old: Path, current: Path, stages: Collection[str]) -> list[str]:
    """Run stages of the miniature with the code in two folders and return the files that differ.

    The stages they depend on run only once, with the old code.
    """
    pipeline = read_params(DVC_FILE)["stages"]
    prepare(old)
    order = needed(pipeline, stages)
    run_stages(order, old)
    prepare(current)
    for stage in order:
        if stage not in stages:  # what is compared must run
            for out in outs_of(pipeline[stage]):
                copy_files(old / out, current / out)
    run_stages([stage for stage in order if stage in stages], current)
    outs = [out for stage in stages for out in outs_of(pipeline[stage])]
    a, b = (
        {file: md5 for out in outs for file, md5 in md5_of_out(folder, out).items()}
        for folder in (old, current)
    )
    return sorted(file for file in a.keys() | b.keys() if a.get(file) != b.get(file))


def edited_stages(status: dict[str, Any]) -> dict[str, list[str]]:
    """Return the code paths that changed since each stage ran, given the output of `dvc status`.

    Raises ValueError naming a stage that is out of date for any other reason.
    """
    locked = locked_stages(Path())
    edited = {}
    for stage, reasons in status.items():
        known = {dep["path"] for dep in locked.get(stage, {}).get("deps", [])}
        changed = [
            (kind, path)
            for reason in reasons
            for kind, paths in (reason.items() if isinstance(reason, dict) else [(reason, [""])])
            for path in paths
        ]
        others = [
            f"{kind} {path}".strip()
            for kind, path in changed
            if kind != "changed deps" or path.split("/")[0] not in CODE or path not in known
        ]
        if others:
            raise ValueError(
                f"{stage} is out of date for reasons other than edited code "
                f"({', '.join(others)}); run `dvc repro`"
            )
        edited[stage] = [path for _, path in changed]
    return edited


def code_of_lock(folder: Path, stages: dict[str, list[str]]) -> str:
    """Extract the code that dvc.lock records into a folder, and return its commit.

    Raises ValueError if none of the last commits contains it.
    """
    locked = locked_stages(Path())
    wanted = {
        dep["path"]: dep["md5"]
        for stage in stages
        for dep in locked[stage]["deps"]
        if dep["path"] in stages[stage]
    }
    listed = git("rev-list", f"--max-count={COMMITS}", "HEAD", "--", *CODE)
    commits = listed.decode().split() if listed else []
    for commit in commits:
        archive = git("archive", commit, "--", *CODE)
        if archive is None:  # older than these folders
            continue
        with TemporaryDirectory() as name:
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extraction_filter = getattr(tarfile, "data_filter", None)  # since 3.11.4
                tar.extractall(name)
            if all(md5_at(Path(name, path)) == md5 for path, md5 in wanted.items()):
                for part in CODE:
                    copy_files(Path(name, part), folder / part)
                return commit
    raise ValueError(
        f"none of the last {len(commits)} commits contains the code that dvc.lock records: commit "
        "code before running it, or run `dvc repro` to rebuild"
    )


def git(*arguments: str) -> bytes | None:
    """Return the output of a git command; None if it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    return None if done.returncode else done.stdout


def md5_at(path: Path) -> str | None:
    """Return DVC's MD5 of a file or folder of code, None if it does not exist."""
    if path.is_file():
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    files = {file.relative_to(path).as_posix(): md5_at(file) or "" for file in folder_files(path)}
    return folder_md5(files) if files else None


def copy_files(source: Path, target: Path) -> None:
    """Copy a file, or the files of a folder."""
    for file in [source] if source.is_file() else folder_files(source):
        copy = target / file.relative_to(source) if file != source else target
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def needed(pipeline: dict[str, Any], stages: Collection[str]) -> list[str]:
    """Return stages and all the stages they depend on, in the order in which they run."""
    selected = set(stages)
    for stage in reversed(pipeline):  # dvc.yaml lists them in the order they run
        outs = outs_of(pipeline[stage])
        deps = [dep for later in selected for dep in pipeline[later].get("deps", [])]
        if any(dep == out or dep.startswith(f"{out}/") for out in outs for dep in deps):
            selected.add(stage)
    return [stage for stage in pipeline if stage in selected]


def outs_of(stage: dict[str, Any]) -> list[str]:
    """Return the outputs that dvc.yaml declares of a stage, its metrics included."""
    return [*stage.get("outs", []), *stage.get("metrics", [])]


def prepare(folder: Path) -> None:
    """Write the params and the documents of the miniature."""
    write_documents(folder / "texts")
    with (folder / PARAMS_FILE).open("w", encoding="utf-8") as file:
        YAML().dump(small(read_params()), file)
    if CACHE.is_file():  # GPT-2's vocabulary, which a stage would fetch
        copy_files(CACHE, folder / CACHE)


def run_stages(stages: Iterable[str], folder: Path) -> None:
    """Run stages in a folder with the code in it. Raises Crashed if one fails."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    for stage in stages:
        done = subprocess.run(
            [sys.executable, "-m", "stages", stage],
            cwd=folder,
            env={**own, **ENVIRONMENT, "PYTHONPATH": str(folder / "code")},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Crashed(f"the miniature run failed with the {folder.name} code: {done.stderr}")


def md5_of_out(folder: Path, out: str) -> dict[str, str]:
    """Return a hash of each file of an output by its path in a folder."""
    path = folder / out
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): content_md5(file) for file in files}


def content_md5(file: Path) -> str:
    """Return a hash of a file; for lineage.json, without the keys that differ from run to run."""
    content = file.read_bytes()
    if file.name == LINEAGE:
        lineage = {k: v for k, v in json.loads(content).items() if k not in RUN_SPECIFIC}
        content = json.dumps(lineage, sort_keys=True).encode()
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def small(params: dict[str, Any]) -> dict[str, Any]:
    """Return params for the miniature: the choices stay, sizes and the corpus are tiny."""
    corpus: dict[str, Any] = {
        "source": "files",
        "path": "texts",
        "glob": "**/*",
        "package": None,
        "urls": [],
        "separator": None,
        "text_column": "text",
    }
    params["corpus"] |= {**corpus, "huggingface": None, "mixture": None, "encoding": "utf-8"}
    params["clean"] |= {"filters": [], "min_bytes": None, "max_bytes": None}
    if params["tokenize"]["tokenizer"] == "bpe":
        params["tokenize"]["vocab_size"] = 300
    params["split"]["val_fraction"] = 0.3
    params["shard"]["weights"] = None
    params["model"] |= {"block_size": 32, "n_layer": 2, "n_head": 2, "n_embd": 32}
    params["model"]["ngram_table"] = min(params["model"]["ngram_table"], 64)
    params["train"] |= {"init_from": None, "batch_tokens": 256, "max_steps": 6}
    params["train"] |= {"warmup": 1, "decay": 3, "eval_interval": 3, "eval_tokens": 256}
    params["evaluate"] |= {"context": None, "stride": 0.5}
    params["sample"] |= {"prompts": ["the king"], "samples_per_prompt": 1, "max_new_tokens": 8}
    params["sample"]["stop"] = []
    return params


def write_documents(folder: Path) -> None:
    """Write some made-up documents as text, Markdown, HTML and JSON lines."""
    folder.mkdir()
    draw = random.Random(0)
    words = ["the", "king", "and", "queen", "of", "all", "land", "did", "walk", "by", "night"]
    documents = [
        "\n".join(" ".join(draw.choices(words, k=8)) for _ in range(60)) for _ in range(10)
    ]
    for number, text in enumerate(documents[:6]):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    (folder / "6.md").write_text(f"# The king\n\n{documents[6]}", encoding="utf-8")
    (folder / "7.html").write_text(f"<p>{documents[7]}</p>", encoding="utf-8")
    rows = "".join(json.dumps({"text": text}) + "\n" for text in documents[8:])
    (folder / "rows.jsonl").write_text(rows, encoding="utf-8")


def record(stages: dict[str, list[str]], before: dict[str, Any]) -> None:
    """Record for `verify` which code was accepted in place of which."""
    now = locked_stages(Path())
    entries = read_accepted(Path())
    for stage, paths in stages.items():
        md5 = [
            {dep["path"]: dep["md5"] for dep in locked[stage]["deps"]} for locked in (before, now)
        ]
        entries += [
            {"path": path, "made_by": md5[0][path], "accepted": md5[1][path]} for path in paths
        ]
    write_json(ACCEPTED, [dict(entry) for entry in {tuple(e.items()): e for e in entries}.values()])
