"""A process of a training run; there is one per device.

Only rank 0 records: curves, MLflow, the finished model.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from nanogpt.config import GPTConfig
from nanogpt.files import atomic_dir, atomic_write, file_sha256, write_json
from nanogpt.model.gpt import GPT
from nanogpt.parallel.threads import default_workers
from nanogpt.runtime import Runtime, choose_device, process_group
from nanogpt.train.checkpoint import Progress, checkpoint_folder, checkpoints, link_model
from nanogpt.train.events import CheckpointWritten, Ended, Started, TrainEvent
from nanogpt.train.loop import train
from nanogpt.train.micro_batch import default_micro_batch_tokens
from nanogpt.train.trainer import NotFinite
from stages.artifacts.model import LINEAGE
from stages.artifacts.shards import Shards
from stages.runtime.errors import EXPECTED, OutOfMemory
from stages.runtime.outcome import write_end
from stages.runtime.progress_file import ProgressFile
from stages.runtime.redaction import redact_tracebacks, redacted
from stages.runtime.settings import Settings, read_settings
from stages.runtime.supervise import die_with_parent, exit_at_once, on_exit, supervisors
from stages.tracking.description import describe
from stages.tracking.recorder import Hardware, Plan, Recorder
from stages.tracking.samples import TrainingSamples
from stages.tracking.store import is_local
from stages.tracking.tracker import Tracker
from stages.train.curves import Curves
from stages.train.initial_weights import load_initial
from stages.train.lineage import device_name, lineage
from stages.train.params import ModelParams, TrainParams
from stages.train.precision import DTYPES, format_of, number_format_line
from stages.train.skipped import read_skipped
from stages.train.stage import code_sha256, model_id_of


def main() -> None:
    """`-m stages.train.worker STATE SHARDS OUT`, one per device."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.train.worker",
        description=f"{__doc__} `python -m stages train` is the command to start a training run.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in ("state", "shards", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    folder, shards, out = given.state, given.shards, given.out
    redact_tracebacks()
    die_with_parent()
    on_exit(supervisors(), exit_at_once)
    code = code_sha256()  # before anything can be edited meanwhile
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    try:
        settings = read_settings()
        ended = TrainWorker(folder, Shards.open(shards), out, settings, stop).run()
    except EXPECTED as error:
        step = error.step if isinstance(error, NotFinite) else 0
        write_end(folder, finished=False, step=step, code=code, error=error)
        sys.exit(1)
    if os.environ.get("LOCAL_RANK", "0") == "0" and not settings.join:
        write_end(folder, finished=ended.finished, step=ended.progress.step, code=code)


class TrainWorker:
    """One training run as `stages.train.stage` asked for it in `identity.json`."""

    def __init__(
        self, folder: Path, shards: Shards, out: Path, settings: Settings, stop: threading.Event
    ) -> None:
        self.folder, self.shards, self.out = folder, shards, out
        self.settings, self.stop = settings, stop
        self.identity = json.loads((folder / "identity.json").read_text())
        self.params = TrainParams(**self.identity["train"])
        self.train_config = self.params.config()
        self.skipped = read_skipped(folder)
        self.micro_batch_tokens: int | None = None  # from the start of the loop on
        self.config = ModelParams(**self.identity["model"]).config(shards.n_vocab)
        if shards.eot_token != self.config.eot_token:  # by which the model tells documents apart
            raise ValueError(
                f"{shards.folder} ends documents with token ID {shards.eot_token}, but the model "
                f"expects the last ID of its vocabulary of {shards.n_vocab} tokens"
            )

    def run(self) -> Ended:
        """Train; in rank 0 also record, and at the end write the model. Raises OutOfMemory."""
        settings, earlier = self.settings, self.last_hardware()
        device = choose_device(settings.device)
        dtype = DTYPES[self.params.precision] or format_of(earlier, device)
        with process_group(
            settings.device,
            dtype,
            settings.compile,
            settings.parallel,
            settings.recompute,
            leads=not settings.join,
        ) as alone:
            torch.manual_seed(self.train_config.seed)
            model = GPT(self.config)
            runtime = replace(
                alone, workers=workers_of(earlier, model, self.train_config.batch_tokens, alone)
            )
            try:
                return self.train(model, runtime)
            except torch.OutOfMemoryError as error:
                print(redacted(str(error)), file=sys.stderr, flush=True)
                raise out_of_memory(runtime.device, self.micro_batch_tokens, self.config) from error
            except NotFinite as error:
                raise NotFinite(error.step, f"{error}{self.skipped_note()}") from error

    def skipped_note(self) -> str:
        """Return a note for the message of a run that diverges in spite of skipped data."""
        after, steps = self.skipped.after_step, self.skipped.windows_of_steps
        note = f" (the data of {steps} steps after step {after} were already skipped)"
        return note if steps else ""

    def train(self, model: GPT, runtime: Runtime) -> Ended:
        """Train `model` in this process of `runtime`."""
        if self.params.init_from and not checkpoints(self.folder):
            load_initial(model, Path(self.params.init_from), self.identity["init_weights_sha256"])
        model.to(runtime.device)
        events = self.events(model, runtime)
        if runtime.rank == 0:
            print(number_format_line(runtime), flush=True)
            return self.record(events, model, runtime)
        *_, ended = events
        assert isinstance(ended, Ended)  # the loop's last event
        return ended

    def events(self, model: GPT, runtime: Runtime) -> Iterator[TrainEvent]:
        """Yield the events of the training loop; note the size of its micro-batches."""
        for event in train(
            model,
            self.shards.stream("train"),
            self.shards.stream("val"),
            self.train_config,
            runtime=runtime,
            folder=self.folder,
            identity=self.identity,
            micro_batch_tokens=self.settings.micro_batch_tokens
            or default_micro_batch_tokens(runtime),
            stop=self.stop,
            skipped=self.skipped,
        ):
            if isinstance(event, Started):
                self.micro_batch_tokens = event.micro_batch * self.config.block_size
            yield event

    def record(self, events: Iterator[TrainEvent], model: GPT, runtime: Runtime) -> Ended:
        """Consume the events, and write the model when the last one says it is finished."""
        model_id = model_id_of(self.folder)
        origin = lineage(self.shards, self.identity, self.folder.name, model_id, runtime)
        if self.skipped.windows_of_steps:
            origin["skipped"] = [asdict(self.skipped)]
        if problem := origin["code"]["git_problem"]:
            print(
                f"train: lineage.json has no git information about the code: {problem}", flush=True
            )
        with Tracker(
            model_id,
            enabled=self.settings.tracking,
            system_metrics=True,
            defer_weights=not is_local(),
        ) as tracker:
            if self.settings.tracking:
                n_params, tags = model.n_params(), self.settings.tags
                describe(tracker, origin, self.shards, n_params=n_params, tags=tags)
            curves = Curves(self.folder)
            recorder = self.recorder(tracker, model, runtime, curves)
            with closing(recorder):
                for event in events:
                    curves.handle(event)
                    recorder.handle(event)
                    if isinstance(event, Started):
                        origin["sessions"] = self.begin_session(event, origin)
                        self.keep_checkpoint(tracker, event.step)  # by a session that then ended
                    elif isinstance(event, CheckpointWritten):
                        self.keep_checkpoint(tracker, event.step)
            assert isinstance(event, Ended)  # the loop's last event
            if event.finished:
                self.write_model(model, event.progress, origin)
                if best := self.best_weights(event.progress):
                    tracker.record_files("artifacts", best, path="checkpoints/best")
                tracker.record_files("model", self.out)
            tracker.record("status", status="FINISHED" if event.finished else "KILLED")
        return event

    def keep_checkpoint(self, tracker: Tracker, step: int) -> None:
        """Record the checkpoint after `step` if MLflow keeps it."""
        every = self.settings.keep_checkpoints
        if every and step and (step % every == 0 or step == self.train_config.max_steps):
            tracker.record_checkpoint(checkpoint_folder(self.folder, step))

    def last_hardware(self) -> dict[str, Any]:
        """Return the hardware of this run's last session; empty if there was none."""
        file = self.folder / "sessions.json"
        sessions = json.loads(file.read_text()) if file.exists() else []
        found: dict[str, Any] = sessions[-1]["hardware"] if sessions else {}
        return found

    def recorder(self, tracker: Tracker, model: GPT, runtime: Runtime, curves: Curves) -> Recorder:
        """Return the handler of the events; it writes no samples if the weights are sharded."""
        val = self.shards.split("val")
        samples = TrainingSamples(model, self.shards.tokenizer_folder)
        optim = self.train_config.optim
        has_muon = optim.optimizer == "muon"
        return Recorder(
            self.folder,
            tracker,
            Plan(
                n_params=model.n_params(),
                max_steps=self.train_config.max_steps,
                batch_tokens=self.train_config.batch_tokens,
                processes=runtime.world_size,
                val_tokens=val.tokens,
                val_bytes=val.bytes,
                muon_lr_ratio=optim.muon_learning_rate / optim.learning_rate if has_muon else None,
            ),
            interval=self.settings.log_interval,
            hardware=Hardware.of(model, runtime),
            samples=None if runtime.sharded else samples,
            losses=curves.losses,
            progress=ProgressFile(self.settings.progress_file),
            skipped=self.skipped,
        )

    def begin_session(self, start: Started, origin: dict[str, Any]) -> list[dict[str, Any]]:
        """Record the start of a session; return all sessions so far."""
        file = self.folder / "sessions.json"
        earlier: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
        if earlier and start.step == self.train_config.max_steps:  # it only writes its model again
            return earlier
        session = {
            "after_step": start.step,
            "micro_batch_tokens": self.micro_batch_tokens,
            "code": origin["code"],
            "hardware": origin["hardware"],
        }
        sessions = [note for note in earlier if note["after_step"] < start.step] + [session]
        atomic_write(file, json.dumps(sessions, indent=2) + "\n")
        return sessions

    def best_weights(self, progress: Progress) -> Path | None:
        """Return a folder with the best checkpoint's weights; None if they are damaged."""
        assert progress.best_step is not None  # the last step is always evaluated
        best = self.folder / "best"
        try:
            with atomic_dir(best) as draft:
                link_model(checkpoint_folder(self.folder, progress.best_step), draft)
        except ValueError as error:
            print(f"train: MLflow does not get the best checkpoint: {error}", flush=True)
            return None
        return best

    def write_model(self, model: GPT, progress: Progress, origin: dict[str, Any]) -> None:
        """Write the model's folder. Raises ValueError if the checkpoint to keep is damaged."""
        assert progress.best_step is not None  # the last step is always evaluated
        kept = progress.best_step if self.params.keep == "best" else progress.step
        with atomic_dir(self.out) as draft:
            link_model(checkpoint_folder(self.folder, kept), draft)
            shutil.copytree(self.shards.tokenizer_folder, draft / "tokenizer")
            for curve in ("train.csv", "val.csv"):
                shutil.copy(self.folder / curve, draft / curve)
            files = [
                {"name": file.relative_to(draft).as_posix(), "sha256": file_sha256(file)}
                for file in sorted(draft.rglob("*"))
                if file.is_file()
            ]
            about = {**origin, "n_params": model.n_params(), "step": kept, "files": files}
            write_json(draft / LINEAGE, about)
        print(f"train: saved the weights of step {kept} to {self.out}", flush=True)


def out_of_memory(
    device: torch.device, micro_batch_tokens: int | None, config: GPTConfig
) -> OutOfMemory:
    """Return the exception for a device that has no memory for a micro-batch.

    Its message says what to do. `micro_batch_tokens` is None if no micro-batch has run yet.
    """
    window = config.block_size
    if micro_batch_tokens is None or micro_batch_tokens <= window:
        return OutOfMemory(
            f"{device} ran out of memory, and a micro-batch cannot be smaller than one window of "
            f"{window} tokens: set NANOGPT_RECOMPUTE=true or use a smaller model",
            window,
            window,
        )
    return OutOfMemory(
        f"{device} ran out of memory with micro-batches of {micro_batch_tokens} tokens per forward "
        f"pass: set NANOGPT_MICRO_BATCH_TOKENS={max(window, micro_batch_tokens // 2)}",
        micro_batch_tokens,
        window,
    )


def workers_of(earlier: dict[str, Any], model: GPT, batch_tokens: int, runtime: Runtime) -> int:
    """Return the number of threads that share an update: that of an earlier session if possible.

    The order of floating-point sums depends on it, so a resumed run keeps it.
    """
    workers = default_workers(model, batch_tokens, runtime)
    here = {"processes": runtime.world_size, "device": device_name(runtime.device)}
    if runtime.compile or any(earlier.get(key) != value for key, value in here.items()):
        return workers
    return int(earlier.get("workers", workers))


if __name__ == "__main__":
    main()
