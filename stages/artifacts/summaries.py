"""Manifests in words: the size of an output, and where it is from, one fact per line."""

from collections.abc import Mapping
from typing import Any

from stages.lib.reasons import in_words


def shards_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Return the sizes of both splits and, if they were imported, the files they are from."""
    lines = [
        f"{name}: {split['documents']:,} documents, {split['tokens']:,} tokens"
        for name, split in manifest["splits"].items()
    ]
    if imported := manifest.get("imported"):
        lines.append(f"imported from files in the format of {imported['format']}:")
        lines += [f"{name} sha256 {sha256}" for name, sha256 in imported["sha256"].items()]
    return lines


def tokens_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Return the size of the tokens and of their vocabulary."""
    tokenizer, n_vocab = manifest["tokenize"]["tokenizer"], manifest["n_vocab"]
    return [
        f"{manifest['documents']:,} documents, {manifest['tokens']:,} tokens, vocabulary "
        f"{tokenizer} of {n_vocab:,}"
    ]


def clean_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Return how many documents were kept, and the filters that decided."""
    return [
        f"{manifest['kept']:,} of {manifest['documents']:,} documents kept, "
        f"{in_words(manifest['dropped'])} dropped",
        *(f"filter {name} sha256 {sha256}" for name, sha256 in manifest["filters"].items()),
    ]


def corpus_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Return the size and the source of the corpus, or of each one in a mixture."""
    corpus = manifest["corpus"]
    lines = [f"{manifest['documents']:,} documents, {manifest['bytes']:,} bytes"]
    if corpus["source"] != "mixture":
        return [*lines, *source_lines(corpus)]
    for name, part in corpus["mixture"].items():
        files = [file for file in manifest["files"] if file["corpus"] == name]
        documents, n_bytes = (sum(file[key] for file in files) for key in ("documents", "bytes"))
        lines += [f"{name}: {documents:,} documents, {n_bytes:,} bytes", *source_lines(part)]
    return lines


def source_lines(corpus: Mapping[str, Any]) -> list[str]:
    """Return where a corpus is from, with the hash or the commit that pins it."""
    if corpus["source"] == "package":
        package = corpus["package"]
        release = f"{package['name']} {package['version']}"
        return [
            f"from the Python package {release}, {package['members']}",
            f"package sha256 {package['sha256']}",
        ]
    if corpus["source"] == "url":
        pairs = [(f"from {url['url']}", f"sha256 {url['sha256']}") for url in corpus["urls"]]
        return [line for pair in pairs for line in pair]
    if corpus["source"] == "huggingface":
        hub = corpus["huggingface"]
        known = (hub["name"], hub["config"], f"split {hub['split']}")
        revision = f", revision {hub['revision']}" if hub["revision"] else ""
        return [f"from the Hugging Face dataset {', '.join(filter(None, known))}{revision}"]
    return [f"from files in {corpus['path']}, {corpus['glob']}"]


def weights_lines(origin: Mapping[str, Any]) -> list[str]:
    """Return where initial weights are from, as their conversion or their training recorded it."""
    lines = []
    if source := origin.get("source"):
        known = [source[key] for key in ("huggingface", "nanogpt", "folder") if key in source]
        revision = f", revision {source['revision']}" if "revision" in source else ""
        lines.append(f"converted from {', '.join(known)}{revision}")
        lines += [f"{name} sha256 {sha256}" for name, sha256 in source["sha256"].items()]
    if lineage := origin.get("lineage"):
        shards = lineage["data"]["shards_manifest_sha256"]
        lines += [f"trained as model {lineage['model_id']}", f"on shards with manifest {shards}"]
    return lines
