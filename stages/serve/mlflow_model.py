"""A model folder as an MLflow model: prompts in, the continuations of the stage `sample` out.

MLflow executes this file when it loads such a model; `nanogpt` and `stages` are in an archive in
the folder `code` next to it.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

CODE = Path(__file__).with_name("code") / "nanogpt.zip"
if CODE.is_file():
    sys.path.insert(0, str(CODE))

import mlflow
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from pydantic import ValidationError

from nanogpt.rng import mix
from stages.generation.completion import complete_prompts, open_model
from stages.generation.params import GenerationParams
from stages.lib.params import explain

DEFAULTS: dict[str, Any] = {  # as in presets/shakespeare.yaml, for the same samples as the stage's
    "max_new_tokens": 300,
    "temperature": 0.8,
    "top_k": 100,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "stop": [],
    "seed": 1,
}
TYPES = {int: "long", float: "double", list: "string"}  # MLflow's names; lists hold strings
REQUIREMENTS = [  # imported here, and by the project's modules that are imported here
    *("torch", "numpy", "safetensors", "tiktoken", "mlflow"),
    *("pandas", "pydantic", "psutil", "ruamel.yaml"),
]


def requirements() -> list[str]:
    """Return the REQUIREMENTS with the versions that are installed here, which work together."""
    releases = {name: version(name).partition("+")[0] for name in REQUIREMENTS}  # torch's has +cpu
    return [f"{name}=={release}" for name, release in releases.items()]


def signature() -> ModelSignature:
    """Return the model's signature; MLflow only passes on params that it names."""
    params = [
        ParamSpec(name, TYPES[type(value)], value, (-1,) if isinstance(value, list) else None)
        for name, value in DEFAULTS.items()
    ]
    text = Schema([ColSpec("string")])
    return ModelSignature(inputs=text, outputs=text, params=ParamSchema(params))


class ServedModel(PythonModel):
    """An MLflow model: `predict(["To be"], params={"temperature": 0.7})`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights and the tokenizer."""
        folder = Path(context.artifacts["model"])
        self.model, self.tokenizer = open_model(folder, torch.device("cpu"))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """Return each prompt, a row of the only column, with its continuation.

        Params are those of DEFAULTS. Raises MlflowException, which a server passes to its client,
        if a prompt or a param is invalid.
        """
        prompts = model_input.iloc[:, 0].tolist()
        values = {**DEFAULTS, **(params or {})}
        values["stop"] = list(values["stop"])  # MLflow turns it into an array
        try:
            checked = GenerationParams(**values)
            seeds = [mix(checked.seed, 0)] * len(prompts)  # those of each prompt's first sample
            texts = complete_prompts(prompts, seeds, checked, self.model, self.tokenizer)
        except ValidationError as error:
            lines = [explain("params", GenerationParams, entry) for entry in error.errors()]
            raise MlflowException.invalid_parameter_value("; ".join(lines)) from None
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return [prompt + text for prompt, text in zip(prompts, texts, strict=True)]


mlflow.models.set_model(ServedModel())
