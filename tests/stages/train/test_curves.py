"""The loss curves that are stored with a model."""

from pathlib import Path

from nanogpt.train.events import Evaluated, Started, StepDone
from stages.train.curves import Curves


def step_done(step: int, *, seconds: float) -> StepDone:
    """Return the event of one step."""
    return StepDone(
        step=step,
        loss=3.0 / step,
        lr=0.5,
        grad_norm=1.0,
        skipped=False,
        seconds=seconds,
        loader_seconds=0.0,
    )


def test_the_same_events_give_the_same_bytes_however_long_they_took(tmp_path: Path) -> None:
    curves = Curves(tmp_path)
    curves.handle(Started(step=0, micro_batch=4, accumulation=2))
    for step, seconds in ((1, 1.5), (2, 0.5)):
        curves.handle(step_done(step, seconds=seconds))
    curves.handle(Evaluated(step=2, loss=1.25, is_best=True))
    assert (
        tmp_path / "train.csv"
    ).read_text() == "step,loss,lr,grad_norm\n1,3,0.5,1\n2,1.5,0.5,1\n"
    assert (tmp_path / "val.csv").read_text() == "step,loss\n2,1.25\n"
    assert curves.losses() == [3.0, 1.5]


def test_a_resumed_training_keeps_the_earlier_rows(tmp_path: Path) -> None:
    first = Curves(tmp_path)
    first.handle(Started(step=0, micro_batch=4, accumulation=1))
    for step in (1, 2, 3):
        first.handle(step_done(step, seconds=1.0))
    (tmp_path / "train.csv").open("a").write("4,0.7")  # half a row, of a kill
    again = Curves(tmp_path)
    again.handle(Started(step=2, micro_batch=4, accumulation=1))
    assert again.losses() == [3.0, 1.5]
