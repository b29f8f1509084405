"""MLflow's store: its URI, the run of each model, and one-line descriptions of its errors."""

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from stages.runtime.redaction import redacted
from stages.tracking.local_store import artifacts_uri, experiment_name, follow_move, local_uri
from stages.tracking.view import save_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
MODEL_TAG = "nanogpt.model_id"
DRIVERS = {  # modules and the packages that provide them
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
DAMAGED = ("file is not a database", "disk image is malformed")
SHOWN_CHARACTERS = 300  # of a store's error message

ENVIRONMENT = {  # MLflow reads these when it is imported
    # give up soon: what could not be sent is sent later
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "PGCONNECT_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # otherwise it logs how it creates its tables
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password in the URI
}


def tracking_uri() -> str:
    """Return the URI of the store, including a password if there is one."""
    return os.environ.get(TRACKING_VARIABLE) or local_uri()


def shown_uri() -> str:
    """Return the URI of the store, safe to print."""
    return "mlflow.db" if is_local() else redacted(tracking_uri())


def is_local() -> bool:
    """Return whether the store is the project's local one."""
    return tracking_uri() == local_uri()


def is_server(uri: str) -> bool:
    """Return whether a URI is that of an MLflow server."""
    return uri.startswith(("http:", "https:"))


def is_database(uri: str) -> bool:
    """Return whether a URI is that of a database, which MLflow opens without a server."""
    from mlflow.store.db.db_types import DATABASE_ENGINES

    return uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES


def connect() -> "MlflowClient":
    """Return a client of the store. Raises one of `store_errors` if it does not work."""
    set_environment()
    import mlflow

    uri = tracking_uri()
    if is_local():
        follow_move()
    connect_once(uri)
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient()


def set_environment() -> None:
    """Set MLflow's variables that the user has not set; call this before importing it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def connect_once(uri: str) -> None:
    """Connect to a database once, to raise its error; MLflow would retry and log for minutes.

    MLflow servers, whose client gives up soon, and SQLite files that do not exist yet are skipped.
    """
    import sqlalchemy

    if not is_database(uri):
        return
    engine = sqlalchemy.create_engine(uri)
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").exists():
        return
    try:
        sqlalchemy.inspect(engine).has_table("experiments")
    finally:
        engine.dispose()


def store_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that MLflow and its databases raise if a store does not work."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError, OSError)


def problem_of(error: Exception) -> str:
    """Return one line that says what is wrong with the store and, if known, how to fix it."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = DRIVERS.get(error.name, error.name)
        return f"it needs {error.name}, which is not installed; `pip install '{package}'`"
    message = " ".join(redacted(str(error)).split())
    if is_local() and any(phrase in message for phrase in DAMAGED):
        return (
            "it is damaged; run `mv mlflow.db mlflow.db.damaged`, then `python -m stages deliver` "
            "to rebuild it from runs/tracking"
        )
    return message[:SHOWN_CHARACTERS]


def create_experiment(client: "MlflowClient") -> "Experiment":
    """Create the experiment.

    A server decides where its files are. Those of a database are in the project: MLflow would put
    them into the current folder, which may be a workspace that is removed.
    """
    location = artifacts_uri() if is_database(tracking_uri()) else None
    experiment_id = client.create_experiment(experiment_name(), artifact_location=location)
    return client.get_experiment(experiment_id)


def key_of(experiment: "Experiment | None") -> str | None:
    """Return what tells the experiment of one store from those of others."""
    return f"{experiment.experiment_id} {experiment.creation_time}" if experiment else None


def find_run(client: "MlflowClient", experiment: "Experiment | None", model_id: str) -> str | None:
    """Return the id of a model's run, or None; restore the run and the experiment if deleted."""
    from mlflow.entities import LifecycleStage, ViewType

    if experiment is None:
        return None
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        client.restore_experiment(experiment.experiment_id)
        log(
            f"the experiment {experiment.name} was deleted; restoring it, because a run in it is "
            "being resumed"
        )
    ours = f"tags.`{MODEL_TAG}` = '{model_id}'"
    runs = client.search_runs([experiment.experiment_id], ours, run_view_type=ViewType.ALL)
    if not runs:
        return None
    run = min(runs, key=lambda run: run.info.lifecycle_stage != LifecycleStage.ACTIVE).info
    if run.lifecycle_stage == LifecycleStage.DELETED:
        client.restore_run(run.run_id)
        log(f"the run {run.run_name} was deleted; restoring it, because it is being resumed")
    return str(run.run_id)


def is_deleted(client: "MlflowClient", run_id: str) -> bool:
    """Return whether a run or its experiment has been deleted."""
    from mlflow.entities import LifecycleStage

    run = client.get_run(run_id).info
    experiment = client.get_experiment(run.experiment_id)
    return LifecycleStage.DELETED in (run.lifecycle_stage, experiment.lifecycle_stage)


def create_run(
    client: "MlflowClient", experiment: "Experiment", model_id: str, start_ms: int
) -> str:
    """Create a model's run; return its id.

    `start_ms` is when it began, in milliseconds: it may be delivered much later.
    """
    save_view(client, experiment.experiment_id)
    tags = {MODEL_TAG: model_id}
    run = client.create_run(experiment.experiment_id, start_time=start_ms, tags=tags)
    return str(run.info.run_id)


def newest_run() -> tuple[str, str, bool] | None:
    """Return the experiment id, the run id and whether it is active, of the run to watch.

    That is the newest active run, else the newest; None if nothing has been recorded.
    Raises ConnectionError if the store does not work.
    """
    model = f"tags.`{MODEL_TAG}` != ''"  # a run of experiments has no curves of its own
    try:
        client = connect()
        experiment = client.get_experiment_by_name(experiment_name())
        if experiment is None:
            return None
        for query, running in (
            (f"{model} AND attributes.status = 'RUNNING'", True),
            (model, False),
        ):
            ids = [experiment.experiment_id]
            newest = client.search_runs(
                ids, query, max_results=1, order_by=["attributes.start_time DESC"]
            )
            if newest:
                return experiment.experiment_id, newest[0].info.run_id, running
    except store_errors() as error:
        raise ConnectionError(f"{shown_uri()} is not responding: {problem_of(error)}") from None
    return None


def log(line: str) -> None:
    """Print a line with secrets redacted."""
    print(f"tracking: {redacted(line)}", flush=True)
