"""What tests of single stages share: an empty folder, a web server, a package index, a corpus."""

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from stages.artifacts.clean import CleanCorpus
from stages.artifacts.corpus import VERSION
from stages.artifacts.shards import Shards
from stages.clean import stage as clean
from stages.clean.params import CleanParams
from stages.download import stage as download
from stages.download.corpus_writer import PartWriter, part_name
from stages.download.params import CorpusParams
from stages.download.readers import Document
from stages.lib.split import SplitParams
from stages.tokenize import stage as tokenize
from stages.tokenize.params import TokenizeParams
from stages.tokenize.pool import tokenize_locally
from stages.tokenizers.tokenizer import CharTokenizer, save_tokenizer

ROOT = Path(__file__).parents[2]
SPLIT = SplitParams(val_fraction=0.3, seed=1)
CLEAN = CleanParams(
    unicode=None,
    min_bytes=None,
    max_bytes=None,
    filters=[],
    deduplicate=True,
    near_duplicates=None,
)

# A build backend of its own lets pip read the sdist's metadata without fetching setuptools.
BACKEND = """
from pathlib import Path

def prepare_metadata_for_build_wheel(folder, settings=None):
    made = Path(folder, "{name}-{version}.dist-info")
    made.mkdir()
    made.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
    )
    return made.name

def build_wheel(folder, settings=None, metadata=None):
    raise SystemExit("nobody asked for a wheel")
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@dataclass(frozen=True)
class Answer:
    """What a page says; a body `cut` short ends before its announced length, as one that stalls.

    With an `etag` it can be asked for from a byte on.
    """

    status: int = 200
    body: bytes = b""
    cut: bool = False
    stall: bool = False
    etag: str = ""
    headers: tuple[tuple[str, str], ...] = ()


class Site(ThreadingHTTPServer):
    """A web server on this machine that answers as it is set and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SiteHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[str] = []
        self.ranges: list[str] = []  # the header Range of each request, or ""
        self.logins: list[str] = []  # the header Authorization of each request, or ""
        self.closing = threading.Event()

    def put(self, path: str, *answers: Answer | bytes) -> str:
        """Give these answers one after the other, the last one for ever; the page's address."""
        self.answers[path] = [Answer(body=a) if isinstance(a, bytes) else a for a in answers]
        return self.url + path


class SiteHandler(BaseHTTPRequestHandler):
    """Answers from the site's list; 404 where there is none."""

    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.ranges.append(self.headers.get("Range", ""))
        self.server.logins.append(self.headers.get("Authorization", ""))
        answers = self.server.answers.get(self.path.split("?")[0], [Answer(404)])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        status, first, body = answer.status, 0, answer.body
        if answer.etag and self.headers.get("If-Range") == answer.etag:
            first = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            status, body = (206, body[first:]) if first < len(body) else (416, b"")
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body) + (answer.cut or answer.stall)))
        if answer.etag:
            self.send_header("ETag", answer.etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/*")
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if answer.stall:
            self.server.closing.wait(10)

    def log_message(self, format: str, *values: object) -> None:
        """Keep the tests' output quiet."""


@dataclass(frozen=True)
class Index:
    """A package index on this machine; pip is pointed at it."""

    site: Site

    def add(self, project: str, file_name: str, content: bytes) -> str:
        """Offer one file of a project; its sha256."""
        self.site.put(f"/files/{file_name}", content)
        link = f'<a href="/files/{file_name}">{file_name}</a>'
        self.site.put(f"/simple/{project}/", f"<!DOCTYPE html><html>{link}</html>".encode())
        return hashlib.sha256(content).hexdigest()

    def add_wheel(self, project: str, version: str, files: dict[str, bytes]) -> str:
        """Offer a wheel with these files; its sha256."""
        about = f"{project}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
        wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            file.mkdir(f"{project}")
            for path, data in files.items():
                file.writestr(path, data)
            file.writestr(f"{about}/METADATA", metadata)
            file.writestr(f"{about}/WHEEL", wheel)
            file.writestr(f"{about}/RECORD", "")
        return self.add(project, f"{project}-{version}-py3-none-any.whl", content.getvalue())

    def add_sdist(self, project: str, version: str, files: dict[str, bytes]) -> str:
        """Offer a source distribution with these files; its sha256."""
        root = f"{project}-{version}"
        metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
        backend = BACKEND.format(name=project, version=version)
        own = {"PKG-INFO": metadata, "pyproject.toml": PYPROJECT, "backend.py": backend}
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as tar:
            for path, data in {**{k: v.encode() for k, v in own.items()}, **files}.items():
                member = tarfile.TarInfo(f"{root}/{path}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return self.add(project, f"{root}.tar.gz", content.getvalue())


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; no settings, proxies, pip configuration or home from outside."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith(("NANOGPT_", "PIP_", "HF_", "DVC_")) or name.lower().endswith(
            "_proxy"
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def site() -> Iterator[Site]:
    """A running web server."""
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds slept, which take none."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


@pytest.fixture(scope="session")
def make_answer() -> type[Answer]:
    """Makes an answer of the site that is no plain 200."""
    return Answer


@pytest.fixture
def index(workspace: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Index:
    """A running package index."""
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple/")
    return Index(site)


@pytest.fixture
def dead_url() -> Iterator[str]:
    """An address where nobody listens, held so that nobody else begins to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def run_python(workspace: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs Python in the workspace with the project's packages, and variables of the test's own."""

    def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=workspace,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
            capture_output=True,
            text=True,
        )

    return run


def corpus_of(texts: list[str], folder: Path) -> CleanCorpus:
    """The corpus that the stages download and clean make of these texts."""
    folder.mkdir(parents=True)
    lines = folder / "texts.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    params = CorpusParams(
        source="files",
        path=str(lines),
        glob="*",
        separator=None,
        text_column="text",
        encoding="utf-8",
        package=None,
        urls=[],
        huggingface=None,
        mixture=None,
    )
    download.run(params, folder / "corpus")
    clean.run(CLEAN, folder / "corpus", folder / "clean")
    return CleanCorpus.open(folder / "corpus", folder / "clean")


def corpus_in_parts(parts: list[list[str]], folder: Path) -> CleanCorpus:
    """A corpus with one file for each list of texts, as `download` writes many."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    files = []
    for number, texts in enumerate(parts):
        part = PartWriter(corpus / part_name(number))
        for row, text in enumerate(texts):
            part.add(Document(f"{number}#{row}", text, "test"))
        files.append(asdict(part.close("corpus")))
    (corpus / "manifest.json").write_text(json.dumps({"version": VERSION, "files": files}))
    clean.run(CLEAN, corpus, folder / "clean")
    return CleanCorpus.open(corpus, folder / "clean")


@pytest.fixture(scope="session")
def make_parts() -> Callable[[list[list[str]], Path], CleanCorpus]:
    """Makes a corpus of several parts, given by their texts."""
    return corpus_in_parts


@pytest.fixture(scope="session")
def make_corpus() -> Callable[[list[str], Path], CleanCorpus]:
    """Makes the corpus of some texts in a new folder."""
    return corpus_of


def shards_of(splits: dict[str, list[str]], folder: Path) -> Shards:
    """The shards of these texts by split, an id for each character, without the stages before."""
    letters = {letter for texts in splits.values() for text in texts for letter in text}
    tokenizer = CharTokenizer("".join(sorted(letters)))
    save_tokenizer(folder / "tokenizer", tokenizer)
    described = {}
    for split, texts in splits.items():
        (folder / split).mkdir()
        parts = [[*tokenizer.encode(text), tokenizer.eot_token] for text in texts]
        tokens = np.concatenate(parts).astype(np.uint16)
        np.save(folder / split / "00000.npy", tokens)
        described[split] = {
            "documents": len(texts),
            "tokens": len(tokens),
            "bytes": sum(len(text.encode()) for text in texts),
            "files": [{"name": "00000.npy", "tokens": len(tokens)}],
        }
    about = {"dtype": "uint16", "n_vocab": tokenizer.n_vocab, "separator": tokenizer.eot_token}
    return Shards(folder=folder, manifest={**about, "splits": described})


@pytest.fixture(scope="session")
def make_shards() -> Callable[[dict[str, list[str]], Path], Shards]:
    """Makes shards of texts, given by split, in a new folder."""
    return shards_of


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty tokenized documents next to their corpus; a test that changes them makes a copy."""
    folder = tmp_path_factory.mktemp("data") / "data"
    texts = [f"{n}: " + "the quick brown fox. " * (5 + n % 7) for n in range(40)]
    corpus = corpus_of(texts, folder)
    char = TokenizeParams(tokenizer="char", vocab_size=None, engine="tiktoken")
    here = partial(tokenize_locally, workers=1)
    tokenize.run(
        char, SPLIT, corpus, folder / "tokens", cache=folder / "cache", tokenize_parts=here
    )
    return folder / "tokens"


@pytest.fixture(scope="session")
def train_tiny() -> Callable[[Path, Path], None]:
    """Trains the smallest of models on some shards, for one update, into a new folder."""
    from stages.runtime.settings import Settings
    from stages.runtime.yaml_files import read_params
    from stages.train.params import ModelParams, TrainParams
    from stages.train.stage import identity_of
    from stages.train.worker import TrainWorker  # torch, which most tests here do without

    def train_on(shards: Path, out: Path) -> None:
        read = read_params(ROOT / "params.yaml")
        tiny = {"block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 16}
        short = {"batch_tokens": 32, "max_steps": 1, "warmup": 0, "decay": 0}
        model = ModelParams(**{**read["model"], **tiny})
        identity = identity_of(model, TrainParams(**{**read["train"], **short}), shards)
        folder = out.parent / "state"
        folder.mkdir(parents=True)
        (folder / "identity.json").write_text(json.dumps(identity))
        settings = Settings(device="cpu", tracking=False)
        assert (
            TrainWorker(folder, Shards.open(shards), out, settings, threading.Event())
            .run()
            .finished
        )

    return train_on


@pytest.fixture(scope="session")
def split() -> SplitParams:
    """The split that goes with the `tokens`."""
    return SPLIT


@pytest.fixture(scope="session")
def gpt2_file() -> Path:
    """GPT-2's ranks as `make setup` keeps them; fetched in the same way when they are missing."""
    file = ROOT / ".cache" / "gpt2.tiktoken"
    if not file.is_file():
        subprocess.run([sys.executable, "-m", "stages", "gpt2-vocabulary"], cwd=ROOT, check=True)
    return file


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """Reads the sha256 of every file in a folder."""

    def read(folder: Path) -> dict[str, str]:
        return {
            file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in folder.rglob("*")
            if file.is_file()
        }

    return read
