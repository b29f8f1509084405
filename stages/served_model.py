"""A model folder as an MLflow model: prompts in, continuations out.

MLflow runs this file, with `nanogpt` and `stages` beside it, when such a model is loaded.
"""

from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from nanogpt.checkpoint import load_model
from nanogpt.decoding import decoding_copy
from nanogpt.generate import Sampling, generate
from nanogpt.runtime import Runtime
from stages.tokens.tokenizer import load_tokenizer

DEFAULTS = {"max_new_tokens": 200, "temperature": 0.8, "top_k": 200, "top_p": 1.0, "seed": 0}


class ServedModel(PythonModel):
    """`predict(["To be"], params={"temperature": 0.7})`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read weights and tokenizer."""
        folder = Path(context.artifacts["model"])
        runtime = Runtime(device=torch.device("cpu"), dtype=torch.float32)
        self.model = decoding_copy(load_model(folder, runtime.device), runtime)
        self.tokenizer = load_tokenizer(folder / "tokenizer")

    def predict(
        self,
        context: PythonModelContext,
        model_input: list[str],
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """Each prompt and what the model adds to it; params as in DEFAULTS."""
        wanted = {**DEFAULTS, **(params or {})}
        separator = self.tokenizer.separator
        ids = [[separator, *self.tokenizer.encode(prompt).tolist()] for prompt in model_input]
        tokens = generate(
            self.model,
            [torch.tensor(row) for row in ids],
            wanted["max_new_tokens"],
            sampling=Sampling(
                temperature=wanted["temperature"], top_k=wanted["top_k"], top_p=wanted["top_p"]
            ),
            seeds=[wanted["seed"]] * len(ids),
            stop_tokens=[separator],
        )
        rows = torch.stack(list(tokens), dim=1).tolist()  # (B, new tokens)
        texts = (self.tokenizer.decode([t for t in row if t != separator]) for row in rows)
        return [prompt + text for prompt, text in zip(model_input, texts, strict=True)]


mlflow.models.set_model(ServedModel())
