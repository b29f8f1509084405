"""Kills of the processes around a flow: the states become true and the run is taken up again."""

import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from pipelines.keep import FLOW_SECONDS, STOP_SECONDS
from tests.services_lab import Lab
from tests.waiting import wait_for

TRUE_SECONDS = 120  # within which a state must say what is


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Start a server and a worker for all tests here."""
    lab = Lab(tmp_path_factory.mktemp("services") / "lab")
    lab.up()
    yield lab
    lab.down()
    assert not lab.processes()


@pytest.fixture
def run(lab: Lab) -> str:
    """Start a run of some seconds' work and wait until it is at it."""
    (lab.folder / "done").unlink(missing_ok=True)
    lab.up()
    services = [lab.record(name) for name in ("server", "worker")]
    lab.up()  # what runs is left alone
    assert services == [lab.record(name) for name in ("server", "worker")]
    id = lab.start_run(seconds=15)
    lab.wait_until_trains()
    return id


def completes(lab: Lab, id: str, seconds: float = 240) -> None:
    """Wait until a run has completed."""
    wait_for(lambda: lab.states(id)[-1] == "Completed", seconds, str(lab.states(id)))


def test_a_killed_worker_is_replaced_and_its_run_taken_up_again(lab: Lab, run: str) -> None:
    (flow,) = lab.flow_processes()
    lab.service("worker").kill()
    psutil.wait_procs([flow], timeout=5)
    assert not flow.is_running()  # asked to end by the keeper
    wait_for(lambda: lab.states(run)[-1] != "Running", 10, "still Running")
    completes(lab, run)


def test_a_lost_run_crashes_by_its_missing_heartbeat(lab: Lab, run: str) -> None:
    worker = lab.service("worker")
    worker.suspend()  # as if its machine were gone
    (flow,) = lab.flow_processes()
    flow.kill()
    wait_for(lambda: lab.states(run)[-1] == "Lost", TRUE_SECONDS, "not lost")
    assert lab.flow_run(run)["state_type"] == "CRASHED"
    assert "No heartbeat" in lab.flow_run(run)["state"]["message"]
    wait_for(lambda: lab.states(run)[-1] == "AwaitingRetry", 60, "not taken up")
    worker.resume()
    completes(lab, run)


def test_a_killed_server_comes_back_and_the_run_goes_on(lab: Lab, run: str) -> None:
    (flow,) = lab.flow_processes()
    lab.service("server").kill()
    wait_for(lambda: lab.run("pipelines.services", "status").returncode == 0, 30, "gone")
    assert flow.is_running()
    wait_for(lambda: answers(lab), 60, "no server")
    completes(lab, run)
    assert lab.states(run).count("Running") == 1


def answers(lab: Lab) -> bool:
    """Return whether the server answers."""
    try:
        return lab.ask("/health") is True
    except OSError:
        return False


def test_a_run_that_outlives_a_long_absence_of_its_server_is_not_started_twice(lab: Lab) -> None:
    (lab.folder / "done").unlink(missing_ok=True)
    lab.up()
    id = lab.start_run(seconds=130)
    lab.wait_until_trains()
    (flow,) = lab.flow_processes()
    server = lab.service("server")
    keeper = psutil.Process(lab.record("server")["pid"])
    keeper.suspend()
    server.kill()
    time.sleep(95)
    keeper.resume()
    wait_for(lambda: answers(lab), 60, "no server")
    while lab.states(id)[-1] != "Completed":
        assert lab.flow_processes() in ([flow], [])  # given up perhaps, but not started again
        time.sleep(1)
    assert lab.flow_run(id)["infrastructure_pid"] == str(flow.pid)


def test_down_ends_a_worker_without_a_server(lab: Lab, run: str) -> None:
    keeper = psutil.Process(lab.record("server")["pid"])
    server = lab.service("server")
    keeper.kill()
    server.kill()
    began = time.monotonic()
    lab.down()
    assert time.monotonic() - began < FLOW_SECONDS + 3 * STOP_SECONDS
    assert not lab.processes()
    lab.up()
    completes(lab, run)


def test_down_in_the_middle_and_up_again(lab: Lab, run: str) -> None:
    assert "resumes with the next worker" in lab.down()
    assert not lab.processes()
    assert lab.stored_state(run) == "AwaitingRetry"
    lab.up()
    completes(lab, run)


def test_after_the_machine_died_with_everything(lab: Lab, run: str) -> None:
    for process in lab.processes():
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(lab.processes(), timeout=5)
    lab.up()
    wait_for(lambda: lab.states(run)[-1] != "Running", 30, "still Running")
    completes(lab, run)
