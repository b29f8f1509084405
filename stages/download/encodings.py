"""Strict decoding of a stream in chunks: no byte is replaced or dropped.

A byte-order mark wins over `corpus.encoding`. `auto` decodes UTF-8 as long as the bytes are valid
and then guesses. charset-normalizer tells writing systems apart well, the alphabets of Central
Europe less so (docs/decisions/0016), so a guess is printed with a sample of the decoded text. A
named encoding is refused if the file is UTF-8, because nearly any bytes are valid text in cp1252.
"""

import codecs
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

CHUNK = 1 << 20  # bytes decoded at a time
SAMPLE = 32 << 10  # bytes that a guess is made from; more do not improve it
AUTO = "auto"
MAX_LISTED = 100  # files in one message

# UTF-32's byte-order mark begins with UTF-16's, so it comes first.
BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Latin text has NUL bytes in these.
WIDE_ENCODINGS = {"utf_16_le", "utf_16_be", "utf_32_le", "utf_32_be"}

# The encodings of the web (most of the WHATWG Encoding Standard), by Python's names. With rarer
# candidates, such as mac_roman or hp_roman8, guesses are worse.
CANDIDATES = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257"),
    *("koi8_r", "iso8859_2", "cp866"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949"),
    *sorted(WIDE_ENCODINGS),
]


def check_encoding(name: str) -> str:
    """Return the name. Raises ValueError if Python has no text encoding of that name."""
    try:
        "a".encode(name if name != AUTO else "utf-8")
    except (LookupError, UnicodeError):
        raise ValueError(
            f"{name!r} is not a text encoding that Python knows; use utf-8, utf-16, cp1252, "
            "latin-1, shift_jis, gb18030 or another, or auto to guess"
        ) from None
    return name


@dataclass(frozen=True)
class Fault:
    """A byte that cannot be decoded: `content[at]`, at `offset` in the file `name`."""

    name: str
    content: bytes
    at: int
    offset: int


class NotText(ValueError):
    """Raised for a file that cannot be decoded: its name, what is wrong, and how to fix it."""

    def __init__(self, name: str, fault: str, remedy: str) -> None:
        super().__init__(name, fault, remedy)  # separate arguments, so that it can be pickled
        self.name, self.fault, self.remedy = name, fault, remedy

    def __str__(self) -> str:
        return f"{self.name} {self.fault}; {self.remedy}"


def decode_stream(
    name: str, stream: BinaryIO, encoding: str, guessed: dict[str, str] | None = None
) -> Iterator[str]:
    """Yield the text of a stream, about CHUNK bytes at a time.

    An encoding that has to be guessed is printed and noted in `guessed`. Raises NotText with the
    position of the first byte that cannot be decoded, or if the file is UTF-8 and a different
    encoding is named.
    """
    chunk = stream.read(CHUNK)
    bom, codec = next((b for b in BOMS if chunk.startswith(b[0])), (b"", encoding))
    guessing = codec == AUTO
    codec = "utf-8" if guessing else codec
    decoder = codecs.getincrementaldecoder(codec)()
    chunk = chunk[len(bom) :]
    utf8 = None if bom or guessing or is_utf8(codec) else Utf8Detector()
    done, before = len(bom), b""  # the number of bytes decoded, and the last of them
    while True:
        if utf8:
            utf8.feed(chunk)
        rest = decoder.getstate()[0] + chunk  # with the first bytes of a split character
        text, at = decode_chunk(decoder, codec, chunk, final=not chunk)
        if at is not None and guessing:
            fault = Fault(name, before + rest, len(before) + at, done + at)
            codec = guessed_codec(fault)
            if guessed is not None:
                guessed[name] = codec
                sample_text = excerpt(fault, codec)
                print(f"{name}: encoding guessed as {codec}: {sample_text!r}", file=sys.stderr)
            decoder, guessing = codecs.getincrementaldecoder(codec)(), False
            text, at = decode_chunk(decoder, codec, rest, final=not chunk)
        if utf8 and (at is not None or not chunk) and utf8.is_utf8_to_the_end(stream):
            raise misread_utf8_error(name, utf8.excerpt, codec)
        if at is not None:
            fault = Fault(name, before + rest, len(before) + at, done + at)
            raise not_text_error(fault, codec, encoding)
        guessing = guessing and text.isascii()  # ASCII alone says nothing about the encoding
        yield text
        if not chunk:
            return
        decoded_bytes = len(rest) - len(decoder.getstate()[0])
        done += decoded_bytes
        before = (before + rest[:decoded_bytes])[-SAMPLE:]
        chunk = stream.read(CHUNK)


def is_utf8(codec: str) -> bool:
    """Return True if a codec decodes UTF-8, with or without a byte-order mark."""
    return codecs.lookup(codec).name.startswith("utf-8")


class Utf8Detector:
    """An incremental test for UTF-8 with characters beyond ASCII."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.valid = True
        self.excerpt = ""  # the text around the first character beyond ASCII

    def feed(self, chunk: bytes) -> None:
        """Test the next bytes; an empty chunk ends the stream."""
        if not self.valid:
            return
        try:
            text = self.decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError:
            self.valid = False
            return
        self.valid = "\0" not in text
        if not self.excerpt and not text.isascii():
            at = next(at for at, character in enumerate(text) if not character.isascii())
            self.excerpt = text[max(0, at - 20) : at + 20].strip()

    def is_utf8_to_the_end(self, stream: BinaryIO) -> bool:
        """Read the rest of a stream and return True if all of it is UTF-8 and not just ASCII."""
        while self.valid and (chunk := stream.read(CHUNK)):
            self.feed(chunk)
        self.feed(b"")
        return self.valid and bool(self.excerpt)


def decode_chunk(
    decoder: codecs.IncrementalDecoder, codec: str, content: bytes, *, final: bool
) -> tuple[str, int | None]:
    """Return the text of the next bytes, or "" and the index of the first that is not text.

    The index counts from the first byte that is not decoded yet.
    """
    try:
        text = decoder.decode(content, final)
    except UnicodeDecodeError as error:
        return "", error.start
    except UnicodeError:  # UTF-16 or UTF-32 without the byte-order mark that tells its endianness
        return "", 0
    if "\0" in text:
        return "", len(text[: text.index("\0")].encode(codec))
    return text, None


def guess(fault: Fault) -> str | None:
    """Guess the encoding of the text around a byte. Return None if no candidate fits."""
    from charset_normalizer import from_bytes

    if is_utf8_with_nul(fault.content):
        return None
    wide = b"\0" in fault.content
    matches = list(from_bytes(sample(fault), cp_isolation=CANDIDATES))
    matches = [match for match in matches if (match.encoding in WIDE_ENCODINGS) == wide]
    if not matches:
        return None
    best = [match for match in matches if match.chaos == matches[0].chaos]
    equivalent = {codec for match in best for codec in match.could_be_from_charset}
    return "cp1252" if "cp1252" in equivalent else best[0].encoding  # by far the most common


def is_utf8_with_nul(content: bytes) -> bool:
    """Return True for UTF-8 with a few stray NUL bytes.

    Text in UTF-16 has more of them: one in every blank.
    """
    try:
        codecs.getincrementaldecoder("utf-8")().decode(content)
    except UnicodeDecodeError:
        return False
    return 0 < content.count(0) < len(content) / 16


def sample(fault: Fault) -> bytes:
    """Return about SAMPLE bytes from the line with the byte on, without splitting a character."""
    content = fault.content
    if b"\0" in content:  # UTF-16 or UTF-32; a few bytes would fit any encoding
        return content[: min(SAMPLE, len(content) // 4 * 4)] if len(content) >= 16 else b"\0"
    first = content.rfind(b"\n", 0, fault.at) + 1
    *lines, last = content[first : first + SAMPLE].split(b"\n")
    return b"\n".join(lines) or last


def guessed_codec(fault: Fault) -> str:
    """Guess the encoding of the text around a byte. Raises NotText if no candidate fits."""
    codec = guess(fault)
    if codec is None:
        raise not_text_error(fault, "utf-8", AUTO)
    return codec


def excerpt(fault: Fault, codec: str) -> str:
    """Return the words on both sides of a byte, all from its line."""
    before = fault.content[max(0, fault.at - 80) : fault.at]
    after = fault.content[fault.at : fault.at + 40]
    if codec in WIDE_ENCODINGS:
        return fault.content[:80].decode(codec, "ignore").split("\n")[0]
    first = max(before.rfind(b"\n") + 1, before.rfind(b" ", 0, max(0, len(before) - 30)) + 1)
    return (before[first:] + after).decode(codec, "ignore").split("\n")[0].strip()


def not_text_error(fault: Fault, codec: str, encoding: str) -> NotText:
    """Return the error for a byte that cannot be decoded: its position and the likely encoding.

    `codec` is the one that failed, `encoding` the one in params.yaml.
    """
    byte = fault.content[fault.at]
    where = f"byte {fault.offset}: 0x{byte:02x}"
    if is_utf8(codec) and ends_mid_character(fault):
        return NotText(
            fault.name,
            f"ends in the middle of a character ({where}); is it truncated?",
            "use an intact copy",
        )
    likely = guess(fault)
    if likely is not None and codecs.lookup(likely).name != codecs.lookup(codec).name:
        looks = f"is not {codec.upper()} ({where}), it looks like {likely}"
        problem = f"{looks} ({excerpt(fault, likely)!r})"
        return NotText(fault.name, problem, remedy(encoding, likely))
    if byte == 0:
        problem = f"holds a NUL byte ({where})"
    else:
        problem = f"is not {codec.upper()} ({where}), nor text in any encoding that can be guessed"
    return NotText(fault.name, f"{problem}, is it a binary file?", "exclude it with corpus.glob")


def misread_utf8_error(name: str, text: str, codec: str) -> NotText:
    """Return the error for a UTF-8 file that params.yaml would decode as something else."""
    garbled = text.encode().decode(codec, "replace")
    return NotText(
        name, f"is UTF-8 ({text!r}), as {codec} it reads {garbled!r}", remedy(codec, codec)
    )


def remedy(encoding: str, likely: str) -> str:
    """Return how to fix a file that is likely in another encoding than params.yaml names."""
    iconv = likely.replace("_le", "le").replace("_be", "be").replace("_", "-")  # iconv's spelling
    convert = f"convert what is not UTF-8 (iconv -f {iconv} -t utf-8)"
    if encoding == AUTO:
        return convert
    return f"set corpus.encoding: auto, which guesses only where a file is not UTF-8, or {convert}"


def combine_errors(faults: Sequence[NotText], n_files: int, encoding: str) -> ValueError:
    """Return one error for all the files, of `n_files`, that cannot be decoded."""
    if len(faults) == 1:
        return faults[0]
    problems = "; ".join(f"{fault.name} {fault.fault}" for fault in faults[:MAX_LISTED])
    more = f"; and {len(faults) - MAX_LISTED:,} more" if len(faults) > MAX_LISTED else ""
    remedies = "; ".join(dict.fromkeys(fault.remedy for fault in faults))
    return ValueError(
        f"{len(faults):,} of {n_files:,} files cannot be read by corpus.encoding: {encoding}: "
        f"{problems}{more}; {remedies}"
    )


def ends_mid_character(fault: Fault) -> bool:
    """Return True if the file is UTF-8 but for a last character that is truncated.

    At least one other character beyond ASCII is required, so that this is not a coincidence.
    """
    before, rest = fault.content[: fault.at], fault.content[fault.at :]
    try:
        rest.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and not before.isascii()
    return False
