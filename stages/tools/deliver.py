"""Upload to MLflow what earlier stages could not, or everything if the store has changed."""

import argparse

from stages.runtime.settings import Settings
from stages.tracking.delivery import deliver, deliver_checkpoints, outboxes
from stages.tracking.outbox import Outbox
from stages.tracking.store import log, shown_uri


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages deliver`. Raises ConnectionError if something was not delivered."""
    problems = []
    for folder in sorted(path for path in outboxes().glob("*") if path.is_dir()):
        outbox, model_id = Outbox(folder), folder.name
        problem = deliver(outbox, model_id, redeliver=True)
        problem = problem or deliver_checkpoints(outbox, model_id, redeliver=True)
        log(f"{folder.name} {'delivered' if problem is None else problem}")
        problems += [problem] if problem else []
    if problems:
        raise ConnectionError(f"{shown_uri()} did not accept all entries")
