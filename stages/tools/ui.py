"""`make ui`: browse the recorded runs in MLflow.

`python -m stages ui PORT` serves `mlflow.db`, or the database that MLFLOW_BACKEND_URI or
MLFLOW_TRACKING_URI names, at http://127.0.0.1:PORT.
"""

import argparse
import os
import sys

from stages.runtime.settings import Settings
from stages.tracking.local_store import artifacts_uri, experiment_name, local_uri
from stages.tracking.store import (
    TRACKING_VARIABLE,
    connect,
    is_server,
    problem_of,
    shown_uri,
    store_errors,
    tracking_uri,
)
from stages.tracking.view import address, save_view

ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # MLflow imports a deprecated module of Starlette
    "PYTHONWARNINGS": "ignore:starlette.middleware.wsgi is deprecated:UserWarning",
}


def database_uri() -> str:
    """Return the URI of the database to serve."""
    recorded = tracking_uri()
    return os.environ.get("MLFLOW_BACKEND_URI") or (
        local_uri() if is_server(recorded) else recorded
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument("port", type=int, help="port to listen on, on this machine only")


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages ui PORT`: check the database, then become MLflow's server."""
    uri = os.environ[TRACKING_VARIABLE] = database_uri()
    server = f"http://127.0.0.1:{options.port}"
    try:
        client = connect()
        if experiment := client.get_experiment_by_name(experiment_name()):
            save_view(client, experiment.experiment_id)
            server = address(server, experiment.experiment_id)
    except store_errors() as error:
        raise ConnectionError(f"cannot open {shown_uri()}: {problem_of(error)}") from None
    print(f"ui: the models, best first: {server}", flush=True)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(options.port),
    ]
    quiet = ["--workers", "1", "--uvicorn-opts", "--no-access-log"]
    root = ["--default-artifact-root", artifacts_uri()]
    # not as an argument, which every user of this machine could see
    variables = {**ENVIRONMENT, **os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    os.execve(sys.executable, [*command, *quiet, *root], variables)
