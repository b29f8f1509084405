"""Conversion of our tokenizers to Hugging Face's `tokenizer.json`: the same tokens for every text.

tiktoken has the rank of each token and merges any two neighbors that form a token; Hugging Face
has one pair of parts for each token. The two agree if the bytes of every token, merged by lower
ranks only, end up as two parts: then no other pair can be left by the time the token's own rank is
the lowest. That is true of all ranks from byte pair training; other ranks are refused.
"""

from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from nanogpt.files import write_json
from stages.tokenizers.gpt2 import byte_symbols
from stages.tokenizers.tokenizer import SEPARATOR, BpeTokenizer, CharTokenizer, Tokenizer

ANY_CHARACTER = r"[\s\S]"
SYMBOLS = byte_symbols()


def last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two parts that merge into a token of several bytes.

    Raises ValueError if merges of lower ranks do not lead to two parts.
    """
    parts, highest = [bytes([byte]) for byte in token], ranks[token]
    while len(parts) > 2:
        merged = [ranks.get(a + b, highest) for a, b in pairwise(parts)]
        lowest = min(merged)
        if lowest >= highest:
            raise ValueError(f"this is not a BPE tokenizer: no merge produces {token!r}")
        first = merged.index(lowest)
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts[0], parts[1]


def to_symbols(token: bytes) -> str:
    """Return a token in GPT-2's printable symbols, as Hugging Face stores it."""
    return "".join(SYMBOLS[byte] for byte in token)


def symbol_vocabulary(ranks: dict[bytes, int]) -> dict[str, int]:
    """Return the id of each token in symbols, the end-of-text token last."""
    return {**{to_symbols(token): rank for token, rank in ranks.items()}, SEPARATOR: len(ranks)}


def bpe_model(ranks: dict[bytes, int]) -> models.BPE:
    """Return Hugging Face's BPE model of these ranks. Raises ValueError as `last_merge` does."""
    merged_tokens = [token for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1]
    pairs = [last_merge(token, ranks) for token in merged_tokens]
    merges = [(to_symbols(first), to_symbols(second)) for first, second in pairs]
    return models.BPE(vocab=symbol_vocabulary(ranks), merges=merges)


def fast_tokenizer(tokenizer: Tokenizer) -> FastTokenizer:
    """Convert a tokenizer to one of Hugging Face's library."""
    if isinstance(tokenizer, BpeTokenizer):
        fast = FastTokenizer(bpe_model(tokenizer.ranks))
        split = pre_tokenizers.Split(Regex(tokenizer.pattern), "isolated")
        in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        fast.pre_tokenizer = pre_tokenizers.Sequence([split, in_bytes])
        fast.decoder = decoders.ByteLevel()
    else:
        assert isinstance(tokenizer, CharTokenizer)  # the only other kind
        characters = [*tokenizer.characters, SEPARATOR]
        vocab = {character: number for number, character in enumerate(characters)}
        # Without an unknown token, a character that was not in the corpus is refused, as in ours.
        fast = FastTokenizer(models.WordLevel(vocab))
        fast.pre_tokenizer = pre_tokenizers.Split(Regex(ANY_CHARACTER), "isolated")
        fast.decoder = decoders.Fuse()
    fast.add_special_tokens([AddedToken(SEPARATOR, normalized=False, special=True)])
    return fast


def save_fast_tokenizer(folder: Path, tokenizer: Tokenizer, *, block_size: int) -> None:
    """Write the files that `transformers.AutoTokenizer` reads into an existing folder.

    `split_special_tokens`: the end-of-text token spelled out in a text is plain text, as
    everywhere in this project.
    """
    fast_tokenizer(tokenizer).save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SEPARATOR,
        "eos_token": SEPARATOR,
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
    write_json(folder / "tokenizer_config.json", config)
