"""The training loop, as a generator of events.

It yields what happened and leaves the rest to its caller: it has no callbacks, tracking or
printing. No random state is carried from step to step: data order is a function of (seed, step),
and dropout is a function of (seed, window), so a run that is interrupted and resumed computes what
an uninterrupted one does. It does so bit for bit where the device's own sums are deterministic
(CUDA's are not in bfloat16 or compiled: docs/decisions/0005).

Read `train` for the course of a run, then `Trainer.update` for that of a step.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from nanogpt.config import TrainConfig
from nanogpt.data.order import WindowOrder
from nanogpt.data.stream import TokenStream
from nanogpt.model.gpt import GPT
from nanogpt.parallel.processes import check_optimizer
from nanogpt.parallel.threads import worker_pool
from nanogpt.runtime import Runtime
from nanogpt.train.checkpoint import CheckpointWriter
from nanogpt.train.events import (
    CheckpointWritten,
    Ended,
    Evaluated,
    Started,
    TrainEvent,
    Working,
)
from nanogpt.train.micro_batch import choose_batch_sizes
from nanogpt.train.skipped_data import NOTHING_SKIPPED, SkippedData
from nanogpt.train.trainer import Trainer

WAIT_SECONDS = 1.0  # between two events while a checkpoint is waited for


def train(
    model: GPT,
    train_stream: TokenStream,
    val_stream: TokenStream,
    config: TrainConfig,
    *,
    runtime: Runtime,
    folder: Path,
    identity: Mapping[str, Any],
    micro_batch_tokens: int,
    stop: Event,
    skipped: SkippedData = NOTHING_SKIPPED,
) -> Iterator[TrainEvent]:
    """Train `model` in place, resuming from the newest checkpoint in `folder` if there is one.

    Ends early once `stop` is set in any process, with a checkpoint: an update of several
    micro-batches is abandoned, any other finished. Raises NotFinite when a loss or gradient is not
    finite, unless such updates are skipped; OSError when a checkpoint cannot be written; ValueError
    when the batch cannot be divided or does not fit into memory, or when the checkpoint is damaged
    or belongs to another run.
    """
    block_size = model.config.block_size
    order = WindowOrder(n_tokens=len(train_stream), block_size=block_size, seed=config.seed)
    check_optimizer(config.optim, runtime)
    sizes = choose_batch_sizes(model.train(), config.batch_tokens, runtime, micro_batch_tokens)

    with ExitStack() as on_exit:
        pool = on_exit.enter_context(worker_pool(runtime.workers))
        writer = on_exit.enter_context(CheckpointWriter(folder, identity))

        # build: the model as this runtime runs it, and its optimizers
        trainer = Trainer(model, config, sizes, runtime, pool)

        # resume: the newest checkpoint, and the windows that follow those of its updates
        progress = trainer.resume(folder, identity)
        batches = trainer.batches_after(progress.step, train_stream, order, skipped)
        on_exit.enter_context(closing(batches))  # else a traceback would keep its thread
        yield Started(
            step=progress.step,
            micro_batch=sizes.micro_batch,
            accumulation=sizes.accumulation,
            too_large=sizes.too_large,
        )

        saved, stopping = progress.step, False
        while progress.step < config.max_steps and not stopping:
            # update: learning rate, gradients, weights
            step = progress.step + 1
            done, stopping = trainer.update(step, batches, stop)
            if done is None:  # abandoned: the weights are those of the step before
                break
            progress = replace(progress, step=step)

            # log: by the caller
            yield done

            # validate: measure the loss, and note whether it is the best so far
            evaluate = step % config.eval_interval == 0 or step == config.max_steps
            if evaluate:
                val_loss = yield from trainer.validate(step, val_stream)
                progress = progress.with_val_loss(val_loss)
                yield Evaluated(step=step, loss=val_loss, is_best=progress.best_step == step)

            # checkpoint: copy the state and write it in the background while training continues
            yield from checkpoints_written(writer, step, wait=evaluate)
            if evaluate:
                writer.start(trainer.snapshot(progress))
                saved = step

        # stopped: a checkpoint of what is not in one yet
        yield from checkpoints_written(writer, progress.step, wait=True)
        if progress.step > saved:
            writer.start(trainer.snapshot(progress))
        yield from checkpoints_written(writer, progress.step, wait=True)
    runtime.barrier()
    yield Ended(progress=progress, finished=progress.step >= config.max_steps)


def checkpoints_written(
    writer: CheckpointWriter, step: int, *, wait: bool
) -> Iterator[CheckpointWritten | Working]:
    """Yield the event of the checkpoint completed since the last call, if there is one.

    With `wait`, waits for the one being written, with an event every WAIT_SECONDS.
    """
    while wait and writer.busy(wait_seconds=WAIT_SECONDS):
        yield Working(step=step)
    for written, path in writer.finished(wait=wait):
        yield CheckpointWritten(step=written, path=path)
