"""What follows a failure, by its kind: the clock of the tries, and the settings that change."""

import pytest

from pipelines.dag import Stage
from pipelines.policies import HOUR, MINUTE, POLICIES, History
from stages.runtime.errors import EXIT_CODES, Kind
from stages.runtime.status import Status

TRAIN, CLEAN = Stage("train", resumable=True, device=True), Stage("clean")


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def failed(kind: Kind) -> Status:
    """Return the status of a failed try."""
    return Status("train", kind, "why")


def test_every_kind_of_failure_is_decided() -> None:
    final = {"input", "full"}  # a person has to do something
    assert POLICIES.keys() | final == EXIT_CODES.keys()
    for kind in final:
        assert History(TRAIN).after(Status("train", kind, "why")) is None  # type: ignore[arg-type]  # a plain str


def test_a_night_without_a_network_is_survived() -> None:
    clock = Clock()
    history = History(CLEAN, now=clock)
    pauses = []
    while clock.now < 11 * HOUR:
        again = history.after(failed("network"))
        assert again is not None, f"given up after {clock.now / HOUR:.1f} hours"
        pauses.append(again.pause)
        clock.now += again.pause + 30  # the try itself
    assert 2 <= pauses[0] <= 3
    assert 4 <= pauses[1] <= 6
    assert max(pauses) <= 15 * MINUTE
    assert all(pause >= 10 * MINUTE for pause in pauses[20:])


def test_what_dies_for_no_known_reason_is_tried_five_times_an_hour() -> None:
    clock = Clock()
    history = History(TRAIN, now=clock)
    assert all(history.after(failed("crash")) for _ in range(5))
    assert history.after(failed("crash")) is None
    clock.now = HOUR + 1
    assert history.after(failed("crash"))
    assert History(CLEAN).after(failed("crash")) is None  # it would only fail again


def test_an_interrupted_stage_goes_on_at_once() -> None:
    again = History(TRAIN).after(failed("interrupted"))
    assert again is not None
    assert again.pause == 0


def test_kinds_are_counted_apart() -> None:
    history = History(TRAIN)
    for _ in range(3):
        assert history.after(failed("hang"))
        assert history.after(failed("crash"))
    assert history.after(failed("hang")) is None
    assert history.after(failed("crash"))


def test_the_micro_batch_is_halved_until_it_is_one_window() -> None:
    history = History(TRAIN)
    used, tried = 65_536, []
    while again := history.after(Status("train", "memory", "", used, 10_000)):
        used = int(again.settings["NANOGPT_MICRO_BATCH_TOKENS"])
        tried.append(used)
    assert tried == [32_768, 16_384, 10_000]


def test_data_on_which_a_run_diverges_is_skipped_once() -> None:
    history = History(TRAIN)
    again = history.after(failed("diverged"))
    assert again is not None
    assert again.settings == {"NANOGPT_SKIP_DIVERGED": "true"}
    assert history.after(failed("diverged")) is None


def test_settings_of_earlier_failures_are_kept() -> None:
    history = History(TRAIN)
    history.after(Status("train", "memory", "", 4096, 16))
    again = history.after(failed("crash"))
    assert again is not None
    assert again.settings == {"NANOGPT_MICRO_BATCH_TOKENS": "2048"}


@pytest.mark.parametrize("kind", POLICIES)
def test_pauses_grow_to_a_limit(kind: Kind) -> None:
    policy = POLICIES[kind]
    for failures in (1, 10, 1000):
        assert policy.pause(failures) <= 1.5 * policy.longest
