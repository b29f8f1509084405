"""The way from a model back to its corpus: everything verified, missing, changed or unknown."""

import argparse
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from nanogpt.files import file_sha256
from stages.artifacts.shards import Shards
from stages.artifacts.summaries import corpus_lines, weights_lines
from stages.runtime.settings import Settings
from stages.tools.lineage import DAMAGED, NOT_HERE, VERIFIED, Node, run_tool, summary, trace
from stages.tools.token_files import export_shards, import_files, named_tokenizer
from stages.tracking.local_store import EXPERIMENT
from stages.tracking.store import connect

HERE = Path()
DATA = ("shards", "tokens", "clean", "corpus")
COMMAND = ("python", "-m", "stages", "lineage")
SECRET = "planted-s3cr3t-Pa55"


@pytest.fixture(autouse=True)
def no_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unset the tracking URI, in the environment and in MLflow's global variable."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "NANOGPT_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture
def project(copy_of_built: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a built project of the test's own, in whose folder the test runs."""
    monkeypatch.chdir(copy_of_built.folder)
    return copy_of_built


def lineage(folder: Path = Path("models/gpt")) -> dict[str, Any]:
    """Return the lineage of a model."""
    about: dict[str, Any] = json.loads((folder / "lineage.json").read_text())
    return about


def edit_lineage(**changed: Any) -> None:
    """Change some of what the lineage of the model says."""
    Path("models/gpt/lineage.json").write_text(json.dumps({**lineage(), **changed}))


def flip_byte(file: Path) -> tuple[str, str]:
    """Change one byte of a file; return its sha256 before and after."""
    before, content = file_sha256(file), bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    return before, file_sha256(file)


def states(root: Node) -> dict[str, str]:
    """Return the state of each step that has one, by the first words of its title."""
    return {node.title.split(" in ")[0]: node.state for node in root.walk() if node.state}


def node(root: Node, name: str) -> Node:
    """Return the step whose title begins with a name."""
    (found,) = (node for node in root.walk() if node.title.split(" in ")[0] == name)
    return found


def problems(root: Node) -> list[str]:
    """Return all that is wrong."""
    return [problem for node in root.walk() for problem in node.problems]


def printed(model: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command in this process; return what it prints."""
    capsys.readouterr()
    run_tool(argparse.Namespace(model=model), Settings())
    return capsys.readouterr().out


def logged_model() -> tuple[Any, Any]:
    """Return a client of the local store and the model that the project's training logged."""
    client = connect()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (model,) = client.search_logged_models([experiment.experiment_id])
    return client, model


def test_the_tree_leads_from_the_model_to_the_corpus(
    built: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(built.folder)
    root = trace("models/gpt", HERE)
    assert states(root) == dict.fromkeys(("files", *DATA), VERIFIED)
    steps = [node.title.split(" in ")[0] for node in root.walk()]
    assert steps == [f"model {lineage()['model_id']}", "files", "training", *DATA]
    for name in DATA:  # each is made from the next
        (step,) = (one for one in root.walk() if one.title == f"{name} in data/{name}")
        assert [child.title.split(" in ")[0] for child in step.children] == [
            *DATA[DATA.index(name) + 1 :][:1]
        ]

    text = printed("models/gpt", capsys)
    lines = [line.strip("│├└─ \n") for line in text.splitlines()]
    for file in lineage()["files"]:
        assert f"{file['name']} sha256 {file_sha256(Path('models/gpt', file['name']))}" in lines
    for name in DATA:
        assert f"{name} in data/{name}: verified" in lines
        assert f"manifest.json sha256 {file_sha256(Path('data', name, 'manifest.json'))}" in lines
    head = built.run("git", "rev-parse", "HEAD").stdout.strip()
    assert any(line.startswith(f"commit {head}; changed: ") for line in lines)
    assert f"params fingerprint {lineage()['fingerprint']}" in lines
    n_code = len(lineage()["code"]["files_md5"])
    assert f"{n_code} files of code, as they are now" in lines
    assert "1 session" in lines
    assert any(line.startswith("cpu, float32, processes: 1, threads: ") for line in lines)
    n_bytes = sum(file.stat().st_size for file in Path("texts").iterdir())
    assert f"6 documents, {n_bytes:,} bytes" in lines
    assert "from files in texts, **/*" in lines
    assert lines[-1] == "every file, from the model to its corpus, is as it was written"


CHANGED = [
    ("data/shards/manifest.json", "shards", "dvc repro train"),
    ("data/tokens/manifest.json", "tokens", "dvc repro train"),
    ("data/clean/manifest.json", "clean", "dvc repro tokenize"),
    ("data/corpus/manifest.json", "corpus", "dvc repro train"),
    ("data/shards/train/00000.npy", "shards", "dvc repro -f shard"),
    ("data/corpus/part-00000.parquet", "corpus", "dvc repro -f download"),
    ("models/gpt/model.safetensors", "files", "dvc repro -f train"),
    ("models/gpt/config.json", "files", "dvc repro -f train"),
]


@pytest.mark.parametrize(("name", "step", "way_out"), CHANGED)
def test_one_changed_byte_is_found(project: Any, name: str, step: str, way_out: str) -> None:
    before, after = flip_byte(Path(name))
    root = trace("models/gpt", HERE)
    (problem,) = problems(root)
    assert problem.startswith(f"{name} has sha256 {after}, not {before}")
    assert f"run `{way_out}`" in problem
    expected = dict.fromkeys(("files", *DATA), VERIFIED)
    if name == "data/tokens/manifest.json":  # which alone has the hash of the next
        expected["clean"] = NOT_HERE
    assert states(root) == {**expected, step: DAMAGED}


def test_the_command_fails_with_a_line_for_what_differs(project: Any) -> None:
    before, after = flip_byte(Path("data/shards/manifest.json"))
    done = project.run(*COMMAND)
    assert done.returncode == 2
    assert "tokens in data/tokens: verified" in done.stdout  # the tree is shown all the same
    assert done.stdout.splitlines()[-1] == (
        f"lineage: data/shards/manifest.json has sha256 {after}, not {before} as "
        "models/gpt/lineage.json records; run `dvc repro train` to bring them back in sync"
    )


def test_what_repro_makes_of_a_changed_manifest_is_in_sync(project: Any) -> None:
    flip_byte(Path("data/shards/manifest.json"))
    project.repro("train")
    assert states(trace("models/gpt", HERE)) == dict.fromkeys(("files", *DATA), VERIFIED)


def test_missing_tokens_are_not_here(project: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sha256 = file_sha256(Path("data/tokens/manifest.json"))
    shutil.rmtree("data/tokens")
    root = trace("models/gpt", HERE)
    assert problems(root) == []
    assert states(root) == {
        **dict.fromkeys(("files", "shards", "corpus"), VERIFIED),
        **dict.fromkeys(("tokens", "clean"), NOT_HERE),  # the tokens have the hash of `clean`
    }
    assert node(root, "tokens").lines == [
        f"manifest.json sha256 {sha256}",
        "DVC's cache has it: `dvc checkout data/tokens`",
    ]
    assert node(root, "clean").lines == [
        "its hash is in the manifest of the tokens, which is not here"
    ]
    assert printed("models/gpt", capsys).splitlines()[-1] == (
        "all that is here is as it was written; not here: tokens, clean"
    )
    assert project.run("dvc", "checkout", "data/tokens").returncode == 0
    assert states(trace("models/gpt", HERE)) == dict.fromkeys(("files", *DATA), VERIFIED)


def test_what_dvc_does_not_have_is_only_named_by_its_hash(project: Any) -> None:
    sha256 = file_sha256(Path("data/corpus/manifest.json"))
    shutil.rmtree("data")
    shutil.rmtree(".dvc/cache")
    root = trace("models/gpt", HERE)
    assert states(root) == {"files": VERIFIED, **dict.fromkeys(DATA, NOT_HERE)}
    assert node(root, "corpus").lines == [f"manifest.json sha256 {sha256}"]


def test_two_files_that_record_different_hashes_are_found(project: Any) -> None:
    wrong, right = "0" * 64, file_sha256(Path("data/corpus/manifest.json"))
    edit_lineage(data={**lineage()["data"], "corpus_manifest_sha256": wrong})
    found = problems(trace("models/gpt", HERE))
    assert found[0] == (
        f"data/shards/manifest.json records corpus with the manifest sha256 {right}, not {wrong} "
        "as models/gpt/lineage.json does; run `dvc repro -f train` to write it again"
    )


def test_code_that_has_changed_since_is_named_and_no_failure(project: Any) -> None:
    file = Path("nanogpt/optim/optimizers.py")
    file.write_text(file.read_text() + "\n# edited\n")
    root = trace("models/gpt", HERE)
    assert problems(root) == []
    n_code = len(lineage()["code"]["files_md5"])
    assert f"{n_code} files of code, {file} changed since" in node(root, "training").lines


def test_a_commit_from_elsewhere_and_several_sessions_are_told(project: Any) -> None:
    about = lineage()
    (session,) = about["sessions"]
    gpu = {**session, "after_step": 100, "hardware": {**session["hardware"], "device": "H200"}}
    code = {**about["code"], "git_commit": "1" * 40, "git_changed": []}
    edit_lineage(code=code, sessions=[session, {**gpu, "code": code}])
    lines = node(trace("models/gpt", HERE), "training").lines
    assert f"commit {about['code']['git_commit']}; changed: nothing" in lines  # most of its steps
    assert f"commit {'1' * 40}, not in this repository; changed: nothing" in lines
    assert "2 sessions, after steps 0, 100" in lines
    assert [line.partition(",")[0] for line in lines if "processes" in line] == ["cpu", "H200"]
    unknown = {**code, "git_commit": None, "git_problem": "git cannot be run"}
    edit_lineage(code=unknown, sessions=[{**session, "code": unknown}])
    lines = node(trace("models/gpt", HERE), "training").lines
    assert "commit unknown: git cannot be run" in lines


def test_initial_weights_are_verified(project: Any) -> None:
    shutil.copytree("models/gpt", "weights/start")
    weights = Path("weights/start/model.safetensors")
    origin = {"folder": "weights/start", "sha256": file_sha256(weights), "lineage": lineage()}
    edit_lineage(init_from=origin)
    root = trace("models/gpt", HERE)
    found = node(root, "initial weights")
    assert (found.title, found.state) == ("initial weights in weights/start", VERIFIED)
    assert summary(root) == "every file, from the model to its corpus, is as it was written"
    assert f"trained as model {lineage()['model_id']}" in found.lines
    before, after = flip_byte(weights)
    root = trace("models/gpt", HERE)
    assert node(root, "initial weights").state == DAMAGED
    (problem,) = problems(root)
    assert problem.startswith(f"{weights} has sha256 {after}, not {before} as models/gpt/lineage")
    assert "run `dvc repro train`" in problem
    weights.unlink()
    found = node(trace("models/gpt", HERE), "initial weights")
    assert found.state == NOT_HERE
    assert found.lines[0] == f"model.safetensors sha256 {before}"


def test_a_copied_model_is_traced_through_the_same_data(project: Any) -> None:
    copy = shutil.copytree("models/gpt", "weights/copy")
    assert states(trace(copy, HERE)) == dict.fromkeys(("files", *DATA), VERIFIED)
    before, after = flip_byte(Path(copy, "model.safetensors"))
    assert problems(trace(copy, HERE)) == [
        f"{copy}/model.safetensors has sha256 {after}, not {before}; copy the folder again"
    ]


def test_the_data_of_another_model_may_have_been_replaced(project: Any) -> None:
    copy = shutil.copytree("models/gpt", "weights/copy")
    before, after = flip_byte(Path("data/shards/manifest.json"))
    root = trace(copy, HERE)
    assert problems(root) == []
    assert node(root, "shards").state == NOT_HERE
    assert node(root, "shards").lines == [
        f"manifest.json sha256 {before}",
        f"data/shards has another one, sha256 {after}",
    ]


def test_imported_shards_end_the_way(
    tokens: Path, split: Any, train_tiny: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    from stages.shard import stage as shard
    from stages.shard.params import ShardParams

    made, files, root = tmp_path / "made", tmp_path / "files", tmp_path / "root"
    params = ShardParams(shard_tokens=1024, weights=None, max_repetition=1)
    shard.run(params, split, tokens, made)
    export_shards(Shards.open(made), "nanogpt", files)
    import_files(files, "nanogpt", named_tokenizer(files, None), root / "data/shards")
    train_tiny(root / "data/shards", root / "models/gpt")
    found = trace("models/gpt", root)
    assert states(found) == {"files": VERIFIED, "shards": VERIFIED}
    assert f"train.bin sha256 {file_sha256(files / 'train.bin')}" in node(found, "shards").lines
    assert node(found, "shards").children == []
    assert summary(found).startswith("every file, from the model to the imported shards, is")


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"files": 3, "model_id": ""}'])
def test_a_damaged_lineage_is_named(project: Any, content: str) -> None:
    Path("models/gpt/lineage.json").write_text(content)
    with pytest.raises(ValueError, match=r"^models/gpt/lineage\.json is not as it was written"):
        trace("models/gpt", HERE)


def test_a_run_whose_model_is_here_says_so(
    project: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _, logged = logged_model()
    for reference in (logged.source_run_id, f"runs:/{logged.source_run_id}"):
        text = printed(reference, capsys)
        assert f"model {lineage()['model_id']} in mlflow.db, {reference}" in text
        assert "the same model is in models/gpt" in text
        assert "files in models/gpt: verified" in text
        assert "corpus in data/corpus: verified" in text
    _, after = flip_byte(Path("models/gpt/model.safetensors"))
    (problem,) = problems(trace(logged.source_run_id, HERE))
    assert after in problem


def test_a_model_that_only_mlflow_has_is_traced_by_its_lineage(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    about = lineage()
    shutil.rmtree("models")
    client, logged = logged_model()
    client.create_registered_model("shakespeare")
    source = f"models:/{logged.model_id}"
    client.create_model_version("shakespeare", source, model_id=logged.model_id)
    client.set_registered_model_alias("shakespeare", "champion", "1")
    downloaded: list[str] = []
    download = LocalArtifactRepository.download_artifacts

    def note(store: Any, path: str, dst_path: str | None = None) -> Any:
        downloaded.append(path.rpartition("/")[2])
        return download(store, path, dst_path)

    monkeypatch.setattr(LocalArtifactRepository, "download_artifacts", note)
    for reference in (
        logged.source_run_id,
        source,
        "models:/shakespeare/1",
        "models:/shakespeare@champion",
    ):
        root = trace(reference, HERE)
        assert problems(root) == []
        assert root.title == f"model {about['model_id']} in mlflow.db, {reference}"
        n_files = len(about["files"]) + 1  # and the lineage itself
        assert root.lines[1].startswith(f"MLflow lists {n_files} files, ")
        assert root.lines[1].endswith("; models/gpt does not have this model")
        assert states(root) == {"files": NOT_HERE, **dict.fromkeys(DATA, VERIFIED)}
        assert node(root, "files").lines == [
            f"{file['name']} sha256 {file['sha256']}" for file in about["files"]
        ]
    assert set(downloaded) == {"MLmodel", "lineage.json"}


def test_a_file_that_mlflow_has_lost_is_found(project: Any) -> None:
    _, logged = logged_model()
    (weights,) = Path("mlartifacts/models", logged.model_id).rglob("model.safetensors")
    sha256 = file_sha256(weights)
    weights.unlink()
    assert problems(trace(f"models:/{logged.model_id}", HERE)) == [
        f"models:/{logged.model_id} has no model.safetensors (sha256 {sha256}), which its "
        "lineage.json lists; restore it in the artifact store"
    ]


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "nonsense",
        "models/other",
        "models:/shakespeare",
        "models:/shakespeare/latest",
        "models:/a/b/1",
        "models:/a@b@c",
        "runs:/12",
        "runs:/" + "a" * 32 + "/model",
        "file:///models/gpt",
        "A" * 32,
    ],
)
def test_nonsense_is_refused_with_what_is_allowed(
    workspace: Path, run_python: Callable[..., Any], reference: str
) -> None:
    if not reference:  # the current folder, which is no model
        with pytest.raises(ValueError, match=r"has no lineage\.json"):
            trace(reference, HERE)
        return
    with pytest.raises(ValueError) as refused:
        trace(reference, HERE)
    assert str(refused.value) == (
        f"{reference!r} is not a model: allowed are a folder such as models/gpt and, for models in "
        "MLflow, RUN_ID, runs:/RUN_ID, models:/NAME/VERSION, models:/NAME@ALIAS and models:/m-…"
    )
    assert list(workspace.iterdir()) == []


def test_the_command_refuses_what_is_no_model(
    workspace: Path, run_python: Callable[..., Any]
) -> None:
    for arguments, words in (
        (["nonsense"], "'nonsense' is not a model: allowed are "),
        ([], "there is no models/gpt yet; run `dvc repro train`"),
        (["a" * 32], f"there is no {'a' * 32}: nothing has been recorded in mlflow.db yet"),
    ):
        done = run_python("-m", "stages", "lineage", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"lineage: {words}")
        assert len(done.stderr.splitlines()) == 1
    assert list(workspace.iterdir()) == []


def test_what_mlflow_does_not_have_is_an_error(project: Any) -> None:
    client, logged = logged_model()
    client.create_registered_model("shakespeare")
    for reference in (
        "0" * 32,
        f"runs:/{'0' * 32}",
        "models:/m-" + "0" * 32,
        "models:/other/1",
        "models:/shakespeare/7",
        "models:/shakespeare@champion",
    ):
        with pytest.raises(ValueError, match=f"^mlflow.db has no {reference}: ") as unknown:
            trace(reference, HERE)
        assert "\n" not in str(unknown.value)
    run = client.create_run(logged.experiment_id).info.run_id
    with pytest.raises(ValueError, match=f"run {run} has no model: it has not finished training"):
        trace(run, HERE)


def test_a_model_that_is_not_ours_is_an_error(project: Any) -> None:
    _, logged = logged_model()
    (file,) = Path("mlartifacts/models", logged.model_id).rglob("MLmodel")
    file.write_text(file.read_text().replace("model:\n        path", "other:\n        path"))
    with pytest.raises(ValueError, match="was not logged by the stage `train`"):
        trace(f"models:/{logged.model_id}", HERE)


def test_a_server_that_is_down_is_a_network_error(
    workspace: Path, dead_url: str, run_python: Callable[..., Any]
) -> None:
    uri = dead_url.replace("://", f"://user:{SECRET}@")
    done = run_python("-m", "stages", "lineage", "a" * 32, MLFLOW_TRACKING_URI=uri)
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr.startswith(f"lineage: {'a' * 32} cannot be read from {dead_url}: ")
    assert SECRET not in done.stderr


def test_no_secret_is_printed(project: Any) -> None:
    about = lineage()
    code = {**about["code"], "git_changed": [f"notes-{SECRET}.txt"]}
    origin = {
        "folder": "weights/start",
        "sha256": hashlib.sha256(b"").hexdigest(),
        "source": {"nanogpt": f"https://me:{SECRET}@example.org/ckpt.pt", "sha256": {}},
    }
    (session,) = about["sessions"]
    edit_lineage(code=code, sessions=[{**session, "code": code}], init_from=origin)
    done = project.run(*COMMAND, HF_TOKEN=SECRET)
    assert done.returncode == 0
    assert "notes-***.txt" in done.stdout
    assert "https://example.org/ckpt.pt" in done.stdout
    assert SECRET not in done.stdout
    done = project.run(*COMMAND, f"models:/{SECRET}@", HF_TOKEN=SECRET)
    assert done.returncode == 2
    assert "'models:/***@' is not a model" in done.stdout


def corpus(**params: Any) -> list[str]:
    """Return the lines about a corpus of one part with these params."""
    section = {"path": "texts", "glob": "**/*", **params}
    files = [{"corpus": name, "documents": 2, "bytes": 1000} for name in params.get("mixture", "a")]
    return corpus_lines(
        {"corpus": section, "documents": 2_000, "bytes": 10_000_000, "files": files}
    )


def test_every_source_of_a_corpus_is_named() -> None:
    package = {"name": "shakespeare", "version": "0.6", "sha256": "a" * 64, "members": "*.txt"}
    urls = [{"url": "https://example.org/a.txt", "sha256": "b" * 64}]
    hub = {"name": "owner/texts", "config": None, "revision": "c" * 40, "split": "train"}
    first, *lines = corpus(source="package", package=package)
    assert first == "2,000 documents, 10,000,000 bytes"
    assert lines == ["from the Python package shakespeare 0.6, *.txt", f"package sha256 {'a' * 64}"]
    assert corpus(source="url", urls=urls)[1:] == [
        "from https://example.org/a.txt",
        f"sha256 {'b' * 64}",
    ]
    (line,) = corpus(source="huggingface", huggingface=hub)[1:]
    assert line == f"from the Hugging Face dataset owner/texts, split train, revision {'c' * 40}"
    assert corpus(source="files")[1:] == ["from files in texts, **/*"]
    mixture = {
        "plays": {"source": "package", "package": package},
        "notes": {"source": "files", "path": "texts/notes", "glob": "*.md"},
    }
    assert corpus(source="mixture", mixture=mixture)[1:] == [
        "plays: 2 documents, 1,000 bytes",
        "from the Python package shakespeare 0.6, *.txt",
        f"package sha256 {'a' * 64}",
        "notes: 2 documents, 1,000 bytes",
        "from files in texts/notes, *.md",
    ]


def test_the_origin_of_converted_weights_is_named() -> None:
    source = {"huggingface": "openai-community/gpt2", "revision": "d" * 40}
    files = {"sha256": {"model.safetensors": "e" * 64}}
    assert weights_lines({"source": {**source, **files}}) == [
        f"converted from openai-community/gpt2, revision {'d' * 40}",
        f"model.safetensors sha256 {'e' * 64}",
    ]
