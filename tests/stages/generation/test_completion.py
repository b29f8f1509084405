"""From a prompt to its continuation: where it ends, and how many share a batch."""

from typing import Any

from nanogpt.model.files import read_config
from stages.generation import completion
from stages.tokenizers.tokenizer import CharTokenizer


def test_a_stop_string_is_noticed_when_its_last_id_comes() -> None:
    tokenizer = CharTokenizer("abé")
    ids = tokenizer.encode("abéab").tolist()
    found = [n for n in range(1, 6) if completion.stopped(ids[:n], ["éa"], tokenizer)]
    assert found[0] == 4
    assert completion.stopped([0, tokenizer.eot_token], [], tokenizer)
    assert not completion.stopped([tokenizer.eot_token, 0], [], tokenizer)


def test_long_texts_share_no_more_memory_than_short_ones(built: Any) -> None:
    config = read_config(built.folder / "models/gpt")
    long, short = (completion.rows_per_batch(config, tokens) for tokens in (1 << 20, 30))
    assert long * (1 << 20) * 8 <= completion.CACHE_BYTES < short * (1 << 20) * 8
