"""Settings that never change a result, only where and how fast it is computed.

The exception is `skip_diverged`, which lineage.json records.

They are environment variables, so they never invalidate a stage: `NANOGPT_DEVICE=cpu` sets
`device`, and so on.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

PREFIX = "NANOGPT_"
MLFLOW_REFUSED = {  # variables of MLflow that would mix the records of models
    "MLFLOW_RUN_ID": "each model has a run of its own, which is found by the model's id",
    "MLFLOW_EXPERIMENT_ID": "experiments are found by name: set MLFLOW_EXPERIMENT_NAME instead",
}


class Settings(BaseModel):
    """One field per environment variable, prefixed with NANOGPT_."""

    model_config = ConfigDict(frozen=True)

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    processes: int | None = Field(
        default=None, ge=1, description="on this machine; by default one, or one per visible GPU"
    )
    torchrun: str = Field(
        default="", description="torchrun's options, instead of --standalone: --nnodes=2 …"
    )
    join: bool = Field(default=False, description="join a training run that another machine leads")
    parallel: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="each process holds the full model, or a shard of it"
    )
    compile: bool | None = Field(default=None, description="by default on CUDA only")
    recompute: bool = Field(
        default=False, description="recompute activations in the backward pass: less memory, slower"
    )
    micro_batch_tokens: int | None = Field(
        default=None,
        ge=1,
        description="maximum tokens per forward pass (default: automatic)",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="worker processes for reading, cleaning and tokenizing (default: all cores)",
    )
    runner: Literal["local", "ray"] = Field(default="local", description="where text is tokenized")
    shared: str | None = Field(
        default=None, description="for ray: a folder or s3://… URI that all machines can access"
    )
    log_interval: int = Field(default=10, ge=1, description="steps between printed lines")
    tracking: bool = Field(default=True, description="record in MLflow")
    keep_checkpoints: int | None = Field(
        default=None,
        ge=1,
        description="steps between checkpoints that MLflow keeps (default: the best one alone)",
    )
    tags: Json[dict[str, str]] = Field(
        default={}, description="additional MLflow tags, as a JSON object"
    )
    debug: bool = Field(default=False, description="show tracebacks of expected errors too")
    status_file: Path | None = Field(
        default=None, description="where the end of a stage is written as JSON"
    )
    progress_file: Path | None = Field(
        default=None, description="where a training run writes its progress as JSON"
    )
    project: Path | None = Field(
        default=None,
        description="the project whose MLflow store and unfinished runs a workspace shares",
    )
    skip_diverged: bool = Field(
        default=False,
        description="resume a diverged run once, skipping the data between checkpoint and failure",
    )
    time_limits: Json[dict[str, float]] = Field(
        default={}, description='for the flow: hours per stage, as a JSON object: {"train": 48}'
    )
    hang_seconds: float = Field(
        default=600.0,
        gt=0,
        description="for the flow: a run without a step for this long (and 20 steps) is restarted",
    )

    @property
    def worker_count(self) -> int:
        """Number of worker processes: `workers` if set, else one per available core."""
        cores = getattr(
            os, "sched_getaffinity", None
        )  # respects the affinity mask; not on every system
        return self.workers or (len(cores(0)) if cores else os.cpu_count()) or 1


def read_settings() -> Settings:
    """Read the settings from the environment. Raises ValueError naming each invalid variable."""
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    given = {name: text for name, text in os.environ.items() if name.startswith(PREFIX)}
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(
            f"{', '.join(unknown)}: no such setting; the settings are {', '.join(sorted(known))}"
        )
    try:
        settings = Settings.model_validate({known[name]: text for name, text in given.items()})
    except ValidationError as error:
        raise ValueError("\n".join(explain(entry, given) for entry in error.errors())) from None
    if settings.tracking:
        check_mlflow_variables()
    return settings


def check_mlflow_variables() -> None:
    """Raise ValueError if a variable is set that MLflow knows, but that has no meaning here."""
    for name, reason in MLFLOW_REFUSED.items():
        if os.environ.get(name):
            raise ValueError(f"{name} is set, but {reason}; unset {name}")


def explain(error: Mapping[str, Any], given: Mapping[str, str]) -> str:
    """Return one line that explains what is wrong with one variable, with its value."""
    name, *keys = error["loc"]
    variable = PREFIX + str(name).upper()
    place = "".join(f" ({key})" for key in keys)
    return f"{variable}={given[variable]!r}{place}: {error['msg']}"
