"""MLflow's store on this machine: `mlflow.db` and `mlartifacts/` in the project's folder.

MLflow keeps absolute locations of artifacts in the database. Before it is used they are brought to
where it lies now, so that a project which was renamed or copied reads and writes its own files.
"""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

EXPERIMENT = "nanogpt"
BUSY_SECONDS = 20.0  # to wait for another process that writes
LOCATIONS = (  # tables and columns in which MLflow keeps locations
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
# an experiment made by a stage, or through the server of `make ui`, which adds its number
LOCATION = re.compile(r"(file://)?(/.*)/mlartifacts(/\d+)?", re.DOTALL)


def home() -> Path:
    """Return the project's folder, also when DVC runs an experiment in a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def database() -> Path:
    """Return the file that holds the runs."""
    return home() / "mlflow.db"


def artifacts_uri() -> str:
    """Return where the files of runs lie, as MLflow keeps it."""
    return (home() / "mlartifacts").as_uri()


def local_uri() -> str:
    """Return the address of the database.

    Where an address would read characters of the path differently, it is relative to the current
    folder. Quoting would not do: some versions of SQLAlchemy do not undo it, and MLflow makes the
    folders it reads there, a `what%3F` next to `what?`.
    """
    file = str(database())
    return f"sqlite:///{file if quote(file) == file else os.path.relpath(file)}"


def follow_move() -> None:
    """Point the database to the artifacts in this folder if it comes from another one.

    Raises sqlite3.DatabaseError when it is damaged.
    """
    if not database().is_file():
        return
    with closing(sqlite3.connect(database(), timeout=BUSY_SECONDS)) as connection, connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        former = former_home(connection) if "experiments" in tables else None
        if former is None or former == home():
            return
        for table, column in LOCATIONS:
            for old, new in ((former.as_uri(), home().as_uri()), (str(former), str(home()))):
                if table in tables:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                        f" WHERE substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, len(old) + 1, f"{old}/"),
                    )


def former_home(connection: sqlite3.Connection) -> Path | None:
    """Return the folder whose artifacts the experiment names, if it names any on this machine."""
    row = connection.execute(
        "SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)
    ).fetchone()
    match = LOCATION.fullmatch((row and row[0]) or "")
    if match is None:
        return None
    scheme, folder, _ = match.groups()
    return Path(unquote(folder) if scheme else folder)
