import gzip
import io
import lzma
import random
import resource
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.download import archives as compressed
from stages.download.readers import Document, ReadOptions, file_documents
from stages.download.tally import Tally

READING = ReadOptions(separator=None, text_column="text", encoding="utf-8")
SONG = "First line, naïve\nsecond line\n"


def zst(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zst,
}


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def tarred(files: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in others:
            archive.addfile(info)
    return content.getvalue()


def parquet(texts: list[str]) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), content)
    return content.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Document]]:
    """Reads the documents of a file of some name and content."""

    def documents(name: str, content: bytes, tally: Tally | None = None) -> list[Document]:
        file = tmp_path / "file"
        file.write_bytes(content)
        return list(file_documents(name, file, READING, tally or Tally()))

    return documents


Read = Callable[..., list[Document]]


# --- compressed files ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", PACK)
def test_a_compressed_text_is_read_under_its_name(read: Read, end: str) -> None:
    name = f"a.txt{end}"
    assert read(name, PACK[end](SONG.encode())) == [Document(name, SONG, name)]


@pytest.mark.parametrize("end", PACK)
def test_every_kind_may_be_compressed(read: Read, end: str) -> None:
    kinds = {
        "a.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
        "a.csv": b"text\none\ntwo\n",
        "a.parquet": parquet(["one", "two"]),
    }
    for name, content in kinds.items():
        assert [d.text for d in read(name + end, PACK[end](content))] == ["one", "two"]
    assert [d.text for d in read(f"a.html{end}", PACK[end](b"<p>one<p>two"))] == ["one\n\ntwo"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff\r")))
def test_any_text_comes_back(read: Read, text: str) -> None:
    for end, pack in PACK.items():
        assert [d.text for d in read(f"a.txt{end}", pack(text.encode()))] == [text]


@pytest.mark.parametrize("end", PACK)
def test_several_frames_are_one_text(read: Read, end: str) -> None:
    content = PACK[end](b"one") + PACK[end](b"") + PACK[end](b"two")
    assert [d.text for d in read(f"a.txt{end}", content)] == ["onetwo"]


def test_a_text_longer_than_a_piece_comes_back(read: Read) -> None:
    text = "".join(f"line {n}\n" for n in range(200_000))
    for end in (".gz", ".zst"):
        assert [d.text for d in read(f"a.txt{end}", PACK[end](text.encode()))] == [text]


@pytest.mark.parametrize("end", PACK)
def test_a_file_cut_short_is_refused_wherever(read: Read, end: str) -> None:
    content = PACK[end](random.Random(0).randbytes(300).hex().encode())
    for size in range(0, len(content), 7):
        with pytest.raises(ValueError, match=r"^a\.txt\S* (is truncated or damaged|has 0 bytes)"):
            read(f"a.txt{end}", content[:size])


@pytest.mark.parametrize("end", PACK)
def test_what_is_not_compressed_is_refused(read: Read, end: str) -> None:
    with pytest.raises(ValueError, match=rf"^a\.txt{end} is not a {end} file, it begins with b'pl"):
        read(f"a.txt{end}", b"plain text, named as if it were compressed")


def test_the_place_of_damage_is_reported_in_unpacked_bytes(read: Read) -> None:
    content = bytearray(gzip.compress(random.Random(0).randbytes(1 << 20).hex().encode(), 1))
    content[-4:] = b"\0\0\0\0"  # the length at the end
    with pytest.raises(ValueError, match=r"after 2,\d{3},\d{3} decompressed bytes"):
        read("a.txt.gz", bytes(content))


# --- archives ------------------------------------------------------------------------------------

FILES = {
    "b/song.txt": SONG.encode(),
    "a.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
    "c.txt.gz": gzip.compress(b"three"),
    "d.parquet": parquet(["four"]),
    "notes.doc": b"old",
    ".hidden.txt": b"no",
    "__MACOSX/b/._song.txt": b"no",
    "e.zip": zipped({"f.txt": b"no"}),
}
ARCHIVES: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "zip": zipped,
    "tar": tarred,
    "tar.gz": lambda files: gzip.compress(tarred(files)),
    "tgz": lambda files: gzip.compress(tarred(files)),
    "tar.xz": lambda files: lzma.compress(tarred(files)),
    "tar.zst": lambda files: zst(tarred(files)),
    "zip.gz": lambda files: gzip.compress(zipped(files)),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_the_readable_members_of_an_archive_are_documents_sorted_by_name(
    read: Read, kind: str
) -> None:
    tally = Tally()
    documents = read(f"x.{kind}", ARCHIVES[kind](FILES), tally)
    assert [(d.id, d.text) for d in documents] == [
        (f"x.{kind}/a.jsonl#1", "one"),
        (f"x.{kind}/a.jsonl#2", "two"),
        (f"x.{kind}/b/song.txt", SONG),
        (f"x.{kind}/c.txt.gz", "three"),
        (f"x.{kind}/d.parquet#0", "four"),
    ]
    assert documents[2].source == f"x.{kind}/b/song.txt"
    assert tally.read == 4
    assert tally.skipped == {"hidden file": 2, "archive in an archive": 1, "file ending in .doc": 1}


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_nothing_is_unpacked_next_to_the_archive(read: Read, tmp_path: Path, kind: str) -> None:
    read(f"x.{kind}", ARCHIVES[kind](FILES))
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.xz"])
def test_the_order_of_packing_does_not_matter(read: Read, kind: str) -> None:
    backwards = dict(reversed(FILES.items()))
    assert read(f"x.{kind}", ARCHIVES[kind](backwards)) == read(f"x.{kind}", ARCHIVES[kind](FILES))


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    "path", ["../a.txt", "b/../../a.txt", "/etc/a.txt", "..\\a.txt", "C:\\a.txt"]
)
def test_a_member_that_leads_elsewhere_is_refused_by_name(read: Read, kind: str, path: str) -> None:
    with pytest.raises(ValueError, match=r"^x\.\w+ is refused.*outside") as caught:
        read(f"x.{kind}", ARCHIVES[kind]({"ok.txt": b"ok", path: b"no"}))
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(read: Read, kind: bytes, words: str) -> None:
    info = tarfile.TarInfo("odd.txt")
    info.type, info.linkname = kind, "ok.txt"
    with pytest.raises(ValueError, match=rf"x\.tar is refused: its member 'odd.txt' is {words}"):
        read("x.tar", tarred({"ok.txt": b"ok"}, info))


@pytest.mark.parametrize(("mode", "words"), [(stat.S_IFLNK, "a link"), (stat.S_IFCHR, "a device")])
def test_links_and_devices_in_a_zip_are_refused(read: Read, mode: int, words: str) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        info = zipfile.ZipInfo("odd.txt")
        info.external_attr = (mode | 0o644) << 16
        archive.writestr(info, "ok.txt")
    with pytest.raises(ValueError, match=rf"x\.zip is refused: its member 'odd.txt' is {words}"):
        read("x.zip", content.getvalue())


def test_a_sparse_member_is_refused(read: Read, tmp_path: Path) -> None:
    info = tarfile.TarInfo("huge.txt")
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,0",
        "GNU.sparse.size": str(1 << 50),
    }
    with pytest.raises(ValueError, match=r"'huge.txt' is a sparse file"):
        read("x.tar", tarred({}, info))


def test_an_encrypted_member_is_refused(read: Read) -> None:
    content = bytearray(zipped({"secret.txt": b"text"}))
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    with pytest.raises(
        ValueError, match=r"x\.zip is refused: its member 'secret.txt' is encrypted"
    ):
        read("x.zip", bytes(content))


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(read: Read, kind: str) -> None:
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w") as archive:
            for text in ("one", "two"):
                archive.writestr("a.txt", text)
        packed = content.getvalue()
    else:
        one, two = tarred({"a.txt": b"one"}), tarred({"a.txt": b"two"})
        packed = one[:1024] + two
    with pytest.raises(ValueError, match=rf"x\.{kind} is refused: it has two members 'a.txt'"):
        read(f"x.{kind}", packed)


def test_a_compression_that_is_not_known_is_refused(read: Read) -> None:
    content = bytearray(zipped({"a.txt": b"text" * 100}))
    for signature, field in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(signature) + field] = 97  # WavPack
    with pytest.raises(ValueError, match=r"^x\.zip cannot be read: .*not supported"):
        read("x.zip", bytes(content))


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.zst"])
def test_an_archive_cut_short_is_refused_wherever(read: Read, kind: str) -> None:
    songs = {f"{n}.txt": random.Random(n).randbytes(300).hex().encode() for n in range(4)}
    content = ARCHIVES[kind](songs)
    end = content.rindex(b"PK\x05\x06") if kind == "zip" else len(content)
    end = len(tarred(songs).rstrip(b"\0")) if kind == "tar" else end
    for size in range(0, end, max(1, end // 40)):
        with pytest.raises(ValueError, match=r"^x\.\S+ (is truncated|cannot be read|has 0 bytes)"):
            read(f"x.{kind}", content[:size])


def test_no_room_for_an_archive_is_not_called_damage(read: Read) -> None:
    packed = gzip.compress(tarred({"a.txt": b"so it goes\n" * 200_000}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            read("songs.tar.gz", packed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_tar_with_a_damaged_header_does_not_end_there(read: Read) -> None:
    content = bytearray(tarred({"a.txt": b"one", "b.txt": b"two"}))
    content[1024 + 150] ^= 1  # the second header's checksum
    with pytest.raises(ValueError, match=r"x\.tar is truncated or damaged at byte 1,024"):
        read("x.tar", bytes(content))


def test_a_damaged_member_of_a_zip_is_named(read: Read) -> None:
    content = bytearray(zipped({"a.txt": b"text one two three"}, zipfile.ZIP_STORED))
    content[content.index(b"one")] ^= 1
    with pytest.raises(ValueError, match=r"^x\.zip/a\.txt is truncated or damaged"):
        read("x.zip", bytes(content))


def test_a_fault_in_a_member_names_archive_and_member(read: Read) -> None:
    with pytest.raises(ValueError, match=r"^x\.zip/a\.txt is not UTF-8 \(byte 3: 0xe9\)"):
        read("x.zip", zipped({"a.txt": b"caf\xe9"}))
    with pytest.raises(ValueError, match=r"^x\.tgz/a\.jsonl, line 1 is not JSON"):
        read("x.tgz", ARCHIVES["tgz"]({"a.jsonl": b"{"}))


# --- bombs ---------------------------------------------------------------------------------------

BOMB = b"la la la\n" * 2_000_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt.gz", gzip.compress(BOMB)),
        ("a.txt.zst", zst(BOMB)),
        ("a.parquet.xz", lzma.compress(BOMB, preset=0)),
        ("x.zip", zipped({"a.txt": BOMB})),
        ("x.zip", zipped({f"{n}.txt": BOMB[: 1 << 20] for n in range(16)})),
        ("x.tar.gz", gzip.compress(tarred({"a.txt": BOMB}))),
        ("x.tar", tarred({"a.txt.gz": gzip.compress(BOMB)})),
    ],
)
def test_a_bomb_is_noticed_before_it_goes_off(
    read: Read, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.setattr(compressed, "BOMB_BYTES", 1 << 20)
    monkeypatch.setattr(compressed, "BOMB_RATIO", 20)
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"^{name} has [\d,]+ bytes and unpacks to more"):
        read(name, content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 14 << 20 < len(BOMB)


def test_what_packs_well_but_is_small_is_no_bomb(read: Read) -> None:
    assert len(BOMB) > compressed.BOMB_RATIO * len(gzip.compress(BOMB))
    assert [d.text for d in read("a.txt.gz", gzip.compress(BOMB))] == [BOMB.decode()]


def test_the_parts_of_a_bomb_are_counted_together(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "BOMB_BYTES", 10_000)
    inner = {f"{n}.txt.gz": gzip.compress(b"la " * 3000) for n in range(3)}
    monkeypatch.setattr(compressed, "BOMB_RATIO", 10)
    assert len(read("x.zip", zipped({"0.txt.gz": inner["0.txt.gz"]}))) == 1
    with pytest.raises(ValueError, match=r"^x\.zip has"):
        read("x.zip", zipped(inner))
