"""`python -m stages compare`: what differs between two states of a real project."""

import json
from typing import Any


def test_params_and_metrics_that_differ_are_shown_side_by_side(copy_of_built: Any) -> None:
    project = copy_of_built
    project.run("git", "add", "dvc.lock")
    project.run("git", "commit", "-qm", "first run")
    file = project.folder / "metrics/evaluate.json"
    metrics = json.loads(file.read_text())
    before = metrics["bits_per_byte"]
    file.unlink()  # it may be a link into DVC's cache
    file.write_text(json.dumps({**metrics, "bits_per_byte": before - 0.25}))
    project.set_params(max_new_tokens="12", stop='["[/INST]"]')
    lines = project.run("python", "-m", "stages", "compare", "HEAD").stdout.splitlines()
    rows = [line.split() for line in lines]
    assert ["params", "HEAD", "workspace", "change"] in rows
    assert ["sample.max_new_tokens", "30", "12", "-18"] in rows
    assert ["sample.stop", "[]", "['[/INST]']"] in rows
    assert ["bits_per_byte", f"{before:.4f}", f"{before - 0.25:.4f}", "-0.25"] in rows
    output = project.run("python", "-m", "stages", "compare", "HEAD~1", "HEAD~1").stdout
    assert "params: no difference between HEAD~1 and HEAD~1" in output
    assert "metrics: neither HEAD~1 nor HEAD~1 has any" in output


def test_what_git_does_not_know_is_refused(built: Any) -> None:
    done = built.run("python", "-m", "stages", "compare", "nosuch", "HEAD")
    assert done.returncode == 2
    (line,) = done.stdout.splitlines()
    assert line.endswith("failed: ERROR: unknown Git revision 'nosuch'")
