"""Tar's headers, compared with Python's own; and files that lie."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.base.errors import CorruptStreamError
from wavelift.base.units import GIB, SECTOR, TIB
from wavelift.transfer import tar
from wavelift.transfer.tar import Member, pack_header, walk

pytestmark = pytest.mark.unit

NAMES = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", min_size=1, max_size=100).filter(
    lambda name: name[0] not in "._-"
)


def walked(file: bytes, length: int | None = None) -> list[Member]:
    """:param length: as if that many bytes were there; what is behind the given ones reads as zeros."""
    size = len(file) if length is None else length

    def read(offset: int, count: int) -> bytes:
        assert 0 <= offset <= offset + count <= size, "a read behind the end"
        assert count <= tar.MAX_EXTENDED, "a read without bound"
        return file[offset : offset + count].ljust(count, b"\0")

    return list(walk(read, size))


def made(form: int, files: dict[str, bytes], more: Callable[[tarfile.TarFile], None] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        if more is not None:
            more(archive)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


@examples(60, 600)
@given(name=NAMES, size=st.integers(0, 5 * TIB), mtime=st.integers(0, 2**33 - 1))
def test_python_reads_our_header(name: str, size: int, mtime: int) -> None:
    header = pack_header(name, size, mtime)
    info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    assert (info.name, info.size, info.mtime, info.mode, info.type) == (name, size, mtime, 0o644, tarfile.REGTYPE)
    assert header[257:265] == b"ustar\x0000"
    assert walked(header, SECTOR + tar.padded(size)) == [Member(name, SECTOR, size)]
    assert header == pack_header(name, size, mtime)


def test_eight_gib_are_where_the_digits_end() -> None:
    assert pack_header("x", 8 * GIB - 1, 0)[124:136] == b"77777777777\0"
    assert pack_header("x", 8 * GIB, 0)[124:136] == bytes((0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_python_s_is_read(form: int) -> None:
    chance = random.Random(form)
    long = "folder/" * 12 + "a-name-of-some-length.vmdk" if form == tarfile.USTAR_FORMAT else "x" * 300 + "ä.vmdk"
    files = {"a.ovf": b"text", "empty": b"", long: chance.randbytes(1000), "z.mf": chance.randbytes(512)}

    def more(archive: tarfile.TarFile) -> None:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "y" * 200 if form != tarfile.USTAR_FORMAT else "y"
        archive.addfile(link)

    file = made(form, files, more)
    found = walked(file)
    assert {one.name: file[one.offset : one.offset + one.size] for one in found} == files
    assert [one.name for one in found] == list(files)


def test_pax_sizes_are_read() -> None:
    """As bsdtar writes a file above 8 GiB: the header's digits hold nothing."""
    size = 9 * GIB + 5
    record = b"19 size=%d\n" % size
    assert len(record) == 19
    header = bytearray(pack_header("about", len(record), 0))
    header[156:157] = b"x"
    checked(header)
    file = bytes(header) + record.ljust(SECTOR, b"\0") + pack_header("big", 0, 0)
    behind = len(file) + tar.padded(size)
    assert walked(file, behind) == [Member("big", len(file), size)]


def checked(header: bytearray) -> bytearray:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return header


def edited(header: bytes, place: slice, value: bytes) -> bytes:
    """With a checksum that fits again."""
    changed = bytearray(header)
    changed[place] = value
    return bytes(checked(changed))


HEADER = pack_header("x.vmdk", 1000, 0)
BODY = bytes(1024)


@pytest.mark.parametrize(
    ("file", "words", "position"),
    [
        (HEADER[:300], "within a header", 0),
        (HEADER + BODY + HEADER[:300], "within a header", 1536),
        (HEADER + BODY[:999], "cut off: 999 of 1000", 0),
        (bytes((HEADER[0] ^ 1,)) + HEADER[1:] + BODY, "checksum", 0),
        (b"KDMV".ljust(2048, b"\1"), "checksum", 0),
        (edited(HEADER, slice(124, 136), b"\xff" * 12) + BODY, "no number", 0),
        (edited(HEADER, slice(124, 136), b"0000000x750\0") + BODY, "no number", 0),
        (edited(HEADER, slice(124, 136), b"\x80" + b"\xff" * 11) + BODY, "cut off", 0),
        (edited(HEADER, slice(156, 157), b"S") + BODY, "sparse", 0),
        (edited(HEADER, slice(156, 157), b"M") + BODY, "sparse", 0),
        (edited(HEADER, slice(156, 157), b"x") + BODY, "makes no sense", 0),
        (
            edited(pack_header("x", 1 << 20, 0), slice(156, 157), b"x") + bytes(1 << 20),
            "a record of 1048576 bytes",
            512,
        ),
        (
            edited(pack_header("x", 1 << 20, 0), slice(156, 157), b"L") + bytes(1 << 20),
            "a record of 1048576 bytes",
            512,
        ),
        (pack_header("x", 0, 0) * 1001, "more than 1000", 512_000),
    ],
    ids=lambda value: "file" if isinstance(value, bytes) else str(value),
)
def test_a_file_that_lies_names_the_place(file: bytes, words: str, position: int) -> None:
    with pytest.raises(CorruptStreamError, match=words) as caught:
        walked(file)
    assert caught.value.where["position"] == position
    assert caught.value.next_step


@pytest.mark.parametrize(
    "record",
    [
        b"9999 path=x\n",
        b"-5 path=x\n",
        b"11 path=x\n",
        b"12 path=xy",
        b"0 a=b\n",
        b"22 GNU.sparse.major=1\n",
        b"12 size=1e9\n",
    ],
)
def test_pax_records_that_make_no_sense_are_told(record: bytes) -> None:
    about = edited(pack_header("about", len(record), 0), slice(156, 157), b"x")
    with pytest.raises(CorruptStreamError):
        walked(about + record.ljust(SECTOR, b"\0") + HEADER + BODY)


@examples(200, 3000)
@given(data=st.binary(max_size=4096), flips=st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=4))
def test_any_bytes_are_read_or_told(data: bytes, flips: list[tuple[int, int]]) -> None:
    for file in (data, changed(made(tarfile.PAX_FORMAT, {"ä" * 99: b"1", "b": b"2"}), flips)):
        found: list[Member] = []
        position: Any = 0
        try:
            found = walked(file)
        except CorruptStreamError as error:  # and no other
            position = error.where["position"]
        assert 0 <= position <= len(file)
        assert all(0 <= one.offset <= one.offset + one.size <= len(file) for one in found)


def changed(file: bytes, flips: list[tuple[int, int]]) -> bytes:
    result = bytearray(file)
    for place, value in flips:
        result[place % len(result)] = value
    return bytes(result)


def test_a_file_without_an_end_mark_is_taken(box: Any) -> None:
    assert walked(HEADER + BODY) == [Member("x.vmdk", 512, 1000)]
    assert walked(b"") == []


@pytest.mark.parametrize("mtime", [-1, 2**33])
def test_a_time_that_no_header_holds_is_refused(mtime: int) -> None:
    with pytest.raises(ValueError, match="member"):
        pack_header("x", 0, mtime)
