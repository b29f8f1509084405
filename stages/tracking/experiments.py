"""Experiments that began from one commit, as children of one run.

DVC groups them in the same way: `dvc exp show` lists experiments under the commit they began from.
MLflow's table folds children under their parent where runs are sorted by time.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMMIT_TAG = "nanogpt.experiments_from"
PARENT_TAG = "mlflow.parentRunId"
NOTE = (
    "The experiments that began from the commit `{commit}`. `dvc exp show` lists them with their "
    "metrics; `dvc exp apply NAME` brings one into the project."
)


def set_parent(client: "MlflowClient", run_id: str, commit: str, start_ms: int) -> None:
    """Make a run a child of the run for its commit, which is created if there is none.

    `start_ms` is when the child began, in milliseconds.
    """
    experiment_id = client.get_run(run_id).info.experiment_id
    parents = client.search_runs(
        [experiment_id],
        f"tags.`{COMMIT_TAG}` = '{commit}'",
        max_results=1,
        order_by=["attributes.start_time ASC"],
    )
    parent = parents[0] if parents else None
    if parent is None:
        tags = {
            COMMIT_TAG: commit,
            "mlflow.note.content": NOTE.format(commit=commit),
            "mlflow.source.git.commit": commit,
        }
        name = f"experiments from {commit[:7]}"
        parent = client.create_run(experiment_id, start_time=start_ms, tags=tags, run_name=name)
        client.set_terminated(parent.info.run_id, "FINISHED", end_time=start_ms)
    client.set_tag(run_id, PARENT_TAG, parent.info.run_id)
