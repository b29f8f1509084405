"""Parts tokenized by processes of this machine."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.processes import in_processes
from stages.tokens.engine import Encoder, Engine, load_encoder
from stages.tokens.token_cache import Task
from stages.tokens.token_parts import Description, tokenize_part

_encoder: Encoder  # of this process, loaded once


def prepare(tokenizer: Path, engine: Engine) -> None:
    """Load the encoder."""
    global _encoder
    _encoder = load_encoder(tokenizer, engine)


def work(task: Task) -> Description:
    """Tokenize a part."""
    return tokenize_part(task.part, _encoder, task.target)


def tokenize_here(
    tasks: Sequence[Task], tokenizer: Path, engine: Engine, *, workers: int
) -> Iterator[Description]:
    """Tokenize parts in `workers` processes, or in this one where one is enough.

    Raises Crashed when a worker is killed: what was finished is kept.
    """
    return in_processes(work, tasks, workers, prepare=prepare, about=(tokenizer, engine))
