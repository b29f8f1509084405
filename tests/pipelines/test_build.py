"""End-to-end runs: of a deployment on a real server, and without any server."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipelines.build import assignment
from stages.__main__ import STAGES
from tests.conftest import TRACKED, Project, copy_of
from tests.flow_lab import Lab
from tests.services_lab import free_port
from tests.waiting import wait_for

RESULT = "bits per byte of unseen text"
BUILD = ("python", "-m", "pipelines.build")


@pytest.fixture(scope="module")
def lab(template: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A project whose services run."""
    project = copy_of(template, tmp_path_factory.mktemp("lab") / "project")
    lab = Lab(project, free_port(), TRACKED)
    lab.up()
    yield lab
    lab.down()
    assert not lab.orphans()


def test_a_deployment_run_survives_a_killed_training_and_becomes_an_experiment(lab: Lab) -> None:
    overrides = {"train.seed": 3}
    run = lab.start(overrides, experiment="seed-3")
    wait_for(lambda: any(lab.project.folder.glob("runs/*/step-*")), 120, lab.log(run))
    lab.processes("stages.train.worker")[-1].kill()
    lab.complete(run)
    states = lab.task_states(run)
    assert states.pop("train") == "Failed"
    assert states.pop("train, try 2") == "Completed"
    assert states == dict.fromkeys(set(STAGES) - {"train"}, "Completed") | dict.fromkeys(
        ("download", "clean", "tokenize", "shard", "weights"), "Cached"
    )
    log = lab.log(run)
    assert log.count("after step") == 1
    assert "Updating lock file" not in log
    assert "NoneType" not in log
    flow_run = lab.ask(f"/flow_runs/{run}")
    assert flow_run["name"] == "texts 29K · seed 3"
    assert "corpus:texts" in flow_run["tags"]

    artifacts = {a["key"]: a["data"] for a in lab.ask("/artifacts/latest/filter", {})}
    assert RESULT in artifacts["result"]
    assert "the king" in artifacts["result"]
    assert artifacts["train"] == 100.0
    assert artifacts["loss"].startswith("data:image/png;base64,")
    (table,) = [data for key, data in artifacts.items() if key.startswith("runs-on-")]
    assert [row["run"] for row in json.loads(table)] == ["texts 29K · seed 3"]

    shown = lab.project.run("dvc", "exp", "show", "--json").stdout
    assert "seed-3" in shown
    applied = lab.project.run("dvc", "exp", "apply", "seed-3")
    assert applied.returncode == 0, applied.stdout
    lineage = json.loads((lab.project.folder / "models/gpt/lineage.json").read_text())
    assert lineage["params"]["train"]["seed"] == 3
    assert not list((lab.project.folder / "runs/workspaces").glob("[!.]*"))
    outbox = (lab.project.folder / "runs/tracking").glob("*/outbox.jsonl")
    assert f'"prefect.flow_run_id": "{run}"' in next(outbox).read_text()


def test_a_failing_run_says_why_and_shows_no_password(lab: Lab) -> None:
    text = lab.project.folder / "texts/0.txt"
    before = text.read_bytes()
    text.write_bytes(b"caf\xe9")
    url = f"http://alice:s3cr3t-Pa55@127.0.0.1:{lab.port}/api"
    done = lab.module("pipelines.build", "--target", "download", PREFECT_API_URL=url)
    text.write_bytes(before)
    assert done.returncode == 2
    assert f"View at http://127.0.0.1:{lab.port}/" in done.stdout
    assert "s3cr3t" not in done.stdout
    message = "build: download: 0.txt is not UTF-8 (byte 3: 0xe9)"
    assert message in done.stdout
    assert "Traceback" not in done.stdout
    assert done.stdout.count("0.txt is not UTF-8") < 5  # one try


class Flaky(BaseHTTPRequestHandler):
    """A server of a text whose first answers are 500."""

    failures = 0
    text = b""

    def do_GET(self) -> None:
        type(self).failures -= 1
        broken = type(self).failures >= 0
        self.send_response(500 if broken else 200)
        if broken:
            self.send_header("Retry-After", "1")  # by itself it would wait longer each time
        self.end_headers()
        if not broken:
            self.wfile.write(self.text)

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@contextmanager
def flaky_server(text: bytes, failures: int) -> Iterator[str]:
    """Serve `text` after answering 500 to the first requests; yield the URL."""
    Flaky.text, Flaky.failures = text, failures
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/text.txt"
    server.shutdown()


def test_a_failing_network_is_retried(new_project: Callable[..., Any]) -> None:
    text = b"the king did walk by night\n\n" * 50
    with flaky_server(text, failures=6) as url:  # as many as a try of the stage asks
        urls = json.dumps([{"url": url, "sha256": hashlib.sha256(text).hexdigest()}])
        project = new_project(source="url", urls=urls)
        done = project.run(*BUILD, "--target", "download")
    assert done.returncode == 0, done.stdout
    assert "trying again in" in done.stdout
    assert "the network may be back" in done.stdout


def test_mistakes_end_a_run_at_once(new_project: Callable[..., Any]) -> None:
    project = new_project(top_p="7")
    done = project.run(*BUILD)
    assert done.returncode == 2
    assert "sample.top_p is 7" in done.stdout
    assert "Traceback" not in done.stdout
    done = project.run(*BUILD, "--set", "train.max_step=9")
    assert done.returncode == 2
    assert "did you mean train.max_steps?" in done.stdout
    assert not (project.folder / "runs/workspaces").exists()


def test_a_run_waits_for_the_process_that_holds_a_lock(new_project: Callable[..., Any]) -> None:
    project = new_project()
    (project.folder / "texts/0.txt").write_text("the king did walk by night\n" * 50)
    holder = project.start("sleep", "300")
    locked = {"pid": holder.pid, "cmd": "dvc repro train"}
    lock = {"write": {str(project.folder / "data/corpus"): locked}}
    (project.folder / ".dvc/tmp/rwlock").write_text(json.dumps(lock))
    run = project.start(*BUILD, "--target", "download")
    assert run.stdout is not None
    output = []
    for line in run.stdout:
        output.append(line)
        if "DVC is already running here" in line and holder.poll() is None:
            holder.kill()
            holder.wait()
    run.communicate(timeout=60)
    assert run.returncode == 0, "".join(output)
    named = f"DVC is already running here: process {holder.pid} (dvc repro train)"
    assert named in "".join(output)


def test_a_server_that_does_not_answer_is_reported_in_one_line(
    new_project: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import pipelines.build as b; b.CONNECT_SECONDS = 0; b.main()"
    url = "http://alice:s3cr3t@127.0.0.1:9/api"
    done = new_project().run("python", "-c", script, PREFECT_API_URL=url)
    assert done.returncode == 75
    (line,) = done.stdout.splitlines()
    assert line.startswith("build: Prefect's server at http://127.0.0.1:9/api does not answer")
    assert "make up" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.max_steps=9", ("train.max_steps", 9)),
        ("corpus.path=texts/songs", ("corpus.path", "texts/songs")),
        ("train.init_from=null", ("train.init_from", None)),
        ('sample.prompts=["a=b"]', ("sample.prompts", ["a=b"])),
    ],
)
def test_an_assignment_is_json_or_a_string(text: str, expected: tuple[str, Any]) -> None:
    assert assignment(text) == expected
