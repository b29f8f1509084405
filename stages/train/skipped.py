"""The data that a run skips because it diverged on them: `skipped.json` in the run's state folder.

A run skips data once, if NANOGPT_SKIP_DIVERGED is set: one that diverges again needs other params.
"""

import json
from dataclasses import asdict
from pathlib import Path

from nanogpt.files import atomic_write
from nanogpt.train.skipped_data import NOTHING_SKIPPED, SkippedData
from stages.runtime.outcome import end_file, read_end, saved_steps


def skipped_file(folder: Path) -> Path:
    """Return the path of the file that lists the data that the run in `folder` skips."""
    return folder / "skipped.json"


def read_skipped(folder: Path) -> SkippedData:
    """Return the data that the run in `folder` skips."""
    file = skipped_file(folder)
    (skipped,) = json.loads(file.read_text()) if file.exists() else [asdict(NOTHING_SKIPPED)]
    return SkippedData(**skipped)


def skip_diverged(folder: Path) -> None:
    """Skip the data since the newest checkpoint of a run whose last session diverged.

    Raises FloatingPointError, as that session did, if the run skips data already.
    """
    if not end_file(folder).exists() or (outcome := read_end(folder))["kind"] != "diverged":
        return
    if skipped_file(folder).exists():
        raise FloatingPointError(outcome["error"])
    step, after = outcome["step"], max(saved_steps(folder), default=0)
    skipped = SkippedData(after_step=after, windows_of_steps=step - after)
    end_file(folder).unlink()  # first: what is still there later diverged in spite of the skip
    atomic_write(skipped_file(folder), json.dumps([asdict(skipped)]))
    print(
        f"train: diverged at step {step}; resuming after step {after}, without the next "
        f"{step - after} steps of data",
        flush=True,
    )
