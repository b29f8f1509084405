"""Short texts that a model writes while it is trained, so that one can read what it has learned.

They change nothing of the training: random numbers are their own, the model's mode is put back, and
they get SHARE of the time. A text begins where a document does, continues into the next one where
the model ends it, and is written by settings that are here: a changed prompt in the section
`sample` must not train a model again.
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
LEAST_TOKENS = 10  # there is nothing to read in fewer
SHARE = 0.01  # of the time since the start, for all texts together
TABLE = "samples_while_training.json"
COLUMNS = ("step", "text", "bits_per_byte", "val_loss")


class TrainingSamples:
    """Writes the texts of one training, as long as the time for them allows."""

    def __init__(
        self, model: GPT, tokenizer: Path, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.model, self.tokenizer, self.clock = model, load_tokenizer(tokenizer), clock
        self.started, self.spent = clock(), 0.0
        self.token_seconds = 0.0  # of the last text; the first is begun without knowing
        self.wanted = FIRST_TOKENS

    def write(self) -> str | None:
        """The next text, shorter where time is up; None when there is too little for any."""
        began = self.clock()
        allowed = SHARE * (began - self.started) - self.spent
        if allowed < LEAST_TOKENS * self.token_seconds:
            return None
        end, tokens = self.tokenizer.eot_token, list[int]()
        was_training = self.model.training
        for row in generate(
            self.model, [torch.tensor([end])], self.wanted, sampling=SAMPLING, seeds=[SEED]
        ):
            tokens.append(int(row.item()))
            if self.clock() - began > allowed and len(tokens) >= LEAST_TOKENS:
                break
        self.model.train(was_training)
        seconds = self.clock() - began
        self.spent += seconds
        self.token_seconds, self.wanted = seconds / len(tokens), TOKENS
        return "\n".join(self.tokenizer.decode(document) for document in split(tokens, end))


def split(tokens: Sequence[int], end: int) -> list[list[int]]:
    """The documents in tokens, each but the last with its `end` taken off."""
    documents: list[list[int]] = [[]]
    for token in tokens:
        if token == end:
            documents.append([])
        else:
            documents[-1].append(token)
    return documents


class SampleTable:
    """The texts so far, in a file that MLflow shows as a table."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / TABLE
        self.rows: list[list[Any]] = []
        if self.file.exists():
            self.rows = json.loads(self.file.read_text(encoding="utf-8"))["data"]

    def start_after(self, step: int) -> None:
        """Keep the texts up to `step`, which is where training continues."""
        self.rows = [row for row in self.rows if row[0] <= step]

    def add(self, step: int, text: str, bits_per_byte: float, val_loss: float) -> None:
        """Append one text and write the file."""
        self.rows.append([step, text, round(bits_per_byte, 4), round(val_loss, 4)])
        content = {"columns": COLUMNS, "data": self.rows}
        atomic_write(self.file, json.dumps(content, ensure_ascii=False))
