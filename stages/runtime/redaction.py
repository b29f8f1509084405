"""Keep passwords, tokens and keys out of what is printed, logged and recorded.

What looks like a secret is found by its form: the user and password of an address, signed queries,
tokens of known shape. The values of variables such as HF_TOKEN, and the password in
MLFLOW_TRACKING_URI, are found wherever they occur, even where a library wrote them into a sentence.
"""

import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TypeVar, cast
from urllib.parse import quote, unquote

HIDDEN = "***"
SHORTEST = 8  # of a variable's value: a shorter one may be an ordinary word of a message

USER_INFO = re.compile(
    r"""(?<=://)[^\s/?#"'<>]*@"""  # as RFC 3986 has it
    r"""|(?<!https://)(?<!http://)(?<=://)[^\s/:@]*:\S*@"""  # databases allow any character in it
)
QUERY = re.compile(
    r"([?&;][\w.-]*(?:password|passwd|pwd|secret|token|signature|sig|credential|key|keyid)=)"
    r"""[^&\s"'#<>]+""",
    re.IGNORECASE,
)
SETTING = re.compile(
    r"""(\b(?:password|passwd|pwd|secret_access_key|access_token|api_key)["']?\s*=\s*["']?)"""
    r"""[^\s"',;&}]+""",
    re.IGNORECASE,
)
LOGIN = re.compile(r"""(\b(?:user|role) (["']))[^"'\n]+(?=\2)""")  # as databases refuse one
HEADER = re.compile(r"(\b(?:bearer|basic) )[\w.~+/=-]{16,}", re.IGNORECASE)
TOKEN = re.compile(
    r"\b(?:hf_|gh[oprsu]_|github_pat_|pnu_|pnb_)\w{16,}"  # Hugging Face, GitHub, Prefect
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
)
SECRET_VARIABLE = re.compile(
    r"(PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCESS_KEY(_ID)?|AUTH_STRING)$", re.IGNORECASE
)
T = TypeVar("T")


def redacted(content: T) -> T:
    """Return a text, or all texts in dicts and lists, without what is secret in them."""
    result: Any = content
    if isinstance(content, str):
        result = redacted_address(content)
        for pattern in (SETTING, LOGIN, HEADER):
            result = pattern.sub(rf"\1{HIDDEN}", result)
        result = TOKEN.sub(HIDDEN, result)
        for secret in secrets():
            result = result.replace(secret, HIDDEN)
    elif isinstance(content, dict):
        result = {key: redacted(value) for key, value in content.items()}
    elif isinstance(content, list):
        result = [redacted(value) for value in content]
    return cast(T, result)


def redacted_address(text: str) -> str:
    """Return addresses without user and password, and with the secrets of their queries hidden.

    Unlike `redacted` this does not depend on the environment.
    """
    return QUERY.sub(rf"\1{HIDDEN}", USER_INFO.sub("", text))


def secrets() -> list[str]:
    """Return the secrets in the environment as they may occur in a text, the longest first."""
    found = {
        form
        for secret in secrets_in_variables()
        for form in (secret, unquote(secret), quote(secret, safe=""))
        if len(secret) >= SHORTEST
    }
    return sorted(found, key=len, reverse=True)


def secrets_in_variables() -> Iterator[str]:
    """Yield what variables with a telling name hold, and the passwords of addresses in others."""
    for name, value in os.environ.items():
        if SECRET_VARIABLE.search(name):
            yield from {value, value.rpartition(":")[2]}  # PREFECT_API_AUTH_STRING is user:password
        elif "://" in value:
            yield value.partition("://")[2].rpartition("@")[0].partition(":")[2]


def redact_tracebacks() -> None:
    """Hide secrets in the tracebacks of unexpected errors, of all threads."""

    def show(
        kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lines = traceback.format_exception(kind, error, trace)
        print(redacted("".join(lines)), end="", file=sys.stderr, flush=True)

    sys.excepthook = show
    threading.excepthook = lambda args: show(args.exc_type, args.exc_value, args.exc_traceback)
