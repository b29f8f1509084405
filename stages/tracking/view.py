"""The table of runs as `make ui` shows it: the best model first, with the columns to choose by.

MLflow keeps a view that someone shares as a tag of the experiment, and shows it under an address
with the name of that tag.
"""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "models"
TAG = f"mlflow.sharedViewState.{NAME}"
SORTED_BY = "metrics.`val/full/bits_per_byte`"
COLUMNS = (
    "tags.`corpus`",
    "params.`n_params`",
    SORTED_BY,
    "metrics.`val/full/perplexity`",
    "metrics.`val/full/margin`",
    "metrics.`speed/tokens_per_second`",
    "attributes.`Version`",
)


def save_view(client: "MlflowClient", experiment_id: str) -> None:
    """Save the view in an experiment, unless it is there."""
    state = {"orderByKey": SORTED_BY, "orderByAsc": True, "selectedColumns": COLUMNS}
    value = json.dumps(state)
    if client.get_experiment(experiment_id).tags.get(TAG) != value:
        client.set_experiment_tag(experiment_id, TAG, value)


def address(server: str, experiment_id: str) -> str:
    """Return the URL of the view on an MLflow server."""
    runs = f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs"
    return f"{runs}?workflowType=machine_learning&viewStateShareKey={NAME}"
