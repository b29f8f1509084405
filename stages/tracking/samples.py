"""Short samples written during training, to see what the model has learned so far.

They do not affect training: they have their own random numbers, the model's mode is restored,
and they take at most SHARE of the time. A sample starts at the beginning of a document and goes on
into the next document after an end-of-text token. Its settings are constants here, not params: a
changed prompt in the section `sample` must not retrain a model.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nanogpt.config import Sampling
from nanogpt.files import atomic_write
from nanogpt.generate.decode import generate
from nanogpt.model.gpt import GPT
from stages.tokenizers.tokenizer import load_tokenizer

SAMPLING = Sampling(temperature=0.8, top_k=100)
SEED = 1
FIRST_TOKENS, TOKENS = 60, 30
MIN_TOKENS = 10  # fewer are not worth reading
SHARE = 0.01  # of the time since the start, for all samples together
TABLE = "samples_while_training.json"
COLUMNS = ("step", "text", "bits_per_byte", "val_loss")


class TrainingSamples:
    """A writer of samples that keeps to its share of the training time."""

    def __init__(
        self, model: GPT, tokenizer: Path, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.model, self.tokenizer, self.clock = model, load_tokenizer(tokenizer), clock
        self.started, self.spent = clock(), 0.0
        self.token_seconds = 0.0  # per token of the last sample; unknown for the first
        self.max_tokens = FIRST_TOKENS

    def write(self) -> str | None:
        """Return a sample, cut short when its time is up; None if there is too little time."""
        start = self.clock()
        allowed = SHARE * (start - self.started) - self.spent
        if allowed < MIN_TOKENS * self.token_seconds:
            return None
        eot_token, tokens = self.tokenizer.eot_token, list[int]()
        was_training = self.model.training
        for row in generate(
            self.model,
            [torch.tensor([eot_token])],
            self.max_tokens,
            sampling=SAMPLING,
            seeds=[SEED],
        ):
            tokens.append(int(row.item()))
            if self.clock() - start > allowed and len(tokens) >= MIN_TOKENS:
                break
        self.model.train(was_training)
        seconds = self.clock() - start
        self.spent += seconds
        self.token_seconds, self.max_tokens = seconds / len(tokens), TOKENS
        return "\n".join(
            self.tokenizer.decode(document) for document in split_documents(tokens, eot_token)
        )


def split_documents(tokens: Sequence[int], eot_token: int) -> list[list[int]]:
    """Split tokens into documents at each end-of-text token, which is dropped."""
    documents: list[list[int]] = [[]]
    for token in tokens:
        if token == eot_token:
            documents.append([])
        else:
            documents[-1].append(token)
    return documents


class SampleTable:
    """The samples so far, in a file that MLflow shows as a table."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / TABLE
        self.rows: list[list[Any]] = []
        if self.file.exists():
            self.rows = json.loads(self.file.read_text(encoding="utf-8"))["data"]

    def start_after(self, step: int) -> None:
        """Drop the samples after `step`, where training resumes."""
        self.rows = [row for row in self.rows if row[0] <= step]

    def add(self, step: int, text: str, bits_per_byte: float, val_loss: float) -> None:
        """Append one sample and write the file."""
        self.rows.append([step, text, round(bits_per_byte, 4), round(val_loss, 4)])
        content = {"columns": COLUMNS, "data": self.rows}
        atomic_write(self.file, json.dumps(content, ensure_ascii=False))
