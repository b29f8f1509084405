"""`python -m stages report --html`: the page of a real run, and of several."""

import json
import re
import shutil
import subprocess
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lxml import etree, html
from ruamel.yaml import YAML

from stages.evaluate.baselines import SEES
from stages.report.page import page_of
from stages.report.revisions import open_revision
from stages.report.run import Run, read_run
from stages.report.words import few_documents


def write_page(project: Any, file: Path, *revisions: str) -> "subprocess.CompletedProcess[str]":
    """Run the tool in a project."""
    command = ("python", "-m", "stages", "report", "--html", str(file), *revisions)
    done = project.run(*command)
    assert isinstance(done, subprocess.CompletedProcess)
    return done


def page(project: Any, file: Path, *revisions: str) -> str:
    """The page that the tool writes."""
    done = write_page(project, file, *revisions)
    assert done.returncode == 0, done.stdout
    return file.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """What a reader of the page sees, in one line."""
    return " ".join(html.document_fromstring(page).find("body").text_content().split())


def rewrite(file: Path, content: str) -> None:
    """Replace a file that may be a link into DVC's cache."""
    file.unlink()
    file.write_text(content, encoding="utf-8")


def metrics_of(project: Any) -> dict[str, Any]:
    """The metrics of the run in a project."""
    found: dict[str, Any] = json.loads((project.folder / "metrics/evaluation.json").read_text())
    return found


@pytest.fixture(scope="module")
def run(built: Any) -> Run:
    """The run in the built project."""
    with chdir(built.folder):
        return read_run(open_revision("workspace"))


def test_the_page_needs_nothing_else(built: Any, tmp_path: Path) -> None:
    content = page(built, tmp_path / "page.html")
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    assert len(content.encode()) < 300_000
    assert not re.search(r"https?://|url\(|@import|<script|<link|<iframe", content)
    tree = html.document_fromstring(content)
    assert not tree.xpath("//@src | //@href | //@srcset")
    assert "default-src 'none'" in tree.xpath("//meta[@http-equiv]/@content")[0]
    closed = re.sub(r"<meta([^>]*)>", r"<meta\1/>", content)
    etree.fromstring(closed.removeprefix("<!doctype html>\n"))  # every element ends where it should


def test_the_page_has_the_metrics_and_the_hashes(built: Any, run: Run, tmp_path: Path) -> None:
    seen, metrics = text_of(page(built, tmp_path / "page.html")), metrics_of(built)
    lineage = json.loads((built.folder / "models/gpt/lineage.json").read_text())
    best = min(scores["bits_per_byte"] for scores in metrics["baselines"].values())
    margin = best - metrics["bits_per_byte"]
    words = f"{abs(margin):.3f} {'better' if margin > 0 else 'worse'} than"
    assert f"{metrics['bits_per_byte']:.3f} bits per byte of unseen text" in seen
    assert words in seen
    for scores in (metrics, metrics["adaptive"], *metrics["baselines"].values()):
        assert f"{scores['bits_per_byte']:.3f}" in seen
        assert f"{scores['val_loss']:.3f}" in seen
    assert f"{lineage['n_params']:,}" in seen
    hashes = [lineage["data"][f"{name}_manifest_sha256"] for name in ("corpus", "tokens", "shards")]
    weights = {file["name"]: file["sha256"] for file in lineage["files"]}["model.safetensors"]
    assert all(sha256 in seen for sha256 in [*hashes, weights])
    samples = (built.folder / "samples/samples.jsonl").read_text().splitlines()
    assert all(" ".join(json.loads(line)["text"].split()) in seen for line in samples)
    assert all(sees in seen for sees in SEES.values())
    warning = few_documents(run.shards["splits"]["val"]["documents"])
    assert warning is not None
    assert warning in seen
    splits = run.shards["splits"]
    many = {**run.shards, "splits": {**splits, "val": {**splits["val"], "documents": 99}}}
    assert "held-out document" not in text_of(page_of([replace(run, shards=many)]))


def test_the_same_run_gives_the_same_bytes(run: Run) -> None:
    assert page_of([run]) == page_of([run])


def test_what_looks_like_html_is_text(copy_of_built: Any, tmp_path: Path) -> None:
    evil = '</pre><script>alert(1)</script><img src=x onerror="alert(2)">'
    sample = {"prompt": evil, "number": 0, "text": f"{evil}\x00\x1b[31m\ud800 &amp;"}
    folder = copy_of_built.folder
    rewrite(folder / "samples/samples.jsonl", json.dumps(sample) + "\n")
    statistics = json.loads((folder / "statistics/statistics.json").read_text())
    statistics["top_tokens"][0]["text"] = evil
    rewrite(folder / "statistics/statistics.json", json.dumps(statistics))
    content = page(copy_of_built, tmp_path / "page.html")
    tree = html.document_fromstring(content)
    assert not tree.xpath("//script | //img | //@onerror")
    assert [b.text for b in tree.xpath("//pre/b")] == [evil]
    assert tree.xpath("//pre/b")[0].tail == f"{evil}··[31m· &amp;"
    assert evil.replace(" ", "␣") in [code.text for code in tree.xpath("//th/code")]


def test_nothing_private_is_in_the_page(copy_of_built: Any, tmp_path: Path) -> None:
    folder = copy_of_built.folder
    lock = YAML().load(folder / "dvc.lock")
    corpus = lock["stages"]["download"]["params"]["params.yaml"]["corpus"]
    corpus |= {
        "path": "/home/alice/letters",
        "glob": "../bob/letters/*",
        "urls": [{"url": "https://carol:s3cret@site.example/a.txt", "sha256": None}],
    }
    YAML().dump(lock, folder / "dvc.lock")
    content = page(copy_of_built, tmp_path / "page.html")
    seen = text_of(content)
    assert "…/letters" in seen
    assert "https://site.example/a.txt" in seen
    for private in ("alice", "bob", "carol", "s3cret", str(folder), str(tmp_path)):
        assert private not in content


def test_a_very_long_run_makes_a_small_page(run: Run) -> None:
    steps = np.arange(1, 1_000_001, dtype=np.float64)
    noise = np.random.default_rng(0).normal(size=len(steps))
    losses = 10 / steps**0.2 + 0.1 * noise
    train = {"step": steps, "loss": losses, "lr": 1 / steps, "grad_norm": 1 + 0.1 * noise}
    val = {"step": steps[::1000], "loss": losses[::1000]}
    content = page_of([replace(run, train=train, val=val)])
    assert len(content.encode()) < 1_000_000
    assert f"{1_000_000 * run.batch_tokens:,}" in content


def test_a_commit_and_an_experiment_are_compared(copy_of_built: Any, tmp_path: Path) -> None:
    project = copy_of_built
    for command in ("git add dvc.lock", "git commit -qm first"):
        assert project.run(*command.split()).returncode == 0
    scores = {"HEAD": metrics_of(project)["bits_per_byte"]}
    change = ("-S", "train.learning_rate=0.0001", "-S", "evaluate.adapt_rate=0.0")
    done = project.run("dvc", "exp", "run", "--name", "slower", *change)
    assert done.returncode == 0, done.stdout
    scores["slower"] = metrics_of(project)["bits_per_byte"]
    assert scores["slower"] > scores["HEAD"]

    content = page(project, tmp_path / "page.html", "slower", "HEAD")
    tree, seen = html.document_fromstring(content), text_of(content)
    rows = tree.xpath("//table[contains(@class, 'runs')]/tbody/tr")
    cells = [[" ".join(cell.text_content().split()) for cell in row] for row in rows]
    assert [row[0] for row in cells] == ["slower", "HEAD best"]
    assert [row[5] for row in cells] == ["0.0001", "0.003"]
    for row, name in zip(cells, ("slower", "HEAD"), strict=True):
        assert f"{scores[name]:.4f}" in row
    behind = scores["slower"] - scores["HEAD"]
    assert any(cell.startswith(f"+{behind:.4f} ±") for cell in cells[0])
    score = f"{scores['HEAD']:.4f} bits per byte on unseen text"
    assert f"HEAD has the lowest score, {score}, {behind:.4f}" in seen
    assert "better than slower" in seen
    assert "`" not in tree.xpath("//pre[@class='shell']")[0].text
    assert [pre.text.splitlines()[1] for pre in tree.xpath("//pre[@class='shell']")] == [
        "dvc exp apply slower",
        "git restore --source=HEAD params.yaml dvc.lock",
    ]


def test_runs_that_chance_could_explain_are_not_ranked(run: Run) -> None:
    other = replace(run, revision=replace(run.revision, name="other"))
    assert "but its lead over other is within chance" in text_of(page_of([run, other]))


def test_runs_on_other_text_are_not_compared(run: Run) -> None:
    splits = run.shards["splits"]
    shards = {**run.shards, "splits": {**splits, "val": {**splits["val"], "documents": 99}}}
    other = replace(run, revision=replace(run.revision, name="other"), shards=shards)
    content = page_of([run, other])
    assert "were not measured on the same unseen text" in text_of(content)
    assert not html.document_fromstring(content).xpath("//*[contains(@class, 'best')]")


@pytest.mark.parametrize("without", ["adaptive", "statistics", "corpus"])
def test_a_run_without_some_parts_has_a_page(run: Run, without: str) -> None:
    evaluation = {key: value for key, value in run.evaluation.items() if key != "adaptive"}
    changed = {"evaluation": evaluation} if without == "adaptive" else {without: None}
    seen = text_of(page_of([replace(run, **changed)]))
    words = {"adaptive": "keeps learning", "statistics": "Document lengths", "corpus": "from files"}
    assert words[without] in text_of(page_of([run]))
    assert words[without] not in seen


def refused(project: Any, file: Path, *revisions: str) -> str:
    """The only line with which the tool refuses to write a page; there is none."""
    done = write_page(project, file, *revisions)
    assert done.returncode == 2
    assert list(file.parent.iterdir()) == []
    (line,) = done.stdout.splitlines()
    assert isinstance(line, str)
    return line


def test_a_revision_without_a_run_is_refused(built: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    line = refused(built, file, "workspace", "nosuch")
    assert line.startswith("report: 'nosuch' is no commit, branch, tag or experiment")
    assert refused(built, file, "HEAD").startswith("report: HEAD has no dvc.lock")


def test_outputs_that_are_nowhere_are_refused(copy_of_built: Any, tmp_path: Path) -> None:
    project, file = copy_of_built, tmp_path / "pages/page.html"
    file.parent.mkdir()
    for command in ("git add dvc.lock", "git commit -qm first"):
        assert project.run(*command.split()).returncode == 0
    (project.folder / "metrics/evaluation.json").unlink()
    line = refused(project, file)
    assert line == "report: metrics/evaluation.json is missing; run `dvc repro` to create it"
    shutil.rmtree(project.folder / ".dvc/cache")
    line = refused(project, file, "HEAD")
    assert "of HEAD is not in DVC's cache" in line
    assert "`dvc pull`" in line
    assert "`dvc repro`" in line


def test_outputs_that_do_not_belong_together_are_refused(
    copy_of_built: Any, tmp_path: Path
) -> None:
    file = copy_of_built.folder / "dvc.lock"
    lock = YAML().load(file)
    (model,) = lock["stages"]["train"]["outs"]
    model["md5"] = model["md5"][::-1]  # as if trained again, and not evaluated
    YAML().dump(lock, file)
    (tmp_path / "pages").mkdir()
    line = refused(copy_of_built, tmp_path / "pages/page.html")
    assert "evaluate ran with a different models/gpt than train produced; run `dvc repro" in line


def test_a_revision_needs_a_file_for_its_page(built: Any) -> None:
    done = built.run("python", "-m", "stages", "report", "HEAD")
    assert done.returncode == 2
    assert done.stdout == "report: REVISION needs an output file: add --html report.html\n"


def test_params_that_the_model_was_not_trained_with_are_not_shown(
    copy_of_built: Any, tmp_path: Path
) -> None:
    """As after `git restore` of another commit's dvc.lock, without `dvc checkout`."""
    lock = copy_of_built.folder / "dvc.lock"
    recorded = lock.read_text()
    assert "learning_rate: 0.003\n" in recorded
    lock.write_text(recorded.replace("learning_rate: 0.003\n", "learning_rate: 0.01\n"))
    file = tmp_path / "page.html"
    done = copy_of_built.run("python", "-m", "stages", "report", "--html", str(file))
    assert done.returncode == 2
    assert "models/gpt in workspace was built with train.learning_rate 0.003, where" in done.stdout
    assert "run `dvc checkout`" in done.stdout
    assert not file.exists()
