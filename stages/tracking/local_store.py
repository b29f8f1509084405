"""MLflow's local store: `mlflow.db` and `mlartifacts/` in the project folder.

MLflow keeps absolute artifact locations in the database. They are updated before each use, so that
a project that was renamed or copied reads and writes its own files.
"""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

from stages.runtime.project import project_folder

EXPERIMENT = "nanogpt"  # unless MLFLOW_EXPERIMENT_NAME names another
BUSY_SECONDS = 20.0  # SQLite waits this long for another writer
LOCATIONS = (  # tables and columns with artifact locations
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
# of an experiment created by a stage, or by the server of `make ui`, which appends its id
LOCATION = re.compile(r"(file://)?(/.*)/mlartifacts(/\d+)?", re.DOTALL)


def experiment_name() -> str:
    """Return the name of the MLflow experiment that holds the runs of this project."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def database() -> Path:
    """Return the path of the database."""
    return project_folder() / "mlflow.db"


def artifacts_uri() -> str:
    """Return the URI of the artifacts, as MLflow records it."""
    return (project_folder() / "mlartifacts").as_uri()


def local_uri() -> str:
    """Return the URI of the database.

    If a character of its path has a special meaning in a URI, the path is relative to the current
    folder. Quoting does not help: some versions of SQLAlchemy do not unquote, and MLflow would
    create a folder `what%3F` next to `what?`.
    """
    file = str(database())
    return f"sqlite:///{file if quote(file) == file else os.path.relpath(file)}"


def follow_move() -> None:
    """Rewrite the artifact locations in the database if the project was moved or copied.

    Raises sqlite3.DatabaseError if the database is damaged.
    """
    if not database().is_file():
        return
    with closing(sqlite3.connect(database(), timeout=BUSY_SECONDS)) as connection, connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        previous = recorded_project_folder(connection) if "experiments" in tables else None
        if previous is None or previous == project_folder():
            return
        for table, column in LOCATIONS:
            for old, new in (
                (previous.as_uri(), project_folder().as_uri()),
                (str(previous), str(project_folder())),
            ):
                if table in tables:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                        f" WHERE substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, len(old) + 1, f"{old}/"),
                    )


def recorded_project_folder(connection: sqlite3.Connection) -> Path | None:
    """Return the project folder by an experiment's artifact location, if one is a local one."""
    rows = connection.execute("SELECT artifact_location FROM experiments ORDER BY experiment_id")
    for (location,) in rows:
        if match := LOCATION.fullmatch(location or ""):
            scheme, folder, _ = match.groups()
            return Path(unquote(folder) if scheme else folder)
    return None
