"""What is checked before a run: a mistake in a late section stops the first stage, not the last."""

import os
from collections.abc import Sequence
from pathlib import Path

from stages.artifacts.shards import SHARDS
from stages.artifacts.weights import check_initial_folder
from stages.clean.filters import filter_file
from stages.clean.params import FILTERS, CleanParams
from stages.download.params import CorpusParams
from stages.lib.params import Section
from stages.params.sections import check_params
from stages.runtime.yaml_files import PARAMS_FILE, ParamsError
from stages.sample.params import SampleParams
from stages.tokenizers.tokenizer import Tokenizer, load_tokenizer
from stages.train.params import TrainParams

TOKENIZER = SHARDS / "tokenizer"


def check_project() -> None:
    """Raise ValueError for anything that would stop DVC or the pipeline before its first stage."""
    from stages.download.folder import check_watched  # slow to import

    corpus = check_params(PARAMS_FILE)["corpus"]
    assert isinstance(corpus, CorpusParams)
    check_watched(Path(corpus.path))
    check_watched(FILTERS)


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
