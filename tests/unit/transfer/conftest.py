"""Disks in memory, a sink that keeps parts, streams made by hand, and the rule that no thread outlives a test."""

from __future__ import annotations

import hashlib
import io
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, SECTOR
from wavelift.transfer.extents import ReaderStream
from wavelift.transfer.manifest import Manifest, block_count
from wavelift.transfer.ova import OvaAssembly, OvaPlan, OvaResult
from wavelift.transfer.ovf import Machine
from wavelift.transfer.pipeline import copy
from wavelift.transfer.protocols import BlockStream, Extent, PartSink
from wavelift.transfer.vmdk import StreamVmdkSource
from wavelift.transfer.vmdk_writer import VmdkPartWriter


@pytest.fixture(autouse=True)
def _no_thread_outlives_the_test() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class MemoryDisk:
    """A DiskReader over bytes; ``extents`` default to the whole."""

    def __init__(self, content: bytes, extents: Sequence[Extent] | None = None) -> None:
        self.content = content
        self._extents = [Extent(0, len(content))] if extents is None else list(extents)
        self.clones: list[MemoryDisk] = []
        self.closed = False

    @property
    def size(self) -> int:
        return len(self.content)

    def extents(self) -> Iterator[Extent]:
        return iter(self._extents)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        assert not self.closed
        buffer[:] = self.content[offset : offset + len(buffer)]

    def clone(self) -> MemoryDisk:
        self.clones.append(MemoryDisk(self.content, self._extents))
        return self.clones[-1]

    def stream(self) -> BlockStream:
        return ReaderStream(self)

    def close(self) -> None:
        self.closed = True


@dataclass
class MemorySink:
    """A PartSink that checks each part's digest and keeps it."""

    parts: dict[int, bytes] = field(default_factory=dict)
    completed: bool = False

    def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
        assert hashlib.sha256(data).digest() == sha256
        assert number not in self.parts
        self.parts[number] = bytes(data)

    def complete(self) -> None:
        assert sorted(self.parts) == list(range(1, len(self.parts) + 1))
        self.completed = True

    @property
    def object(self) -> bytes:
        return b"".join(self.parts[number] for number in sorted(self.parts))

    @property
    def digests(self) -> list[str]:
        return [hashlib.sha256(self.parts[number]).hexdigest() for number in sorted(self.parts)]


class MemoryWriter:
    """An unordered BlockWriter into a bytearray; notes the order and what it was told."""

    def __init__(self, capacity: int, *, ordered: bool = False, writes_zeros: bool = False, fill: int = 0) -> None:
        self.ordered = ordered
        self.writes_zeros = writes_zeros
        self.content = bytearray([fill]) * capacity
        self.written: list[int] = []
        self.finished = False
        self.interrupted = False
        self.closed = 0
        self.digests: dict[int, bytes] = {}

    def prepare(self, index: int, data: memoryview, digest: bytes) -> bytes:
        self.digests[index] = digest
        return bytes(data)

    def wire_bytes(self, prepared: bytes) -> int:
        return len(prepared)

    def write(self, index: int, prepared: bytes) -> None:
        self.content[index * BLOCK : index * BLOCK + len(prepared)] = prepared
        self.written.append(index)

    def finish(self, manifest: Manifest) -> None:
        self.finished = True

    def interrupt(self) -> None:
        self.interrupted = True

    def close(self) -> None:
        self.closed += 1


class Toolbox:
    """What most tests need, as plain functions."""

    Disk = MemoryDisk
    Sink = MemorySink
    Writer = MemoryWriter

    @staticmethod
    def manifest_of(content: bytes) -> Manifest:
        """Made without any of our code but the container."""
        manifest = Manifest.empty(len(content))
        for index in range(block_count(len(content))):
            block = content[index * BLOCK : (index + 1) * BLOCK]
            if any(block):
                manifest.set(index, hashlib.sha256(block).digest())
        return manifest

    @staticmethod
    def encode(
        content: bytes, extents: Sequence[Extent] | None = None, *, part_size: int | None = None
    ) -> tuple[MemorySink, Manifest]:
        """The disk through the whole pipeline into parts."""
        sink = MemorySink()
        stream = MemoryDisk(content, extents).stream()
        manifest = Manifest.empty(len(content))
        writer = VmdkPartWriter(sink, len(content), part_size=part_size)
        copy(stream, writer, manifest, cancel=CancelFlag())
        stream.close()
        assert sink.completed
        assert writer.parts == len(sink.parts)
        assert writer.object_bytes == len(sink.object)
        return sink, manifest

    @staticmethod
    def ova_plan(disks: Sequence[bytes], *, stem: str = "exp-1", mtime: int = 1_700_000_000, **machine: Any) -> OvaPlan:
        told: dict[str, Any] = {"name": "web01", "cpus": 2, "memory_mib": 4096, **machine}
        return OvaPlan(name=stem, machine=Machine(**told), capacities=tuple(map(len, disks)), mtime=mtime)

    @staticmethod
    def write_ova(
        sink: PartSink, plan: OvaPlan, disks: Sequence[bytes], *, part_size: int | None = None, uploads: int = 3
    ) -> tuple[OvaResult, list[Manifest]]:
        """The disks, each through the whole pipeline, into one OVA."""
        manifests = [Manifest.empty(len(content)) for content in disks]
        assembly = OvaAssembly(sink, plan, part_size=part_size, uploads=uploads)
        with closing(assembly):
            for number, content in enumerate(disks):
                with closing(MemoryDisk(content).stream()) as stream:
                    copy(stream, assembly.disk(number), manifests[number], cancel=CancelFlag())
            return assembly.finish(), manifests

    @staticmethod
    def decode(file: bytes, *, raw: io.RawIOBase | None = None) -> tuple[bytes, Manifest]:
        """The disk that a stream-optimised VMDK holds, through the whole pipeline."""
        source = StreamVmdkSource(raw or io.BytesIO(file))
        writer = MemoryWriter(source.size)
        manifest = Manifest.empty(source.size)
        copy(source, writer, manifest, cancel=CancelFlag())
        assert source.position == source.size
        return bytes(writer.content), manifest


@pytest.fixture(scope="session")
def box() -> type[Toolbox]:
    return Toolbox


@dataclass
class HandMade:
    """A footer-style stream made by this test alone, with a knob for each thing that may be wrong."""

    capacity: int = 4 * 128
    """Sectors."""
    grains: dict[int, bytes] = field(default_factory=dict)
    packed: dict[int, bytes] = field(default_factory=dict)
    """Compressed payloads that replace the proper ones."""
    version: int = 3
    flags: int = 0x30001
    grain_sectors: int = 128
    entries: int = 512
    compression: int = 1
    newlines: bytes = b"\n \r\n"
    unclean: int = 0
    descriptor: tuple[int, int] = (1, 20)
    overhead: int = 128
    empty_tables: bool = False
    tables_last: bool = False
    edit_table: Callable[[int, list[int]], None] = lambda number, table: None
    edit_directory: Callable[[list[int]], None] = lambda directory: None
    footer_capacity: int | None = None
    footer_gd: int | None = None
    tail: bytes = b""
    leave_out: frozenset[str] = frozenset()
    order: Sequence[int] | None = None
    progress: int = 0
    """So many progress markers before every grain, table, directory and footer, as vSphere strews them in."""

    def header(self, gd: int, capacity: int) -> bytes:
        return struct.pack(
            "<4sIIQQQQIQQQB4sH",
            b"KDMV",
            self.version,
            self.flags,
            capacity,
            self.grain_sectors,
            *self.descriptor,
            self.entries,
            0,
            gd,
            self.overhead,
            self.unclean,
            self.newlines,
            self.compression,
        ).ljust(SECTOR, b"\0")

    def build(self) -> bytes:
        out = bytearray(self.header(2**64 - 1, self.capacity).ljust(self.overhead * SECTOR, b"\0"))
        count = -(-self.capacity // (128 * 512))
        tables = [[0] * 512 for _ in range(count)]
        directory = [0] * count
        numbers = self.order if self.order is not None else sorted(self.grains)
        last = None
        for grain in numbers:
            number = grain // 512
            if last is not None and number != last and not self.tables_last:
                self._table(out, last, tables, directory)
            last = number
            self._alive(out, grain * 128)
            if number < count:
                tables[number][grain % 512] = len(out) // SECTOR
            out += self.grain(grain, self.grains[grain], packed=self.packed.get(grain))
        for number in range(count):
            if not directory[number] and (any(tables[number]) or self.empty_tables):
                self._table(out, number, tables, directory)
        self._close(out, directory)
        return bytes(out)

    @staticmethod
    def grain(
        number: int, content: bytes, *, lba: int | None = None, size: int | None = None, packed: bytes | None = None
    ) -> bytes:
        packed = zlib.compress(content, 1) if packed is None else packed
        marker = struct.pack("<QI", number * 128 if lba is None else lba, len(packed) if size is None else size)
        return pad(marker + packed)

    def _alive(self, out: bytearray, reached: int) -> None:
        out += struct.pack("<QIIQ", 0, 0, 4, reached).ljust(SECTOR, b"\0") * self.progress

    def _table(self, out: bytearray, number: int, tables: list[list[int]], directory: list[int]) -> None:
        if "table" in self.leave_out:
            return
        self.edit_table(number, tables[number])
        self._alive(out, 0)
        out += struct.pack("<QII", 4, 0, 1).ljust(SECTOR, b"\0")
        directory[number] = len(out) // SECTOR
        out += struct.pack("<512I", *tables[number])

    def _close(self, out: bytearray, directory: list[int]) -> None:
        self.edit_directory(directory)
        self._alive(out, self.capacity)
        if "directory" not in self.leave_out:
            data = pad(struct.pack(f"<{len(directory)}I", *directory))
            out += struct.pack("<QII", len(data) // SECTOR, 0, 2).ljust(SECTOR, b"\0")
            gd = len(out) // SECTOR
            out += data
        if "footer" not in self.leave_out:
            out += struct.pack("<QII", 1, 0, 3).ljust(SECTOR, b"\0")
            out += self.header(self.footer_gd or gd, self.footer_capacity or self.capacity)
        self._alive(out, self.capacity)
        if "eos" not in self.leave_out:
            out += bytes(SECTOR)
        out += self.tail


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % SECTOR)


def front_style(capacity: int, grains: dict[int, bytes], *, tail: int = 126, drop: int | None = None) -> bytes:
    """What qemu-img writes: directory and tables in front, no footer. ``capacity`` in sectors."""
    count = -(-capacity // (128 * 512))
    gd_sectors = -(-count * 4 // SECTOR)
    overhead = -(-(21 + gd_sectors + count * 4) // 128) * 128
    first_table = 21 + gd_sectors
    tables = [[0] * 512 for _ in range(count)]
    body = bytearray()
    for number in sorted(grains):
        tables[number // 512][number % 512] = overhead + len(body) // SECTOR
        if number != drop:
            body += HandMade.grain(number, grains[number])
    header = struct.pack(
        "<4sIIQQQQIQQQB4sH", b"KDMV", 3, 0x30001, capacity, 128, 1, 20, 512, 0, 21, overhead, 0, b"\n \r\n", 1
    ).ljust(21 * SECTOR, b"\0")
    directory = pad(struct.pack(f"<{count}I", *(first_table + 4 * number for number in range(count))))
    front = header + directory + b"".join(struct.pack("<512I", *table) for table in tables)
    return front.ljust(overhead * SECTOR, b"\0") + bytes(body) + bytes(tail * SECTOR)


@pytest.fixture(scope="session")
def hand_made() -> type[HandMade]:
    return HandMade


@pytest.fixture(scope="session")
def qemu_like() -> Callable[..., bytes]:
    return front_style
