"""One project under a real Prefect server, which all tests of a file disturb."""

import os
import shutil
import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.conftest import Project, copy_of
from tests.flow_lab import Lab
from tests.services_lab import free_port

SETTINGS = {
    "NANOGPT_TRACKING": "false",
    "NANOGPT_LOG_INTERVAL": "10",
    "NANOGPT_HANG_SECONDS": "8",
}
SHORT = {"train.max_steps": 60, "train.eval_interval": 10}
LONG = {"train.max_steps": 3000, "train.eval_interval": 100, "train.batch_tokens": 2048}


@pytest.fixture(scope="module")
def lab(template: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A project whose services run."""
    folder = tmp_path_factory.mktemp("lab") / "project"
    project = copy_of(template, folder, max_steps="60", eval_interval="10")
    for command in (("git", "add", "-A"), ("git", "commit", "-qm", "lab")):
        assert project.run(*command).returncode == 0
    made = Lab(project, free_port(), SETTINGS)
    made.up()
    yield made
    made.down()
    assert not made.orphans()


@pytest.fixture(scope="module")
def undisturbed(lab: Lab) -> dict[str, str]:
    """Return the hashes of the weights of the short and the long run, trained without Prefect."""
    hashes = {}
    for name, overrides in (("short", SHORT), ("long", LONG)):
        sets = [f"--set={key}={value}" for key, value in overrides.items()]
        done = lab.module("pipelines.build", "--target", "train", "--experiment", name, *sets)
        assert done.returncode == 0, done.stdout
        hashes[name] = lab.weights(name)
    return hashes


@pytest.fixture(autouse=True)
def forgotten(lab: Lab, undisturbed: dict[str, str]) -> None:
    """Forget what was trained: DVC would restore it, or a finished run only write its model."""
    shutil.rmtree(lab.project.folder / ".dvc/cache/runs", ignore_errors=True)
    for ended in (lab.project.folder / "runs").glob("*/ended.json"):
        shutil.rmtree(ended.parent)


def kill(process: psutil.Process) -> None:
    """Kill -9."""
    os.kill(process.pid, signal.SIGKILL)
