"""The stages of dvc.yaml in the order of their dependencies, as DVC reads them."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import networkx
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import SCMError
from dvc.stage import PipelineStage

from stages.runtime.yaml_files import read_params


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml: its name, and the flags in its `meta`."""

    name: str
    resumable: bool = False  # it continues from a checkpoint
    device: bool = False  # it computes on the accelerator, or on all cores


def read_stages(root: Path, target: str | None = None) -> list[Stage]:
    """Return all stages, or `target` and its dependencies, in topological order.

    Raises ValueError if there is no such stage, or if `root` is not a repository of git and DVC.
    """
    with open_repo(root) as repo:
        graph = repo.index.graph  # edges lead from a stage to the ones it depends on
        in_order = networkx.lexicographical_topological_sort(
            graph.reverse(), lambda s: s.addressing
        )
        ordered = [stage for stage in in_order if isinstance(stage, PipelineStage)]
        known = [stage.name for stage in ordered]
        if target is not None:
            if target not in known:
                raise ValueError(
                    f"{target!r} is not a stage of dvc.yaml; its stages are {', '.join(known)}"
                )
            target_stage = next(stage for stage in ordered if stage.name == target)
            needed = networkx.descendants(graph, target_stage) | {target_stage}
            ordered = [stage for stage in ordered if stage in needed]
        return [
            Stage(
                name=stage.name,
                resumable=bool((stage.meta or {}).get("resumable")),
                device=bool((stage.meta or {}).get("device")),
            )
            for stage in ordered
        ]


def stage_names(root: Path = Path()) -> list[str]:
    """Return the names of the stages in dvc.yaml, in the order in which they are written."""
    return list(read_params(root / "dvc.yaml")["stages"])


def up_to_date(root: Path) -> set[str]:
    """Return the stages whose outputs are there and whose dependencies have not changed.

    Empty if DVC cannot tell, because files are locked or damaged: running a stage shows why.
    """
    with open_repo(root) as repo, suppress(DvcException):
        return set(stage_names(root)) - set(repo.status())
    return set()


def open_repo(root: Path) -> Repo:
    """Open a DVC repository. Raises ValueError that says how to make one if there is none."""
    try:
        return Repo(str(root))
    except SCMError:
        raise ValueError(
            f"{root} is not a git repository (nor is code from an archive): run `git init`, or "
            "`dvc config --local core.no_scm true` to use DVC without git"
        ) from None
    except NotDvcRepoError:
        raise ValueError(
            f"{root} has no .dvc folder: copy it from the project, or run `dvc init` (without git "
            "`dvc init --no-scm`)"
        ) from None
