"""A tracking server that is killed during training: no step is slower, and no record is lost."""

import re
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.conftest import TRACKED
from tests.mlflow_lab import MlflowServer, Recorded, recorded, served, wait_for_run

SHAPE = {"n_embd": "64", "batch_tokens": "8192", "eval_interval": "100000"}
BEFORE, AWAY, AFTER = 15.0, 60.0, 15.0  # seconds of training, at least
SPEED = re.compile(r"([\d,]+) tokens per second")
INTERVAL = 10  # steps between records


def steps_in(new_project: Callable[..., Any], seconds: float) -> int:
    """Return the number of steps that train for some seconds on this machine, or longer."""
    project = new_project("trial", max_steps="100", **SHAPE)
    done = project.run("python", "-m", "stages", "train")
    speeds = [int(text.replace(",", "")) for text in SPEED.findall(done.stdout)]
    steps = seconds * max(speeds) / int(SHAPE["batch_tokens"])
    return round(steps / INTERVAL) * INTERVAL


def step_seconds(found: Recorded, first: float, last: float) -> list[float]:
    """Return the seconds of a step for each record between two times."""
    points = found.client.get_metric_history(found.run.info.run_id, "train/loss")
    times = [point.timestamp / 1000 for point in points]
    return [(b - a) / INTERVAL for a, b in pairwise(times) if first <= a and b <= last]


def test_training_is_no_slower_while_its_server_is_away_and_everything_arrives(
    new_project: Callable[..., Any], tmp_path: Path
) -> None:
    steps = steps_in(new_project, BEFORE + AWAY + AFTER)
    project = new_project(max_steps=str(steps), **SHAPE)
    with served(MlflowServer(tmp_path / "server")) as server:
        train = project.start(
            *("python", "-m", "stages", "train"), MLFLOW_TRACKING_URI=server.uri, **TRACKED
        )
        wait_for_run(server.uri, lambda run: "train/loss" in run.data.metrics, 60, "no record")
        began = time.time()
        time.sleep(BEFORE)
        server.kill()
        killed = time.time()
        time.sleep(AWAY)
        started = time.time()
        server.start()
        assert train.poll() is None, "it ended while the server was away"
        output, _ = train.communicate(timeout=300)
        assert train.returncode == 0, output
        assert "did not accept" not in output

        found = recorded(server.uri)
        assert found.run.info.status == "FINISHED"
        assert found.steps("train/loss") == list(range(INTERVAL, steps + 1, INTERVAL))
        assert found.model.status == "READY"
        ended = found.run.info.end_time / 1000
        present = step_seconds(found, began, killed) + step_seconds(found, started, ended)
        away = step_seconds(found, killed, started)
    (fast, median, _), (fast_away, median_away, _) = map(statistics.quantiles, (present, away))
    print(f"{steps} steps of {median:.4f} s, while the server was away {median_away:.4f} s")
    assert fast_away < 1.15 * fast  # other tests disturb the slower steps, and not evenly
    assert median_away < 1.5 * median
