"""`make watch`: link to the live curves of the current training run, and serve them with MLflow.

`python -m stages watch http://127.0.0.1:5001 -- COMMAND` starts MLflow using COMMAND, unless a
server already answers at that address or runs are recorded on an MLflow server.
"""

import argparse
import socket
import subprocess
import time
from urllib.parse import urlsplit

from stages.runtime.redaction import redacted_address
from stages.runtime.settings import Settings
from stages.tracking.store import is_server, newest_run, tracking_uri

POLL_SECONDS = 0.2
SAMPLES = "samples_while_training.json"  # as in stages.tracking.samples, which imports torch


def page(server: str, experiment_id: str, run_id: str, tab: str) -> str:
    """Return the URL of a tab of a run's page, in MLflow's view for model training."""
    run = f"{redacted_address(server).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"{run}/{tab}?workflowType=machine_learning"


def links(server: str) -> list[str]:
    """Return the lines to print: links to the current training run, else to the newest run."""
    run = newest_run()
    if run is None:
        return ["nothing has been recorded yet; rerun `make watch` once training has started"]
    experiment_id, run_id, is_running = run
    curves = page(server, experiment_id, run_id, "model-metrics")
    samples = page(server, experiment_id, run_id, f"artifacts/{SAMPLES}")
    if is_running:
        return [f"live curves: {curves}", f"samples: {samples}"]
    return [f"no training run is active; the newest run: {curves}"]


def answers(server: str) -> bool:
    """Return whether anything listens at a URL."""
    parts = urlsplit(server)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=1):
            return True
    except OSError:
        return False


def serve(server: str, command: list[str]) -> None:
    """Run MLflow until it exits or Ctrl-C; print the links once it answers."""
    lines = links(server)
    process = subprocess.Popen(command)
    try:
        while process.poll() is None and not answers(server):
            time.sleep(POLL_SECONDS)
        if process.poll() is None:
            print("\n".join(lines), flush=True)
        process.wait()
    except KeyboardInterrupt:  # MLflow gets the same signal
        process.wait()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("server", help="URL of the MLflow server, running or to start")
    parser.add_argument("command", nargs="+", help="command that starts it")


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages watch URL -- COMMAND`."""
    uri = tracking_uri()
    recorded_elsewhere = is_server(uri)
    if recorded_elsewhere or answers(options.server):
        print("\n".join(links(uri if recorded_elsewhere else options.server)))
    else:
        serve(options.server, options.command)
