"""Killed and resumed: nothing left running, nothing lost, and the same weights bit for bit."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import psutil

from tests.conftest import command_of
from tests.waiting import NOTICE, ask_to_stop, wait_for, wait_for_step

QUIET = {"NANOGPT_LOG_INTERVAL": "1"}


def weights(project: Any) -> bytes:
    """The finished model's file."""
    content: bytes = (project.folder / "models/gpt/model.safetensors").read_bytes()
    return content


def members(project: Any) -> dict[str, list[psutil.Process]]:
    """The processes of a training by what they are; a single rank needs no torchrun."""
    kinds: dict[str, list[psutil.Process]] = {"dvc": [], "launcher": [], "torchrun": [], "rank": []}
    for process in project.processes():
        line = command_of(process)
        if "-m stages.runtime.torchrun" in line and process.environ().get("NANOGPT_TORCHRUN"):
            kinds["torchrun"].append(process)
        elif "stages.train.worker" in line:
            kinds["rank"].append(process)
        elif "-m stages" in line:
            kinds["launcher"].append(process)
        elif "dvc" in line:
            kinds["dvc"].append(process)
    return kinds


def wait_until_alone(project: Any) -> None:
    """Fail when anything is left running in the project."""
    wait_for(lambda: not project.processes(), 20, "processes are left")


def test_killed_in_every_way_it_continues_to_the_same_weights(
    new_project: Callable[..., Any],
) -> None:
    """Each time it gets some fifty steps further: far from the end, for it to be interrupted."""
    project, whole = new_project(max_steps="400"), new_project("whole", max_steps="400")
    whole.repro("train", **QUIET)
    for kind in ("dvc", "torchrun", "rank"):
        options = "--standalone" if kind == "torchrun" else ""  # else it is not needed for one
        process = project.start("dvc", "repro", "train", NANOGPT_TORCHRUN=options, **QUIET)
        wait_for_step(process, 22)
        family = members(project)
        assert {name for name in family if family[name]} >= {"dvc", "launcher", "rank", kind}
        for victim in family[kind]:
            victim.kill()
        time.sleep(NOTICE)
        output, _ = process.communicate(timeout=240)
        assert process.returncode != 0
        if kind != "dvc":
            killed = "was killed by signal 9 (SIGKILL), perhaps because memory ran out; "
            assert killed in output, output
        wait_until_alone(project)
        assert not (project.folder / "models/gpt").exists()
    process = project.start("python", "-m", "stages", "train", **QUIET)
    wait_for_step(process, 25)
    ask_to_stop(process)  # it writes a checkpoint first
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 130, output
    stopped = re.search(r"stopped after step (\d+); rerun to resume", output)
    assert stopped, output
    wait_until_alone(project)
    assert list(project.folder.glob(f"runs/*/step-{int(stopped[1]):08}"))
    output = project.repro("train", **QUIET)
    assert f"resuming after step {stopped[1]}" in output
    assert weights(project) == weights(whole)


def test_a_second_training_during_a_living_one_is_refused(new_project: Callable[..., Any]) -> None:
    project = new_project(max_steps="5000")
    process = project.start("dvc", "repro", "train", **QUIET)
    wait_for_step(process, 2)
    second = project.run("python", "-m", "stages", "train", **QUIET)
    assert second.returncode == 16
    named = r"another training run is active here \(process (\d+) on \S+: python -m stages train, "
    holder = re.search(named, second.stdout)
    assert holder, second.stdout
    (rank,) = members(project)["rank"]
    assert int(holder[1]) == rank.ppid()  # that is the launcher's: no torchrun in between
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=240)
    wait_until_alone(project)


def losses(project: Any) -> list[float]:
    """The loss of each update of the finished model."""
    rows = (project.folder / "models/gpt/train.csv").read_text().splitlines()[1:]
    return [float(row.split(",")[1]) for row in rows]


def test_two_processes_or_two_nodes_train_the_same_model(new_project: Callable[..., Any]) -> None:
    """That two train what one does is tested in tests/nanogpt/parallel/test_processes.py."""
    short = {"max_steps": "20", "decay": "4", "dropout": "0.1"}
    two = new_project("two", **short)
    alone = two.run("python", "-m", "stages", "train", NANOGPT_PROCESSES="2", **QUIET)
    assert alone.returncode == 0, alone.stdout

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        end = f"127.0.0.1:{probe.getsockname()[1]}"
    nodes = f"--nnodes=2 --rdzv-backend=c10d --rdzv-endpoint={end}"
    project = new_project("nodes", **short)
    # torchrun numbers nodes in the order of their addresses: rank 0 is on the one that joins
    first, second = (f"{nodes} --local-addr={name}" for name in ("127.0.0.1", "localhost"))
    leader = project.start("dvc", "repro", "train", NANOGPT_TORCHRUN=second, **QUIET)
    join = {"NANOGPT_JOIN": "true", "NANOGPT_TORCHRUN": first}
    other = project.start("python", "-m", "stages", "train", **join, **QUIET)
    output, _ = leader.communicate(timeout=240)
    assert leader.returncode == 0, output
    assert "step     20 of 20" in output
    silence, _ = other.communicate(timeout=240)
    assert (other.returncode, silence) == (0, "")  # it records nothing, and so compares nothing
    assert losses(project) == losses(two)


def test_no_other_stage_outlives_its_dvc(new_project: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/text.txt"
        project = new_project(source="url", urls=json.dumps([{"url": url, "sha256": "0" * 64}]))
        process = project.start("dvc", "repro", "download", **QUIET)
        connection, _ = silent.accept()
        process.kill()
        process.communicate(timeout=240)
        wait_until_alone(project)
        connection.close()
