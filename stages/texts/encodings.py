"""Bytes to text, a piece at a time, strictly: no byte is replaced or dropped.

A byte-order mark is believed whatever `corpus.encoding` says. `auto` takes UTF-8 as long as it
fits and then guesses: charset-normalizer tells writing systems apart well, the alphabets of Central
Europe less so (docs/decisions/0016), so a guess is printed with what it makes of the text.
"""

import codecs
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

CHUNK = 1 << 20  # bytes decoded at a time
SAMPLE = 32 << 10  # bytes that a guess is made from; more make it no better
AUTO = "auto"

# UTF-32's mark begins with UTF-16's, so it comes first.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
WIDE = {"utf_16_le", "utf_16_be", "utf_32_le", "utf_32_be"}  # in them Latin text has NUL bytes

# What is met on the web (most of the WHATWG Encoding Standard), by Python's names. With rarer ones
# to choose from, such as mac_roman or hp_roman8, guesses are worse.
GUESSES = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257"),
    *("koi8_r", "iso8859_2", "cp866"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949"),
    *sorted(WIDE),
]


def known_encoding(name: str) -> str:
    """The same name. Raises ValueError when Python has no text encoding of that name."""
    try:
        "a".encode(name if name != AUTO else "utf-8")
    except (LookupError, UnicodeError):
        raise ValueError(
            f"{name!r} is no encoding of text that Python knows; there are utf-8, utf-16, cp1252, "
            "latin-1, shift_jis, gb18030 and others, and auto to guess"
        ) from None
    return name


@dataclass(frozen=True)
class Fault:
    """A byte that is no text in the encoding: `content[at]`, the `offset`-th of the file `name`."""

    name: str
    content: bytes
    at: int
    offset: int


def decoded(name: str, stream: BinaryIO, encoding: str) -> Iterator[str]:
    """The text of a stream, about CHUNK bytes at a time.

    Raises ValueError with the place of the first byte that is no text in the encoding.
    """
    chunk = stream.read(CHUNK)
    mark, codec = next((m for m in MARKS if chunk.startswith(m[0])), (b"", encoding))
    guessing = codec == AUTO
    codec = "utf-8" if guessing else codec
    decoder = codecs.getincrementaldecoder(codec)()
    chunk = chunk[len(mark) :]
    done, before = len(mark), b""  # bytes decoded; the last of them
    while True:
        rest = decoder.getstate()[0] + chunk  # a character may have been cut in two
        text, at = decode(decoder, codec, chunk, final=not chunk)
        if at is not None and guessing:
            codec = printed_guess(Fault(name, before + rest, len(before) + at, done + at))
            decoder, guessing = codecs.getincrementaldecoder(codec)(), False
            text, at = decode(decoder, codec, rest, final=not chunk)
        if at is not None:
            raise not_text(Fault(name, before + rest, len(before) + at, done + at), codec)
        guessing = guessing and text.isascii()  # so far the same text in any encoding
        yield text
        if not chunk:
            return
        decoded_bytes = len(rest) - len(decoder.getstate()[0])
        done += decoded_bytes
        before = (before + rest[:decoded_bytes])[-SAMPLE:]
        chunk = stream.read(CHUNK)


def decode(
    decoder: codecs.IncrementalDecoder, codec: str, content: bytes, *, final: bool
) -> tuple[str, int | None]:
    """The text of some bytes, or where in all that is not yet decoded they are no text."""
    try:
        text = decoder.decode(content, final)
    except UnicodeDecodeError as error:
        return "", error.start
    except UnicodeError:  # UTF-16 or UTF-32 that does not say by a mark which of the two it is
        return "", 0
    if "\0" in text:
        return "", len(text[: text.index("\0")].encode(codec))
    return text, None


def guess(fault: Fault) -> str | None:
    """The encoding of the text around a byte, or None where none fits."""
    from charset_normalizer import from_bytes

    if is_utf8_with_nul(fault.content):
        return None
    wide = b"\0" in fault.content
    matches = list(from_bytes(sample(fault), cp_isolation=GUESSES))
    matches = [match for match in matches if (match.encoding in WIDE) == wide]
    if not matches:
        return None
    best = [match for match in matches if match.chaos == matches[0].chaos]
    equal = {codec for match in best for codec in match.could_be_from_charset}
    return "cp1252" if "cp1252" in equal else best[0].encoding  # the commonest by far


def is_utf8_with_nul(content: bytes) -> bool:
    """Whether a NUL byte strayed into UTF-8: where a character has two bytes, blanks have one."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(content)
    except UnicodeDecodeError:
        return False
    return 0 < content.count(0) < len(content) / 16


def sample(fault: Fault) -> bytes:
    """The lines from the one with the byte on, about SAMPLE bytes, no character cut in two."""
    content = fault.content
    if b"\0" in content:  # two or four bytes a character; a few of them would fit anything
        return content[: min(SAMPLE, len(content) // 4 * 4)] if len(content) >= 16 else b"\0"
    first = content.rfind(b"\n", 0, fault.at) + 1
    *lines, last = content[first : first + SAMPLE].split(b"\n")
    return b"\n".join(lines) or last


def printed_guess(fault: Fault) -> str:
    """The guessed encoding, printed for whoever watches. Raises ValueError where there is none."""
    codec = guess(fault)
    if codec is None:
        raise not_text(fault, "utf-8")
    print(f"{fault.name}: read as {codec}, a guess: {excerpt(fault, codec)!r}", file=sys.stderr)
    return codec


def excerpt(fault: Fault, codec: str) -> str:
    """Some words on both sides of a byte, all from its line."""
    before, after = fault.content[: fault.at], fault.content[fault.at : fault.at + 40]
    if codec in WIDE:
        return fault.content[:80].decode(codec, "ignore").split("\n")[0]
    first = max(before.rfind(b"\n") + 1, before.rfind(b" ", 0, max(0, fault.at - 30)) + 1)
    return (before[first:] + after).decode(codec, "ignore").split("\n")[0].strip()


def not_text(fault: Fault, codec: str) -> ValueError:
    """What to say of a byte that is no text: where it is, and what the file may be instead."""
    byte = fault.content[fault.at]
    where = f"byte {fault.offset}: 0x{byte:02x}"
    if codecs.lookup(codec).name == "utf-8" and ends_in_a_character(fault):
        return ValueError(
            f"{fault.name} ends in the middle of a character ({where}); is it cut short? Use one "
            "that is whole"
        )
    likely = guess(fault)
    if likely is not None and codecs.lookup(likely).name != codecs.lookup(codec).name:
        words = excerpt(fault, likely)
        hint = f"; it looks like {likely} ({words!r}): set corpus.encoding: {likely}, or convert it"
    elif byte == 0:
        return ValueError(f"{fault.name} holds a NUL byte ({where}); is it a binary file?")
    else:
        hint = ", nor text in any encoding that can be guessed; is it a binary file?"
    return ValueError(f"{fault.name} is not {codec.upper()} ({where}){hint}")


def ends_in_a_character(fault: Fault) -> bool:
    """Whether all is UTF-8 but for a last character, cut; and not by chance: not all is ASCII."""
    before, rest = fault.content[: fault.at], fault.content[fault.at :]
    try:
        rest.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and not before.isascii()
    return False
