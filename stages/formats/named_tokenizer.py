"""The tokenizer of another program's model or files, by name: GPT-2's, or one in a folder."""

import json
from pathlib import Path

from stages.tokenizers.gpt2 import gpt2_ranks
from stages.tokenizers.pretokenize import GPT2_PATTERN
from stages.tokenizers.tokenizer import BpeTokenizer, Tokenizer, load_tokenizer

GPT2_VOCAB_SIZES = (50_257, 50_304)  # nanoGPT pads the vocabulary to a multiple of 64


def tokenizer_named(name: str) -> Tokenizer:
    """Return GPT-2's tokenizer for the name `gpt2`, and the one in a folder for any other name."""
    if name == "gpt2":
        return BpeTokenizer.of(GPT2_PATTERN, gpt2_ranks())
    return own_tokenizer(Path(name))


def own_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer in a folder. Raises ValueError if it is not in our format."""
    try:
        return load_tokenizer(folder)
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} holds no tokenizer like `models/gpt/tokenizer`: {error!r}"
        ) from None
