"""What to do when a stage fails: one policy per kind of failure.

The kind is what the stage itself reported in its status file, or how its process ended; no message
is parsed. A run makes each try a task run of its own, so that all of them are visible.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipelines.dag import Stage
from stages.runtime.errors import Kind
from stages.runtime.status import Status

MINUTE, HOUR = 60.0, 3600.0


@dataclass(frozen=True)
class Policy:
    """How often to retry after failures of one kind, and how long to wait before each retry.

    The pauses double from `first` to `longest` seconds, plus up to half at random, so that many
    runs do not try again at the same moment.
    """

    tries: int  # failures of this kind within `window` after which the run gives up
    window: float  # seconds
    first: float = 0.0
    longest: float = 0.0
    resumable_only: bool = False  # elsewhere, an unexplained crash would only happen again

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in the window."""
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 30)) * random.uniform(1, 1.5)


# A kind that is missing here is not retried: params, data and permissions do not fix themselves,
# and a full disk needs a person.
POLICIES: Mapping[Kind, Policy] = {
    "network": Policy(tries=200, window=12 * HOUR, first=2, longest=10 * MINUTE),
    "busy": Policy(tries=1000, window=24 * HOUR, first=2, longest=2 * MINUTE),
    "interrupted": Policy(tries=10, window=HOUR),
    "crash": Policy(tries=5, window=HOUR, first=2, longest=MINUTE, resumable_only=True),
    "hang": Policy(tries=3, window=HOUR, first=2, longest=MINUTE),
    "memory": Policy(tries=6, window=HOUR),  # each with half the micro-batch
    "diverged": Policy(tries=1, window=365 * 24 * HOUR),  # once, skipping the data it diverged on
}


@dataclass(frozen=True)
class Try:
    """Another try: after `pause` seconds, with some settings changed, and why."""

    pause: float
    settings: Mapping[str, str]
    reason: str


@dataclass
class History:
    """The failures of one stage in this run, and the settings that they led to."""

    stage: Stage
    now: Callable[[], float] = time.monotonic
    failures: list[tuple[float, Kind]] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    def after(self, status: Status) -> Try | None:
        """Return the next try after a failure; None if the stage has failed for good."""
        if status.kind == "done":
            return None
        policy = POLICIES.get(status.kind)
        if policy is None or (policy.resumable_only and not self.stage.resumable):
            return None
        now = self.now()
        self.failures.append((now, status.kind))
        recent = sum(k == status.kind and now - t <= policy.window for t, k in self.failures)
        if recent > policy.tries:
            return None
        if status.kind == "memory":
            used, least = status.micro_batch_tokens, status.window_tokens
            if not used or not least or used <= least:
                return None
            self.settings["NANOGPT_MICRO_BATCH_TOKENS"] = str(max(least, used // 2))
        if status.kind == "diverged":
            self.settings["NANOGPT_SKIP_DIVERGED"] = "true"
        return Try(policy.pause(recent), dict(self.settings), REASONS[status.kind])


REASONS: Mapping[Kind, str] = {
    "network": "the network may be back",
    "busy": "the other process may have finished by then",
    "interrupted": "it continues from its checkpoint",
    "crash": "it continues from its checkpoint",
    "hang": "it continues from its checkpoint",
    "memory": "with half the micro-batch and the same global batch",
    "diverged": "from the last checkpoint, skipping the data between it and the failure",
}
