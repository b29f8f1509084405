"""Names of this project's deployments and work pools on a Prefect server, and the way to it.

A deployment belongs to the project that its tag `project:HOST:/folder` names. If another
project already has a deployment of the same name, all names of this project end in `-FOLDER`, so
that no worker ever runs another project's pipeline.
"""

import hashlib
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from ruamel.yaml import YAML

from stages.runtime.redaction import redacted

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
    """Return the tag that names the project a deployment belongs to."""
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
    digits = hashlib.sha256(project_tag().encode()).hexdigest()[:4]
    yield from ("", f"-{folder}", f"-{folder}-{digits}")


def server_url() -> str:
    """Return the address of the Prefect server. Raises ConnectionError if it does not answer."""
    url: str | None = PREFECT_API_URL.value()
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
