"""Tokenize parts in processes on this machine."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from stages.runtime.pool import in_processes
from stages.tokenize.engine import load_encoder
from stages.tokenize.params import Engine
from stages.tokenize.token_cache import Task
from stages.tokenize.token_parts import Description, tokenize_part


def make_part_tokenizer(tokenizer: Path, engine: Engine) -> Callable[[Task], Description]:
    """Return a function that tokenizes a part, with an encoder that is loaded once."""
    encoder = load_encoder(tokenizer, engine)
    return lambda task: tokenize_part(task.part, encoder, task.target)


def tokenize_locally(
    tasks: Sequence[Task], tokenizer: Path, engine: Engine, *, workers: int
) -> Iterator[Description]:
    """Tokenize parts in `workers` processes, or in this one if that is 1.

    Raises Crashed if a worker is killed; finished parts are kept.
    """
    return in_processes(partial(make_part_tokenizer, tokenizer, engine), tasks, workers)
