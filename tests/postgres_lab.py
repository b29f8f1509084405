"""A PostgreSQL server of a test's own, with a password, run by a user without privileges."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.services_lab import free_port

USER = "recorder"


def program(name: str) -> str | None:
    """Return the path of one of PostgreSQL's programs; Debian has the server's off the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *map(str, folders)]))


needs_postgres = pytest.mark.skipif(
    not (program("initdb") and program("pg_ctl")),
    reason="PostgreSQL is not installed here (Debian: apt-get install postgresql)",
)


@dataclass(frozen=True)
class Postgres:
    """A server that listens on this machine only."""

    folder: Path
    password: str
    port: int

    def uri(self, database: str) -> str:
        """Return the address of a database for SQLAlchemy, with the password."""
        login = f"{USER}:{quote(self.password, safe='')}"
        return f"postgresql+psycopg2://{login}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Create a database; return its address."""
        self.run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, database)
        return self.uri(database)

    def run(self, name: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs, as a user who may."""
        command = program(name)
        assert command is not None, name
        owner = pwd.getpwnam("postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name)
        subprocess.run(
            [command, *arguments],
            check=True,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "PGPASSWORD": self.password, "LC_ALL": "C.UTF-8"},
            stdout=subprocess.DEVNULL,  # a pipe would stay open with the server
            **({"user": owner.pw_uid, "group": owner.pw_gid} if os.getuid() == 0 else {}),
        )


@contextmanager
def postgres(password: str) -> Iterator[Postgres]:
    """Start a server with an empty folder; stop it in the end."""
    # not in pytest's folder, which other users cannot enter
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    server = Postgres(folder, password, free_port())
    secret = folder / "password"
    secret.write_text(password)
    if os.getuid() == 0:
        for path in (folder, secret):
            shutil.chown(path, "postgres", "postgres")
    data, options = str(folder / "data"), f"-p {server.port} -h 127.0.0.1 -k {folder}"
    login = ("--username", USER, "--pwfile", str(secret), "--auth", "scram-sha-256")
    try:
        server.run("initdb", "--pgdata", data, *login, "--no-sync")
        server.run("pg_ctl", "--pgdata", data, "-o", options, "-l", f"{folder}/log", "-w", "start")
        yield server
    finally:
        if (folder / "data/postmaster.pid").exists():
            server.run("pg_ctl", "--pgdata", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)
