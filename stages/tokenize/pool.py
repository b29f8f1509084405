"""Parts tokenized by processes of this machine."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from stages.runtime.pool import in_processes
from stages.tokenize.engine import load_encoder
from stages.tokenize.params import Engine
from stages.tokenize.token_cache import Task
from stages.tokenize.token_parts import Description, tokenize_part


def part_tokenizer(tokenizer: Path, engine: Engine) -> Callable[[Task], Description]:
    """What tokenizes a part, its encoder loaded once."""
    encoder = load_encoder(tokenizer, engine)
    return lambda task: tokenize_part(task.part, encoder, task.target)


def tokenize_here(
    tasks: Sequence[Task], tokenizer: Path, engine: Engine, *, workers: int
) -> Iterator[Description]:
    """Tokenize parts in `workers` processes, or in this one where one is enough.

    Raises Crashed when a worker is killed: what was finished is kept.
    """
    return in_processes(partial(part_tokenizer, tokenizer, engine), tasks, workers)
