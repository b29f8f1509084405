"""What tests of whole stages share: a small project of their own in a temporary folder."""

import gc
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]

# Started in the background of a script, this process ignores Ctrl-C, and so would all it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

gc.set_threshold(10_000)  # as in stages/__init__.py: torch and MLflow are many objects that stay

MINIATURE = {
    "source": "files",
    "tokenizer": "char",
    "vocab_size": "null",
    "val_fraction": "0.3",
    "block_size": "16",
    "n_layer": "2",
    "n_head": "2",
    "n_embd": "32",
    "batch_tokens": "512",
    "learning_rate": "0.003",
    "max_steps": "100",
    "warmup": "4",
    "decay": "20",
    "eval_interval": "20",
    "eval_tokens": "512",
    "max_new_tokens": "30",
    "prompts": '["the king"]',
    "precision": "float32",
}

ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": "",
    "SHELL": "/bin/sh",  # where it is dash, it stays between DVC and the stage
    "OMP_NUM_THREADS": "1",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_OFFLINE": "1",
    "NANOGPT_TRACKING": "false",  # else MLflow takes seconds of each training
}
TRACKED = {"NANOGPT_TRACKING": "true"}

SHORT_FIRST = 60  # tests, some ten seconds


def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than there are cores, for tests wait for processes now and then.

    With more, collecting the tests (13 s of processor time for each worker) takes what is gained.
    """
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests such that workers do not wait for each other.

    Each worker starts with one of as many equal parts, in this order. The first makes the built
    project, the second a Prefect server; all others start with short tests, until the template is
    there.
    """
    others = getattr(config, "workerinput", {}).get("workercount", 1) - 1
    if not others:
        return
    needs = {item: set(getattr(item, "fixturenames", ())) for item in items}
    built = [item for item in items if "built" in needs[item]]
    lab = [item for item in items if "lab" in needs[item]]
    projects = [i for i in items if "template" in needs[i] and not needs[i] & {"built", "lab"}]
    short = [item for item in items if not needs[item] & {"template", "lab"}]
    first, short = short[: SHORT_FIRST * others], short[SHORT_FIRST * others :]
    parts = [built, *(first[n::others] + projects[n::others] for n in range(others))]
    parts[1][SHORT_FIRST:SHORT_FIRST] = lab
    for part in parts:
        room = max(0, len(items) // len(parts) - len(part))
        part += short[:room]
        short = short[room:]
    items[:] = [*(item for part in parts for item in part), *short]


def command_of(process: psutil.Process) -> str:
    """Return the command line of a process; empty if it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@dataclass(frozen=True)
class Project:
    """A copy of the project with small params and three little texts of its own."""

    folder: Path
    environment: dict[str, str]

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a command in the project, in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in the project; its output in `stdout`."""
        process = self.start(*command, **environment)
        output, _ = process.communicate(timeout=240)
        return subprocess.CompletedProcess(command, process.returncode, output, "")

    def repro(self, *arguments: str, **environment: str) -> str:
        """`dvc repro`, which must succeed; its output."""
        done = self.run("dvc", "repro", *arguments, **environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def set_params(self, **values: str) -> None:
        """Change values in params.yaml by key, whatever the section."""
        file = self.folder / "params.yaml"
        text = file.read_text()
        for key, value in values.items():
            text, count = re.subn(rf"(?m)^(  {key}:).*$", rf"\1 {value}", text, count=1)
            assert count == 1, key
        file.write_text(text)

    def processes(self) -> list[psutil.Process]:
        """Living processes that work in the project's folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.folder):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def write_texts(folder: Path, seed: int) -> None:
    """Six little texts of made-up sentences."""
    text = "the king and queen of all the land did walk by night with sword in hand"
    words = text.split()
    draw = random.Random(seed)
    for number in range(6):
        lines = (" ".join(draw.choices(words, k=8)) for _ in range(60))
        (folder / f"{number}.txt").write_text("\n".join(lines) + "\n")


def project_in(folder: Path) -> Project:
    """The project in a folder, with a home of its own."""
    return Project(folder, {**os.environ, **ENVIRONMENT, "HOME": str(folder / "runs/home")})


def make_template(folder: Path) -> Project:
    """Copy what the project consists of, make it small, and run the stages before `train`."""
    folder.mkdir(parents=True)
    for name in ("nanogpt", "stages", "pipelines", "presets", "infra", "filters"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("dvc.yaml", "params.yaml", "prefect.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("texts", "weights"):
        (folder / name).mkdir()
    shutil.copy(ROOT / "weights/README.md", folder / "weights")
    write_texts(folder / "texts", seed=0)
    (folder / "runs/home").mkdir(parents=True)
    project = project_in(folder)
    project.set_params(**MINIATURE)
    for command in (
        ("git", "init", "-q"),
        ("git", "config", "user.name", "test"),
        ("git", "config", "user.email", "test@localhost"),
        ("dvc", "init", "-q"),
        ("cp", str(ROOT / ".dvc/config"), ".dvc/config"),
        ("git", "add", "-A"),
        ("git", "commit", "-qm", "start"),
        ("dvc", "repro", "shard", "weights"),
        (
            "python",
            "-m",
            "compileall",
            "-q",
            "nanogpt",
            "stages",
            "pipelines",
        ),  # once for all copies
    ):
        done = project.run(*command)
        assert done.returncode == 0, done.stdout
    return project


def copy_of(project: Project, folder: Path, **params: str) -> Project:
    """The same project elsewhere, with some params changed."""
    shutil.copytree(project.folder, folder, symlinks=True)
    copied = project_in(folder)
    copied.set_params(**params)
    return copied


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder that the workers of this session have in common."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def template(shared: Path) -> Project:
    """A project with its shards made, once for all workers; tests copy it."""
    folder = shared / "template"
    with FileLock(f"{folder}.lock"):
        return project_in(folder) if folder.exists() else make_template(folder)


@pytest.fixture
def new_project(template: Project, tmp_path: Path) -> Callable[..., Project]:
    """Makes a project of the test's own, its shards made, with some params changed."""
    return lambda name="project", **params: copy_of(template, tmp_path / name, **params)


@pytest.fixture(scope="session")
def built(template: Project, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project on which all of `dvc repro` has run; who edits something in it, restores it."""
    folder = shared / "built"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            temporary = shared / "temporary"
            temporary.mkdir()
            copy_of(template, folder).repro(TMPDIR=str(temporary), **TRACKED)
    return copy_of(project_in(folder), tmp_path_factory.mktemp("built") / "project")


@pytest.fixture
def copy_of_built(built: Project, tmp_path: Path) -> Project:
    """A built project of the test's own."""
    return copy_of(built, tmp_path / "project")
