"""A model folder as an MLflow model: prompts in, continuations out.

MLflow runs this file, with `nanogpt` and `stages` beside it, when such a model is loaded.
"""

from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from nanogpt.checkpoint import load_model
from nanogpt.generate import Sampling, generate
from nanogpt.runtime import Runtime
from stages.tokenizer import load_tokenizer

DEFAULTS = {"max_new_tokens": 200, "temperature": 0.8, "top_k": 200, "top_p": 1.0, "seed": 0}


class ServedModel(PythonModel):
    """`predict(["To be"], params={"temperature": 0.7})`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read weights and tokenizer."""
        folder = Path(context.artifacts["model"])
        self.runtime = Runtime(device=torch.device("cpu"), dtype=torch.float32)
        self.model = load_model(folder, self.runtime.device)
        self.tokenizer = load_tokenizer(folder / "tokenizer")

    def predict(
        self,
        context: PythonModelContext,
        model_input: list[str],
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """Each prompt continued; params as in DEFAULTS."""
        return [self.continued(prompt, {**DEFAULTS, **(params or {})}) for prompt in model_input]

    def continued(self, prompt: str, params: dict[str, Any]) -> str:
        """One prompt and what the model adds to it."""
        ids = [self.tokenizer.separator, *self.tokenizer.encode(prompt).tolist()]
        sampling = Sampling(
            temperature=params["temperature"], top_k=params["top_k"], top_p=params["top_p"]
        )
        tokens = generate(
            self.model,
            torch.tensor([ids]),
            params["max_new_tokens"],
            sampling=sampling,
            runtime=self.runtime,
            generator=torch.Generator().manual_seed(params["seed"]),
        )
        return prompt + self.tokenizer.decode([int(token) for token in tokens])


mlflow.models.set_model(ServedModel())
