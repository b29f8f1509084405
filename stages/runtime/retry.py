"""Retries of failed network requests: exponential backoff with jitter, up to a limit.

urllib3's Retry counts the attempts and computes the pauses; it honors a server's Retry-After.
"""

from typing import Any

from urllib3.exceptions import InvalidHeader, MaxRetryError
from urllib3.util import Retry

from stages.runtime.redaction import redacted

POLICY = Retry(
    total=5,  # after pauses of about 0, 2, 4, 8 and 16 s
    backoff_factor=1,
    backoff_jitter=1,  # so that many clients do not retry at the same moment
    retry_after_max=300,  # a server may ask for hours; the flow retries later
)


class Retries:
    """The retry budget of one download; it is restored whenever the download makes progress."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.retry = POLICY

    def renew(self) -> None:
        """Restore the full budget after progress."""
        self.retry = POLICY

    def wait(self, error: Exception, answer: Any = None) -> None:
        """Sleep before the next attempt, for as long as urllib3's response `answer` asks for.

        Raises ConnectionError after the last attempt, TimeoutError if that timed out.
        """
        error_type = TimeoutError if isinstance(error, TimeoutError) else ConnectionError
        try:
            self.retry = self.retry.increment("GET", error=error)
        except MaxRetryError:
            raise error_type(
                f"{self.name} could not be fetched: {error}; check the name and your "
                "connection, then rerun: the partial download is kept"
            ) from None
        attempt, attempts = 1 + len(self.retry.history), 1 + (POLICY.total or 0)
        line = f"{self.name}: {error}; retrying (attempt {attempt} of {attempts})"
        print(redacted(line), flush=True)
        try:
            self.retry.sleep(answer)
        except InvalidHeader:  # a Retry-After that is neither seconds nor a date
            self.retry.sleep()
