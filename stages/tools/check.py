"""Check the entire params file, as is done before any stage runs: `python -m stages check [FILE]`.

A mistake in a late section stops the first stage, not the last. Constraints that span sections are
checked here too.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from stages.artifacts.weights import check_initial_folder
from stages.clean.filters import filter_file
from stages.clean.params import FILTERS, CleanParams
from stages.download.params import CorpusParams
from stages.evaluate.params import EvaluateParams, stride_in
from stages.lib.params import Section, parse_section, unknown_key
from stages.runtime.settings import Settings
from stages.runtime.yaml_files import PARAMS_FILE, ParamsError, read_params
from stages.sample.params import SampleParams
from stages.tokenizers.tokenizer import Tokenizer, load_tokenizer
from stages.train.params import ModelParams, TrainParams, check_batch

TOKENIZER = Path("data/shards/tokenizer")


def all_sections() -> dict[str, type[Section]]:
    """Return the sections that the stages declare in their `params.py`, by name."""
    sections: dict[str, type[Section]] = {}
    for file in sorted(Path(__file__).parents[1].glob("*/stage.py")):
        if file.with_name("params.py").exists():
            sections |= import_module(f"stages.{file.parent.name}.params").SECTIONS
    return sections


SECTIONS = all_sections()


def check_params(file: Path) -> dict[str, Section]:
    """Return every section of a params file. Raises ParamsError naming every problem."""
    return check_content(read_params(file), file)


def check_content(content: Mapping[str, Any], file: Path) -> dict[str, Section]:
    """Return every section of the content of `file`; raises as `check_params` does."""
    problems = [
        f"{file}: {unknown_key(str(key), list(SECTIONS))}" for key in content if key not in SECTIONS
    ]
    problems += [
        f"{file}: the section `{key}:` is missing" for key in SECTIONS if key not in content
    ]
    sections: dict[str, Section] = {}
    for name in [name for name in SECTIONS if name in content]:
        try:
            sections[name] = parse_section(name, SECTIONS[name], content[name], file)
        except ParamsError as error:
            problems.append(str(error))
    if not problems:
        problems = [f"{file}: {problem}" for problem in cross_check(sections)]
    if problems:
        raise ParamsError("\n".join(problems))
    return sections


def check_project() -> None:
    """Raise ValueError for anything that would stop DVC or the pipeline before its first stage."""
    from stages.download.folder import check_watched  # slow to import

    corpus = check_params(PARAMS_FILE)["corpus"]
    assert isinstance(corpus, CorpusParams)
    check_watched(Path(corpus.path))
    check_watched(FILTERS)


def cross_check(sections: dict[str, Section]) -> list[str]:
    """What does not fit between sections."""
    model, train, evaluate = sections["model"], sections["train"], sections["evaluate"]
    assert isinstance(model, ModelParams)
    assert isinstance(train, TrainParams)
    assert isinstance(evaluate, EvaluateParams)
    problems, block_size = [], model.shape().block_size
    try:
        check_batch(model, train)
    except ValueError as error:
        problems.append(str(error))
    if evaluate.context is not None and evaluate.context > block_size:
        problems.append(
            f"evaluate.context {evaluate.context} is more than model.block_size {block_size}"
        )
    elif evaluate.context is None:
        try:
            stride_in(block_size, evaluate.stride)
        except ValueError as error:
            problems.append(str(error))
    return problems


def check_before(stage: str) -> None:
    """Raise ValueError for anything known in advance that would stop this stage or a later one."""
    sections = check_params(PARAMS_FILE)
    check_experiment(sections["corpus"])
    clean, train, sample = sections["clean"], sections["train"], sections["sample"]
    assert isinstance(clean, CleanParams)
    assert isinstance(train, TrainParams)
    assert isinstance(sample, SampleParams)
    for name in clean.filters:
        filter_file(FILTERS, name)
    if train.init_from:
        check_initial_folder(Path(train.init_from))
    if stage == "train" and TOKENIZER.exists():  # known now, before the long training
        check_prompts(sample.prompts, load_tokenizer(TOKENIZER))


def check_experiment(corpus: Section) -> None:
    """Raise ValueError if DVC runs an experiment in a copy of the project that lacks texts.

    Checked before every stage: `download` may be up to date with what the copy has.
    """
    workspace = Path(os.environ.get("DVC_ROOT", ""))
    if not workspace.is_absolute() or workspace.resolve() == Path.cwd():
        return
    from stages.download.folder import check_copy

    assert isinstance(corpus, CorpusParams)
    check_copy(corpus, Path.cwd(), workspace)


def check_prompts(prompts: Sequence[str], tokenizer: Tokenizer) -> None:
    """Raise ParamsError for a prompt that the tokenizer cannot encode."""
    for prompt in prompts:
        try:
            tokenizer.encode(prompt)
        except ValueError as error:
            raise ParamsError(f"{PARAMS_FILE}: sample.prompts: {error}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, default=PARAMS_FILE)


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages check [FILE]`."""
    if options.file == PARAMS_FILE:
        check_project()
    else:
        check_params(options.file)
