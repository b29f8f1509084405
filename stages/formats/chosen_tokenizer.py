"""The tokenizer named on a tool's command line, or GPT-2's."""

import json
from pathlib import Path

from tiktoken_ext.openai_public import r50k_pat_str

from stages.tokenizers.gpt2 import gpt2_ranks
from stages.tokenizers.tokenizer import BpeTokenizer, Tokenizer, load_tokenizer

GPT2_VOCAB_SIZES = (50_257, 50_304)  # nanoGPT pads the vocabulary to a multiple of 64


def chosen_tokenizer(name: str | None, vocab_size: int) -> Tokenizer:
    """Return the tokenizer in the folder `name`, or GPT-2's for a model with its vocabulary size.

    Raises ValueError if no folder is named and `vocab_size` is not GPT-2's.
    """
    if name is None and vocab_size not in GPT2_VOCAB_SIZES:
        raise ValueError(
            f"vocab_size is {vocab_size}, GPT-2's is {GPT2_VOCAB_SIZES[0]}; name the model's own "
            "tokenizer, a folder such as models/gpt/tokenizer, by --tokenizer"
        )
    if name in (None, "gpt2"):
        return BpeTokenizer.of(r50k_pat_str, gpt2_ranks())
    return own_tokenizer(Path(name))


def own_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer in a folder. Raises ValueError if it is not in our format."""
    try:
        return load_tokenizer(folder)
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} holds no tokenizer like `models/gpt/tokenizer`: {error!r}"
        ) from None
