import codecs
import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.download import encodings
from stages.download.encodings import NotText, check_encoding, combine_errors, decode_stream

FRENCH = "Il était une fois, à l'orée d'une forêt, un garçon très pressé. Où vas-tu ?\n"
RUSSIAN = "Жили-были старик со старухой у самого синего моря.\n"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"


def read(content: bytes, encoding: str = "utf-8") -> str:
    return "".join(decode_stream("a.txt", io.BytesIO(content), encoding, {}))


def refused(content: bytes, *words: str, encoding: str = "utf-8") -> None:
    with pytest.raises(ValueError, match=r"^a\.txt ") as caught:
        read(content, encoding)
    for word in words:
        assert word in str(caught.value)


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read three bytes at a time, so that characters are cut in two."""
    monkeypatch.setattr(encodings, "CHUNK", 3)


def test_text_is_decoded_as_utf8() -> None:
    assert read("naïve 字\r\n".encode()) == "naïve 字\r\n"
    assert read(b"") == ""


@pytest.mark.parametrize(
    ("mark", "codec"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16", "auto"])
def test_a_byte_order_mark_is_believed_and_no_text(mark: bytes, codec: str, encoding: str) -> None:
    assert read(mark + "naïve 字".encode(codec), encoding) == "naïve 字"


@pytest.mark.parametrize(
    ("text", "codec"),
    [(FRENCH, "cp1252"), (RUSSIAN, "koi8-r"), (JAPANESE, "shift_jis"), (JAPANESE, "iso2022_jp")],
)
@pytest.mark.usefixtures("pieces")
def test_another_encoding_can_be_named(text: str, codec: str) -> None:
    assert read(text.encode(codec), codec) == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")))
def test_any_text_comes_back(text: str) -> None:
    for codec in ("utf-8", "utf-16", "utf-32", "gb18030"):
        assert read(text.encode(codec), codec) == text


def test_a_byte_that_is_not_utf8_is_named_with_its_place() -> None:
    refused(b"ab\xe9cd", "is not UTF-8 (byte 2: 0xe9)")


def test_the_place_of_a_bad_byte_counts_the_byte_order_mark() -> None:
    refused(codecs.BOM_UTF8 + b"ab\xe9cd", "byte 5: 0xe9")


@pytest.mark.usefixtures("pieces")
def test_the_place_of_a_bad_byte_is_that_in_the_whole_file() -> None:
    refused("字字字x".encode() + b"\xe9 cd", "byte 10: 0xe9")
    refused("字字字字".encode()[:-1], "in the middle of a character (byte 9: 0xe5)", "truncated?")
    refused(b"caf\xc3", "looks like cp125")  # all before it is the same in any encoding
    refused("字字".encode("shift_jis") + b"\x80!", "SHIFT_JIS (byte 4: 0x80)", encoding="shift_jis")


def test_the_place_of_a_bad_byte_is_right_far_into_a_file() -> None:
    refused(b"x" * 3_000_000 + "字".encode() + b"\xe9 cd", "byte 3000003: 0xe9")


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        (FRENCH, "utf-16-le"),
        (RUSSIAN, "cp1251"),
        (JAPANESE, "cp932"),
        ("plain text with a café in it\n", "cp1252"),
    ],
)
def test_what_the_text_may_be_instead_is_said(text: str, codec: str) -> None:
    guess = codec.replace("-", "_")
    spelled = {"utf_16_le": "utf-16le"}.get(guess, guess)  # by iconv
    ways = ["set corpus.encoding: auto", f"(iconv -f {spelled} -t utf-8)"]
    refused((text * 5).encode(codec), f"looks like {guess}", *ways)
    assert read((text * 5).encode(codec), guess) == text * 5


def test_the_words_around_a_bad_byte_are_shown() -> None:
    text = "plain\n" * 100 + "they met in a café by the sea\nmore\n"
    refused(text.encode("cp1252"), "('they met in a café by the sea')")


@pytest.mark.parametrize("encoding", ["utf-8", "auto", "latin-1"])
@pytest.mark.parametrize(
    "content",
    [
        b"\x7fELF\x02\x01\x01" + bytes(100),
        b"text" + bytes(range(256)) * 4,
        b"text\0",
        b"text\nhello\0world\n",
        "naïve text\n".encode() * 20 + b"hello\0world",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)),
    ],
)
def test_a_binary_file_is_refused(content: bytes, encoding: str) -> None:
    refused(content, "binary file", "(byte ", encoding=encoding)


def test_the_place_of_a_nul_is_named_in_bytes() -> None:
    refused("字a\0b".encode(), "holds a NUL byte (byte 4: 0x00)", "binary file")


@pytest.mark.parametrize("text", ["plain text\n", "Привет, мир! Как дела?\n"])
def test_a_text_of_two_bytes_a_character_that_would_be_utf8_too_is_reported(text: str) -> None:
    content = (text * 5).encode("utf-16-le")
    assert content.decode()
    refused(content, "looks like utf_16_le")


def test_a_nul_in_a_text_of_two_bytes_a_character_is_no_text_either() -> None:
    refused(
        (FRENCH + "\0" + FRENCH).encode("utf-16"),
        f"holds a NUL byte (byte {2 * len(FRENCH) + 2}",
    )


def test_an_encoding_that_needs_a_mark_says_which_of_the_two_it_is() -> None:
    refused((FRENCH * 5).encode("utf-16-be"), "UTF-16", "looks like utf_16_be", encoding="utf-16")


@pytest.mark.parametrize("name", ["utf8", "UTF-8", "latin-1", "cp1252", "shift_jis", "auto"])
def test_known_encodings_are_taken(name: str) -> None:
    assert check_encoding(name) == name


@pytest.mark.parametrize("name", ["", "utf-9", "rot13", "base64", "undefined", "english"])
def test_an_unknown_encoding_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a text encoding that Python knows"):
        check_encoding(name)


# --- an encoding that is named where a file is UTF-8 ---------------------------------------------


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "koi8-r", "gb18030"])
@pytest.mark.parametrize("size", [3, 1 << 20])
def test_utf8_is_not_read_as_something_else(
    encoding: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encodings, "CHUNK", size)
    text = "plain\n" * 50 + "I don’t — “no”, she said.\n"
    refused(text.encode(), "is UTF-8 ('", "’t", f"as {encoding} it reads", encoding=encoding)
    refused(text.encode(), "set corpus.encoding: auto", encoding=encoding)


def test_utf8_is_called_so_where_it_is_no_text_in_the_named_encoding_either() -> None:
    text = "“no” " * 100  # 0x9d of the second mark is no character of cp1252
    refused(text.encode(), "is UTF-8 ('“no”", encoding="cp1252")


@pytest.mark.parametrize(
    ("content", "encoding", "text"),
    [
        (b"plain", "cp1252", "plain"),
        ("don’t".encode("cp1252"), "cp1252", "don’t"),
        ("don’t caf\xe9".encode("cp1252") + "é".encode(), "cp1252", "don’t caféÃ©"),
        (RUSSIAN.encode("utf-16-le"), "utf-16-le", RUSSIAN),
        (JAPANESE.encode("iso2022_jp"), "iso2022_jp", JAPANESE),
        (b"\xef\xbb\xbfna\xc3\xafve", "utf-8-sig", "naïve"),
        ("naïve".encode(), "utf-8-sig", "naïve"),
        (b"caf\xe9 \xc3", "cp1252", "café Ã"),
    ],
)
def test_what_is_not_utf8_or_ascii_alone_is_read_as_named(
    content: bytes, encoding: str, text: str
) -> None:
    assert read(content, encoding) == text


def test_all_files_at_fault_are_reported_at_once_with_every_way_out() -> None:
    faults = [
        NotText("a.txt", "is not UTF-8 (byte 1: 0xe9)", "set auto"),
        NotText("b.txt", "holds a NUL byte", "leave it out"),
        NotText("c.txt", "is not UTF-8 (byte 2: 0xe9)", "set auto"),
    ]
    assert str(combine_errors(faults, 1234, "utf-8")) == (
        "3 of 1,234 files cannot be read by corpus.encoding: utf-8: a.txt is not UTF-8 "
        "(byte 1: 0xe9); b.txt holds a NUL byte; c.txt is not UTF-8 (byte 2: 0xe9); set auto; "
        "leave it out"
    )
    assert "; and 200 more; set auto" in str(combine_errors(faults[:1] * 300, 300, "utf-8"))
    assert combine_errors(faults[:1], 9, "utf-8") is faults[0]


# --- auto ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (JAPANESE, "utf-8"),
        (FRENCH, "utf-16-le"),
        ("They met in a café, and he said “hello”.\n", "cp1252"),
    ],
)
def test_a_guess_is_made_and_printed(
    text: str, codec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read((text * 20).encode(codec), "auto") == text * 20
    assert ("encoding guessed" in capsys.readouterr().err) == (codec != "utf-8")


def test_a_guess_is_noted_by_the_name_of_the_file() -> None:
    guessed: dict[str, str] = {}
    for name, content in (("a.txt", "don’t".encode()), ("b.txt", "don’t".encode("cp1252"))):
        assert "".join(decode_stream(name, io.BytesIO(content), "auto", guessed)) == "don’t"
    assert guessed == {"b.txt": "cp1252"}


def test_a_guess_can_be_made_far_into_a_file_and_at_its_end() -> None:
    plain = "plain text\n" * 200_000
    assert read((plain + RUSSIAN * 20).encode("cp1251"), "auto") == plain + RUSSIAN * 20
    assert read(b"they met in a caf\xe9", "auto") == "they met in a café"


def test_a_guess_that_does_not_hold_is_refused_where_it_fails() -> None:
    text = (RUSSIAN * 700).encode("cp1251") + b"\n\x98"  # which is no character of cp1251
    refused(text, f"is not CP1251 (byte {len(text) - 1}: 0x98)", encoding="auto")
    with pytest.raises(ValueError, match="is not"):  # half of a character at the end
        read((JAPANESE * 700).encode("cp932")[:-2], "auto")


def test_a_text_that_was_utf8_so_far_is_not_guessed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings, "CHUNK", 100)
    refused((RUSSIAN * 5).encode() + b"caf\xe9 ", "is not UTF-8", encoding="auto")


def test_nothing_is_guessed_of_what_is_no_text() -> None:
    refused(random.Random(0).randbytes(4000), "binary file", encoding="auto")
