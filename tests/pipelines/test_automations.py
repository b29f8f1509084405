"""The automations against events as a Prefect server sees them, without a server."""

from uuid import UUID, uuid4

from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent

from pipelines import automations

DEPLOYMENT = uuid4()


def event(name: str, *, deployment: UUID = DEPLOYMENT, count: int | None = None) -> ReceivedEvent:
    """Return an event of a run; of a state, if it has a count."""
    resource = {"prefect.resource.id": f"prefect.flow-run.{uuid4()}"}
    if count is not None:
        resource["prefect.run-count"] = str(count)
    id = f"prefect.deployment.{deployment}"
    related = {"prefect.resource.id": id, "prefect.resource.role": "deployment"}
    return ReceivedEvent.model_validate(
        {
            "occurred": "2026-01-01T00:00:00Z",
            "event": f"prefect.flow-run.{name}",
            "resource": resource,
            "related": [related],
            "id": uuid4(),
        }
    )


def trigger(name: str) -> EventTrigger:
    """Return the trigger of a rule as the server reads it."""
    _, trigger, _ = automations.rules([DEPLOYMENT])[name]
    return EventTrigger.model_validate(trigger.model_dump(mode="json"))


def test_runs_of_other_deployments_are_left_alone() -> None:
    for name in automations.rules([DEPLOYMENT]):
        assert not trigger(name).covers(event("Crashed", deployment=uuid4(), count=1))


def test_a_crashed_run_is_rescheduled_if_it_ever_ran() -> None:
    counts = [count for count in range(9) if trigger("again").covers(event("Crashed", count=count))]
    assert counts == list(range(1, 9))  # the flow counts the crashes and refuses after five


def test_what_others_react_to_cannot_be_lost_by_the_heartbeat_rule() -> None:
    lost = trigger("lost")
    for state in ("Crashed", "Failed", "TimedOut", "Lost"):
        assert not lost.expects(f"prefect.flow-run.{state}")
    for state in ("Completed", "Cancelling", "Cancelled", "Paused", "AwaitingRetry"):
        assert lost.expects(f"prefect.flow-run.{state}")
    assert lost.starts_after("prefect.flow-run.heartbeat")


def test_a_run_that_ended_by_a_report_of_its_worker_cannot_be_found_again() -> None:
    assert not trigger("found").starts_after("prefect.flow-run.Crashed")
    assert trigger("found").starts_after("prefect.flow-run.Lost")
