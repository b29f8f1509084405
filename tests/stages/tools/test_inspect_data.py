"""`inspect-data` shows what is in the shards and what training will read."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from nanogpt.data.order import WindowOrder
from stages.__main__ import parsed
from stages.artifacts.shards import Shards
from stages.lib.split import SplitParams
from stages.runtime.settings import Settings
from stages.shard.params import ShardParams
from stages.shard.stage import run as run_shard
from stages.tokenizers.tokenizer import BpeTokenizer, CharTokenizer, Tokenizer, load_tokenizer
from stages.tools import inspect_data
from stages.tools.inspect_data import Piece, Printer, pieces

ROOT = Path(__file__).parents[3]
BLOCK_SIZE, SEED = 32, 5
BYTES = BpeTokenizer.of(r"[\s\S]", {bytes([b]): b for b in range(256)})
Show = Callable[..., str]


@pytest.fixture
def shards(workspace: Path, tokens: Path, split: SplitParams) -> Shards:
    """Create a project with shards and params."""
    params = (ROOT / "params.yaml").read_text()
    params = re.sub(r"block_size: \d+", f"block_size: {BLOCK_SIZE}", params)
    params = re.sub(r"(\ntrain:.*\n(?:  .*\n)*?  seed:) \d+", rf"\g<1> {SEED}", params)
    (workspace / "params.yaml").write_text(params)
    run_shard(
        ShardParams(shard_tokens=1024, weights=None, max_repetition=1),
        split,
        tokens,
        workspace / "data/shards",
    )
    return Shards.open(workspace / "data/shards")


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """Return a function that runs the command and returns its output."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        inspect_data.run_tool(parsed("inspect-data", inspect_data, [*arguments]), Settings())
        return capsys.readouterr().out

    return run


def shown(out: str) -> list[str]:
    """Return the text under each heading, with the tokens joined."""
    return [
        part.partition("\n")[2].rstrip("\n").replace("|", "") for part in out.split("\n--- ")[1:]
    ]


def joined(text: str) -> str:
    """Return a text as `shown` returns it."""
    return text.replace("|", "")


def test_windows_are_the_first_that_training_reads(shards: Shards, show: Show) -> None:
    stream, tokenizer = shards.stream("train"), load_tokenizer(shards.tokenizer_folder)
    order = WindowOrder(n_tokens=len(stream), block_size=BLOCK_SIZE, seed=SEED)
    starts = order.starts(np.arange(3)).tolist()
    expected = [stream.read(s, s + BLOCK_SIZE + 1).tolist() for s in starts]
    out = show("--documents", "0", "--windows", "3")
    assert shown(out) == [joined(tokenizer.decode(ids)) for ids in expected]
    assert f"window 1 of {order.windows_per_epoch:,} in the first epoch" in out
    assert out.count("|") > 3 * BLOCK_SIZE


def test_validation_windows_are_those_that_evaluate_reads(shards: Shards, show: Show) -> None:
    stream, tokenizer = shards.stream("val"), load_tokenizer(shards.tokenizer_folder)
    first = [tokenizer.eot_token, *stream.read(0, BLOCK_SIZE).tolist()]
    half = BLOCK_SIZE // 2  # the stride of params.yaml is half a window
    second = stream.read(half - 1, half + BLOCK_SIZE).tolist()
    out = show("--split", "val", "--documents", "0")
    assert shown(out) == [joined(tokenizer.decode(ids)) for ids in (first, second)]


def test_short_documents_are_shown_in_full(shards: Shards, show: Show) -> None:
    count = len(shards.ends("val"))
    out = show("--split", "val", "--windows", "0", "--documents", "100")
    text = load_tokenizer(shards.tokenizer_folder).decode(
        shards.stream("val").read(0, len(shards.stream("val"))).tolist()
    )
    documents = [joined(document + "<|endoftext|>") for document in text.split("<|endoftext|>")]
    short = [
        document for document in documents[:-1] if len(document) <= 2 * inspect_data.SHOWN_TOKENS
    ]
    assert len(short) > 3
    assert set(short) < set(shown(out))
    assert len(re.findall(r"--- document \d+ of", out)) == count


def test_the_beginning_and_the_end_of_a_long_document_are_shown(
    shards: Shards, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect_data, "SHOWN_TOKENS", 10)
    out = show("--windows", "0", "--documents", "1", "--seed", "1")
    number = int(re.findall(r"document (\d+) of", out)[0])
    ends = shards.ends("train").tolist()
    start, end = ([0, *ends])[number - 1], ends[number - 1]
    decode = load_tokenizer(shards.tokenizer_folder).decode
    ids = shards.stream("train").read(start, end).tolist()
    assert shown(out) == [joined(decode(ids[:10])), joined(decode(ids[-11:]))]
    assert f"{len(ids) - 1:,} tokens\n" in out
    assert f"--- {len(ids) - 21:,} tokens later" in out


def test_a_seed_determines_the_sample(shards: Shards, show: Show) -> None:
    first = show("--seed", "1")
    assert show("--seed", "1") == first != show("--seed", "2")
    assert "window 1 of" not in first


def test_ids_are_shown_on_request(shards: Shards, show: Show) -> None:
    order = WindowOrder(n_tokens=len(shards.stream("train")), block_size=BLOCK_SIZE, seed=SEED)
    start = int(order.starts(np.arange(1))[0])
    ids = shards.stream("train").read(start, start + BLOCK_SIZE + 1).tolist()
    assert show("--documents", "0", "--windows", "1", "--ids").endswith(
        "\n" + " ".join(map(str, ids)) + "\n"
    )


def test_missing_shards_are_reported_with_the_command_that_makes_them(
    workspace: Path, show: Show
) -> None:
    with pytest.raises(
        ValueError, match=r"manifest\.json is missing; run `dvc repro shard` to create it"
    ):
        show()


def test_a_negative_number_is_refused(
    workspace: Path, show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        show("--documents", "-1")
    assert "'-1' is not a non-negative integer" in capsys.readouterr().err


def test_tokens_that_form_one_character_are_shown_together() -> None:
    ids = BYTES.encode("né€😀").tolist()
    assert [piece.text for piece in pieces(ids, BYTES)] == ["n", "é", "€", "😀"]
    assert list(pieces(ids[2:4], BYTES)) == [
        Piece(tokens=[0xA9], text="\ufffd"),
        Piece(tokens=[0xE2], text="\ufffd"),
    ]


def printed(text: str, tokenizer: Tokenizer, **terminal: object) -> str:
    """Print a document's tokens; return the output."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, **terminal)  # type: ignore[arg-type]
    ids = [*tokenizer.encode(text).tolist(), tokenizer.eot_token]
    Printer(console, tokenizer, ids=False).tokens(ids)
    return file.getvalue()


def test_on_a_terminal_tokens_differ_by_colour() -> None:
    out = printed("ab", CharTokenizer("ab"), color_system="standard")
    assert "|endoftext|" in out
    assert "a|b" not in out
    before_a, before_b = re.findall(r"(\x1b\[[\d;]+m)[ab]\x1b", out)
    assert before_a != before_b


def test_without_colours_bars_separate_the_tokens() -> None:
    out = printed("ab", CharTokenizer("ab"), color_system="standard", no_color=True)
    assert "a|b|<|endoftext|>" in re.sub(r"\x1b\[[\d;]*m", "", out)


def test_a_text_cannot_control_the_terminal() -> None:
    out = printed("a\x1b[31m\x9b\x7f\tb[red]", BYTES, color_system=None)
    assert "\x1b" not in out
    assert "\x9b" not in out
    assert out.startswith("a|␛|[|3|1|m|")
    assert out.rstrip("\n").endswith("|␡|␉|b|[|r|e|d|]|<|endoftext|>")
