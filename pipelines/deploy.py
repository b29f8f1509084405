"""The deployments of prefect.yaml on a Prefect server, with their work pools and automations.

`python -m pipelines.deploy` registers everything; run it again after a change of prefect.yaml or of
the flow's parameters.
"""

import os
import subprocess
import sys
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
from prefect.workers.process import ProcessWorker
from ruamel.yaml import YAML

from pipelines import automations
from pipelines.command import failures_reported
from pipelines.names import (
    FILE,
    SUFFIX,
    Names,
    choose_names,
    own_deployments,
    project_tag,
    server,
)
from stages.runtime.redaction import redact_tracebacks, redacted, redacted_address

FLOW = "build"


def create_pools(client: SyncPrefectClient, names: Names) -> None:
    """Create the work pools, or bring them up to date; only the local one takes several runs."""
    for name in names.pools:
        limit = None if name == f"local{names.suffix}" else 1
        template = ProcessWorker.get_default_base_job_template()
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(
                WorkPoolCreate(
                    name=name,
                    type=ProcessWorker.type,
                    description=project_tag(),
                    base_job_template=template,
                    concurrency_limit=limit,
                )
            )
        else:
            update = WorkPoolUpdate(description=project_tag(), base_job_template=template)
            client.update_work_pool(name, update)


def create_queues(client: SyncPrefectClient, names: Names) -> None:
    """Create the work queues that prefect.yaml names; each takes one run at a time."""
    for entry in YAML(typ="safe").load(FILE)["deployments"]:
        pool, queue = entry["work_pool"]["name"], entry["work_pool"].get("work_queue_name")
        if queue:
            pool = pool.replace(SUFFIX, names.suffix)
            try:
                client.read_work_queue_by_name(queue, work_pool_name=pool)
            except ObjectNotFound:
                client.create_work_queue(queue, concurrency_limit=1, work_pool_name=pool)


def active_schedules(client: SyncPrefectClient) -> set[tuple[str, str]]:
    """Return the schedules that are switched on: deployment and slug."""
    return {
        (deployment.name, str(schedule.slug))
        for deployment in own_deployments(client)
        for schedule in deployment.schedules
        if schedule.active
    }


def keep_switched_on(client: SyncPrefectClient, active: set[tuple[str, str]]) -> None:
    """Switch on again what was on before; prefect.yaml says what a new schedule is."""
    for deployment in own_deployments(client):
        for schedule in deployment.schedules:
            if (deployment.name, str(schedule.slug)) in active and not schedule.active:
                client.update_deployment_schedule(deployment.id, schedule.id, active=True)


def environment(names: Names) -> dict[str, str]:
    """Return the environment for Prefect's own command: the variables of prefect.yaml.

    The links that Prefect prints must not show the password in PREFECT_API_URL.
    """
    ui = PREFECT_UI_URL.value() or (PREFECT_API_URL.value() or "").removesuffix("/api")
    return {
        **os.environ,
        "DEPLOYMENT_SUFFIX": names.suffix,
        "PROJECT_TAG": project_tag(),
        "PROJECT_FOLDER": str(Path.cwd()),
        "PREFECT_UI_URL": redacted_address(ui),
    }


def deploy() -> Names:
    """Register all of prefect.yaml. Raises ConnectionError, or ValueError if Prefect refuses it."""
    with server() as client:
        names = choose_names(client)
        active = active_schedules(client)
        create_pools(client, names)
        create_queues(client, names)
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        done = subprocess.run(
            [*command, "--prefect-file", str(FILE)],
            env=environment(names),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        own = own_deployments(client)
        if done.returncode != 0 or set(names.deployments) - {d.name for d in own}:
            raise ValueError(f"Prefect did not accept {FILE}:\n{redacted(done.stdout)}")
        keep_switched_on(client, active)
        automations.create(client, names.suffix, [deployment.id for deployment in own])
    return names


def main() -> None:
    """Run `python -m pipelines.deploy`."""
    redact_tracebacks()
    with failures_reported("deploy"):
        names = deploy()
    for name in names.deployments:
        print(f"{FLOW}/{name}")
    print(f"start a run: prefect deployment run {FLOW}/{names.deployments[0]} --watch")


if __name__ == "__main__":
    main()
