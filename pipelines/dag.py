"""The stages of dvc.yaml and their order, as DVC itself reads them."""

from dataclasses import dataclass
from pathlib import Path

import networkx
from dvc.repo import Repo
from dvc.stage import PipelineStage


@dataclass(frozen=True)
class Stage:
    """A stage by its name, and what its `meta` in dvc.yaml says of its nature."""

    name: str
    network: bool
    resumable: bool


def read_stages(root: Path, target: str | None = None) -> list[Stage]:
    """All stages, or `target` and what it depends on, each after the ones it depends on.

    Raises ValueError when there is no such stage.
    """
    with Repo(str(root)) as repo:
        graph = repo.index.graph  # edges lead from a stage to the ones it depends on
        in_order = networkx.lexicographical_topological_sort(
            graph.reverse(), lambda s: s.addressing
        )
        ordered = [stage for stage in in_order if isinstance(stage, PipelineStage)]
        known = [stage.name for stage in ordered]
        if target is not None:
            if target not in known:
                raise ValueError(
                    f"{target!r} is no stage of dvc.yaml; there are {', '.join(known)}"
                )
            wanted = next(stage for stage in ordered if stage.name == target)
            needed = networkx.descendants(graph, wanted) | {wanted}
            ordered = [stage for stage in ordered if stage in needed]
        return [
            Stage(
                name=stage.name,
                network=bool((stage.meta or {}).get("network")),
                resumable=bool((stage.meta or {}).get("resumable")),
            )
            for stage in ordered
        ]
