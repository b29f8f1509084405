"""All sections of params.yaml, checked together: constraints that span sections are here too."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from stages.evaluate.params import EvaluateParams, stride_in
from stages.lib.params import Section, parse_section, unknown_key
from stages.runtime.yaml_files import ParamsError, read_params
from stages.train.params import ModelParams, TrainParams, check_batch


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
