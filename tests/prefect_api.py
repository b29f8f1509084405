"""Requests to a Prefect server on this machine."""

import time
from typing import Any

import requests


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the server; a POST if there is a body."""
    url = f"http://127.0.0.1:{port}/api{path}"
    for _ in range(10):
        if body is None:
            answer = requests.get(url, timeout=30)
        else:
            answer = requests.post(url, json=body, timeout=30)
        if answer.status_code != 503:  # SQLite was busy, as Prefect's own client expects
            break
        time.sleep(1)
    assert answer.ok, answer.text
    return answer.json() if answer.content else None
