"""GNU tar, qemu-img, Python's tarfile and govmomi's importer judge our OVA. They share no code with wavelift."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from tests.go_oracles import OracleError, ovf_importer

from wavelift.base.units import BLOCK, GIB, KIB, MIB, SECTOR
from wavelift.simulators import vcenter
from wavelift.simulators.vcenter import SimDisk, SimVm, VCenterSimulator
from wavelift.transfer.exported import OpenedDisk, open_exported
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.ova import OvaAssembly, OvaPlan
from wavelift.transfer.ovf import Machine
from wavelift.transfer.tar import END, pack_header
from wavelift.transfer.vmdk import PreparedBlock

pytestmark = pytest.mark.wire

PAGE: Final = 64 * KIB


def run(*words: object) -> str:
    command = [shutil.which(str(words[0])) or str(words[0]), *map(str, words[1:])]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240, env={**os.environ, "TZ": "UTC"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, "a warning"
    return done.stdout


def listed(file: Path) -> list[tuple[str, int]]:
    """By GNU tar, Python and Go, which must agree."""
    lines = [line.split() for line in run("tar", "-tvf", file).splitlines()]
    by_tar = [(words[5], int(words[2])) for words in lines]
    with tarfile.open(file) as archive:
        by_python = [(one.name, one.size) for one in archive.getmembers()]
    by_go = [(one["name"], one["size"]) for one in ovf_importer("list", file)["members"]]
    assert by_tar == by_python == by_go
    return by_tar


def mixed(size: int, seed: int) -> bytes:
    chance = random.Random(seed)
    disk = bytearray(size)
    for _ in range(10):
        place = chance.randrange(size)
        length = min(chance.randrange(1, 2 * MIB), size - place)
        disk[place : place + length] = chance.choice([b"some text ", chance.randbytes(1000)]) * (length // 10)
        del disk[size:]
    return bytes(disk)


DISKS: Final = {
    "one disk": [mixed(20 * MIB, 1)],
    "three disks": [mixed(9 * MIB, 2), mixed(70 * MIB, 3), mixed(3 * MIB, 4)],
    "small and empty ones": [bytes(MIB), b"x" * SECTOR, bytes(64 * MIB), mixed(MIB, 5)],
}
MACHINE: Final = {
    "name": 'Büro & "web" <1>',
    "cpus": 4,
    "memory_mib": 16_384,
    "firmware": "efi",
    "networks": ("subnet-a", "subnet-b"),
    "guest": "ubuntu64Guest",
    "note": "Exported from i-0123456789abcdef0",
}


@pytest.fixture(params=DISKS, ids=lambda name: name.replace(" ", "-"))
def disks(request: pytest.FixtureRequest) -> list[bytes]:
    return DISKS[request.param]


def written(box: Any, path: Path, disks: list[bytes], **machine: Any) -> Path:
    sink = box.Sink()
    box.write_ova(sink, box.ova_plan(disks, **{**MACHINE, **machine}), disks)
    path.write_bytes(sink.object)
    return path


@pytest.fixture(scope="module")
def vc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VCenterSimulator]:
    folder = tmp_path_factory.mktemp("vcenter")
    raw = folder / "disk.raw"
    raw.write_bytes(bytes(MIB))
    with vcenter.start(folder / "state", [SimVm("web01", [SimDisk(raw)])]) as running:
        yield running


def test_gnu_tar_python_and_go_list_the_same(box: Any, tmp_path: Path, disks: list[bytes]) -> None:
    ova = written(box, tmp_path / "x.ova", disks)
    found = listed(ova)
    assert [name for name, _ in found] == [
        "exp-1.ovf",
        "exp-1.mf",
        *(f"exp-1-disk{n}.vmdk" for n in range(1, len(disks) + 1)),
    ]
    first = run("tar", "-tvf", ova).splitlines()[0]
    assert first.split()[:2] == ["-rw-r--r--", "0/0"]
    assert "2023-11-14 22:13" in first


def test_qemu_reads_every_disk_and_finds_the_same_bytes(box: Any, tmp_path: Path, disks: list[bytes]) -> None:
    ova = written(box, tmp_path / "x.ova", disks)
    run("tar", "-xf", ova, "-C", tmp_path)
    for number, content in enumerate(disks, start=1):
        raw, vmdk = tmp_path / f"{number}.raw", tmp_path / f"exp-1-disk{number}.vmdk"
        raw.write_bytes(content)
        assert "No errors" in run("qemu-img", "check", "-f", "vmdk", vmdk)
        assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, vmdk)


def test_govmomi_reads_the_machine_and_checks_every_byte(box: Any, tmp_path: Path, disks: list[bytes]) -> None:
    found = ovf_importer("check", written(box, tmp_path / "x.ova", disks))
    machine = found["machine"]
    assert machine.pop("disks") == [
        {"capacity": len(content), "controller": "lsilogic", "unit": unit} for unit, content in enumerate(disks)
    ]
    assert machine == {
        "name": 'Büro & "web" <1>',
        "cpus": 4,
        "memory_mib": 16_384,
        "firmware": "efi",
        "hardware": "vmx-13",
        "guest": "ubuntu64Guest",
        "cards": ["VirtualVmxnet3", "VirtualVmxnet3"],
        "networks": ["subnet-a", "subnet-b"],
        "annotation": "Exported from i-0123456789abcdef0",
    }


@pytest.mark.parametrize("controller", ["lsilogic", "pvscsi"])
def test_a_vcenter_makes_an_import_spec_of_it(box: Any, tmp_path: Path, vc: VCenterSimulator, controller: str) -> None:
    disks = DISKS["three disks"]
    ova = written(box, tmp_path / "x.ova", disks, controller=controller)
    found = ovf_importer("import", ova, vc)
    assert "errors" not in found
    assert "warnings" not in found
    assert [disk["controller"] for disk in found["machine"]["disks"]] == [controller] * 3
    sizes = {one["name"]: one["size"] for one in found["members"]}
    assert [(one["path"], one["size"]) for one in found["uploads"]] == [
        (name, sizes[name]) for name in (f"exp-1-disk{n}.vmdk" for n in (1, 2, 3))
    ]


def test_a_machine_with_sata_is_described_though_the_simulated_vcenter_knows_no_such_controller(
    box: Any, tmp_path: Path, vc: VCenterSimulator
) -> None:
    """govmomi's simulator takes no controller of type 20 from a descriptor; vSphere and govmomi's own reader do."""
    ova = written(box, tmp_path / "x.ova", DISKS["one disk"], controller="sata", guest="windows9Server64Guest")
    found = ovf_importer("import", ova, vc)
    assert found["machine"]["disks"] == [{"capacity": 20 * MIB, "controller": "ahci", "unit": 0}]
    assert found["machine"]["cards"] == ["VirtualE1000e"] * 2
    assert found["errors"] == ["unsupported resource type: 20"]


def test_more_disks_than_one_controller_takes(box: Any, tmp_path: Path) -> None:
    disks = [b"disk %02d" % number * 100 for number in range(20)]
    machine = ovf_importer("check", written(box, tmp_path / "x.ova", disks))["machine"]
    assert [disk["unit"] for disk in machine["disks"]] == [*range(7), *range(8, 16), *range(5)]


def test_the_oracle_says_no(box: Any, tmp_path: Path) -> None:
    """A judge that agrees with everything proves nothing."""
    ova = written(box, tmp_path / "x.ova", DISKS["one disk"])
    good = ova.read_bytes()
    for old, new, words in (
        (b"&lt;1&gt;", b"&lt;2&gt;", "the manifest says SHA256"),
        (b"SHA256(exp-1-disk1", b"SHA256(exp-2-disk1", "does not name exp-1-disk1.vmdk"),
        (b"# Disk DescriptorFile", b"# disk DescriptorFile", "the manifest says SHA256"),
    ):
        assert good.count(old)
        ova.write_bytes(good.replace(old, new))
        with pytest.raises(OracleError, match=words):
            ovf_importer("check", ova)
    ova.write_bytes(good[: len(good) * 3 // 4])
    with pytest.raises(OracleError, match="unexpected EOF"):
        ovf_importer("check", ova)


def test_a_member_above_eight_gib_is_listed_right(tmp_path: Path) -> None:
    """Only headers; the rest is a hole. ``make proof`` writes a whole one."""
    sizes = [("a-disk1.vmdk", 8 * GIB - 1), ("a-disk2.vmdk", 8 * GIB), ("a-disk3.vmdk", 2048 * GIB - 512), ("end", 5)]
    path = tmp_path / "large.ova"
    with path.open("wb") as file:
        for name, size in sizes:
            file.write(pack_header(name, size, 1_700_000_000))
            file.seek(-(-size // SECTOR) * SECTOR, os.SEEK_CUR)
        file.write(END)
    assert listed(path) == sizes


class SparseSink:
    """Keeps an object as a sparse file; parts may come in any order, so it notes where each one lies only at its end.

    Pages of zeros become holes.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path
        self.sizes: dict[int, int] = {}

    def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
        assert hashlib.sha256(data).digest() == sha256
        with (self._folder / f"{number:05}").open("wb") as file:
            write_sparse(file, bytes(data))
        self.sizes[number] = len(data)

    def complete(self) -> None:
        """The parts become one file, piece by piece, their holes kept."""
        with (self._folder / "x.ova").open("wb") as out:
            for number in sorted(self.sizes):
                part = self._folder / f"{number:05}"
                write_sparse(out, part.read_bytes())
                part.unlink()


def write_sparse(file: Any, data: bytes) -> None:
    start = file.tell()
    zeros = bytes(PAGE)
    for place in range(0, len(data), PAGE):
        page = data[place : place + PAGE]
        if page != zeros[: len(page)]:
            file.seek(start + place)
            file.write(page)
    file.seek(start + len(data))
    file.truncate()


def stored_block(index: int) -> PreparedBlock:
    """A block of grains that hold one byte, kept as they are: it takes 528 KiB of the file and next to nothing of the
    disk below."""
    grain = b"\1" + bytes(64 * KIB - 1)
    halves = (grain[: 32 * KIB], grain[32 * KIB :])
    head = b"\x78\x01" + struct.pack("<BHH", 0, 32 * KIB, 32 * KIB ^ 0xFFFF)
    last = struct.pack("<BHH", 1, 32 * KIB, 32 * KIB ^ 0xFFFF)
    checksum = zlib.adler32(grain).to_bytes(4, "big")
    packed = head + halves[0] + last + halves[1] + checksum
    chunks, sector, grains = [], 0, []
    for number in range(8):
        record = struct.pack("<QI", (index * 8 + number) * 128, len(packed)) + packed
        chunks.append(record.ljust(-(-len(record) // SECTOR) * SECTOR, b"\0"))
        grains.append((number, sector))
        sector += len(chunks[-1]) // SECTOR
    return PreparedBlock(index, tuple(chunks), sector * SECTOR, tuple(grains))


def filler(index: int) -> PreparedBlock:
    one = stored_block(0)
    return PreparedBlock(index, (bytes(one.size),), one.size, one.grains)


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_a_whole_ova_with_a_disk_file_above_eight_gib(tmp_path: Path) -> None:
    capacity = 8 * GIB + 128 * MIB
    plan = OvaPlan(
        name="exp-1", machine=Machine(name="large", cpus=1, memory_mib=512), capacities=(capacity, MIB), mtime=1
    )
    sink = SparseSink(tmp_path)
    with closing(OvaAssembly(sink, plan)) as assembly:
        writer = assembly.disk(0)
        for index in range(blocks := capacity // BLOCK):
            # Those between are no grains but as long: holes of the file, which nothing but a full comparison reads.
            writer.write(index, stored_block(index) if min(index, blocks - index) < 100 else filler(index))
        writer.finish(Manifest.empty(capacity))
        assembly.disk(1).finish(Manifest.empty(MIB))
        result = assembly.finish()
    path = tmp_path / "x.ova"
    assert path.stat().st_size == result.object_bytes
    assert path.stat().st_blocks * SECTOR < 2 * GIB, "it is sparse"
    sizes = [(file.name, file.size) for file in result.files]
    assert sizes[1][1] > 8 * GIB
    assert [one for one in listed(path) if one[0] != "exp-1.mf"] == sizes
    digests = {one["name"]: one["sha256"] for one in ovf_importer("check", path)["members"]}
    assert all(digests[file.name] == file.sha256 for file in result.files)
    with path.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            return os.pread(file.fileno(), length, offset)

        assert open_exported(read, result.object_bytes, "ova") == (
            OpenedDisk("exp-1-disk1.vmdk", capacity),
            OpenedDisk("exp-1-disk2.vmdk", MIB),
        )
    assert all(size >= 5 * MIB for _, size in sorted(sink.sizes.items())[:-1])
    assert all(b == a + 1 for a, b in pairwise(sorted(sink.sizes)))


def test_the_block_of_the_proof_is_a_true_one(box: Any, tmp_path: Path) -> None:
    content = (b"\1" + bytes(64 * KIB - 1)) * 8
    sink = box.Sink()
    plan = box.ova_plan([content])
    with closing(OvaAssembly(sink, plan)) as assembly:
        writer = assembly.disk(0)
        writer.write(0, stored_block(0))
        writer.finish(box.manifest_of(content))
        assembly.finish()
    with tarfile.open(fileobj=io.BytesIO(sink.object)) as archive:
        file = archive.extractfile("exp-1-disk1.vmdk")
        assert file is not None
        assert box.decode(file.read())[0] == content
