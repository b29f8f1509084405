import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.params.presets import preset_text
from stages.params.sections import SECTIONS, check_content
from stages.runtime.yaml_files import ParamsError, parse_params, read_params
from stages.tools.preset import use

ROOT = Path(__file__).parents[3]
PRESETS = ROOT / "presets"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda file: file.stem)
def test_each_preset_is_valid(preset: Path) -> None:
    assert check_content(parse_params(preset_text(preset), preset), preset)


def test_the_project_comes_with_the_first_preset_in_place() -> None:
    """Its comments are the descriptions of the keys: nobody writes them into the file."""
    assert (ROOT / "params.yaml").read_text() == preset_text(PRESETS / "shakespeare.yaml")


def test_a_preset_is_put_in_place(params: Path) -> None:
    assert use("shakespeare-char", PRESETS, params) is None
    assert params.read_text() == preset_text(PRESETS / "shakespeare-char.yaml")
    own, found = read_params(PRESETS / "shakespeare-char.yaml"), read_params(params)
    for section, values in own.items():
        assert found[section].items() >= values.items()
    assert found["corpus"] == read_params(PRESETS / "shakespeare.yaml")["corpus"]


def test_params_that_equal_a_preset_are_not_kept(params: Path) -> None:
    use("shakespeare", PRESETS, params)
    assert use("shakespeare-char", PRESETS, params) is None
    assert list(params.parent.iterdir()) == [params]


def test_edited_params_are_kept_next_to_it(params: Path) -> None:
    params.write_text("mine: {}\n")
    saved = use("shakespeare", PRESETS, params)
    assert saved is not None
    assert re.fullmatch(r"params\.\d{8}-\d{6}\.yaml", saved.name)
    assert saved.read_text() == "mine: {}\n"
    assert params.read_text() == preset_text(PRESETS / "shakespeare.yaml")
    assert set(params.parent.iterdir()) == {params, saved}


@pytest.mark.parametrize("name", ["shakspeare", "", "shakespeare.yaml", "../params"])
def test_an_unknown_preset_is_refused_and_nothing_touched(params: Path, name: str) -> None:
    params.write_text("mine: {}\n")
    with pytest.raises(ValueError, match="is not one of") as caught:
        use(name, PRESETS, params)
    for known in PRESETS.glob("*.yaml"):
        assert known.stem in str(caught.value)
    assert params.read_text() == "mine: {}\n"
    assert list(params.parent.iterdir()) == [params]


def test_a_preset_that_is_not_valid_is_refused_and_nothing_touched(
    params: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    presets = tmp_path_factory.mktemp("presets")
    shutil.copy(PRESETS / "shakespeare.yaml", presets)
    (presets / "mine.yaml").write_text("train: {max_stepps: 5}\n")
    params.write_text("mine: {}\n")
    with pytest.raises(ParamsError, match=r"mine\.yaml: train.max_stepps is not a known key"):
        use("mine", presets, params)
    assert params.read_text() == "mine: {}\n"


def test_the_preset_for_own_text_says_where_to_put_it(run_python: Run, workspace: Path) -> None:
    use("own-text", PRESETS, workspace / "params.yaml")
    (workspace / "texts").mkdir()
    (workspace / "texts/.gitkeep").touch()
    done = run_python("-m", "stages", "download")
    assert done.returncode == 2
    assert done.stderr.startswith("download: corpus.path 'texts' holds no .txt")
    assert "put your texts there" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_preset_for_own_text_takes_a_few_small_files_and_any_length(
    run_python: Run, workspace: Path
) -> None:
    text = preset_text(PRESETS / "own-text.yaml")
    short = text.replace("max_steps: 1000 ", "max_steps: 3 ")  # and nothing else
    (workspace / "params.yaml").write_text(short)
    (workspace / "texts/more").mkdir(parents=True)
    sentence = "we walked by the old café and talked of naïve things till the lamps went out"
    words = sentence.split()
    for number in range(10):
        draw = random.Random(number)
        lines = (" ".join(draw.choices(words, k=8)) for _ in range(120))
        encoding = "cp1252" if number == 4 else "utf-8"
        file = workspace / "texts" / ("more" if number % 2 else "") / f"note {number}.txt"
        file.write_text("\n".join(lines), encoding=encoding)
    for stage in ("download", "clean", "tokenize", "shard", "statistics", "weights", "train"):
        done = run_python("-m", "stages", stage, NANOGPT_TRACKING="false", NANOGPT_DEVICE="cpu")
        assert done.returncode == 0, done.stderr
    tokenizer = json.loads((workspace / "models/gpt/tokenizer/tokenizer.json").read_text())
    assert set("éï") < set(tokenizer["characters"]) == set("".join(words)) | set(" \n")


OWN = """\
# all of mine
split: {val_fraction: 0.2, seed: 9}  # on one line

# my collection
corpus:
  source: files  # since May
  path: texts
  glob: "*.txt"
  separator: "\\n\\n"
  text_column: text
  encoding: cp1252
  package: null
  urls: []
  huggingface: null
  mixture: null
# the last words"""


def test_sections_to_keep_stay_with_their_comments_the_rest_is_the_presets(params: Path) -> None:
    params.write_text(OWN)
    saved = use("shakespeare-char", PRESETS, params, ["corpus", "split"])
    assert saved is not None
    assert saved.read_text() == OWN
    text = params.read_text()
    preset = parse_params(preset_text(PRESETS / "shakespeare-char.yaml"), params)
    found = read_params(params)
    assert list(found) == list(preset)
    assert found["corpus"]["encoding"] == "cp1252"
    assert found["split"] == {"val_fraction": 0.2, "seed": 9}
    assert {k: v for k, v in found.items() if k not in ("corpus", "split")} == {
        k: v for k, v in preset.items() if k not in ("corpus", "split")
    }
    assert "\n\n# my collection\ncorpus:\n  source: files  # since May\n" in text
    assert "\nsplit: {val_fraction: 0.2, seed: 9}  # on one line\n" in text
    assert text.startswith("# nanoGPT's laptop recipe")
    assert (
        "  n_layer: 4                   # number of transformer layers; more: better but slower\n"
        in text
    )


@pytest.mark.parametrize("keep", [["corpus"], ["sample", "corpus"], ["split", "train"], list("x")])
def test_what_cannot_be_kept_is_refused_and_nothing_touched(params: Path, keep: list[str]) -> None:
    content = OWN.replace("cp1252", "utf-99") + "\ntrain: {max_steps: 5}\n"
    params.write_text(content)
    words = {
        "corpus": "corpus.encoding: 'utf-99' is not a text encoding",
        "sample": "has no section sample to keep",
        "split": "train.batch_tokens is missing",
        "x": f"KEEP='x' is not one of {', '.join(SECTIONS)}",
    }[keep[0]]
    with pytest.raises(ValueError) as caught:
        use("own-text", PRESETS, params, keep)
    assert words in str(caught.value)
    assert params.read_text() == content
    assert list(params.parent.iterdir()) == [params]


@pytest.mark.parametrize(
    "content",
    [
        "{corpus: {}, split: {val_fraction: 0.2, seed: 9}}",
        "one: &mine {val_fraction: 0.2, seed: 9}\nsplit: *mine\n",
    ],
)
def test_sections_that_cannot_be_taken_out_are_refused(params: Path, content: str) -> None:
    params.write_text(content)
    with pytest.raises(ParamsError, match="split cannot be copied line by line"):
        use("shakespeare", PRESETS, params, ["split"])
    assert params.read_text() == content


def test_params_without_a_change_are_kept_as_they_are(params: Path) -> None:
    use("shakespeare", PRESETS, params)
    before = params.read_bytes()
    assert use("shakespeare", PRESETS, params, ["corpus", "sample", "train"]) is None
    assert params.read_bytes() == before


def test_there_must_be_params_to_keep_something_of(params: Path) -> None:
    with pytest.raises(ParamsError, match=r"params\.yaml is missing"):
        use("own-text", PRESETS, params, ["corpus"])
    assert not params.exists()


def test_the_command_keeps_what_it_is_told(run_python: Run, workspace: Path) -> None:
    shutil.copytree(PRESETS, workspace / "presets")
    (workspace / "params.yaml").write_text(OWN)
    done = run_python("-m", "stages", "preset", "own-text", "--keep", "corpus, split")
    assert done.returncode == 0, done.stderr
    assert "params.yaml is now presets/own-text.yaml except your corpus, split" in done.stdout
    assert "# since May" in (workspace / "params.yaml").read_text()


def test_the_command_says_what_it_did(run_python: Run, workspace: Path) -> None:
    shutil.copytree(PRESETS, workspace / "presets")
    (workspace / "params.yaml").write_text("mine: {}\n")
    done = run_python("-m", "stages", "preset", "shakespeare-char")
    assert done.returncode == 0, done.stderr
    (saved,) = workspace.glob("params.*-*.yaml")
    assert "params.yaml is now presets/shakespeare-char.yaml" in done.stdout
    assert saved.name in done.stdout
