"""The deployments of prefect.yaml on a Prefect server: their names, work pools and automations.

A deployment belongs to the project that its tag `project:HOST:/folder` names. Where another project
has a deployment of a name, all names of this one get `-FOLDER`, so that no worker ever runs another
project's pipeline. `python -m pipelines.deploy` registers everything; again after every change.
"""

import hashlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
from prefect.workers.process import ProcessWorker
from ruamel.yaml import YAML

from pipelines import automations
from stages.runtime.errors import EXIT_CODES
from stages.runtime.redaction import redact_tracebacks, redacted, redacted_address

FLOW = "build"
FILE = Path("prefect.yaml")
SUFFIX = "{{ $DEPLOYMENT_SUFFIX }}"
CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Names:
    """The names of this project's deployments and work pools on one server."""

    suffix: str
    deployments: tuple[str, ...]
    pools: tuple[str, ...]


def host() -> str:
    """Return the name of this machine."""
    return socket.gethostname()


def project_tag() -> str:
    """Return the tag that says whose a deployment is."""
    return f"project:{host()}:{Path.cwd()}"


def names_with(suffix: str) -> Names:
    """Return the names in prefect.yaml with a suffix."""
    entries = YAML(typ="safe").load(FILE)["deployments"]
    pools = dict.fromkeys(entry["work_pool"]["name"] for entry in entries)
    return Names(
        suffix,
        tuple(entry["name"].replace(SUFFIX, suffix) for entry in entries),
        tuple(name.replace(SUFFIX, suffix) for name in pools),
    )


def suffixes() -> Iterator[str]:
    """Yield the suffixes to try: none, `-FOLDER`, and one more that no other folder can have."""
    folder = re.sub(r"[^A-Za-z0-9._-]+", "-", Path.cwd().name).strip("-")
    digits = hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:4]
    yield from ("", f"-{folder}", f"-{folder}-{digits}")


def server_url() -> str:
    """Return the address of the Prefect server. Raises ConnectionError if it does not answer."""
    url = PREFECT_API_URL.value()
    if url is None:
        raise ConnectionError("no Prefect server: run `make up`, or set PREFECT_API_URL to one")
    try:
        httpx.get(f"{url}/health", timeout=CONNECT_SECONDS).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise ConnectionError(f"no Prefect server at {redacted(url)}: {redacted(reason)}") from None
    return url


@contextmanager
def server() -> Iterator[SyncPrefectClient]:
    """Yield a client. Raises ConnectionError if the server does not answer, or refuses."""
    server_url()
    try:
        with get_client(sync_client=True) as client:
            yield client
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        raise ConnectionError(f"the Prefect server failed: {redacted(str(error))}") from None


def read_deployments(client: SyncPrefectClient, tag: str | None) -> list[DeploymentResponse]:
    """Return all deployments, or those with a tag."""
    tags = DeploymentFilter(tags=DeploymentFilterTags(all_=[tag])) if tag else None
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(deployment_filter=tags, limit=200, offset=len(found)):
        found += page
    return found


def own_deployments(client: SyncPrefectClient) -> list[DeploymentResponse]:
    """Return the deployments of this project."""
    return read_deployments(client, project_tag())


def is_foreign(tags: Iterable[str]) -> bool:
    """Return whether these tags name another project, or none.

    A project of this machine whose folder is gone has been moved or deleted, perhaps to here.
    """
    projects = [tag for tag in tags if tag.startswith("project:")]
    here = f"project:{host()}:"
    return project_tag() not in projects and not any(
        tag.startswith(here) and not Path(tag.removeprefix(here)).exists() for tag in projects
    )


def choose_names(client: SyncPrefectClient) -> Names:
    """Return the names this project has on the server, or the first that no other project has."""
    own = {deployment.name for deployment in own_deployments(client)}
    pools = {pool.name: pool.description or "" for pool in client.read_work_pools()}
    foreign = {d.name for d in read_deployments(client, None) if is_foreign(d.tags)}
    candidates = [names_with(suffix) for suffix in suffixes()]
    for names in candidates:
        if own & set(names.deployments):
            return names
    for names in candidates[:-1]:
        taken = foreign & set(names.deployments)
        taken |= {name for name in names.pools if name in pools and is_foreign([pools[name]])}
        if not taken:
            return names
    return candidates[-1]


def deployed_names(client: SyncPrefectClient) -> Names:
    """Return the names of what is deployed. Raises ValueError if nothing is."""
    own = {deployment.name for deployment in own_deployments(client)}
    for names in map(names_with, suffixes()):
        if own & set(names.deployments):
            return names
    raise ValueError("nothing is deployed from this folder: run `python -m pipelines.deploy`")


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
        if done.returncode != 0 or {d.name for d in own} < set(names.deployments):
            raise ValueError(f"Prefect did not accept {FILE}:\n{redacted(done.stdout)}")
        keep_switched_on(client, active)
        automations.create(client, names.suffix, [deployment.id for deployment in own])
    return names


def main() -> None:
    """Run `python -m pipelines.deploy`."""
    redact_tracebacks()
    try:
        names = deploy()
    except ConnectionError as error:
        print(f"deploy: {error}", file=sys.stderr)
        sys.exit(EXIT_CODES["network"])
    except ValueError as error:
        print(f"deploy: {error}", file=sys.stderr)
        sys.exit(EXIT_CODES["input"])
    for name in names.deployments:
        print(f"{FLOW}/{name}")
    print(f"start a run: prefect deployment run {FLOW}/{names.deployments[0]} --watch")


if __name__ == "__main__":
    main()
