"""Automations for this project's runs: detect dead runs, reschedule them, send notifications.

A run whose process dies stops sending heartbeats. It becomes Lost, a kind of Crashed, and crashed
runs are rescheduled so that any worker can resume the same flow run, at most five times; then the
flow itself refuses. The server cannot tell a dead run from one that could not reach it, so a Lost
run that sends a heartbeat after all is set back to Running.

`python -m pipelines.automations notify URL` lets the server report failed, crashed and late runs.
"""

import argparse
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID

import psutil
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.actions import (
    ActionTypes,
    CallWebhook,
    ChangeFlowRunState,
    SendNotification,
)
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry, Cancelled, Crashed, Running
from prefect.types import SecretDict
from pydantic import SecretStr

from pipelines.command import failures_reported
from pipelines.keep import FLOW_RUN, variable_of
from pipelines.names import deployed_names, own_deployments, server
from stages.runtime.redaction import redact_tracebacks

LOST_SECONDS = 90  # three heartbeats, of which PREFECT_FLOWS_HEARTBEAT_FREQUENCY is 30 s
# How long to wait after a crash before rescheduling: a run declared dead by mistake sends a
# heartbeat in this time, and a worker may report a dead process again, which would end a new try.
OBJECTION_SECONDS = 40
CRASHES = 5  # after which a run is not rescheduled
ATTEMPTS = 100  # of a run, with those that `make down` ended; the flow counts the crashes
MISSED = timedelta(minutes=2)  # the automation should have acted by then
RECENT = timedelta(days=1)

STOPPED_BY = "Stopped by make down"

STATE = "prefect.flow-run."
HEARTBEAT = f"{STATE}heartbeat"
ALIVE = {f"{STATE}Running", f"{STATE}Retrying", HEARTBEAT}
STOPPED = {
    f"{STATE}{name}"
    for name in (
        *("Completed", "Cancelled", "Cancelling", "Paused", "Suspended"),
        *("Scheduled", "AwaitingRetry", "Pending"),
    )
}
PROBLEMS = {f"{STATE}{name}" for name in ("Failed", "TimedOut", "Crashed", "Lost", "Late")}

TEXT = "{{ flow_run.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}"
PAYLOAD = """{
  "text": {{ [flow_run.name, " is ", flow_run.state.name, ": ", flow_run.state.message]
             | join | tojson }},
  "flow_run": {{ flow_run.name | tojson }},
  "state": {{ flow_run.state.name | tojson }},
  "message": {{ flow_run.state.message | tojson }},
  "url": {{ flow_run | ui_url | tojson }}
}"""


def of_deployments(ids: Iterable[UUID], **trigger: Any) -> EventTrigger:
    """Return a trigger for events of the flow runs of some deployments, each run by itself."""
    match = {"prefect.resource.id": f"{STATE}*", **trigger.pop("labels", {})}
    return EventTrigger(
        match=match,
        match_related={
            "prefect.resource.role": "deployment",
            "prefect.resource.id": [f"prefect.deployment.{id}" for id in ids],
        },
        for_each={"prefect.resource.id"},
        **trigger,
    )


def set_state(state: StateType, message: str, name: str | None = None) -> ChangeFlowRunState:
    """Return the action that gives a flow run a state; only Running is forced."""
    force = state is StateType.RUNNING
    return ChangeFlowRunState(state=state, name=name, message=message, force=force)


def rules(ids: Sequence[UUID]) -> dict[str, tuple[str, EventTrigger, ActionTypes]]:
    """Return what the server does by itself: name, description, trigger and action.

    On SQLite, Prefect may lose an event that a trigger expects and that does not also start it
    ("database is locked"). So "lost" does not expect Crashed and Failed, which others react to: a
    run that has ended refuses to become Crashed anyway.
    """
    counts = [str(count) for count in range(1, ATTEMPTS)]
    return {
        "lost": (
            f"marks a run without a heartbeat for {LOST_SECONDS} s as crashed: Lost",
            of_deployments(
                ids,
                posture=Posture.Proactive,
                after=ALIVE,
                expect=ALIVE | STOPPED,
                within=timedelta(seconds=LOST_SECONDS),
            ),
            set_state(
                StateType.CRASHED,
                f"No heartbeat for {LOST_SECONDS} s: its process or its machine is gone.",
                name="Lost",
            ),
        ),
        "found": (
            "sets a Lost run that sends a heartbeat after all back to Running",
            of_deployments(
                ids,
                posture=Posture.Reactive,
                after={f"{STATE}Lost"},
                expect={HEARTBEAT},
                within=timedelta(seconds=OBJECTION_SECONDS),
            ),
            set_state(StateType.RUNNING, "Its heartbeat is back."),
        ),
        "again": (
            f"reschedules a crashed run after {OBJECTION_SECONDS} s, at most {CRASHES} times",
            of_deployments(
                ids,
                labels={"prefect.run-count": counts},
                posture=Posture.Proactive,
                after={f"{STATE}Crashed", f"{STATE}Lost"},
                expect={f"{STATE}*"},
                within=timedelta(seconds=OBJECTION_SECONDS),
            ),
            set_state(StateType.SCHEDULED, "Rescheduled after a crash.", name="AwaitingRetry"),
        ),
    }


def full_name(suffix: str, name: str) -> str:
    """Return the name of an automation on the server."""
    return f"build{suffix}: {name}"


def put(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create an automation, or replace the one of that name."""
    existing = client.read_automations_by_name(automation.name)
    for duplicate in existing[1:]:
        client.delete_automation(duplicate.id)
    if existing:
        client.update_automation(existing[0].id, automation)
    else:
        client.create_automation(automation)


def create(client: SyncPrefectClient, suffix: str, ids: Sequence[UUID]) -> None:
    """Create the automations for the deployments with these ids; remove those of older rules."""
    kept = {full_name(suffix, name) for name in (*rules(ids), "notices")}
    for automation in client.read_automations():
        if automation.name.startswith(full_name(suffix, "")) and automation.name not in kept:
            client.delete_automation(automation.id)
    for name, (description, trigger, action) in rules(ids).items():
        put(
            client,
            AutomationCore(
                name=full_name(suffix, name),
                description=description,
                trigger=trigger,
                actions=[action],
            ),
        )


def notice_block(suffix: str) -> str:
    """Return the name of the webhook block of the notices."""
    return f"notices{suffix}".lower().replace("_", "-").replace(".", "-")


def notice_action(client: SyncPrefectClient, suffix: str, target: str) -> ActionTypes:
    """Return the action that reports to `target`: an http(s) URL, or a block as TYPE/NAME.

    Raises ValueError if there is no such block.
    """
    if "://" in target:
        headers = SecretDict({"Content-Type": "application/json"})
        block = Webhook(url=SecretStr(target), headers=headers)
        id = cast(UUID, block.save(notice_block(suffix), overwrite=True))
        return CallWebhook(block_document_id=id, payload=PAYLOAD)
    kind, _, name = target.partition("/")
    try:
        id = client.read_block_document_by_name(name, kind).id
    except ObjectNotFound:
        raise ValueError(f"{target!r} is neither a URL nor a block (TYPE/NAME)") from None
    if kind == "webhook":
        return CallWebhook(block_document_id=id, payload=PAYLOAD)
    return SendNotification(block_document_id=id, subject=TEXT, body=TEXT)


def notify(client: SyncPrefectClient, suffix: str, ids: Sequence[UUID], target: str) -> None:
    """Let the server report failed, crashed and late runs to `target`."""
    put(
        client,
        AutomationCore(
            name=full_name(suffix, "notices"),
            description="reports failed, crashed and late runs",
            trigger=of_deployments(ids, posture=Posture.Reactive, expect=PROBLEMS),
            actions=[notice_action(client, suffix, target)],
        ),
    )


def stop_notices(client: SyncPrefectClient, suffix: str) -> None:
    """Remove the notices, and the block that `notify` made for a URL."""
    for automation in client.read_automations_by_name(full_name(suffix, "notices")):
        client.delete_automation(automation.id)
    with suppress(ObjectNotFound):
        document = client.read_block_document_by_name(notice_block(suffix), "webhook")
        client.delete_block_document(document.id)


def runs_in(
    client: SyncPrefectClient, ids: Sequence[UUID], states: Sequence[StateType]
) -> list[FlowRun]:
    """Return the flow runs of some deployments in some states."""
    chosen = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=list(ids)),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
    )
    found: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=chosen, limit=200, offset=len(found)):
        found += page
    return found


def living_flow_runs() -> set[str]:
    """Return the ids of the flow runs that have a process on this machine."""
    return {variable_of(process, FLOW_RUN) for process in psutil.process_iter()} - {""}


def correct_states(client: SyncPrefectClient, ids: Sequence[UUID], worker: str) -> None:
    """Correct the states of the runs that this worker started and that have no process any more.

    A worker calls this before it starts: after a restart of the machine nobody misses a heartbeat,
    because the server was not there either. Its automations have also missed older crashes.
    """
    states = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING, StateType.CRASHED)
    living = living_flow_runs()
    message = "Its process is gone, perhaps with the worker or the machine."
    for run in runs_in(client, ids, states):
        assert run.state is not None
        if run.labels.get("prefect.worker.name") != worker or str(run.id) in living:
            continue
        age = datetime.now(UTC) - run.state.timestamp
        if run.state_type is StateType.CANCELLING:
            client.set_flow_run_state(run.id, Cancelled(message=message), force=True)
        elif run.state_type is not StateType.CRASHED:
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            if crash_count(client, run.id) < CRASHES:
                take_up(client, run.id, "Rescheduled after a crash.")
        elif run.state.name == "Lost" or age > MISSED:  # which no automation takes up any more
            take_up_crashed(client, run)


def take_up_missed(client: SyncPrefectClient, ids: Sequence[UUID], worker: str) -> None:
    """Take up the runs of this worker that crashed, and that the automation has missed.

    A worker calls this MISSED after its start. At first a crash is the automation's, but on SQLite
    a trigger may lose an event.
    """
    living = living_flow_runs()
    for run in runs_in(client, ids, [StateType.CRASHED]):
        assert run.state is not None
        if str(run.id) in living:
            continue
        missed = datetime.now(UTC) - run.state.timestamp > MISSED / 2
        if missed and run.labels.get("prefect.worker.name") == worker:
            take_up_crashed(client, run)


def take_up_crashed(client: SyncPrefectClient, run: FlowRun) -> None:
    """Take up a run that crashed recently, unless it never ran or has crashed too often."""
    assert run.state is not None
    recent = datetime.now(UTC) - run.state.timestamp < RECENT
    if recent and run.run_count and crash_count(client, run.id) < CRASHES:
        take_up(client, run.id, "Rescheduled after a crash.")


def take_up(client: SyncPrefectClient, id: UUID, message: str) -> None:
    """Schedule a flow run again, to be continued by a worker."""
    client.set_flow_run_state(id, AwaitingRetry(message=message), force=True)


def take_up_later(client: SyncPrefectClient, ids: Iterable[str]) -> list[str]:
    """Schedule the runs again that `make down` has ended; return their names."""
    names = []
    for run in map(client.read_flow_run, map(UUID, ids)):
        if run.state_type in (StateType.CRASHED, StateType.RUNNING):
            take_up(client, run.id, f"{STOPPED_BY}; the next worker resumes it.")
            names.append(run.name)
    return names


def restore_if_lost(client: SyncPrefectClient, run: FlowRun) -> None:
    """Set a flow run that was marked Lost back to Running; its living process calls this.

    A server that was away for longer than LOST_SECONDS marks every run as Lost when it is back, and
    may see the heartbeats that follow only 15 minutes later (it orders events by those before them,
    which it no longer knows).
    """
    if run.state is not None and run.state.name == "Lost":
        running: State[Any] = Running(message="Its process is still running.")
        client.set_flow_run_state(run.id, running, force=True)


def end_task_runs(client: SyncPrefectClient, id: UUID) -> int:
    """Mark as Crashed the task runs that a dead attempt of a flow run left running; count them.

    To be called by the next attempt before its first task.
    """
    running = TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    left = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[id])),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=running)),
    )
    for run in left:
        crashed: State[Any] = Crashed(message="Its flow run crashed.")
        client.set_task_run_state(run.id, crashed, force=True)
    return len(left)


def crash_count(client: SyncPrefectClient, id: UUID) -> int:
    """Return how often a flow run has crashed, apart from those that `make down` ended."""
    states = sorted(client.read_flow_run_states(id), key=lambda state: state.timestamp)
    return sum(
        state.type is StateType.CRASHED and not (following.message or "").startswith(STOPPED_BY)
        for state, following in pairwise(states)
    )


def main() -> None:
    """Run `python -m pipelines.automations`."""
    parser = argparse.ArgumentParser(description="let the server report failed, crashed, late runs")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("notify", help="turn notifications on or off")
    command.add_argument("target", nargs="?", help="the URL, or a notification block as TYPE/NAME")
    command.add_argument("--off", action="store_true", help="turn notifications off")
    options = parser.parse_args()
    if options.off == bool(options.target):
        parser.error("give a URL or a block, or --off")
    redact_tracebacks()
    with failures_reported("automations"), server() as client:
        names = deployed_names(client)
        if options.off:
            stop_notices(client, names.suffix)
            print("notifications are off")
            return
        ids = [deployment.id for deployment in own_deployments(client)]
        notify(client, names.suffix, ids, options.target)
    where = urlsplit(options.target).hostname if "://" in options.target else options.target
    print(f"failed, crashed and late runs of build/{names.deployments[0]} are reported to {where}")


if __name__ == "__main__":
    main()
