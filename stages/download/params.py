"""The section `corpus` of params.yaml: the source of the text, and how files become documents."""

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_serializer, field_validator, model_validator

from stages.download.encodings import check_encoding
from stages.lib.params import Section
from stages.runtime.redaction import redacted_address
from stages.runtime.yaml_files import DVC_FILE, read_params


def pattern_validator(pattern: str, allowed: str) -> AfterValidator:
    """Return a validator that refuses other strings and says in words what is allowed."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is not {allowed}")
        return text

    return AfterValidator(check)


def check_no_password(url: str) -> str:
    """Return the URL. Raises ValueError if it contains a username or a password."""
    if "@" in urlsplit(url).netloc:
        raise ValueError(
            f"{url} contains a username or password, which would be exposed in params.yaml and "
            "dvc.lock; put `machine HOST login USER password PASSWORD` into ~/.netrc instead"
        )
    return url


NAME = pattern_validator(
    r"[A-Za-z0-9._-]+", "a name of letters, digits, dots, dashes and underscores"
)
RELEASE = pattern_validator(r"[A-Za-z0-9.+!_-]+", "a version, such as 1.0.2")
ADDRESS = pattern_validator(
    r"https?://[^/?#\s].*", "an address such as https://example.org/text.txt"
)
SHA256 = pattern_validator(
    r"[0-9a-f]{64}", "64 digits of 0-9 and a-f, which `sha256sum FILE` prints"
)

PIPELINE = Path(__file__).parents[2] / DVC_FILE
# What DVC ignores (.dvcignore).
IGNORED = (".dvc", ".git", ".venv", "runs", "dvc_plots", "dvc_remote")


@lru_cache(maxsize=1)
def outputs() -> list[str]:
    """Return what the stages write, none of which can be a dependency of the first one."""
    stages = read_params(PIPELINE)["stages"].values() if PIPELINE.exists() else ()
    return [out for stage in stages for kind in ("outs", "metrics") for out in stage.get(kind, [])]


class Package(Section):
    """Files in a distribution from the Python package index."""

    name: Annotated[str, NAME]
    version: Annotated[str, RELEASE]
    sha256: Annotated[str, SHA256]
    members: str


class Url(Section):
    """One file on the web."""

    url: Annotated[str, ADDRESS, AfterValidator(check_no_password)]
    sha256: Annotated[str, SHA256]

    @field_serializer("url")
    def shown_url(self, url: str) -> str:
        """Leave the signature of a signed URL out of the manifest."""
        return redacted_address(url)


class HuggingFace(Section):
    """A dataset on the Hugging Face hub, or in the same layout in a local folder."""

    name: str
    config: str | None
    revision: str | None
    split: str
    max_documents: int | None = Field(ge=1)


class CorpusParams(Section):
    """Parameters of the stage `download`."""

    heading: ClassVar[str] = "where the text comes from; one document per file or row"

    source: Literal["package", "files", "url", "huggingface", "mixture"] = Field(
        description="package | files | url | huggingface | mixture"
    )
    path: str = Field(
        min_length=1, description="for files: your file or folder; DVC watches it for changes"
    )
    glob: str = Field(
        description=(
            "for files: which files to read (.txt .md .html .docx .odt .rtf .epub .pdf .jsonl "
            ".csv .tsv .parquet; also .gz .zst .xz, or inside a .zip or .tar)"
        )
    )
    separator: str | None = Field(
        min_length=1, description='split files into documents at this string, e.g. "\\n\\n\\n"'
    )
    text_column: str = Field(
        description="column with the text (.jsonl .csv .tsv .parquet huggingface)"
    )
    encoding: str = Field(description="file encoding: utf-8 | cp1252, shift_jis, … | auto: detect")
    package: Package | None = Field(description="for package: files from a Python package")
    urls: list[Url] = Field(description='for url: [{url: "https://…", sha256: "…"}]')
    huggingface: HuggingFace | None = Field(
        description="for huggingface: {name, config, revision, split, max_documents}"
    )
    mixture: dict[Annotated[str, NAME], "CorpusParams"] | None = Field(
        min_length=1,
        description=(
            "for mixture: {name: {source: …}, …}, each with the keys above; missing keys are "
            "inherited from here; its path must be inside path"
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def inherit_in_mixture(cls, content: Any) -> Any:
        """Fill in the keys that a corpus of a mixture leaves out with those of the section."""
        if not isinstance(content, dict) or not isinstance(content.get("mixture"), dict):
            return content
        own = {key: content[key] for key in cls.model_fields if key in content and key != "source"}
        own["mixture"] = None
        parts = content["mixture"].items()
        mixture = {
            name: {**own, **part} if isinstance(part, dict) else part for name, part in parts
        }
        return {**content, "mixture": mixture}

    @field_validator("path", mode="before")
    @classmethod
    def check_path_is_literal(cls, path: Any) -> Any:
        """Refuse `~` and `$VARIABLE` in the path, because DVC does not expand them."""
        if path is None:
            raise ValueError("DVC watches it whatever the source is; name a folder, such as texts")
        if isinstance(path, str) and not os.path.lexists(path):
            home = os.path.expanduser(path)  # noqa: PTH111  # Path's raises on an unknown user
            expanded = os.path.expandvars(home)
            if expanded != path:
                raise ValueError(
                    f"{path!r} is not expanded by DVC, which watches it; write {expanded}"
                )
        return path

    @field_validator("path")
    @classmethod
    def check_path_is_no_output(cls, path: str) -> str:
        """Refuse a path that is, holds or is inside something the pipeline itself writes."""
        root = Path(path).resolve()
        written = [Path(output).resolve() for output in outputs()]
        if any(root.is_relative_to(out) or out.is_relative_to(root) for out in written) or any(
            root.is_relative_to(Path(folder).resolve()) for folder in IGNORED
        ):
            raise ValueError(
                f"{path!r} is, or holds, what the pipeline itself writes; put your texts into a "
                "folder of their own, such as texts"
            )
        return path

    @field_validator("encoding")
    @classmethod
    def check_encoding_name(cls, encoding: str) -> str:
        """Refuse an unknown encoding before anything is downloaded."""
        return check_encoding(encoding)

    @field_validator("glob")
    @classmethod
    def check_glob(cls, glob: str) -> str:
        """Refuse a pattern that is not relative to `path`."""
        if not glob or glob.startswith(("/", "~")) or ".." in glob.split("/"):
            raise ValueError(f"{glob!r} must be a pattern inside corpus.path, such as '**/*.txt'")
        return glob

    @model_validator(mode="after")
    def check_source(self) -> "CorpusParams":
        """Require the keys of the chosen source."""
        missing = {
            "package": self.package is None and "package",
            "url": not self.urls and "urls",
            "huggingface": self.huggingface is None and "huggingface",
            "mixture": self.mixture is None and "mixture",
        }.get(self.source)
        if missing:
            raise ValueError(f"source is {self.source}, but corpus.{missing} is not set")
        return self

    @model_validator(mode="after")
    def check_mixture(self) -> "CorpusParams":
        """Refuse nested mixtures, and files outside of the folder that DVC watches."""
        for name, part in (self.mixture or {}).items():
            if part.source == "mixture":
                raise ValueError(f"mixture.{name} is a mixture itself; name its corpora here")
            path, watched = Path(part.path).absolute(), Path(self.path).absolute()
            inside = path.is_relative_to(watched) and ".." not in path.parts
            if part.source == "files" and not inside:
                raise ValueError(
                    f"mixture.{name}.path {part.path!r} is outside of corpus.path {self.path!r}, "
                    "which is what DVC watches; move it there, or set corpus.path to a parent "
                    "folder"
                )
        return self


SECTIONS = {"corpus": CorpusParams}
