"""Secrets in the environment of a whole run: none is printed, and none is in a file."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TRACKED
from tests.mlflow_lab import MlflowServer, recorded, served
from tests.secrets_lab import files_with, forms_of

USER = "alice"
SERVER = "s3cr3t/Pa55 of the server"  # its address has it percent-encoded
ENCODED = "s3cr3t%2FPa55%20of%20the%20server"
SITE, SIGNATURE, PROXY = "Pa55-of-the-site", "s1gnature-of-an-address", "Pa55-of-the-proxy"
PLANTED = {
    "MLFLOW_TRACKING_PASSWORD": SERVER,
    "MLFLOW_TRACKING_TOKEN": "t0ken-of-the-server",
    "AWS_ACCESS_KEY_ID": "AKIAA1B2C3D4E5F6G7H8",
    "AWS_SECRET_ACCESS_KEY": "s3cr3t/key+of/the+bucket",
    "HF_TOKEN": "hf_" + "a1B2" * 8,
    "PREFECT_API_KEY": "pnu_" + "c3D4" * 8,
}
SECRETS = (*PLANTED.values(), SITE, PROXY)


class Site(BaseHTTPRequestHandler):
    """Gives texts to those who know the password of the site."""

    texts: dict[str, bytes]
    logins: set[str]

    def do_GET(self) -> None:
        """Answer with a text."""
        self.logins.add(self.headers.get("Authorization", ""))
        content = self.texts[self.path.partition("?")[0].lstrip("/")]
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def site(template: Any) -> Iterator[tuple[set[str], list[dict[str, str]]]]:
    """Serve the template's texts; the logins it has seen, and its section `corpus.urls`."""
    texts = {file.name: file.read_bytes() for file in (template.folder / "texts").iterdir()}
    handler = type("Here", (Site,), {"texts": texts, "logins": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://localhost:{server.server_port}"
    urls = [
        {"url": f"{address}/{name}?sig={SIGNATURE}", "sha256": hashlib.sha256(text).hexdigest()}
        for name, text in sorted(texts.items())
    ]
    yield handler.logins, urls  # type: ignore[attr-defined]  # of `type`
    server.shutdown()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    """Run an MLflow server that asks for a password."""
    folder = tmp_path / "server"
    folder.mkdir()
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\n"
        "default_permission = EDIT\n"
        f"database_uri = sqlite:///{folder}/users.db\n"
        f"admin_username = {USER}\n"
        f"admin_password = {SERVER}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-its-forms",
    }
    options = ("--app-name", "basic-auth")
    with served(MlflowServer(folder, options=options, variables=variables)) as running:
        yield running


def assert_no_secret(folder: Path, output: str) -> None:
    """Assert that neither a folder nor an output has one of the secrets."""
    for secret in SECRETS:
        assert files_with(secret, folder, USER) == [], secret
        for form in forms_of(secret, USER):
            assert form not in output.encode(), secret


def test_no_secret_is_printed_or_in_a_file_after_a_whole_run(
    new_project: Callable[..., Any],
    site: tuple[set[str], list[dict[str, str]]],
    server: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logins, urls = site
    project = new_project(source="url", urls=json.dumps(urls))
    (tmp_path / "netrc").write_text(f"machine localhost login {USER} password {SITE}\n")
    (tmp_path / "netrc").chmod(0o600)
    environment = {
        **PLANTED,
        **TRACKED,
        "NETRC": str(tmp_path / "netrc"),
        "http_proxy": f"http://{USER}:{PROXY}@127.0.0.1:9",  # where nothing listens
        "https_proxy": f"http://{USER}:{PROXY}@127.0.0.1:9",
        "NANOGPT_TAGS": json.dumps({"from": f"https://{USER}:{SITE}@example.org/a"}),
    }
    shown = server.uri.removeprefix("http://")
    wrong, right = (f"http://{USER}:{text}@{shown}" for text in (f"wrong-{ENCODED}", ENCODED))

    done = project.run("dvc", "repro", **environment, NANOGPT_DEBUG="true")
    assert done.returncode != 0  # the proxy is in the way
    assert "Traceback" in done.stdout
    output = done.stdout
    environment["no_proxy"] = "localhost,127.0.0.1"
    output += project.repro("train", **environment, MLFLOW_TRACKING_URI=wrong)
    assert f"tracking: {server.uri} did not accept all entries" in output
    output += project.repro("evaluate", **environment, MLFLOW_TRACKING_URI=right)
    login = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_URI": server.uri}
    output += project.repro(**environment, **login)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SERVER)
    found = recorded(server.uri)
    assert found.run.info.status == "FINISHED"
    assert found.run.data.tags["from"] == "https://example.org/a"
    assert found.model.status == "READY"
    assert "samples/samples.txt" in found.artifacts()
    assert f"Basic {base64.b64encode(f'{USER}:{SITE}'.encode()).decode()}" in logins

    assert SIGNATURE not in output
    assert_no_secret(project.folder, output)
    # what DVC copies of params.yaml, of which the signature is a part
    allowed = ("params.yaml", "dvc.lock", ".dvc/cache/runs/")
    assert all(name.startswith(allowed) for name in files_with(SIGNATURE, project.folder))
