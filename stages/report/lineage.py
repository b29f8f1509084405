"""Where a model comes from, as a tree of hashes: from its weights back to the corpus."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.artifacts.summaries import corpus_lines, shards_lines, weights_lines
from stages.artifacts.training import hardware_line, session_lines, some_of
from stages.report.run import Run


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A step on the way back: what it is, the hash that identifies it, and what it came from."""

    title: str
    hash_of: str = ""  # the file
    sha256: str | None = None
    lines: Sequence[str] = ()
    children: Sequence["Origin"] = ()


def origin_of(run: Run) -> Origin:
    """Return the weights of a run, and below them what they came from."""
    about = run.lineage
    sha256 = {file["name"]: file["sha256"] for file in about["files"]}
    return Origin(
        title="weights",
        hash_of="model.safetensors",
        sha256=sha256["model.safetensors"],
        lines=[
            f"{about['n_params']:,} parameters after step {about['step']:,}",
            f"model {about['model_id']}",
        ],
        children=[training_of(about), data_of(run), *initial_weights_of(about["init_from"])],
    )


def training_of(about: Mapping[str, Any]) -> Origin:
    """Return the code and the hardware of a training run."""
    sessions = about.get("sessions") or [about]
    lines = [
        *(commit_line(session["code"]) for session in sessions),
        *session_lines(about.get("sessions", [])),
        *(hardware_line(session["hardware"]) for session in sessions),
        ", ".join(f"{name} {version}" for name, version in about["libraries"].items()),
    ]
    return Origin(title="code and hardware", lines=list(dict.fromkeys(lines)))


def commit_line(code: Mapping[str, Any]) -> str:
    """Return the commit of a training session, and the files that differed from it."""
    if code["git_commit"] is None:  # git's reason may name a folder of this machine
        return "commit unknown"
    changed = code["git_changed"]
    files = "unknown" if changed is None else some_of(changed) if changed else "nothing"
    return f"commit {code['git_commit']}; changed: {files}"


def data_of(run: Run) -> Origin:
    """Return the shards, and below them the tokens and the corpus unless they were imported."""
    data = run.lineage["data"]
    return Origin(
        title="shards",
        hash_of="manifest.json",
        sha256=data["shards_manifest_sha256"],
        lines=[
            *shards_lines(run.shards),
            f"tokenizer fingerprint {data['tokenizer_fingerprint']}",
        ],
        children=list(tokens_and_corpus(run)),
    )


def tokens_and_corpus(run: Run) -> Iterator[Origin]:
    """Yield the tokens, with the corpus below them; nothing if the shards were imported."""
    data = run.lineage["data"]
    if data["tokens_manifest_sha256"] is None:
        return
    corpus = Origin(
        title="corpus",
        hash_of="manifest.json",
        sha256=data["corpus_manifest_sha256"],
        lines=corpus_lines(run.corpus) if run.corpus else [],
    )
    yield Origin(
        title="tokens",
        hash_of="manifest.json",
        sha256=data["tokens_manifest_sha256"],
        children=[corpus],
    )


def initial_weights_of(origin: Mapping[str, Any] | None) -> list[Origin]:
    """Return the weights that training started from; none if they were random."""
    if origin is None:
        return []
    return [
        Origin(
            title="initial weights",
            hash_of="model.safetensors",
            sha256=origin["sha256"],
            lines=weights_lines(origin),
        )
    ]
