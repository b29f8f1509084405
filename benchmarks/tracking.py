"""What recording in MLflow costs a training run: the time in its loop, and all processor time.

    python -m benchmarks.tracking --steps 10000 --metrics 10

A tracker as that of a training run records metrics for each step into a local store in a temporary
folder. The loop's own time is what training waits for; the rest is spent by the thread that
delivers meanwhile, which takes a core only where training leaves one. Prints one line of JSON.
"""

import argparse
import json
import os
import time
from contextlib import chdir
from tempfile import TemporaryDirectory
from typing import Any

from stages.tracking.tracker import Tracker


def measure(steps: int, metrics: int, pause: float) -> dict[str, Any]:
    """Record `metrics` values for each of `steps`, `pause` seconds apart; return the times."""
    in_loop = 0.0
    cpu = time.process_time()
    with Tracker("benchmark", enabled=True) as tracker:
        for step in range(1, steps + 1):
            start = time.perf_counter()
            tracker.record(
                "metrics", step=step, values={f"m/{i}": 1.0 / step for i in range(metrics)}
            )
            in_loop += time.perf_counter() - start
            time.sleep(pause)
        closing = time.perf_counter()
    return {
        "steps": steps,
        "metrics": metrics,
        "loop_seconds": round(in_loop, 3),
        "closing_seconds": round(time.perf_counter() - closing, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
    }


def main() -> None:
    """Run `python -m benchmarks.tracking`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--metrics", type=int, default=10, help="values for each step")
    parser.add_argument("--pause", type=float, default=0.002, help="seconds between steps")
    options = parser.parse_args()
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # a server of the user's own
    with TemporaryDirectory() as folder, chdir(folder):
        print(json.dumps(measure(options.steps, options.metrics, options.pause)))


if __name__ == "__main__":
    main()
