"""What a Prefect server does by itself with this project's runs: tell, give up, take up again.

A run whose process has died without a word sends no more heartbeats. It becomes Crashed, and a
crashed run is scheduled again, so that any worker goes on with the same flow run: five times, after
which the flow itself refuses. Prefect cannot tell a dead run from one whose server was away, so a
run that was given up and sends a heartbeat after all is Running again instead.

`python -m pipelines.automations notify URL` lets the server report failed, crashed and late runs.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
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
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.actions import (
    ActionTypes,
    CallWebhook,
    ChangeFlowRunState,
    SendNotification,
)
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry, Cancelled, Crashed
from pydantic import SecretStr

from pipelines.keep import FLOW_RUN, variable_of
from stages.runtime.errors import EXIT_CODES
from stages.runtime.redaction import redact_tracebacks

HEARTBEAT_SECONDS = 30  # prefect.yaml sets it for the runs; Prefect allows no less
LOST_SECONDS = 90  # three heartbeats
OBJECTION_SECONDS = 45  # in which a run that was given up by mistake sends a heartbeat
PENDING_SECONDS = 300  # a flow starts in seconds
CRASHES = 5  # after which a run is not taken up again
LOST = "No heartbeat"  # how the message of such a crash begins

STATE = "prefect.flow-run."
HEARTBEAT = f"{STATE}heartbeat"
STARTED = {f"{STATE}Running", f"{STATE}Retrying", HEARTBEAT}
WAITING = {f"{STATE}Pending", f"{STATE}Submitting", f"{STATE}InfrastructurePending"}
PROBLEMS = {f"{STATE}{name}" for name in ("Failed", "TimedOut", "Crashed", "Late")}

TEXT = "{{ flow_run.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}"
PAYLOAD = """{
  "text": {{ (flow_run.name ~ " is " ~ flow_run.state.name ~ ": " ~ flow_run.state.message) | tojson }},
  "flow_run": {{ flow_run.name | tojson }},
  "state": {{ flow_run.state.name | tojson }},
  "message": {{ flow_run.state.message | tojson }},
  "url": {{ flow_run | ui_url | tojson }}
}"""


def of_deployments(ids: Iterable[UUID], **trigger: Any) -> EventTrigger:
    """Return a trigger for events of the flow runs of some deployments, each run by itself."""
    return EventTrigger(
        match=trigger.pop("match", {"prefect.resource.id": "prefect.flow-run.*"}),
        match_related={
            "prefect.resource.role": "deployment",
            "prefect.resource.id": [f"prefect.deployment.{id}" for id in ids],
        },
        for_each={"prefect.resource.id"},
        **trigger,
    )


def absence(ids: Iterable[UUID], after: set[str], seconds: int, expect: set[str]) -> EventTrigger:
    """Return a trigger that fires when none of `expect` follows `after` within some seconds."""
    return of_deployments(
        ids,
        posture=Posture.Proactive,
        after=after,
        expect=expect,
        within=timedelta(seconds=seconds),
    )


def schedule_again(message: str) -> ChangeFlowRunState:
    """Return the action that lets a worker take up a flow run again."""
    return ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message=message)


def rules(ids: Sequence[UUID]) -> dict[str, tuple[str, EventTrigger, ActionTypes]]:
    """Return what the server does by itself: name, description, trigger and action."""
    any_event = {f"{STATE}*"}
    return {
        "lost": (
            f"a run that sends no heartbeat for {LOST_SECONDS} s is Crashed",
            absence(ids, STARTED, LOST_SECONDS, any_event),
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"{LOST} for {LOST_SECONDS} s: its process or its machine is gone",
            ),
        ),
        "found": (
            "a run given up that sends a heartbeat after all is Running",
            of_deployments(
                ids,
                posture=Posture.Reactive,
                after={f"{STATE}Crashed"},
                expect={HEARTBEAT},
                within=timedelta(seconds=OBJECTION_SECONDS),
            ),
            ChangeFlowRunState(
                state=StateType.RUNNING, message="Its heartbeat is back.", force=True
            ),
        ),
        "again": (
            f"a crashed run is taken up again, {CRASHES} times",
            of_deployments(
                ids,
                match={
                    "prefect.resource.id": "prefect.flow-run.*",
                    "prefect.run-count": [str(count) for count in range(1, CRASHES + 1)],
                    "prefect.state-message": f"!{LOST}*",
                },
                posture=Posture.Reactive,
                expect={f"{STATE}Crashed"},
            ),
            schedule_again("Taken up again after a crash."),
        ),
        "lost-again": (
            f"a lost run is taken up again unless a heartbeat follows within {OBJECTION_SECONDS} s",
            absence(ids, {f"{STATE}Crashed"}, OBJECTION_SECONDS, any_event),
            schedule_again("Taken up again: no heartbeat since."),
        ),
        "stuck": (
            f"a run that was taken up and not started within {PENDING_SECONDS} s is taken up again",
            absence(ids, WAITING, PENDING_SECONDS, any_event),
            schedule_again("Taken up again: the worker did not start it."),
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
    """Create the automations for the deployments with these ids."""
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
