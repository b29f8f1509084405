"""`python -m stages sample --prompt` prints samples and writes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.generation.completion import format_samples
from stages.lib.params import load_section, parse_section
from stages.runtime.settings import Settings
from stages.runtime.yaml_files import read_params
from stages.sample.params import SampleParams
from stages.sample.prompt import decode_argument, print_samples
from stages.sample.stage import generate_samples

ROOT = Path(__file__).parents[3]
SETTINGS = Settings(device="cpu")
COMMAND = ("python", "-m", "stages", "sample")


@pytest.fixture
def written(built: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs the command in this process and returns its output."""

    def run(**given: Any) -> str:
        print_samples(given, SETTINGS)
        return capsys.readouterr().out

    monkeypatch.chdir(built.folder)
    return run


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder except Python's caches."""
    found = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {str(path): path.read_bytes() for path in found}


def test_it_prints_the_samples_of_the_stage_and_writes_nothing_to_disk(copy_of_built: Any) -> None:
    folder = copy_of_built.folder
    before = files(folder)
    done = copy_of_built.run(*COMMAND, "--prompt", "the king", NANOGPT_DEVICE="cpu")
    assert done.returncode == 0, done.stdout
    assert done.stdout == (folder / "samples/samples.txt").read_text()
    assert files(folder) == before


def test_it_imports_no_slow_library_it_does_not_need(built: Any) -> None:
    script = (
        "import sys; from stages.sample.prompt import print_samples; "
        "from stages.runtime.settings import Settings; "
        "print_samples({'prompt': ['the'], 'max_new_tokens': 1}, Settings(device='cpu')); "
        "print(sorted({'mlflow', 'matplotlib', 'pyarrow', 'rich'} & sys.modules.keys()))"
    )
    done = built.run("python", "-c", script)
    assert done.stdout.splitlines()[-1] == "[]"


def test_options_override_the_params(built: Any, written: Any) -> None:
    own = load_section("sample", SampleParams, built.folder / "params.yaml")
    changes = {"prompts": ["and", "the"], "max_new_tokens": 7, "temperature": 0.1, "seed": 5}
    expected = generate_samples(
        own.model_copy(update=changes), built.folder / "models/gpt", device="cpu"
    )
    given = {"prompt": ["and", "the"], "max_new_tokens": 7, "temperature": 0.1, "seed": 5}
    assert written(**given) == format_samples(expected)
    assert len(expected) == 2 * own.samples_per_prompt
    assert all(len(one["text"]) <= 7 for one in expected)
    assert written(**{**given, "seed": 6, "temperature": 1.5}) != format_samples(expected)


def test_other_sections_may_be_wrong(copy_of_built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_of_built.set_params(max_steps="many")
    monkeypatch.chdir(copy_of_built.folder)
    print_samples({"prompt": ["the"]}, SETTINGS)


def test_an_empty_prompt_starts_a_document(built: Any, written: Any) -> None:
    texts = written(prompt=[""], temperature=0.0, max_new_tokens=5)
    tokenizer = json.loads((built.folder / "models/gpt/tokenizer/tokenizer.json").read_text())
    assert set(texts) <= set(tokenizer["characters"]) | set("-\n")
    first = written(prompt=[texts[:1]], temperature=0.0, max_new_tokens=4)
    assert texts == first  # the likeliest letters, the first of them typed or not


def test_the_folder_of_another_model_can_be_named(
    copy_of_built: Any, written: Any, tmp_path: Path
) -> None:
    expected = written(prompt=["the"])
    elsewhere = (copy_of_built.folder / "models/gpt").rename(tmp_path / "elsewhere")
    assert written(prompt=["the"], model=elsewhere) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompt": ["König"]}, "the character 'K' is not in the vocabulary of this `char`"),
        ({"prompt": ["a"], "model": Path("none")}, "no model in none; run `make run` first"),
        (
            {"prompt": ["a"], "temperature": -1.0},
            "the command line: sample.temperature is -1.0: input should be greater than or equal",
        ),
        ({"prompt": ["a"], "max_new_tokens": 0}, "the command line: sample.max_new_tokens is 0"),
        (
            {"prompt": ["a"], "max_new_tokens": 3000000000},
            "the command line: sample.max_new_tokens is 3000000000: input should be less than or",
        ),
        (
            {"prompt": ["a"], "temperature": 1e-45},
            "the command line: sample.temperature: 1e-45 is too small to calculate with; give 0, "
            "or 0.001 or more",
        ),
        ({"prompt": ["\ud83d"]}, r"sample.prompts.0: '\ud83d' has half of a surrogate pair"),
        ({"prompt": ["caf\udce9"]}, "--prompt is not UTF-8"),
    ],
)
def test_invalid_options_are_reported_in_one_message(
    written: Any, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError) as caught:
        written(**given)
    assert words in str(caught.value)


def test_the_command_reports_a_missing_model_in_one_line(
    run_python: Callable[..., Any], workspace: Path
) -> None:
    done = run_python("-m", "stages", "sample", "--prompt", "a")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "sample: there is no model in models/gpt; run `make run` first, or name a folder with "
        "--model\n"
    )
    assert list(workspace.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "--seed", "1"], "arguments are required: --prompt"),
        (["sample", "--max-new-tokens", "9"], "arguments are required: --prompt"),
        (["sample", "--prompt", "a", "--seed", "one"], "argument --seed: invalid int value"),
        (["train", "--prompt", "a"], "unrecognized arguments: --prompt"),
    ],
)
def test_unknown_or_incomplete_options_are_refused(
    run_python: Callable[..., Any], workspace: Path, arguments: list[str], words: str
) -> None:
    done = run_python("-m", "stages", *arguments)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    "argument",
    [
        "😀",
        "\ud83d\ude00",  # JSON's escapes, put together by nobody
        "\udced\udca0\udcbd\udced\udcb8\udc80",  # what Python makes of $'\ud83d\ude00' of a shell
    ],
)
def test_a_character_given_as_surrogates_is_that_character(argument: str) -> None:
    content = {
        **read_params(ROOT / "params.yaml")["sample"],
        "prompts": [decode_argument(f"a{argument}")],
    }
    params = parse_section("sample", SampleParams, {**content, "stop": ["\ud83d\ude00"]}, ROOT)
    assert (params.prompts, params.stop) == (["a😀"], ["😀"])
