"""Names on a server that other projects use too. The server is played by a list."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from pipelines import deploy, names

ROOT = Path(__file__).parents[2]
ALL = ("local", "nightly", "gpt2-124m-openwebtext")


@dataclass
class Named:
    """A deployment or a work pool, as far as names depend on it."""

    name: str
    tags: list[str] = field(default_factory=list)
    description: str | None = None


@dataclass
class Server:
    """A server with deployments and work pools."""

    deployments: list[Named] = field(default_factory=list)
    pools: list[Named] = field(default_factory=list)

    def read_deployments(self, deployment_filter: Any, limit: int, offset: int) -> list[Named]:
        wanted = set(deployment_filter.tags.all_) if deployment_filter else set()
        return [d for d in self.deployments if wanted <= set(d.tags)][offset : offset + limit]

    def read_work_pools(self) -> list[Named]:
        return self.pools


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with the real prefect.yaml."""
    folder = tmp_path / "my lab"
    folder.mkdir()
    (folder / "prefect.yaml").write_text((ROOT / "prefect.yaml").read_text())
    monkeypatch.chdir(folder)
    return folder


def chosen(server: Server) -> tuple[str, ...]:
    """Return the names that the project gets."""
    return names.choose_names(server).deployments  # type: ignore[arg-type]  # all that it asks for


def test_an_empty_server_gives_the_plain_names(folder: Path) -> None:
    assert chosen(Server()) == ALL
    assert names.names_with("").pools == ("local", "gpt2-124m-openwebtext")


@pytest.mark.parametrize("tags", [["project:elsewhere:/lab"], []])
def test_names_of_another_project_are_left_to_it(folder: Path, tags: list[str]) -> None:
    theirs = Server([Named("nightly", tags)])
    assert chosen(theirs) == tuple(f"{name}-my-lab" for name in ALL)
    theirs.deployments.append(Named("local-my-lab", tags))
    last = chosen(theirs)
    assert all(name.startswith(f"{plain}-my-lab-") for name, plain in zip(last, ALL, strict=True))
    assert all(len(name) - len(plain) == 12 for name, plain in zip(last, ALL, strict=True))


def test_a_work_pool_of_others_is_not_taken_over(folder: Path) -> None:
    assert chosen(Server(pools=[Named("local")]))[0] == "local-my-lab"
    assert chosen(Server(pools=[Named("local", description=names.project_tag())])) == ALL


def test_a_project_keeps_its_names(folder: Path) -> None:
    mine = Server([Named(f"{name}-my-lab", [names.project_tag()]) for name in ALL])
    assert chosen(mine) == tuple(f"{name}-my-lab" for name in ALL)
    assert names.deployed_names(mine).suffix == "-my-lab"  # type: ignore[arg-type]  # likewise


def test_a_folder_that_was_moved_keeps_its_names(folder: Path) -> None:
    before = f"project:{names.host()}:{folder.parent / 'gone'}"
    assert chosen(Server([Named("local", [before])])) == ALL


def test_what_is_not_deployed_has_no_names(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"pipelines\.deploy"):
        names.deployed_names(Server())  # type: ignore[arg-type]  # likewise


def test_no_server_is_told_in_one_line_without_its_password(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://me:s3cr3t-Pa55@127.0.0.1:9/api"}),
        pytest.raises(SystemExit) as exit,
    ):
        deploy.main()
    assert exit.value.code == 75
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "127.0.0.1:9" in printed
    assert "s3cr3t" not in printed
