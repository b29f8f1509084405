"""The project that a run belongs to, also when it works in a copy of it."""

import os
from pathlib import Path


def project_folder() -> Path:
    """Return the folder of the project: the current one or, in a workspace, the original.

    A run of the flow sets NANOGPT_PROJECT, DVC sets DVC_ROOT for its experiments. MLflow's local
    store and the state of unfinished training runs are there, since workspaces are removed.
    """
    environment = os.environ
    return Path(environment.get("NANOGPT_PROJECT") or environment.get("DVC_ROOT") or ".").resolve()
