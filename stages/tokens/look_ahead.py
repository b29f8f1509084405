r"""GPT-2's pattern without its look-ahead: tiktoken at twice its speed, the same ids.

Of several white spaces in a row GPT-2's pattern leaves the last to the word that follows, by
`\s+(?!\S)`. For this one look-ahead tiktoken must match by backtracking instead of by an automaton.
Here a mark is set before that last white space instead. The mark is a special token, so tiktoken
cuts the text there, and what is left of the pattern needs to look ahead nowhere.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tiktoken
from numpy.typing import NDArray

from stages.tokens.tokenizer import BpeTokenizer

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"

MARK = "\ufdd0"  # not a character (Unicode 3.1) and so hardly in any text; one that has it is seen

# White_Space as tiktoken's engine has it in `\s`; what marks know by that name is ASCII alone.
SPACES = r"\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
LAST_OF_SEVERAL = f"([{SPACES}])([{SPACES}][^{SPACES}])"


@dataclass(frozen=True)
class MarkedEncoding:
    """GPT-2's encoding for texts with marks."""

    encoding: tiktoken.Encoding
    mark: int  # its id

    @classmethod
    def of(cls, tokenizer: BpeTokenizer) -> "MarkedEncoding":
        """Of a tokenizer with GPT-2's pattern, whatever its ranks."""
        mark = tokenizer.n_vocab
        encoding = tiktoken.Encoding(
            "marked",
            pat_str=PATTERN,
            mergeable_ranks=tokenizer.ranks,
            special_tokens={MARK: mark},
        )
        return cls(encoding, mark)

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Ids of a marked text, those of the marks left out."""
        ids: NDArray[np.uint32] = np.asarray(
            self.encoding.encode_to_numpy(text, allowed_special={MARK}, disallowed_special=())
        )
        return np.extract(ids != self.mark, ids)


def have_mark(texts: pa.Array) -> bool:
    """Whether the mark is in one of the texts already."""
    return bool(pc.any(pc.match_substring(texts, MARK)).as_py())


def marked(texts: pa.Array) -> pa.Array:
    """Texts with a mark before the last of several white spaces that a word follows."""
    return pc.replace_substring_regex(texts, pattern=LAST_OF_SEVERAL, replacement=rf"\1{MARK}\2")
