"""What the commands of this package have in common: how they report an expected failure."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from stages.runtime.errors import EXIT_CODES, kind_of


@contextmanager
def failures_reported(command: str) -> Iterator[None]:
    """Exit with one line and the exit code of its kind after a ConnectionError or ValueError."""
    try:
        yield
    except (ConnectionError, ValueError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        sys.exit(EXIT_CODES[kind_of(error)])
