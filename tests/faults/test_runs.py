"""Disturbed runs of a real Prefect server: each ends as if nothing had happened, or says why."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from pipelines.keep import flow_run_processes
from pipelines.page import device_names
from tests.conftest import Project, copy_of
from tests.flow_lab import Lab
from tests.services_lab import free_port
from tests.waiting import wait_for

WORKER, LAUNCHER, DVC = "stages.train.worker", "-m stages train", "pipelines.stage_process train"
SETTINGS = {
    "NANOGPT_TRACKING": "false",
    "NANOGPT_LOG_INTERVAL": "10",
    "NANOGPT_HANG_SECONDS": "8",
}
SHORT = {"train.max_steps": 60, "train.eval_interval": 10}
LONG = {"train.max_steps": 2000, "train.eval_interval": 100, "train.batch_tokens": 2048}


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


def test_killed_processes_of_a_training_are_replaced(lab: Lab, undisturbed: dict[str, str]) -> None:
    run = lab.start(LONG, target="train", experiment="killed")
    for number, named in enumerate((WORKER, LAUNCHER, DVC)):
        lab.wait_for_step(run, 150 + 300 * number)
        kill(lab.processes(named)[-1])
    lab.complete(run)
    assert lab.tries(run, "train") == ["Failed", "Failed", "Failed", "Completed"]
    assert "SIGKILL" in lab.log(run)
    assert lab.weights("killed") == undisturbed["long"]


def test_a_run_whose_own_process_is_killed_leaves_none_and_is_taken_up_again(
    lab: Lab, undisturbed: dict[str, str]
) -> None:
    run = lab.start(LONG, target="train", experiment="crashed")
    lab.wait_for_step(run, 300)
    (flow,) = [p for p, id in flow_run_processes(lab.project.processes()).items() if id == run]
    kill(flow)
    wait_for(lambda: not lab.orphans(), 5, "stages are still there")
    wait_for(lambda: lab.state(run)["type"] == "CRASHED", 120, "the state is not true")
    wait_for(lambda: lab.state(run)["type"] == "RUNNING", 120, "it is not taken up again")
    lab.complete(run)
    states = lab.tries(run, "train")
    assert states == ["Crashed", "Completed"]
    assert lab.log(run).count("after step") == 1
    assert lab.weights("crashed") == undisturbed["long"]


def test_two_runs_at_once_wait_for_the_device(lab: Lab, undisturbed: dict[str, str]) -> None:
    first = lab.start(SHORT, target="train", experiment="first")
    second = lab.start({**SHORT, "train.seed": 2}, target="train", experiment="second")
    lab.complete(first)
    lab.complete(second)
    begun, saved = "computing in float32", "saved the weights"
    order = sorted((first, second), key=lambda run: lab.logged_at(run, begun))
    assert lab.logged_at(order[0], saved) < lab.logged_at(order[1], begun)
    assert lab.weights("first") == undisturbed["short"]
    assert lab.weights("second") != undisturbed["short"]
    listed = lab.project.run("dvc", "exp", "list", "--all-commits").stdout
    assert "first" in listed
    assert "second" in listed
    assert not list((lab.project.folder / "runs/workspaces").glob("[!.]*"))


def test_a_run_says_which_device_it_waits_for(lab: Lab) -> None:
    limits = "/v2/concurrency_limits"
    (device,) = device_names("cpu")
    known = {limit["name"] for limit in lab.ask(f"{limits}/filter", {})}
    if device not in known:
        lab.ask(f"{limits}/", {"name": device, "limit": 1})
    slot = {"names": [device], "slots": 1, "mode": "concurrency"}
    lab.ask(f"{limits}/increment", slot)  # as another run does
    run = lab.start({**SHORT, "train.seed": 4}, target="train")
    waits = f"waiting for {device}, which another run uses"
    wait_for(lambda: waits in lab.log(run), 60, "nothing says that it waits")
    assert "computing in float32" not in lab.log(run)
    lab.ask(f"{limits}/decrement", slot)
    lab.complete(run)
    assert lab.log(run).count(waits) == 1


def test_a_cancelled_run_ends_at_once_and_a_later_one_resumes(
    lab: Lab, undisturbed: dict[str, str]
) -> None:
    run = lab.start({**LONG, "train.seed": 3}, target="train", experiment="cancelled")
    lab.wait_for_step(run, 300)
    lab.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}, "force": False})
    started = time.monotonic()
    wait_for(lambda: not lab.orphans(), 15, "stages are still there")
    assert lab.wait(run, 60)["type"] == "CANCELLED", time.monotonic() - started
    again = lab.start({**LONG, "train.seed": 3}, target="train", experiment="resumed")
    lab.complete(again)
    assert lab.log(again).count("after step") == 1


def test_a_cancelled_run_ends_although_the_worker_does_not_notice(
    lab: Lab, undisturbed: dict[str, str]
) -> None:
    run = lab.start({**LONG, "train.seed": 4}, target="train", experiment="unnoticed")
    lab.wait_for_step(run, 100)
    (worker,) = [p for p in lab.processes("prefect worker start") if p.cmdline()[1] == "-m"]
    worker.suspend()
    lab.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}, "force": False})
    wait_for(lambda: not lab.orphans(), 15, "stages are still there")
    assert lab.wait(run, 30)["type"] == "CANCELLED"
    worker.resume()


def test_edits_during_a_run_do_not_change_it(lab: Lab, undisturbed: dict[str, str]) -> None:
    run = lab.start({**SHORT, "train.warmup": 4}, target="train", experiment="edited")
    lab.wait_for_step(run, 10)
    before = (lab.project.folder / "params.yaml").read_text()
    text = lab.project.folder / "texts/0.txt"
    words = text.read_text()
    lab.project.set_params(learning_rate="0.05")
    text.write_text("other words\n" * 20)
    lab.complete(run)
    (lab.project.folder / "params.yaml").write_text(before)
    text.write_text(words)
    assert lab.weights("edited") == undisturbed["short"]


def test_a_run_that_hangs_is_resumed(lab: Lab, undisturbed: dict[str, str]) -> None:
    run = lab.start({**LONG, "sample.seed": 5}, target="train", experiment="hung")
    lab.wait_for_step(run, 300)
    (rank,) = lab.processes(WORKER)[-1:]
    rank.suspend()
    wait_for(lambda: "Failed" in lab.tries(run, "train"), 60, lab.log(run))
    wait_for(lambda: "completed no step for" in lab.log(run), 30, lab.log(run))
    lab.complete(run)
    assert lab.weights("hung") == undisturbed["long"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"preset": "shakespear"}, "not one of"),
        ({"target": "trian"}, "not one of"),
        ({"force": "maybe"}, "not of type 'boolean'"),
        ({"overrides": {"train.max_step": 5}}, "'train.max_step' was unexpected"),
        ({"overrides": {"train.max_steps": 0}}, "less than the minimum of 1"),
        ({"overrides": {"train.max_steps": "many"}}, "not of type 'integer'"),
        ({"overrides": {"sample.top_p": 7}}, "7 is"),
        ({"overrides": {"train.keep": "worst"}}, "not one of"),
        ({"overrides": [1]}, "not of type 'object'"),
        ({"experiment": 5}, "not of type 'string'"),
    ],
)
def test_nonsense_in_the_form_is_refused(
    lab: Lab, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        lab.start(**parameters)


@pytest.mark.parametrize(
    ("overrides", "experiment", "message"),
    [
        ({"train.batch_tokens": 1000}, "", "train.batch_tokens 1000 is not a multiple"),
        ({"train.warmup": 0.9, "train.decay": 0.9}, "", "are more than max_steps"),
        ({"corpus.path": "nowhere"}, "", "nowhere"),
        ({}, "no good", "not a name that git allows"),
    ],
)
def test_what_only_the_run_can_see_fails_at_once(
    lab: Lab, overrides: dict[str, Any], experiment: str, message: str
) -> None:
    run = lab.start(overrides, target="download", experiment=experiment)
    state = lab.wait(run, 60)
    assert state["type"] == "FAILED"
    assert message in state["message"]
    assert lab.tries(run, "train") == []
