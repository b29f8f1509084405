"""Settings that never change a result: where and how fast, not what.

They come from environment variables and so never invalidate a stage. `NANOGPT_DEVICE=cpu` sets
`device`, and so on.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

PREFIX = "NANOGPT_"


class Settings(BaseModel):
    """One field per environment variable, prefixed with NANOGPT_."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    processes: int | None = Field(
        default=None, ge=1, description="on this machine; by default one, or one per visible GPU"
    )
    torchrun: str = Field(default="", description="more torchrun options, such as --nnodes=2 …")
    join: bool = Field(default=False, description="join a training another machine leads")
    parallel: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="each process holds the whole model, or a part of it"
    )
    compile: bool | None = Field(default=None, description="by default on CUDA only")
    recompute: bool = Field(default=False, description="activations anew: less memory, slower")
    micro_batch_tokens: int = Field(default=8_192, ge=1, description="most tokens per forward pass")
    workers: int | None = Field(default=None, ge=1, description="to clean and tokenize; all cores")
    runner: Literal["local", "ray"] = Field(default="local", description="where they run")
    shared: str | None = Field(default=None, description="for ray: a folder or s3://… all see")
    log_interval: int = Field(default=10, ge=1, description="updates between printed lines")
    tracking: bool = Field(default=True, description="record in MLflow")
    tags: Json[dict[str, str]] = Field(default={}, description="more of the MLflow run, as JSON")
    debug: bool = Field(default=False, description="show tracebacks of expected errors too")
    status_file: Path | None = Field(default=None, description="where a failure is told as JSON")


def read_settings() -> Settings:
    """Read the environment. Raises ValueError naming the variable that is wrong."""
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    given = {name: text for name, text in os.environ.items() if name.startswith(PREFIX)}
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(f"{', '.join(unknown)}: no such setting; there are {sorted(known)}")
    try:
        return Settings.model_validate({known[name]: text for name, text in given.items()})
    except ValidationError as error:
        lines = [
            f"{PREFIX}{str(entry['loc'][0]).upper()}={entry['input']!r}: {entry['msg']}"
            for entry in error.errors()
        ]
        raise ValueError("\n".join(lines)) from None
