"""The tokenizer that somebody names on a command line, or GPT-2's."""

import json
from pathlib import Path

from tiktoken_ext.openai_public import r50k_pat_str

from stages.tokenizers.gpt2 import gpt2_ranks
from stages.tokenizers.tokenizer import BpeTokenizer, Tokenizer, load_tokenizer

GPT2_IDS = (50_257, 50_304)  # as nanoGPT pads them


def chosen_tokenizer(name: str | None, ids: int) -> Tokenizer:
    """The tokenizer in a folder of ours, or GPT-2's for a model of as many ids.

    Raises ValueError when none is named and it cannot be GPT-2's.
    """
    if name is None and ids not in GPT2_IDS:
        raise ValueError(
            f"vocab_size is {ids}, GPT-2's is {GPT2_IDS[0]}; name the model's own tokenizer, a "
            "folder such as models/gpt/tokenizer, by --tokenizer"
        )
    if name in (None, "gpt2"):
        return BpeTokenizer.of(r50k_pat_str, gpt2_ranks())
    return own_tokenizer(Path(name))


def own_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a folder. Raises ValueError when there is none of ours."""
    try:
        return load_tokenizer(folder)
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} holds no tokenizer as `models/gpt/tokenizer` is one: {error!r}"
        ) from None
