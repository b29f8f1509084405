"""A worker's second look at crashed runs, when the automation should have taken them up.

`python -m pipelines.second_look` is started by a worker (pipelines/services.py) and ends with it.
"""

import time

from pipelines.automations import MISSED, take_up_missed
from pipelines.command import failures_reported
from pipelines.names import own_deployments, server
from pipelines.services import worker_name
from stages.runtime.supervise import die_with_parent


def main() -> None:
    """Run `python -m pipelines.second_look`."""
    die_with_parent()
    time.sleep(MISSED.total_seconds())
    with failures_reported("second look"), server() as client:
        ids = [deployment.id for deployment in own_deployments(client)]
        take_up_missed(client, ids, worker_name())


if __name__ == "__main__":
    main()
