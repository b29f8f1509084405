"""Parts tokenized by processes of this machine."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from stages.command import Crashed
from stages.supervise import end_with_parent
from stages.tokens.engine import Encoder, Engine, load_encoder
from stages.tokens.token_cache import Task
from stages.tokens.token_parts import Description, tokenize_part

_encoder: Encoder  # of a worker process, loaded once


def start_worker(tokenizer: Path, engine: Engine) -> None:
    """Load the encoder in a worker process."""
    end_with_parent()
    global _encoder
    _encoder = load_encoder(tokenizer, engine)


def work(task: Task) -> Description:
    """Tokenize a part in a worker process."""
    return tokenize_part(task.part, _encoder, task.target)


def in_order(
    submit: Callable[[Task], Future[Any]], tasks: Iterable[Task], ahead: int
) -> Iterator[Any]:
    """The results of the tasks, at most `ahead` of which are waiting or under way."""
    waiting: deque[Future[Any]] = deque()
    for task in tasks:
        waiting.append(submit(task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def tokenize_here(
    tasks: Sequence[Task], tokenizer: Path, engine: Engine, *, workers: int
) -> Iterator[Description]:
    """Tokenize parts in `workers` processes, or in this one where one is enough.

    Raises Crashed when a worker is killed.
    """
    workers = min(workers, len(tasks))
    if workers == 1:
        encoder = load_encoder(tokenizer, engine)
        yield from (tokenize_part(task.part, encoder, task.target) for task in tasks)
        return
    context = get_context("spawn")  # forking a process with threads may deadlock
    pool = ProcessPoolExecutor(workers, context, start_worker, (tokenizer, engine))
    try:
        yield from in_order(lambda task: pool.submit(work, task), tasks, ahead=2 * workers)
    except BrokenProcessPool:
        raise Crashed(
            "a tokenizing process was killed (by the system, for memory?); run again: what was "
            "finished is kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
