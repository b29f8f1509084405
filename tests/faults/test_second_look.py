"""A crashed run that the server's automation misses is taken up by its worker."""

from pathlib import Path

from pipelines.automations import MISSED
from tests.services_lab import Lab
from tests.waiting import wait_for


def test_a_crash_that_the_automation_misses_is_taken_up(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab")
    try:
        lab.up()
        (again,) = [a for a in lab.ask("/automations/filter", {}) if "again" in a["name"]]
        done = lab.run("prefect", "automation", "pause", "--id", again["id"])
        assert done.returncode == 0, done.stderr
        run = lab.start_run(seconds=20)
        lab.wait_until_trains()
        lab.service("worker").kill()
        wait_for(lambda: "Crashed" in lab.states(run), 60, str(lab.states(run)))
        seconds = MISSED.total_seconds() + 60
        wait_for(lambda: lab.states(run)[-1] == "Completed", seconds, str(lab.states(run)))
    finally:
        lab.down()
    assert not lab.processes()
