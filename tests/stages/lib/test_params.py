from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError

from stages.lib.params import Section, load_section
from stages.runtime.yaml_files import ParamsError, read_params

OVEN = """\
oven:
  name: big
  degrees: 180.0
  minutes: 10
  fan: true
  mode: bake
  trays: null
"""


class Oven(Section):
    name: str
    degrees: float = Field(gt=0, le=300)
    minutes: int
    fan: bool
    mode: Literal["bake", "grill"]
    trays: int | None = Field(ge=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "oven.yaml"


def load(file: Path, text: str) -> Oven:
    file.write_text(text)
    return load_section("oven", Oven, file)


def test_a_right_section_is_read(file: Path) -> None:
    expected = Oven(name="big", degrees=180, minutes=10, fan=True, mode="bake", trays=None)
    assert load(file, OVEN) == expected


def test_a_section_cannot_be_changed(file: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(file, OVEN).minutes = 5  # type: ignore[misc]


@pytest.mark.parametrize("number", ["3e-4", "3.0e-4", "3E-4", "0.0003"])
def test_numbers_with_an_exponent_are_floats(file: Path, number: str) -> None:
    degrees = load(file, OVEN.replace("180.0", number)).degrees
    assert isinstance(degrees, float)
    assert degrees == 0.0003


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("minutes: 10", "minutes: '10'", ["oven.minutes is '10'", "valid integer"]),
        ("minutes: 10", "minutes: true", ["oven.minutes is True", "valid integer"]),
        ("minutes: 10", "minutes: 10.5", ["oven.minutes is 10.5", "valid integer"]),
        ("minutes: 10", "minutes:", ["oven.minutes is None", "valid integer"]),
        ("degrees: 180.0", "degrees: '180'", ["oven.degrees is '180'", "valid number"]),
        ("degrees: 180.0", "degrees: 400", ["oven.degrees is 400", "less than or equal to 300"]),
        ("degrees: 180.0", "degrees: 0", ["oven.degrees is 0", "greater than 0"]),
        ("degrees: 180.0", "degrees: .nan", ["oven.degrees is nan"]),
        ("fan: true", "fan: 1", ["oven.fan is 1", "valid boolean"]),
        ("fan: true", "fan: yes", ["oven.fan is 'yes'", "valid boolean"]),
        ("mode: bake", "mode: fry", ["oven.mode is 'fry'", "'bake' or 'grill'"]),
        ("trays: null", "trays: 0", ["oven.trays is 0", "greater than or equal to 1"]),
        ("  fan: true\n", "", ["oven.fan is missing"]),
        ("name: big", "name: big\n  minuets: 3", ["oven.minuets", "did you mean oven.minutes?"]),
        ("name: big", "name: big\n  7: 3", ["oven.7"]),
    ],
)
def test_a_wrong_key_is_named_with_its_value_and_what_is_allowed(
    file: Path, right: str, wrong: str, words: list[str]
) -> None:
    assert right in OVEN
    with pytest.raises(ParamsError) as caught:
        load(file, OVEN.replace(right, wrong))
    for word in [str(file), *words]:
        assert word in str(caught.value)


def test_an_unknown_key_like_no_other_lists_those_there_are(file: Path) -> None:
    with pytest.raises(ParamsError, match=r"known are name, degrees"):
        load(file, OVEN + "  zzz: 3\n")


def test_all_wrong_keys_of_a_section_are_named_at_once(file: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        load(file, OVEN.replace("minutes: 10", "minutes: x").replace("mode: bake", "mode: fry"))
    assert "oven.minutes" in str(caught.value)
    assert "oven.mode" in str(caught.value)


def test_a_missing_section_is_named(file: Path) -> None:
    with pytest.raises(ParamsError, match="the section `oven:` is missing"):
        load(file, "fridge: {}\n")


@pytest.mark.parametrize("content", ["oven:\n", "oven: [1, 2]\n", "oven: hot\n"])
def test_a_section_that_holds_no_keys_is_refused(file: Path, content: str) -> None:
    with pytest.raises(ParamsError, match=r"oven is .*, where a section with keys"):
        load(file, content)


def test_a_key_given_twice_is_refused(file: Path) -> None:
    with pytest.raises(ParamsError, match="duplicate key") as caught:
        load(file, OVEN + "  fan: false\n")
    assert "fan" in str(caught.value)


def test_a_syntax_error_is_reported_with_its_line(file: Path) -> None:
    with pytest.raises(ParamsError, match="not valid YAML") as caught:
        load(file, OVEN + "  shelves: [1, 2\n")
    assert "line 8" in str(caught.value)


@pytest.mark.parametrize("content", ["", "# nothing here\n", "- a list\n", "text\n"])
def test_a_file_without_sections_is_refused(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(ParamsError, match="must contain sections"):
        read_params(file)


def test_a_missing_file_is_refused_with_the_way_out(file: Path) -> None:
    with pytest.raises(ParamsError, match="is missing; `make use PRESET=shakespeare`"):
        read_params(file)


def test_yaml_cannot_run_code(file: Path) -> None:
    file.write_text("oven: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ParamsError, match="not valid YAML"):
        read_params(file)


def test_a_file_that_is_not_utf8_is_named(file: Path) -> None:
    file.write_bytes(b"oven: {name: caf\xe9}\n")
    with pytest.raises(ValueError, match=r"oven\.yaml"):
        read_params(file)


@pytest.mark.parametrize("text", [r"\ud83d\ude00", r"big \uD83D\uDE00"])
def test_jsons_escapes_that_dvc_cannot_read_are_refused_with_what_to_write(
    file: Path, text: str
) -> None:
    whole = text.replace(r"\ud83d\ude00", "😀").replace(r"\uD83D\uDE00", "😀")
    with pytest.raises(ParamsError, match=f"DVC cannot read the file; write '{whole}'$") as caught:
        load(file, OVEN.replace("name: big", f'name: "{text}"'))
    assert str(caught.value).isprintable()
    for written in (f'"{whole}"', '"\\U0001F600"'):
        assert "😀" in load(file, OVEN.replace("name: big", f"name: {written}")).name


def test_such_an_escape_in_a_key_is_refused_too(file: Path) -> None:
    with pytest.raises(ParamsError, match="write 'a😀'"):
        load(file, OVEN + '"a\\ud83d\\ude00": {}\n')
