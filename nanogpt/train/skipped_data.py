"""Data that a training run skips after it diverged."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SkippedData:
    """A gap in the data order: the windows of `windows_of_steps` updates after `after_step`.

    Later updates use the windows that follow, continuing into the next epoch if necessary.
    """

    after_step: int = 0
    windows_of_steps: int = 0

    def data_of(self, updates: range) -> tuple[range, range]:
        """Return the windows that `updates` use, as numbers from 0: before, after the gap."""
        gap = self.windows_of_steps
        seam = min(max(updates.start, self.after_step), updates.stop)
        return range(updates.start, seam), range(seam + gap, updates.stop + gap)


NOTHING_SKIPPED = SkippedData()
