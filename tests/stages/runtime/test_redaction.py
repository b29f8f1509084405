"""Secrets are redacted from every text, and every other text is left as it is."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.runtime.redaction import redacted, redacted_address

SECRET = "s3cr3t-Pa55"
HUB, GITHUB, AWS = "hf_" + "a1B2" * 8, "ghp_" + "a1B2" * 9, "AKIA" + "A1B2" * 4


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear the environment, so that no variable of the machine matters."""
    for name in list(os.environ):
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"http://alice:{SECRET}@host:9", "http://host:9"),
        (f"a proxy, 'https://alice:{SECRET}@p:3128/': no", "a proxy, 'https://p:3128/': no"),
        (f"https://{HUB}@huggingface.co/x", "https://huggingface.co/x"),
        (f"https://alice:p@ss{SECRET}@host/a", "https://host/a"),
        (f"postgresql+psycopg2://alice:{SECRET}/?#@db:5432/x", "postgresql+psycopg2://db:5432/x"),
        (f"s3://{AWS}:{SECRET}/+@bucket/folder", "s3://bucket/folder"),
        (f"https://b/f?X-Amz-Credential={AWS}%2Fx&v=2", "https://b/f?X-Amz-Credential=***&v=2"),
        (f"https://b/f?v=2&sig={SECRET}#end", "https://b/f?v=2&sig=***#end"),
        (f"host=db password={SECRET} dbname=x", "host=db password=*** dbname=x"),
        ('authentication failed for user "alice"', 'authentication failed for user "***"'),
        (f"Authorization: Bearer {SECRET}{SECRET}", "Authorization: Bearer ***"),
        (f"token {HUB} is invalid", "token *** is invalid"),
        (f"remote: {GITHUB}", "remote: ***"),
        (f"the key {AWS} does not exist", "the key *** does not exist"),
    ],
)
def test_secrets_are_recognized_by_their_form(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5001/#/experiments/1/runs/ab?workflowType=machine_learning",
        "https://example.org/@name/text.txt",
        "mail alice@example.org",
        "train: 1,311,872 parameters, 400 steps of 8,192 tokens",
        "train.batch_tokens=2048 is not a multiple; token=50256",
        "sqlite:///mlflow.db",
        "params.yaml: corpus.path is 3: a basic and a bearer",
    ],
)
def test_other_texts_are_unchanged(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MLFLOW_TRACKING_PASSWORD", SECRET),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("HF_TOKEN", SECRET),
        ("PREFECT_API_KEY", SECRET),
        ("PREFECT_API_AUTH_STRING", f"admin:{SECRET}"),
        ("HTTPS_PROXY", f"http://alice:{SECRET}@proxy:3128"),
        ("PREFECT_API_DATABASE_CONNECTION_URL", f"postgresql+asyncpg://alice:{SECRET}@db/x"),
    ],
)
def test_secrets_of_variables_are_hidden_wherever_they_occur(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert redacted(f"cannot log in with {SECRET}.") == "cannot log in with ***."


def test_a_password_is_hidden_quoted_and_unquoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://alice:s3cr3t%2FPa55@host")
    assert redacted("s3cr3t/Pa55, s3cr3t%2FPa55") == "***, ***"


def test_a_short_secret_does_not_hide_ordinary_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://mlflow:mlflow@db/x")
    assert redacted("mv mlflow.db mlflow.db.damaged") == "mv mlflow.db mlflow.db.damaged"


def test_strings_inside_dicts_and_lists_are_redacted_too() -> None:
    content = {"tags": [f"http://alice:{SECRET}@host", 3, None], "step": 0.5}
    assert redacted(content) == {"tags": ["http://host", 3, None], "step": 0.5}


@given(st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters="/?#@:'\"<>")))
def test_no_password_in_a_url_is_shown(password: str) -> None:
    address = f"http://alice:{password}@host:9/path"
    assert redacted_address(address) == "http://host:9/path"


@pytest.mark.parametrize("body", ["raise KeyError(address)", "raise ValueError(address)"])
def test_no_error_of_a_stage_shows_a_secret(run_python: Callable[..., Any], body: str) -> None:
    script = f"""
import threading
from stages.runtime.entry import run_command
address = "http://alice:{SECRET}@host:9"
def run(settings):
    {body}
def in_a_thread():
    raise KeyError(address)
thread = threading.Thread(target=in_a_thread)
def both(settings):
    thread.start()
    thread.join()
    run(settings)
run_command("bake", both)
"""
    done = run_python("-c", script, NANOGPT_STATUS_FILE="status.json")
    assert done.returncode != 0
    assert done.stderr.count("http://host:9") >= 2
    assert SECRET not in done.stderr + done.stdout
    assert "alice:" not in done.stderr.replace('address = "http://alice:', "")
