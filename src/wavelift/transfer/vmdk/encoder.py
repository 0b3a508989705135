"""Writes stream-optimised VMDK front to back, in the footer style of ESXi and ovftool.

Equal disks give equal bytes on one machine: the output depends on nothing but the content. So a part that a killed try
stored is recognised (invariant 6). On another CPU model isal may choose other matches; such parts are sent again.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from isal import isal_zlib
from isal.isal_zlib import adler32

from wavelift.base.errors import PermanentError
from wavelift.base.units import BLOCK, SECTOR
from wavelift.transfer.manifest import MAX_CAPACITY
from wavelift.transfer.vmdk import format as vmdk
from wavelift.transfer.vmdk.format import GRAIN, GRAIN_SECTORS, GRAINS_PER_BLOCK, TABLE_ENTRIES

LEVEL: Final = 1
"""isal level 1 compresses as well as zlib 1 and needs a fifth of its CPU: about 2 CPU-seconds per GiB of data."""

_BLOCKS_PER_TABLE: Final = TABLE_ENTRIES // GRAINS_PER_BLOCK
_PADDING: Final = tuple(bytes(count) for count in range(SECTOR))
_ZLIB: Final = b"\x78\x01"
_STORED_HEAD: Final = _ZLIB + struct.pack("<BHH", 0, GRAIN // 2, GRAIN // 2 ^ 0xFFFF)
_STORED_LAST: Final = struct.pack("<BHH", 1, GRAIN // 2, GRAIN // 2 ^ 0xFFFF)
_FIRST: Final = 4
"""Bytes: isal's shortest match, so that its hash of a history reads no byte behind it."""
_FIRST_HEAD: Final = _ZLIB + struct.pack("<BHH", 0, _FIRST, _FIRST ^ 0xFFFF)
_RAW: Final = -15
"""zlib's ``wbits`` of a stream without head and checksum, with the whole window."""
_SAMPLE_BYTES: Final = 2048
_SAMPLE: Final = slice(GRAIN // 2, GRAIN // 2 + _SAMPLE_BYTES)
_WORST_GRAIN: Final = GRAIN + SECTOR
"""An incompressible grain with marker and padding: deflate's stored blocks add 16 bytes, the marker 12."""

WORST_BLOCK: Final = GRAINS_PER_BLOCK * _WORST_GRAIN
OTHER_WAY: Final = "Replicate this server into EBS snapshots instead of importing a VMDK"


@dataclass(frozen=True, slots=True)
class PreparedBlock:
    """A block ready to be appended; independent of its place in the file.

    :param chunks: markers, compressed grains and padding; together ``size`` bytes, whole sectors. Not joined: they are
        copied once, to where they are sent from.
    :param grains: (number of the grain in the block, its sector within the chunks); zero grains are left out.
    """

    index: int
    chunks: tuple[bytes, ...]
    size: int
    grains: tuple[tuple[int, int], ...]


def prepare_block(index: int, data: memoryview) -> PreparedBlock:
    """Deflate block ``index``. CPU work that frees the GIL: for worker threads.

    :param data: the block; only the disk's last one may be short, and is then filled up with zeros to a whole grain.
    """
    chunks: list[bytes] = []
    grains: list[tuple[int, int]] = []
    sector = 0
    lba = index * GRAINS_PER_BLOCK * GRAIN_SECTORS
    hopeless = False
    for number, start in enumerate(range(0, len(data), GRAIN)):
        grain: memoryview | bytes = data[start : start + GRAIN]
        if len(grain) < GRAIN:
            grain = bytes(grain).ljust(GRAIN, b"\0")
        deflated = _stored(grain) if hopeless and _incompressible(grain) else _deflate(grain)
        # Deflating a zero grain (9 us, and rare in a block with data) is cheaper than looking at every grain first.
        if deflated == _ZERO_DEFLATED:
            continue
        hopeless = len(deflated) >= GRAIN
        length = vmdk.GRAIN_MARKER.size + len(deflated)
        marker = vmdk.GRAIN_MARKER.pack(lba + number * GRAIN_SECTORS, len(deflated))
        chunks += (marker, deflated, _PADDING[-length % SECTOR])
        grains.append((number, sector))
        sector += vmdk.sectors_of(length)
    return PreparedBlock(index, tuple(chunks), sector * SECTOR, tuple(grains))


def _incompressible(grain: memoryview | bytes) -> bool:
    """Whether a look into the middle says so: asked only behind a grain that was, as media and archives are long.

    An error costs size, never correctness.
    """
    return len(_deflate(grain[_SAMPLE])) >= _SAMPLE_BYTES


def _deflate(data: memoryview | bytes) -> bytes:
    """A zlib stream, the same wherever and whenever it is made; never longer than :func:`_stored` makes a grain.

    ``isal_zlib.compress`` gives two answers for one input, about once in 4,000 grains: at the first byte of a stream
    without a history, ISA-L's level 1 (``.write_first_byte`` of igzip_icf_body_h1_gr_bt.asm) hashes the address of its
    own state, which lies on the thread's stack, as if it were the third byte. With a history it does not come there. So
    the first bytes are stored, and are the history of the others. That costs 2 to 8 % of deflate's CPU.
    """
    rest = isal_zlib.compressobj(LEVEL, wbits=_RAW, zdict=data[:_FIRST])
    body = (rest.compress(data[_FIRST:]), rest.flush())
    if len(data) == GRAIN <= sum(map(len, body)):
        return _stored(data)
    return b"".join((_FIRST_HEAD, data[:_FIRST], *body, adler32(data).to_bytes(4, "big")))


def _stored(grain: memoryview | bytes) -> bytes:
    """A zlib stream that holds the grain as it is: a twentieth of the CPU of finding out that deflate cannot help."""
    return b"".join(
        (_STORED_HEAD, grain[: GRAIN // 2], _STORED_LAST, grain[GRAIN // 2 :], adler32(grain).to_bytes(4, "big"))
    )


_ZERO_DEFLATED: Final = _deflate(vmdk.ZERO_GRAIN)


def worst_size(capacity: int) -> int:
    """The most bytes that a disk of ``capacity`` bytes can need as a file: nothing of it compressible."""
    grains = -(-capacity // GRAIN)
    tables = -(-grains // TABLE_ENTRIES)
    directory = vmdk.sectors_of(tables * 4) * SECTOR
    fixed = vmdk.Header(1).overhead * SECTOR + directory + 4 * SECTOR
    return fixed + grains * _WORST_GRAIN + tables * (SECTOR + vmdk.TABLE_BYTES)


class StreamVmdkEncoder:
    """Appends prepared blocks, in ascending order, to whatever ``emit`` feeds.

    State: one table and the directory.

    :param emit: takes the next chunks and the sum of their lengths; between two calls the file may be cut into parts.
    :param capacity: of the disk in bytes; rounded up to whole sectors.
    :param way_out: what to do with a disk whose file would be too large.
    """

    def __init__(
        self, capacity: int, emit: Callable[[Sequence[bytes], int], None], *, way_out: str = OTHER_WAY
    ) -> None:
        if not 0 < capacity <= MAX_CAPACITY:
            raise ValueError(f"capacity {capacity} is not within 1..{MAX_CAPACITY}")
        self._header = vmdk.Header(vmdk.sectors_of(capacity))
        self._emit = emit
        self._way_out = way_out
        self._sector = 0
        self._directory = vmdk.new_table(self._header.tables)
        self._table: array[int] = vmdk.new_table()
        self._table_number = 0
        self._last_index = -1

    @property
    def position(self) -> int:
        """Bytes emitted so far."""
        return self._sector * SECTOR

    @property
    def longest_emission(self) -> int:
        """The most bytes that one call of ``emit`` brings: a block, or directory and footer of a disk of many TiB."""
        return max(WORST_BLOCK, vmdk.sectors_of(4 * self._header.tables) * SECTOR + 4 * SECTOR)

    def begin(self) -> None:
        """Emit header and descriptor: once, before the first block."""
        head = self._header.pack() + descriptor(self._header.capacity)
        self._put((head.ljust(self._header.overhead * SECTOR, b"\0"),))

    def append(self, block: PreparedBlock) -> None:
        """:raises PermanentError: when the file would outgrow the format."""
        number, slot = divmod(block.index, _BLOCKS_PER_TABLE)
        if block.index <= self._last_index or number >= len(self._directory):
            raise ValueError(f"block {block.index} after block {self._last_index} of {self._header.size} bytes")
        self._last_index = block.index
        if number != self._table_number:
            self._end_table()
            self._table_number = number
        first = slot * GRAINS_PER_BLOCK
        self._check_room(block.size)
        for grain, sector in block.grains:
            self._table[first + grain] = self._sector + sector
        if block.size:
            self._put(block.chunks)

    def finish(self) -> None:
        """Emit what closes the file: last table, directory, footer, end mark."""
        self._end_table()
        directory = vmdk.pack_table(self._directory)
        self._check_room(len(directory))
        footer = vmdk.Header(self._header.capacity, gd_offset=self._sector + 1)
        self._put(
            (
                vmdk.pack_marker(len(directory) // SECTOR, vmdk.MARKER_DIRECTORY),
                directory,
                vmdk.pack_marker(1, vmdk.MARKER_FOOTER),
                footer.pack(),
                vmdk.pack_marker(0, vmdk.MARKER_EOS),
            )
        )

    def _end_table(self) -> None:
        if not any(self._table):
            return
        table = vmdk.pack_table(self._table)
        self._directory[self._table_number] = self._sector + 1
        self._put((vmdk.pack_marker(len(table) // SECTOR, vmdk.MARKER_TABLE), table))
        self._table = vmdk.new_table()

    def _check_room(self, length: int) -> None:
        if self._sector + length // SECTOR + TABLE_ENTRIES > vmdk.MAX_SECTOR:
            raise PermanentError(
                "The disk does not fit into a VMDK: its compressed data is larger than 2 TiB",
                next_step=self._way_out,
                offset=self._last_index * BLOCK,
            )

    def _put(self, chunks: Sequence[bytes]) -> None:
        size = sum(map(len, chunks))
        self._sector += size // SECTOR
        self._emit(chunks, size)


def descriptor(sectors: int) -> bytes:
    """The embedded text descriptor of a disk of ``sectors``: what ovftool writes, made of the capacity alone."""
    identity = hashlib.sha256(f"wavelift {sectors}".encode()).hexdigest()
    # ffffffff would mean "no parent" and fffffffe "unknown"; the leading 0 keeps clear of both.
    content_id = f"0{identity[:7]}"
    cylinders = min(max(sectors // (255 * 63), 1), 0xFFFFFFFF)
    return f"""# Disk DescriptorFile
version=1
CID={content_id}
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW {sectors} SPARSE "disk.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.encoding = "UTF-8"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.longContentID = "{identity[7:31]}{content_id}"
ddb.toolsVersion = "2147483647"
ddb.virtualHWVersion = "13"
""".encode()
