"""Redaction of passwords, tokens and keys in everything that is printed, logged or recorded.

Some secrets are recognized by their form: the user and password in a URL, signed queries, tokens
with known prefixes. The values of environment variables such as HF_TOKEN, and the password in
MLFLOW_TRACKING_URI, are found wherever they occur, even inside a library's error message.
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
MIN_SECRET_LENGTH = 8  # characters of a variable's value: a shorter one may be an ordinary word

USER_INFO = re.compile(
    r"""(?<=://)[^\s/?#"'<>]*@"""  # as RFC 3986 defines it
    r"""|(?<!https://)(?<!http://)(?<=://)[^\s/:@]*:\S*@"""  # database URLs allow any character
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
LOGIN = re.compile(r"""(\b(?:user|role) (["']))[^"'\n]+(?=\2)""")  # in a database's refusal
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
    """Return `content` with the secrets redacted in every string, also inside dicts and lists."""
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
    """Remove user and password from the URLs in a text, and hide the secrets in their queries.

    Unlike `redacted`, this does not depend on the environment.
    """
    return QUERY.sub(rf"\1{HIDDEN}", USER_INFO.sub("", text))


def secrets() -> list[str]:
    """Return the secrets in the environment, plain and percent-encoded, the longest first."""
    forms = {
        form
        for secret in secrets_in_variables()
        for form in (secret, unquote(secret), quote(secret, safe=""))
        if len(secret) >= MIN_SECRET_LENGTH
    }
    return sorted(forms, key=len, reverse=True)


def secrets_in_variables() -> Iterator[str]:
    """Yield the values of variables named like secrets, and the passwords in URLs of others."""
    for name, value in os.environ.items():
        if SECRET_VARIABLE.search(name):
            yield from {value, value.rpartition(":")[2]}  # PREFECT_API_AUTH_STRING is user:password
        elif "://" in value:
            yield value.partition("://")[2].rpartition("@")[0].partition(":")[2]


def redact_tracebacks() -> None:
    """Redact the tracebacks of uncaught exceptions in all threads."""

    def show(
        kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lines = traceback.format_exception(kind, error, trace)
        print(redacted("".join(lines)), end="", file=sys.stderr, flush=True)

    sys.excepthook = show
    threading.excepthook = lambda args: show(args.exc_type, args.exc_value, args.exc_traceback)
