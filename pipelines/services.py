"""`make up` and `make down`: Prefect's server, a worker and MLflow's UI in the background.

Everything is on loopback and in `runs/services`: the server's database, a log NAME.log for each
service, and NAME.json that says what runs. Each service has a keeper (pipelines/keep.py), which
restarts it when it dies. With PREFECT_API_URL in the environment the server is another's, and none
is started.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

from pipelines.command import failures_reported
from pipelines.keep import (
    FLOW_SECONDS,
    MARKER,
    STOP_SECONDS,
    end_flow_runs,
    end_members,
    flow_run_processes,
    members,
)
from stages.runtime.redaction import redacted
from stages.runtime.supervise import is_alive, signal_process

FOLDER = Path("runs/services")
SETTINGS = Path("prefect.toml")  # read by Prefect in every command that starts in this folder
HEADER = "# written by `make up`, removed by `make down`\n"
READY_SECONDS = 120.0  # a server's first start on a busy machine
LOG_LINES = 20
POLL_SECONDS = 0.2
STARTED = "started by make up at "  # the first line of each start in a log
STOP_ORDER = ("worker", "ui", "server")
SERVER_ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # a run that is being cancelled and whose worker is gone
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS": "120",
    # a worker with much to do may take a while
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "60",
}
WORKER_ENVIRONMENT = {"PREFECT_WORKER_QUERY_SECONDS": "5"}  # between looks for a run to start


class NotStarted(Exception):
    """A service did not come up; the message says why."""


@dataclass(frozen=True)
class Record:
    """A running service: its keeper's process, and the port it listens on."""

    pid: int
    started: float
    command: list[str]
    port: int | None


def mark(name: str) -> str:
    """Return the value of MARKER in the environment of a service's processes."""
    return f"{Path.cwd()}:{name}"


def log_of(name: str) -> Path:
    """Return the log of a service."""
    return FOLDER / f"{name}.log"


def record_of(name: str) -> Record | None:
    """Return the record of a running service; None if it is not running.

    A process is the recorded one only if its start time and its command are the recorded ones.
    """
    try:
        record = Record(**json.loads((FOLDER / f"{name}.json").read_text()))
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.started) < 1 and is_alive(process)
        return record if same and process.cmdline() == record.command else None
    except (FileNotFoundError, psutil.Error, json.JSONDecodeError, TypeError):
        return None


def start(name: str, command: Sequence[str], port: int | None, **variables: str) -> None:
    """Start a service in a session of its own, and record it."""
    kept = [sys.executable, "-m", "pipelines.keep", *command]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **variables, MARKER: mark(name)}
    with log_of(name).open("a") as log:
        print(f"{STARTED}{time.strftime('%Y-%m-%d %H:%M:%S')}", file=log, flush=True)
        process = subprocess.Popen(
            kept,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    keeper = psutil.Process(process.pid)
    while is_alive(keeper) and keeper.cmdline() != kept:  # empty at first
        time.sleep(POLL_SECONDS)
    record = Record(process.pid, keeper.create_time(), kept, port)
    (FOLDER / f"{name}.json").write_text(json.dumps(asdict(record), indent=2) + "\n")


def answers(port: int, path: str) -> bool:
    """Return whether a server on this machine answers a request with success."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def is_free(port: int) -> bool:
    """Return whether a server could listen on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def holder_of(port: int) -> str:
    """Return the process that listens on a port, as far as this user may know it."""
    for process in psutil.process_iter():
        try:
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return f"process {process.pid} ({' '.join(process.cmdline())[:120]})"
        except (psutil.Error, OSError):
            continue
    return "a process of another user"


def check_port(port: int, variable: str) -> None:
    """Raise NotStarted if a port is taken."""
    if not is_free(port):
        raise NotStarted(
            f"port {port} is taken by {redacted(holder_of(port))}; stop it, or choose another: "
            f"make up {variable}={port + 10}"
        )


def log_end(name: str) -> str:
    """Return the last lines of a service's log."""
    lines = log_of(name).read_text(errors="replace").splitlines()[-LOG_LINES:]
    return redacted("\n".join(f"  {line}" for line in lines))


def is_ready(name: str, port: int | None) -> bool:
    """Return whether a service is ready; a worker says so in its log."""
    if port is not None:
        return answers(port, "/api/health" if name == "server" else "/health")
    return "started!" in log_of(name).read_text(errors="replace").rpartition(STARTED)[2]


def wait_until_ready(name: str) -> None:
    """Wait for a service. Raises NotStarted with the end of its log."""
    deadline = time.monotonic() + READY_SECONDS
    while (record := record_of(name)) and time.monotonic() < deadline:
        if is_ready(name, record.port):
            return
        time.sleep(POLL_SECONDS)
    reason = "is not responding" if record else "has exited"
    raise NotStarted(f"{name} {reason}; the end of {log_of(name)}:\n{log_end(name)}")


def write_settings(port: int) -> None:
    """Make every Prefect command in this folder use the server."""
    if SETTINGS.exists() and not SETTINGS.read_text().startswith(HEADER):
        print(f"keeping your {SETTINGS}; run export PREFECT_API_URL=http://127.0.0.1:{port}/api")
        return
    SETTINGS.write_text(f'{HEADER}[api]\nurl = "http://127.0.0.1:{port}/api"\n')


def start_server(port: int) -> None:
    """Start Prefect's server, with its database in runs/services/prefect."""
    check_port(port, "PREFECT_PORT")
    home = FOLDER.absolute() / "prefect"
    home.mkdir(exist_ok=True)
    command = ["nice", sys.executable, "-m", "prefect", "server", "start"]  # training goes first
    command += ["--host", "127.0.0.1", "--port", str(port)]
    defaults = {key: os.environ.get(key, text) for key, text in SERVER_ENVIRONMENT.items()}
    page = f"http://127.0.0.1:{port}"  # also for the links in notices
    own = {"PREFECT_HOME": str(home), "PREFECT_UI_URL": page, "PREFECT_UI_API_URL": f"{page}/api"}
    start("server", command, port, **own, **defaults)


def start_ui(port: int) -> None:
    """Start MLflow's UI."""
    check_port(port, "UI_PORT")
    start("ui", [sys.executable, "-m", "stages", "ui", str(port)], port)


def deploy(url: str) -> str:
    """Register the deployments; return the output to print. Raises NotStarted if that fails."""
    command = [sys.executable, "-m", "pipelines.deploy"]
    done = subprocess.run(
        command, env={**os.environ, "PREFECT_API_URL": url}, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise NotStarted(redacted(done.stderr).strip())
    return done.stdout


def up(prefect_port: int, ui_port: int) -> None:
    """Start the services that are not running; raise NotStarted after stopping those it started."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    shared = os.environ.get("PREFECT_API_URL")
    started: list[str] = []
    try:
        if not shared and not record_of("server"):
            started.append("server")
            end_service("server")  # what a killed keeper left
            start_server(prefect_port)
        own_ui = not os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http")
        if own_ui and not record_of("ui"):
            started.append("ui")
            end_service("ui")
            start_ui(ui_port)
        url = shared or ""
        if not shared:
            wait_until_ready("server")
            record = record_of("server")
            assert record is not None
            assert record.port is not None
            write_settings(record.port)
            url = f"http://127.0.0.1:{record.port}/api"
        deployed = deploy(url)
        if not record_of("worker"):
            started.append("worker")
            end_service("worker")
            command = [sys.executable, "-m", "pipelines.services", "worker"]
            start("worker", command, None, PREFECT_API_URL=url)
        for name in started:
            wait_until_ready(name)
    except NotStarted:
        for name in [name for name in STOP_ORDER if name in started]:
            end_service(name)
        if "server" in started:
            remove_settings()
        raise
    status()
    print(deployed, end="")


def end_service(name: str) -> set[str]:
    """End a service with all its processes; return the flow runs that were going."""
    runs = set(flow_run_processes(members(mark(name))).values())
    record = record_of(name)
    if record is not None:
        keeper = psutil.Process(record.pid)
        signal_process(keeper, signal.SIGTERM)
        psutil.wait_procs([keeper], timeout=FLOW_SECONDS + 3 * STOP_SECONDS)
    end_flow_runs(mark(name))  # the rest is for a keeper that was killed
    end_members(mark(name))
    (FOLDER / f"{name}.json").unlink(missing_ok=True)
    return runs


def remove_settings() -> None:
    """Remove prefect.toml if `make up` wrote it."""
    if SETTINGS.exists() and SETTINGS.read_text().startswith(HEADER):
        SETTINGS.unlink()


def down() -> None:
    """End the services; flow runs write a checkpoint, and the next worker takes them up."""
    if not any(record_of(name) or members(mark(name)) for name in STOP_ORDER):
        print("nothing is running")
    for name in STOP_ORDER:
        going = record_of(name) is not None or bool(members(mark(name)))
        runs = end_service(name)
        if going:
            print(f"{name} stopped")
        if runs:
            schedule_again(runs)
    remove_settings()


def schedule_again(runs: set[str]) -> None:
    """Schedule ended flow runs again, if the server is there; else the next worker finds them."""
    from pipelines import automations
    from pipelines.names import server

    try:
        with server() as client:
            for name in automations.take_up_later(client, runs):
                print(f"run {name} resumes with the next worker")
    except ConnectionError as error:
        print(error, file=sys.stderr)


def status() -> bool:
    """Print what runs, and where; return whether something does."""
    urls = {"server": "http://127.0.0.1:{}", "ui": "http://127.0.0.1:{}"}
    found = False
    for name in reversed(STOP_ORDER):
        record = record_of(name)
        found = found or record is not None
        where = urls[name].format(record.port) if record and record.port else ""
        state = f"process {record.pid}, log {log_of(name)}" if record else "not running"
        print(f"{name:<7} {where:<22} {state}")
    return found


def worker_name() -> str:
    """Return the name of this machine's worker for this project."""
    return f"{socket.gethostname()}:{Path.cwd().name}"


def worker(pool: str | None) -> None:
    """Become a worker of this project, after correcting the states of runs that died with another.

    Raises ConnectionError or ValueError.
    """
    from pipelines import automations
    from pipelines.deploy import environment
    from pipelines.names import deployed_names, own_deployments, server

    with server() as client:
        names = deployed_names(client)
        name = f"{pool or 'local'}{names.suffix}"
        if name not in names.pools:
            pools = ", ".join(known.removesuffix(names.suffix) for known in names.pools)
            raise ValueError(f"POOL {pool!r} is not one of {pools}")
        ids = [deployment.id for deployment in own_deployments(client)]
        automations.correct_states(client, ids, worker_name())
    subprocess.Popen([sys.executable, "-m", "pipelines.second_look"], env=environment(names))
    # A worker ends at SIGTERM by sending itself SIGINT, which it must not inherit as ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", name]
    command += ["--name", worker_name()]
    os.execve(sys.executable, command, {**WORKER_ENVIRONMENT, **environment(names)})


def main() -> None:
    """Run `python -m pipelines.services`."""
    parser = argparse.ArgumentParser(description="start and stop the services of make up")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start the server, a worker and MLflow's UI in the background")
    commands.add_parser("down", help="stop them")
    commands.add_parser("status", help="show what is running")
    command = commands.add_parser("worker", help="run a worker here, until Ctrl-C")
    command.add_argument("--pool", help="the work pool, without its suffix (local)")
    options = parser.parse_args()
    try:
        with failures_reported(options.command):
            if options.command == "up":
                ports = (os.environ.get("PREFECT_PORT", "4200"), os.environ.get("UI_PORT", "5001"))
                up(*map(int, ports))
            elif options.command == "down":
                down()
            elif options.command == "status":
                sys.exit(not status())
            else:
                worker(options.pool)
    except NotStarted as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
