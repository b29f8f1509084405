"""Data that a training run leaves out after it diverged on them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SkippedData:
    """A gap in the order of the data: so many updates' windows are left out after an update.

    Every later update uses the windows that follow, past the end of an epoch those of the next.
    """

    after_step: int = 0
    windows_of_steps: int = 0

    def data_of(self, updates: range) -> tuple[range, range]:
        """Return whose windows `updates`, counted from 0, use: before the gap, and after it."""
        gap = self.windows_of_steps
        seam = min(max(updates.start, self.after_step), updates.stop)
        return range(updates.start, seam), range(seam + gap, updates.stop + gap)


NOTHING_SKIPPED = SkippedData()
