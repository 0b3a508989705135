"""OVAs that are opened: ours, other tools', and those that lie; nothing is read without a bound."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.base.errors import CorruptStreamError
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, MIB, SECTOR
from wavelift.transfer.exported import OpenedDisk, open_exported
from wavelift.transfer.ova_image import MAX_TEXT, OvaImage, open_ova
from wavelift.transfer.verify import sample_indices, verify_full, verify_sample
from wavelift.transfer.vmdk import StreamVmdkSource

pytestmark = pytest.mark.unit

Read = Callable[[int, int], bytes]


def reader(file: bytes) -> Read:
    def read(offset: int, length: int) -> bytes:
        assert offset >= 0
        assert 0 < length <= MAX_TEXT
        return file[offset : offset + length]

    return read


def opened(file: bytes) -> OvaImage:
    return open_ova(reader(file), len(file))


def foreign(
    files: Sequence[tuple[str, bytes]], *, form: int = tarfile.GNU_FORMAT, padding: int = 0, prefix: str = ""
) -> bytes:
    """As somebody else's tool might: files in any order and form."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, content in files:
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue() + bytes(padding)


def envelope(disks: Sequence[tuple[str, int]], *, namespace: str = "http://schemas.dmtf.org/ovf/envelope/1") -> bytes:
    """A descriptor by hand; (file, capacity in GiB)."""
    files = "".join(f'<File ovf:id="f{n}" ovf:href="{name}"/>' for n, (name, _) in enumerate(disks))
    listed = "".join(
        f'<Disk ovf:diskId="d{n}" ovf:fileRef="f{n}" ovf:capacity="{size}" ovf:capacityAllocationUnits="byte * 2^30"/>'
        for n, (_, size) in enumerate(disks)
    )
    return (
        f'<?xml version="1.0"?><Envelope xmlns="{namespace}" xmlns:ovf="{namespace}"><References>{files}</References>'
        f"<DiskSection><Info>x</Info>{listed}</DiskSection></Envelope>"
    ).encode()


@pytest.fixture(scope="module")
def disks() -> list[bytes]:
    chance = random.Random(1)
    return [chance.randbytes(3 * BLOCK) + bytes(BLOCK) + b"end" * 100, bytes(2 * BLOCK) + chance.randbytes(BLOCK)]


@pytest.fixture(scope="module")
def ours(box: Any, disks: list[bytes]) -> tuple[bytes, Any]:
    sink = box.Sink()
    _, manifests = box.write_ova(sink, box.ova_plan(disks), disks)
    return sink.object, manifests


@pytest.fixture(scope="module")
def vmdk(box: Any, disks: list[bytes]) -> bytes:
    made: bytes = box.encode(disks[0])[0].object
    return made


def test_our_own_opens(ours: tuple[bytes, Any], disks: list[bytes]) -> None:
    file, _ = ours
    image = opened(file)
    assert list(image.members) == ["exp-1.ovf", "exp-1.mf", "exp-1-disk1.vmdk", "exp-1-disk2.vmdk"]
    assert [disk.capacity for disk in image.disks] == [len(each) for each in disks]
    assert {digest.algorithm for digest in image.digests.values()} == {"sha256"}
    assert open_exported(reader(file), len(file), "ova") == tuple(
        OpenedDisk(f"exp-1-disk{n}.vmdk", -(-len(each) // SECTOR) * SECTOR) for n, each in enumerate(disks, start=1)
    )


def test_its_blocks_are_compared_with_manifests_in_full_and_as_a_sample(ours: tuple[bytes, Any]) -> None:
    file, manifests = ours
    image = opened(file)
    for number, manifest in enumerate(manifests):
        raw = image.content(number)
        assert verify_full(StreamVmdkSource(raw), manifest, cancel=CancelFlag()).ok
        raw.check()
        indices = sample_indices(manifest, 50)
        assert verify_sample(image.vmdk(number).read_block, manifest, indices).ok
    wrong = verify_sample(image.vmdk(0).read_block, manifests[1].successor(), [0])
    assert not wrong.ok


def test_a_changed_byte_of_a_disk_is_found_by_the_manifest(ours: tuple[bytes, Any]) -> None:
    file, _ = ours
    place = opened(file).disks[1].member.offset + 600  # in the text descriptor, which no grain shows
    image = opened(file[:place] + bytes((file[place] ^ 1,)) + file[place + 1 :])
    raw = image.content(1)
    with pytest.raises(ValueError, match="not read"):
        raw.check()
    buffer = memoryview(bytearray(MIB))
    while raw.readinto(buffer):
        pass
    with pytest.raises(CorruptStreamError, match="another digest") as caught:
        raw.check()
    assert caught.value.where["file"] == "exp-1-disk2.vmdk"


def test_a_changed_descriptor_is_found_at_once(ours: tuple[bytes, Any]) -> None:
    file, _ = ours
    changed = file.replace(b"<Name>web01</Name>", b"<Name>web02</Name>")
    assert len(changed) == len(file)
    with pytest.raises(CorruptStreamError, match="another digest") as caught:
        opened(changed)
    assert caught.value.where["file"] == "exp-1.ovf"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("with_manifest", [True, False])
def test_other_tools_files_open_in_any_order(vmdk: bytes, form: int, with_manifest: bool) -> None:
    text = envelope([("i-0-disk2.vmdk", 2), ("i-0-disk1.vmdk", 1)])
    files = [("i-0-disk1.vmdk", vmdk), ("i-0.ovf", text), ("i-0-disk2.vmdk", vmdk), ("notes.txt", b"hello")]
    if with_manifest:
        lines = [f"SHA1 ({name}) = {hashlib.sha1(data).hexdigest().upper()}\r\n" for name, data in files[:3]]
        files.append(("i-0.mf", "".join(lines).encode()))
    file = foreign(files, form=form, padding=3 * SECTOR, prefix="./")
    image = opened(file)
    assert [(disk.member.name, disk.capacity) for disk in image.disks] == [
        ("i-0-disk2.vmdk", 2 << 30),
        ("i-0-disk1.vmdk", 1 << 30),
    ]
    assert bool(image.digests) == with_manifest
    assert [disk.name for disk in open_exported(reader(file), len(file), "ova")] == ["i-0-disk2.vmdk", "i-0-disk1.vmdk"]
    raw = image.content(1)
    buffer = memoryview(bytearray(MIB))
    while raw.readinto(buffer):
        pass
    raw.check()


def test_older_and_newer_namespaces_mean_the_same(vmdk: bytes) -> None:
    for namespace in ("http://www.vmware.com/schema/ovf/1/envelope", "http://schemas.dmtf.org/ovf/envelope/2"):
        file = foreign([("a.ovf", envelope([("a.vmdk", 1)], namespace=namespace)), ("a.vmdk", vmdk)])
        assert [disk.member.name for disk in opened(file).disks] == ["a.vmdk"]


def test_a_disk_of_qemu_s_style_opens_too(qemu_like: Any) -> None:
    packed = qemu_like(4 * 128, {0: b"a" * 65536, 3: b"b" * 65536})
    file = foreign([("a.ovf", envelope([("a.vmdk", 1)])), ("a.vmdk", packed)])
    assert open_exported(reader(file), len(file), "ova") == (OpenedDisk("a.vmdk", 4 * 65536),)


GOOD = envelope([("a.vmdk", 1)])
BOMB = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><Envelope>&b;</Envelope>'


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("a.vmdk", b"x")], "no descriptor"),
        ([("a.ovf", GOOD), ("b.OVF", GOOD), ("a.vmdk", b"x")], "2 files that end with .ovf"),
        ([("a.ovf", GOOD), ("a.vmdk", b"x"), ("a.vmdk", b"x")], "there twice"),
        ([("a.ovf", GOOD)], "names 'a.vmdk', which is not there"),
        ([("a.ovf", b"<Envelope"), ("a.vmdk", b"x")], "no XML"),
        ([("a.ovf", b""), ("a.vmdk", b"x")], "no XML"),
        ([("a.ovf", b"<a/>"), ("a.vmdk", b"x")], "root is a"),
        ([("a.ovf", BOMB), ("a.vmdk", b"x")], "document type"),
        ([("a.ovf", b'<?xml version="1.0" encoding="nonsense"?><Envelope/>'), ("a.vmdk", b"x")], "no XML"),
        ([("a.ovf", b"<Envelope/>"), ("a.vmdk", b"x")], "names no disk"),
        ([("a.ovf", bytes(MAX_TEXT + 1)), ("a.vmdk", b"x")], f"a text of {MAX_TEXT + 1} bytes"),
        ([("a.ovf", GOOD.replace(b'href="a.vmdk"', b'href="a.vmdk" ovf:size="7"')), ("a.vmdk", b"x")], "says 7 bytes"),
        ([("a.ovf", GOOD.replace(b'href="', b'compression="gzip" ovf:href="')), ("a.vmdk", b"x")], "compressed"),
        ([("a.ovf", GOOD.replace(b'href="', b'chunkSize="5" ovf:href="')), ("a.vmdk", b"x")], "chunks"),
        ([("a.ovf", GOOD.replace(b'fileRef="f0"', b'fileRef="f9"')), ("a.vmdk", b"x")], "not listed"),
        ([("a.ovf", GOOD.replace(b'capacity="1"', b'capacity="much"')), ("a.vmdk", b"x")], "no capacity"),
        ([("a.ovf", GOOD.replace(b"byte * 2^30", b"acres")), ("a.vmdk", b"x")], "no capacity"),
        ([("a.ovf", GOOD), ("a.vmdk", b"x"), ("a.mf", b"hello\n")], "line 1 of the manifest is no digest"),
        ([("a.ovf", GOOD), ("a.vmdk", b"x"), ("a.mf", b"\nMD9(a.vmdk)= 00\n")], "line 2 of the manifest is no digest"),
        ([("a.ovf", GOOD), ("a.vmdk", b"x"), ("a.mf", b"SHA256(b.vmdk)= 00\n")], "names a file that is not there"),
        ([("a.ovf", GOOD), ("a.vmdk", b"x"), ("a.mf", b"SHA256(a.ovf)= 00\n")], "another digest"),
        ([("a.ovf", GOOD), ("a.vmdk", b"x"), ("a.mf", b"a"), ("b.mf", b"b")], "2 files that end with .mf"),
    ],
)
def test_what_makes_no_sense_is_told(files: list[tuple[str, bytes]], words: str) -> None:
    with pytest.raises(CorruptStreamError, match=words) as caught:
        opened(foreign(files))
    assert caught.value.next_step


def test_a_disk_that_is_none_is_named(vmdk: bytes) -> None:
    for content, words in ((b"x" * 2000, "no VMDK"), (vmdk[:-SECTOR], "no VMDK"), (vmdk[: SECTOR * 200], "VMDK")):
        file = foreign([("a.ovf", GOOD), ("a.vmdk", content)])
        with pytest.raises(CorruptStreamError, match=words) as caught:
            open_exported(reader(file), len(file), "ova")
        assert caught.value.where["file"] == "a.vmdk"


def test_a_deep_descriptor_is_no_way_to_exhaust_the_stack() -> None:
    deep = b"<Envelope>" + b"<a>" * 300_000 + b"</a>" * 300_000 + b"</Envelope>"
    with pytest.raises(CorruptStreamError, match="names no disk"):
        opened(foreign([("a.ovf", deep)]))


@examples(60, 1000)
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), min_size=1, max_size=3), cut=st.floats(0, 1)
)
def test_a_damaged_file_opens_or_is_told(ours: tuple[bytes, Any], flips: list[tuple[int, int]], cut: float) -> None:
    file = bytearray(ours[0])
    for place, value in flips:
        file[place % (len(file) if place % 2 else 70_000)] = value
    damaged = bytes(file[: len(file) - int(len(file) * cut) if cut > 0.5 else len(file)])
    told = None
    try:
        open_exported(reader(damaged), len(damaged), "ova")
    except CorruptStreamError as error:  # and no other
        told = error
    assert told is None or told.next_step


def test_a_file_that_became_shorter_is_told(ours: tuple[bytes, Any]) -> None:
    file, _ = ours
    lengths = [len(file)]
    image = open_ova(lambda offset, length: file[: lengths[-1]][offset : offset + length], len(file))
    lengths.append(image.disks[1].member.offset + 10)
    with pytest.raises(CorruptStreamError, match="ends within a member") as caught:
        image.content(1).readinto(memoryview(bytearray(10)))
    assert caught.value.where["file"] == "exp-1-disk2.vmdk"
