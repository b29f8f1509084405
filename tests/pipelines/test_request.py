"""Requests for runs: one process per run, one experiment per run; results on Prefect's page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.request import AlreadyRunning, Request
from pipelines.result import result_markdown
from pipelines.stage_run import Console
from pipelines.workspace import lock_of, saved_file, workspace_of
from stages.runtime import supervise

ID = "0198-run-12345678"


def test_a_second_process_of_a_run_leaves_it_to_the_first(
    new_project: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_project().folder
    monkeypatch.chdir(folder)
    monkeypatch.setattr(supervise, "LOCK_SECONDS", 0.0)
    place = workspace_of(folder, "texts", ID)
    with supervise.exclusive_lock(lock_of(place)), pytest.raises(AlreadyRunning, match="active"):
        Request(target="weights").build_experiment(Console(), ID, {})
    assert not place.folder.exists()


def test_a_run_that_was_saved_is_not_repeated(
    new_project: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = new_project().folder
    monkeypatch.chdir(folder)
    saved = saved_file(folder, ID)
    saved.parent.mkdir(parents=True)
    saved.write_text("mine")
    workspace_of(folder, "texts", ID).folder.mkdir(parents=True)  # the process died just then
    Request(target="weights").build_experiment(Console(), ID, {})
    assert "already saved as the experiment mine" in capsys.readouterr().out
    assert not workspace_of(folder, "texts", ID).folder.exists()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_result_shows_at_most_two_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("metrics", "samples"):
        (tmp_path / name).mkdir()
    scores = {"val_loss": 1.0, "perplexity": 2.7, "bits_per_byte": 1.4}
    metrics = {**scores, "baselines": {"gzip": scores}, "tokens": 9, "bytes": 9}
    file = tmp_path / "metrics/evaluation.json"
    file.write_text(json.dumps({**metrics, "standard_error": 0.1}))
    line = json.dumps({"prompt": "the ", "text": "king\u2028\n"}, ensure_ascii=False) + "\n"
    (tmp_path / "samples/samples.jsonl").write_text(line * count, encoding="utf-8")
    assert result_markdown().count("the king") == min(count, 2)
