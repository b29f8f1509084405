"""A model folder as an MLflow model: prompts in, texts out, as the stage `sample` writes them.

MLflow runs this file, with `nanogpt` and `stages` next to it, when such a model is loaded.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from pydantic import ValidationError

from nanogpt.rng import mix
from stages.artifacts.model import GenerationParams, complete_prompts, open_model
from stages.lib.params import explain

DEFAULTS: dict[str, Any] = {  # as in presets/shakespeare.yaml; with them come the stage's samples
    "max_new_tokens": 300,
    "temperature": 0.8,
    "top_k": 100,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "stop": [],
    "seed": 1,
}
TYPES = {int: "long", float: "double", list: "string"}  # MLflow's names; a list is one of strings
REQUIREMENTS = [  # what is imported here, by the modules of the project too
    *("torch", "numpy", "safetensors", "tiktoken", "mlflow"),
    *("pandas", "pydantic", "psutil", "ruamel.yaml"),
]


def signature() -> ModelSignature:
    """What goes in and out; MLflow passes on no params but those that are named here."""
    params = [
        ParamSpec(name, TYPES[type(value)], value, (-1,) if isinstance(value, list) else None)
        for name, value in DEFAULTS.items()
    ]
    text = Schema([ColSpec("string")])
    return ModelSignature(inputs=text, outputs=text, params=ParamSchema(params))


class ServedModel(PythonModel):
    """`predict(["To be"], params={"temperature": 0.7})`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read weights and tokenizer."""
        folder = Path(context.artifacts["model"])
        self.model, self.tokenizer = open_model(folder, torch.device("cpu"))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """Each prompt, a row of one column, and what the model adds to it; params as in DEFAULTS.

        Raises MlflowException, which a server sends its client, at a prompt or param it refuses.
        """
        prompts = model_input.iloc[:, 0].tolist()
        wanted = {**DEFAULTS, **(params or {})}
        wanted["stop"] = list(wanted["stop"])  # MLflow makes an array of it
        try:
            checked = GenerationParams(**wanted)
            seeds = [mix(checked.seed, 0)] * len(prompts)  # of the first sample of each prompt
            texts = complete_prompts(prompts, seeds, checked, self.model, self.tokenizer)
        except ValidationError as error:
            lines = [explain("params", GenerationParams, entry) for entry in error.errors()]
            raise MlflowException.invalid_parameter_value("; ".join(lines)) from None
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return [prompt + text for prompt, text in zip(prompts, texts, strict=True)]


mlflow.models.set_model(ServedModel())
