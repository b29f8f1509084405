"""How long to keep trying a network that fails: again after growing, random pauses, then no more.

urllib3's Retry counts the tries and knows the pauses, a server's own wish (Retry-After) included.
"""

from typing import Any

from urllib3.exceptions import InvalidHeader, MaxRetryError
from urllib3.util import Retry

from stages.runtime.redaction import redacted

POLICY = Retry(
    total=5,  # after pauses of about 0, 2, 4, 8 and 16 s
    backoff_factor=1,
    backoff_jitter=1,  # so that many clients do not come back at the same moment
    retry_after_max=300,  # a server may ask for hours; the flow tries again later
)


class Retries:
    """Counts the failures of one undertaking since it last got anywhere."""

    def __init__(self, undertaking: str) -> None:
        self.undertaking = undertaking
        self.retry = POLICY

    def renew(self) -> None:
        """Forget the failures: it got on."""
        self.retry = POLICY

    def wait(self, error: Exception, answer: Any = None) -> None:
        """Pause before the next try, as long as urllib3's `answer` asks for if it does.

        Raises ConnectionError or, when the last failure was one of time, TimeoutError after the
        last try.
        """
        kind = TimeoutError if isinstance(error, TimeoutError) else ConnectionError
        try:
            self.retry = self.retry.increment("GET", error=error)
        except MaxRetryError:
            raise kind(
                f"{self.undertaking} could not be fetched: {error}; check the name and your "
                "connection, and run it again: what came is kept"
            ) from None
        number, tries = 1 + len(self.retry.history), 1 + (POLICY.total or 0)
        line = f"{self.undertaking}: {error}; try {number} of {tries} follows"
        print(redacted(line), flush=True)
        try:
            self.retry.sleep(answer)
        except InvalidHeader:  # a Retry-After that is neither seconds nor a date
            self.retry.sleep()
