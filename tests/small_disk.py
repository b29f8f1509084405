"""Commands on a disk that fills up: a small file system of their own."""

import os
import shutil
import subprocess

import pytest

from tests.conftest import Project

OWN_MOUNTS = (
    ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--map-root-user", "--mount"]
)


def can_mount() -> bool:
    """Return whether a process can mount a small file system of its own on this system."""
    command = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run(command, capture_output=True).returncode
    )


needs_small_disk = pytest.mark.skipif(
    not can_mount(), reason="this system lets no process mount a file system of its own"
)


def run_on_a_small_disk(
    project: Project, folder: str, size: str, *command: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command while `folder` of the project is a disk of this size, empty at the start.

    What lies there in the end is copied to `folder`-after.
    """
    script = f"""
        mkdir -p {folder} && mount -t tmpfs -o size={size} tmpfs {folder} && "$@"
        code=$?; cp -R {folder} {folder}-after; exit $code
    """
    return project.run(
        *OWN_MOUNTS,
        *("sh", "-c", script, "sh", *command),
        NANOGPT_LOG_INTERVAL="1",
        **environment,
    )


def assert_it_says_what_is_kept(output: str, step: int) -> None:
    """Assert that one line says from which step a training goes on, and how."""
    (line,) = [text for text in output.splitlines() if "no space left on the disk" in text]
    assert f"the checkpoint of step {step} is kept in runs/" in line
    assert "free some space and rerun to resume from there" in line
