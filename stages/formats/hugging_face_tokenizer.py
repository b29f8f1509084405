"""Our tokenizers as Hugging Face's `tokenizer.json`: the same ids for every text.

tiktoken knows the rank of each token and merges any two neighbours that make one, Hugging Face
knows the one pair that each token is made of. They agree when every token's bytes, merged by lower
ranks alone, end as two parts: then no other pair can be left standing by the time a token's rank is
the lowest. It is so for all that byte pair training makes; other ranks are refused.
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
    """The pair that a token of several bytes is made of.

    Raises ValueError when lower ranks do not make its parts.
    """
    parts, highest = [bytes([byte]) for byte in token], ranks[token]
    while len(parts) > 2:
        merged = [ranks.get(a + b, highest) for a, b in pairwise(parts)]
        lowest = min(merged)
        if lowest >= highest:
            raise ValueError(f"the tokenizer was not made by merges: none makes {token!r}")
        first = merged.index(lowest)
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts[0], parts[1]


def written(token: bytes) -> str:
    """A token in GPT-2's printable symbols, as Hugging Face keeps it."""
    return "".join(SYMBOLS[byte] for byte in token)


def written_vocabulary(ranks: dict[bytes, int]) -> dict[str, int]:
    """Every token, the separator last, and its id."""
    return {**{written(token): rank for token, rank in ranks.items()}, SEPARATOR: len(ranks)}


def bpe_model(ranks: dict[bytes, int]) -> models.BPE:
    """Hugging Face's byte pairs of these ranks. Raises ValueError as `last_merge` does."""
    made = [token for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1]
    pairs = [last_merge(token, ranks) for token in made]
    merges = [(written(first), written(second)) for first, second in pairs]
    return models.BPE(vocab=written_vocabulary(ranks), merges=merges)


def fast_tokenizer(tokenizer: Tokenizer) -> FastTokenizer:
    """The same tokenizer for Hugging Face's library."""
    if isinstance(tokenizer, BpeTokenizer):
        fast = FastTokenizer(bpe_model(tokenizer.ranks))
        split = pre_tokenizers.Split(Regex(tokenizer.pattern), "isolated")
        in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        fast.pre_tokenizer = pre_tokenizers.Sequence([split, in_bytes])
        fast.decoder = decoders.ByteLevel()
    else:
        assert isinstance(tokenizer, CharTokenizer)  # there are two kinds
        characters = [*tokenizer.characters, SEPARATOR]
        vocab = {character: number for number, character in enumerate(characters)}
        # Without an unknown token a character that the corpus did not have is refused, as ours is.
        fast = FastTokenizer(models.WordLevel(vocab))
        fast.pre_tokenizer = pre_tokenizers.Split(Regex(ANY_CHARACTER), "isolated")
        fast.decoder = decoders.Fuse()
    fast.add_special_tokens([AddedToken(SEPARATOR, normalized=False, special=True)])
    return fast


def save_fast_tokenizer(folder: Path, tokenizer: Tokenizer, *, block_size: int) -> None:
    """Write what `transformers.AutoTokenizer` reads into an existing folder.

    `split_special_tokens`: a separator typed inside a text is letters, as everywhere here.
    """
    fast_tokenizer(tokenizer).save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SEPARATOR,
        "eos_token": SEPARATOR,
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
    write_json(folder / "tokenizer_config.json", about)
