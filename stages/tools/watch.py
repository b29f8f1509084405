"""`make watch`: the page with the live curves of the running training, and MLflow to show it.

`python -m stages watch http://127.0.0.1:5001 -- COMMAND` starts MLflow by COMMAND, unless something
answers at that address already or runs are recorded on a server of their own.
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
SAMPLES = "samples_while_training.json"  # as `stages.tracking.samples` calls it


def page(server: str, experiment_id: str, run_id: str, tab: str) -> str:
    """The address of one of a run's pages, in the mode of MLflow that is about training."""
    run = f"{redacted_address(server).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"{run}/{tab}?workflowType=machine_learning"


def links(server: str) -> list[str]:
    """What to print: the pages of the running training, else of the newest."""
    found = newest_run()
    if found is None:
        return ["nothing has been recorded yet; once a training runs, type make watch again"]
    experiment_id, run_id, running = found
    curves = page(server, experiment_id, run_id, "model-metrics")
    samples = page(server, experiment_id, run_id, f"artifacts/{SAMPLES}")
    if running:
        return [f"live curves: {curves}", f"samples: {samples}"]
    return [f"no training is running; the newest: {curves}"]


def answers(server: str) -> bool:
    """Whether anything listens at an address."""
    parts = urlsplit(server)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=1):
            return True
    except OSError:
        return False


def serve(server: str, command: list[str]) -> None:
    """Run MLflow until it ends or Ctrl-C; print the links once it answers."""
    said = links(server)
    process = subprocess.Popen(command)
    try:
        while process.poll() is None and not answers(server):
            time.sleep(POLL_SECONDS)
        if process.poll() is None:
            print("\n".join(said), flush=True)
        process.wait()
    except KeyboardInterrupt:  # it got the same signal
        process.wait()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("server", help="where MLflow answers or is to answer")
    parser.add_argument("command", nargs="+", help="starts MLflow there")


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """`python -m stages watch ADDRESS -- COMMAND`."""
    uri = tracking_uri()
    recorded_elsewhere = is_server(uri)
    if recorded_elsewhere or answers(options.server):
        print("\n".join(links(uri if recorded_elsewhere else options.server)))
    else:
        serve(options.server, options.command)
