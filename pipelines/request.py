"""A request for a run: what to build, and where, in the project itself or in a workspace."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanogpt.files import atomic_write
from pipelines import workspace
from pipelines.dag import read_stages
from pipelines.parameters import content_of
from pipelines.stage_run import Console, Run, run_stages
from stages.params.preflight import check_project
from stages.runtime.errors import Busy
from stages.runtime.settings import read_settings
from stages.runtime.supervise import exclusive_lock
from stages.runtime.yaml_files import read_params
from stages.tracking.titles import corpus_name, title_of


class AlreadyRunning(Exception):
    """Another process of the same run is alive."""


@dataclass(frozen=True)
class Request:
    """The parameters of a run, as the form and the command line take them."""

    preset: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None
    force: bool = False
    experiment: str | None = None

    @property
    def needs_workspace(self) -> bool:
        """Return whether the run differs from the project as it is."""
        return bool(self.preset or self.overrides or self.experiment)

    def build_in_place(self, console: Console, tags: Mapping[str, str]) -> None:
        """Bring the project itself up to date, as `dvc repro` does. Raises StageFailed."""
        check_project()
        corpus = corpus_name(read_params()["corpus"])
        console.begin(corpus, corpus)
        self.run({}, console, tags)

    def build_experiment(self, console: Console, run_id: str, tags: Mapping[str, str]) -> None:
        """Run in a workspace and save the result as an experiment. Raises StageFailed.

        The workspace of a run that was interrupted is used again. Raises ValueError for params
        that are not allowed, before anything runs.
        """
        project = Path.cwd()
        content = content_of(self.preset, self.overrides, project)
        title = title_of(self.preset or corpus_name(content["corpus"]), self.overrides)
        place = workspace.workspace_of(project, title, run_id)
        name = self.experiment or place.folder.name
        console.begin(title, corpus_name(content["corpus"]))
        place.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with exclusive_lock(workspace.lock_of(place)):
                self.build_in(place, name, content["train"]["init_from"], run_id, console, tags)
        except Busy as error:
            raise AlreadyRunning(str(error)) from None

    def build_in(
        self,
        place: workspace.Workspace,
        name: str,
        weights: str | None,
        run_id: str,
        console: Console,
        tags: Mapping[str, str],
    ) -> None:
        """Run in a workspace that no other process of this run uses, and save the result."""
        saved = workspace.saved_file(place.project, run_id)
        if saved.exists():  # and then the process died
            workspace.remove(place)
            console.log(f"build: already saved as the experiment {saved.read_text()}")
            return
        if not place.folder.exists():
            workspace.check_experiment_name(place.project, name)
            workspace.create(place, self.preset, self.overrides, weights)
        shown = place.folder.relative_to(place.project)
        console.log(f"build: working in {shown}")
        try:
            with workspace.inside(place):
                stages = self.run({"DVC_EXP_NAME": name}, console, tags)
        except BaseException:
            again = "if training had begun, the next run with the same data and params resumes it"
            console.log(f"build: {shown} is kept; {again}")
            raise
        name = workspace.save(place, name, stages)
        atomic_write(saved, name)
        workspace.remove(place)
        console.log(f"build: saved as the experiment {name}; `dvc exp apply {name}` brings it in")

    def run(
        self, variables: Mapping[str, str], console: Console, tags: Mapping[str, str]
    ) -> list[str]:
        """Run the stages in the current folder, show the result, and return their names."""
        environment = {
            **variables,
            "NANOGPT_TAGS": json.dumps({**read_settings().tags, **tags}),
            "PYTHONUNBUFFERED": "1",  # so that lines arrive when they are printed
        }
        stages = read_stages(Path.cwd(), self.target)
        run_stages(stages, Run(environment, self.force, console))
        if self.target is None:
            console.show_result()
        return [stage.name for stage in stages]
