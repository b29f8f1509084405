"""Delivery of outboxes to MLflow: what is pending, in order, to the run of each model."""

import fcntl
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stages.runtime.project import project_folder
from stages.tracking.local_store import experiment_name
from stages.tracking.note import note_of
from stages.tracking.outbox import Entry, Outbox
from stages.tracking.sending import BATCH, send_or_drop
from stages.tracking.store import (
    connect,
    create_experiment,
    create_run,
    find_run,
    key_of,
    log,
    problem_of,
    shown_uri,
    store_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

POLL_SECONDS = 5.0
CLOSING_SECONDS = 120.0  # for the last delivery of a stage; none is begun later


def outboxes() -> Path:
    """Return the folder that holds the outbox of each model."""
    return project_folder() / "runs/tracking"


def deliver(
    outbox: Outbox,
    model_id: str,
    *,
    until: float = math.inf,
    weights: bool = True,
    redeliver: bool = False,
    create: bool = True,
) -> str | None:
    """Deliver the pending entries of an outbox. Return the problem, or None on success.

    No entry is begun after `until` (as time.monotonic() counts), or, without `weights`, from the
    first entry with weights on. If nothing is pending, `redeliver` sends everything again if the
    store has changed. Unless `create`, nothing is delivered until the model has a run.
    """
    if not (outbox.has_pending() or (redeliver and outbox.has_entries())):
        return None
    with (outbox.folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "another process is delivering it"
        try:
            client = connect()
            experiment = client.get_experiment_by_name(experiment_name())
            if not outbox.has_pending() and outbox.is_known_to(key_of(experiment)):
                return None
            if not create and find_run(client, experiment, model_id) is None:
                return None
            run_id = open_run(client, experiment, outbox, model_id)
            for batch, offset in outbox.batches(BATCH):
                if not weights and outbox.has_weights(batch[0]):
                    return None
                if time.monotonic() > until:
                    return "it is slow"
                if batch[0]["kind"] == "note":
                    batch = [note_entry(outbox, run_id, batch[0])]
                send_or_drop(client, run_id, outbox.folder, batch)
                outbox.set_delivered(offset)
        except store_errors() as error:
            return problem_of(error)
    return None


def open_run(
    client: "MlflowClient", experiment: "Experiment | None", outbox: Outbox, model_id: str
) -> str:
    """Return the id of the run that receives the entries of an outbox, created if need be."""
    run_id = find_run(client, experiment, model_id)
    experiment = experiment or create_experiment(client)
    run_id = run_id or create_run(client, experiment, model_id, outbox.start_ms())
    if outbox.deliver_to(f"{key_of(experiment)} {run_id}"):
        log_missing(outbox)
    return run_id


def log_missing(outbox: Outbox) -> None:
    """Print which weights an earlier store was given and this one cannot be given."""
    if missing := outbox.kept.missing():
        log(
            f"{shown_uri()} is not the store that had this model, and the project no longer has "
            f"{' and '.join(missing)}; everything else has been recorded. To record the weights "
            f"too, put them back in models/gpt, remove {outbox.offset_file} and run "
            "`python -m stages deliver`"
        )


def note_entry(outbox: Outbox, run_id: str, newest: Entry) -> Entry:
    """Return the entry that sets the note, made of all parts up to the newest."""
    text = note_of((entry for entry, _ in outbox.entries(0)), run_id)
    return {**newest, "kind": "tags", "values": {"mlflow.note.content": text}}


def deliver_checkpoints(
    outbox: Outbox, model_id: str, *, until: float = math.inf, redeliver: bool = False
) -> str | None:
    """Deliver the checkpoints of a model, once its run exists. Return the problem, or None."""
    if not outbox.has_checkpoints():
        return None
    kept = outbox.checkpoints()
    return deliver(kept, model_id, until=until, redeliver=redeliver, create=False)


def deliver_rest(model_id: str) -> None:
    """Deliver what a tracker deferred."""
    outbox = Outbox(outboxes() / model_id)
    lanes = [outbox, outbox.checkpoints()] if outbox.has_checkpoints() else [outbox]
    if any(lane.has_pending() for lane in lanes):
        log(f"sending the model to {shown_uri()}; training is done and holds no device")
        until = time.monotonic() + CLOSING_SECONDS
        problem = deliver(outbox, model_id, until=until)
        problem = problem or deliver_checkpoints(outbox, model_id, until=until, redeliver=True)
        log_problem(problem, outbox)


@contextmanager
def uploading_checkpoints(model_id: str) -> Iterator[None]:
    """Upload checkpoints while the block runs, and wait for the one on its way if it succeeds.

    The training processes have no time for it; the launcher, which only waits for them, does.
    """
    outbox, ended = Outbox(outboxes() / model_id), threading.Event()

    def upload() -> None:
        while not ended.wait(POLL_SECONDS):
            deliver_checkpoints(outbox, model_id)

    thread = threading.Thread(target=upload, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
    thread.join(CLOSING_SECONDS)


def log_problem(problem: str | None, outbox: Outbox) -> None:
    """Print what kept a delivery from being complete, and how to complete it."""
    if problem:
        log(
            f"{shown_uri()} did not accept all entries ({problem}); the rest is kept in "
            f"{outbox.folder} for the next stage or `python -m stages deliver`"
        )
