"""Bytes to text, a piece at a time, strictly: no byte is replaced or dropped.

A byte-order mark is believed whatever `corpus.encoding` says. `auto` takes UTF-8 as long as it
fits and then guesses: charset-normalizer tells writing systems apart well, the alphabets of Central
Europe less so (docs/decisions/0016), so a guess is printed with what it makes of the text. An
encoding that is named is refused where a file is UTF-8: nearly any bytes are text in cp1252.
"""

import codecs
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

CHUNK = 1 << 20  # bytes decoded at a time
SAMPLE = 32 << 10  # bytes that a guess is made from; more make it no better
AUTO = "auto"
MAX_LISTED = 100  # files in one message

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


class NotText(ValueError):
    """A file that is no text in the encoding: its name, what is wrong with it, the way out."""

    def __init__(self, name: str, fault: str, way_out: str) -> None:
        super().__init__(name, fault, way_out)  # as they are, to come through from a process
        self.name, self.fault, self.way_out = name, fault, way_out

    def __str__(self) -> str:
        return f"{self.name} {self.fault}; {self.way_out}"


def decoded(
    name: str, stream: BinaryIO, encoding: str, guessed: dict[str, str] | None = None
) -> Iterator[str]:
    """The text of a stream, about CHUNK bytes at a time.

    `guessed` takes the encoding if it had to be guessed, which is also printed. Raises NotText
    with the place of the first byte that is no text in the encoding, or when all is UTF-8 and the
    encoding another.
    """
    chunk = stream.read(CHUNK)
    mark, codec = next((m for m in MARKS if chunk.startswith(m[0])), (b"", encoding))
    guessing = codec == AUTO
    codec = "utf-8" if guessing else codec
    decoder = codecs.getincrementaldecoder(codec)()
    chunk = chunk[len(mark) :]
    utf8 = None if mark or guessing or is_utf8(codec) else Utf8Watch()
    done, before = len(mark), b""  # bytes decoded; the last of them
    while True:
        if utf8:
            utf8.see(chunk)
        rest = decoder.getstate()[0] + chunk  # a character may have been cut in two
        text, at = decode(decoder, codec, chunk, final=not chunk)
        if at is not None and guessing:
            fault = Fault(name, before + rest, len(before) + at, done + at)
            codec = guessed_codec(fault)
            if guessed is not None:
                guessed[name] = codec
                words = excerpt(fault, codec)
                print(f"{name}: read as {codec}, a guess: {words!r}", file=sys.stderr)
            decoder, guessing = codecs.getincrementaldecoder(codec)(), False
            text, at = decode(decoder, codec, rest, final=not chunk)
        if utf8 and (at is not None or not chunk) and utf8.holds_to_the_end(stream):
            raise garbled(name, utf8.words, codec)
        if at is not None:
            fault = Fault(name, before + rest, len(before) + at, done + at)
            raise not_text(fault, codec, encoding)
        guessing = guessing and text.isascii()  # so far the same text in any encoding
        yield text
        if not chunk:
            return
        decoded_bytes = len(rest) - len(decoder.getstate()[0])
        done += decoded_bytes
        before = (before + rest[:decoded_bytes])[-SAMPLE:]
        chunk = stream.read(CHUNK)


def is_utf8(codec: str) -> bool:
    """Whether a codec reads UTF-8, with a mark or without."""
    return codecs.lookup(codec).name.startswith("utf-8")


class Utf8Watch:
    """Whether bytes, seen a piece at a time, are UTF-8 with characters beyond ASCII."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.valid = True
        self.words = ""  # with the first characters beyond ASCII

    def see(self, chunk: bytes) -> None:
        """Take the next bytes, none at the end."""
        if not self.valid:
            return
        try:
            text = self.decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError:
            self.valid = False
            return
        self.valid = "\0" not in text
        if not self.words and not text.isascii():
            at = next(at for at, character in enumerate(text) if not character.isascii())
            self.words = text[max(0, at - 20) : at + 20].strip()

    def holds_to_the_end(self, stream: BinaryIO) -> bool:
        """Whether that is still so when the rest of a stream is seen, too."""
        while self.valid and (chunk := stream.read(CHUNK)):
            self.see(chunk)
        self.see(b"")
        return self.valid and bool(self.words)


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


def guessed_codec(fault: Fault) -> str:
    """The encoding that fits the text around a byte. Raises NotText where there is none."""
    codec = guess(fault)
    if codec is None:
        raise not_text(fault, "utf-8", AUTO)
    return codec


def excerpt(fault: Fault, codec: str) -> str:
    """Some words on both sides of a byte, all from its line."""
    before = fault.content[max(0, fault.at - 80) : fault.at]
    after = fault.content[fault.at : fault.at + 40]
    if codec in WIDE:
        return fault.content[:80].decode(codec, "ignore").split("\n")[0]
    first = max(before.rfind(b"\n") + 1, before.rfind(b" ", 0, max(0, len(before) - 30)) + 1)
    return (before[first:] + after).decode(codec, "ignore").split("\n")[0].strip()


def not_text(fault: Fault, codec: str, encoding: str) -> NotText:
    """What to say of a byte that is no text: where it is, and what the file may be instead.

    `codec` is what the file was read as, `encoding` what the params say.
    """
    byte = fault.content[fault.at]
    where = f"byte {fault.offset}: 0x{byte:02x}"
    if is_utf8(codec) and ends_in_a_character(fault):
        return NotText(
            fault.name,
            f"ends in the middle of a character ({where}), is it cut short?",
            "use one that is whole",
        )
    likely = guess(fault)
    if likely is not None and codecs.lookup(likely).name != codecs.lookup(codec).name:
        looks = f"is not {codec.upper()} ({where}), it looks like {likely}"
        words = f"{looks} ({excerpt(fault, likely)!r})"
        return NotText(fault.name, words, way_out(encoding, likely))
    if byte == 0:
        what = f"holds a NUL byte ({where})"
    else:
        what = f"is not {codec.upper()} ({where}), nor text in any encoding that can be guessed"
    return NotText(fault.name, f"{what}, is it a binary file?", "leave it out by corpus.glob")


def garbled(name: str, words: str, codec: str) -> NotText:
    """What to say of UTF-8 that is to be read as something else."""
    shown = words.encode().decode(codec, "replace")
    return NotText(
        name, f"is UTF-8 ({words!r}), as {codec} it reads {shown!r}", way_out(codec, codec)
    )


def way_out(encoding: str, likely: str) -> str:
    """What to do about files that are `likely` of another encoding than the params say."""
    iconv = likely.replace("_le", "le").replace("_be", "be").replace("_", "-")  # as it spells them
    convert = f"convert what is not UTF-8 (iconv -f {iconv} -t utf-8)"
    if encoding == AUTO:
        return convert
    return f"set corpus.encoding: auto, which guesses only where a file is not UTF-8, or {convert}"


def all_not_text(faults: Sequence[NotText], n_files: int, encoding: str) -> ValueError:
    """Return what to say of all files, of `n_files`, that are no text in the encoding."""
    if len(faults) == 1:
        return faults[0]
    listed = "; ".join(f"{fault.name} {fault.fault}" for fault in faults[:MAX_LISTED])
    more = f"; and {len(faults) - MAX_LISTED:,} more" if len(faults) > MAX_LISTED else ""
    ways = "; ".join(dict.fromkeys(fault.way_out for fault in faults))
    return ValueError(
        f"{len(faults):,} of {n_files:,} files cannot be read by corpus.encoding: {encoding}: "
        f"{listed}{more}; {ways}"
    )


def ends_in_a_character(fault: Fault) -> bool:
    """Whether all is UTF-8 but for a last character, cut; and not by chance: not all is ASCII."""
    before, rest = fault.content[: fault.at], fault.content[fault.at :]
    try:
        rest.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and not before.isascii()
    return False
