"""Writes a virtual machine as one OVA in one pass: descriptor, manifest, disks; without scratch space.

::

    part 1 ...   x.ovf (64 KiB)   x.mf   header of x-disk1.vmdk   first 5 MiB of it         held until all have ended
    part 2 ...   x-disk1.vmdk
    part n       header of x-disk2.vmdk   first 5 MiB of it                                 held until disk 2 has ended
    ...
    last part    ... end of the last disk, two empty sectors

A tar's header names its member's size, the manifest all digests, the descriptor all sizes. So these places are left
open (:mod:`wavelift.transfer.parts`), and the parts that have them go out late. A small disk may lie in one part with
the next one's header; a header never lies across a cut, since it is one emission.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wavelift.base.errors import PermanentError
from wavelift.base.units import TIB, exact_bytes
from wavelift.transfer import tar
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.ovf import DESCRIPTOR_SIZE, DiskFile, Machine, descriptor
from wavelift.transfer.parts import MAX_PARTS, PartStream, Place, part_size_of
from wavelift.transfer.protocols import PartSink
from wavelift.transfer.vmdk.encoder import PreparedBlock, StreamVmdkEncoder, prepare_block, worst_size

MAX_OBJECT: Final = 5 * TIB
"""S3's most of one object."""
MAX_DISK: Final = 2 * TIB
"""The tables of a stream-optimised VMDK end there."""
_WAY_OUT: Final = "Export the instance with fewer or smaller disks, or let AWS export it as an image"


@dataclass(frozen=True, slots=True)
class OvaFile:
    """A file of the OVA; ``size`` in bytes, ``sha256`` hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class OvaResult:
    """What was written: bytes and parts of the object, and its files in their order but for the manifest."""

    object_bytes: int
    parts: int
    files: tuple[OvaFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OvaPlan:
    """What an OVA will be of; equal plans and disks give equal bytes.

    :param name: of the files, before their endings: at most 80 letters, digits, ``.``, ``_``, ``-``.
    :param capacities: of the disks in bytes, the boot disk first.
    :param mtime: of the files, seconds since 1970: of the instant that the disks show, not of now.
    """

    name: str
    machine: Machine
    capacities: tuple[int, ...]
    mtime: int

    @property
    def disk_names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}-disk{number}.vmdk" for number in range(1, len(self.capacities) + 1))

    @property
    def descriptor_name(self) -> str:
        return f"{self.name}.ovf"

    @property
    def manifest_name(self) -> str:
        return f"{self.name}.mf"

    @property
    def manifest_size(self) -> int:
        """Known beforehand: a line for each file, digests are of one length."""
        empty = [OvaFile(name, 0, "0" * 64) for name in (self.descriptor_name, *self.disk_names)]
        return len(manifest_text(empty))

    def check(self) -> None:
        """:raises PermanentError: disks that no OVA can hold, or more words than its descriptor has room for.

        :raises ValueError: a name or time that no header can hold.
        """
        if not self.capacities:
            raise PermanentError("The machine has no disk", next_step="Export an instance that has a volume")
        for name, capacity in zip(self.disk_names, self.capacities, strict=True):
            if not 0 < capacity <= MAX_DISK:
                raise PermanentError(
                    f"A disk of {exact_bytes(capacity)} does not fit into an OVA: a VMDK of its kind ends at 2 TiB",
                    next_step=_WAY_OUT,
                    disk=name,
                )
        for name in (self.descriptor_name, *self.disk_names):
            tar.pack_header(name, 0, self.mtime)
        # Every number at its longest: what has no room then is refused now, and not after hours of reading.
        descriptor(self.machine, [DiskFile(name, MAX_DISK, MAX_DISK, MAX_DISK) for name in self.disk_names])

    @property
    def most_bytes(self) -> int:
        """The size of the OVA when nothing of its disks can be compressed."""
        front = 2 * tar.HEADER + DESCRIPTOR_SIZE + tar.padded(self.manifest_size)
        return front + sum(tar.HEADER + worst_size(capacity) for capacity in self.capacities) + len(tar.END)

    @property
    def part_size(self) -> int:
        """The part size, bytes, with which the OVA fits into 10,000 parts, whatever its disks hold.

        Each disk may cost two parts that are shorter: the one before its header and the one with it.
        """
        short = 2 * (len(self.capacities) + 1)
        return part_size_of(min(self.most_bytes, MAX_OBJECT), parts=MAX_PARTS - 1 - short)


def manifest_text(files: Sequence[OvaFile]) -> bytes:
    """The ``.mf``, as ovftool writes it."""
    return "".join(f"SHA256({file.name})= {file.sha256}\n" for file in files).encode("ascii")


class OvaAssembly:
    """One OVA on its way into a :class:`~wavelift.transfer.protocols.PartSink`.

    For each disk in order :func:`~wavelift.transfer.pipeline.copy` to its :meth:`disk`, then :meth:`finish`; in any
    case :meth:`close`. What the sink holds is given up by its owner, not here: a retry keeps parts that are equal
    (invariant 6).

    Memory: as :class:`~wavelift.transfer.parts.PartStream`; at most three parts are held, together up to 17 MiB.

    :param part_size: bytes; by default the plan's. :param uploads: threads that hash and send parts, at most.
    :raises PermanentError: as :meth:`OvaPlan.check`, before anything is sent.
    """

    def __init__(self, sink: PartSink, plan: OvaPlan, *, part_size: int | None = None, uploads: int = 3) -> None:
        plan.check()
        self._plan = plan
        self._writers = [
            OvaDiskWriter(self, name, capacity) for name, capacity in zip(plan.disk_names, plan.capacities, strict=True)
        ]
        self._disks: list[DiskFile] = []
        self._files: list[OvaFile] = []
        self._size = 0
        longest = max(DESCRIPTOR_SIZE, *(writer.longest_emission for writer in self._writers))
        self._stream = PartStream(sink, part_size=part_size or plan.part_size, longest=longest, uploads=uploads)
        self._put_header(plan.descriptor_name, DESCRIPTOR_SIZE)
        self._descriptor = self.reserve(DESCRIPTOR_SIZE)
        self._put_header(plan.manifest_name, plan.manifest_size)
        self._manifest = self.reserve(plan.manifest_size)
        self.put((bytes(tar.padded(plan.manifest_size) - plan.manifest_size),))

    def disk(self, number: int) -> OvaDiskWriter:
        """The writer of disk ``number`` (from 0), once all before it are finished."""
        if number != len(self._disks):
            raise ValueError(f"disk {number} where disk {len(self._disks)} comes next")
        return self._writers[number]

    def finish(self) -> OvaResult:
        """Fill in what was left open, wait for all parts, complete the object.

        :raises: what the sink raises. :raises Cancelled: after :meth:`interrupt`.
        """
        if len(self._disks) != len(self._plan.capacities):
            raise ValueError(f"only {len(self._disks)} of {len(self._plan.capacities)} disks are finished")
        self.put((tar.END,))
        text = descriptor(self._plan.machine, self._disks)
        own = OvaFile(self._plan.descriptor_name, len(text), hashlib.sha256(text).hexdigest())
        files = (own, *self._files)
        self._stream.fill(self._descriptor, text)
        self._stream.fill(self._manifest, manifest_text(files))
        self._stream.complete()
        return OvaResult(self._stream.object_bytes, self._stream.parts, files)

    @property
    def files(self) -> tuple[OvaFile, ...]:
        """The disks that are finished."""
        return tuple(self._files)

    @property
    def object_bytes(self) -> int:
        """Of the object so far."""
        return self._size

    @property
    def parts(self) -> int:
        """Cut so far."""
        return self._stream.parts

    def interrupt(self) -> None:
        """Make a call that waits raise Cancelled; called from another thread."""
        self._stream.interrupt()

    def close(self) -> None:
        """Ends the upload threads. Idempotent."""
        self._stream.close()

    # -- for the disks' writers -----------------------------------------------------------------------------------

    def check(self) -> None:
        """:raises: what the sink raised for an earlier part."""
        self._stream.check()

    def put(self, chunks: Sequence[bytes]) -> None:
        """The next bytes of the object."""
        size = sum(map(len, chunks))
        self._grow(size)
        self._stream.put(chunks, size)

    def reserve(self, length: int) -> Place:
        """Leave the next bytes open."""
        self._grow(length)
        return self._stream.reserve(length)

    def end_disk(self, header: Place, disk: DiskFile, sha256: str) -> None:
        """The last byte of ``disk`` was put."""
        self._stream.fill(header, tar.pack_header(disk.href, disk.size, self._plan.mtime))
        self._disks.append(disk)
        self._files.append(OvaFile(disk.href, disk.size, sha256))

    def _put_header(self, name: str, size: int) -> None:
        self.put((tar.pack_header(name, size, self._plan.mtime),))

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_OBJECT:
            raise PermanentError(
                "The OVA does not fit into an object of S3: it is larger than 5 TiB", next_step=_WAY_OUT
            )


class OvaDiskWriter:
    """The ordered block writer of one disk; :class:`OvaAssembly` makes it.

    ``close`` leaves the OVA open: its next disk comes, or :meth:`OvaAssembly.close`.
    """

    ordered = True
    writes_zeros = False

    def __init__(self, ova: OvaAssembly, name: str, capacity: int) -> None:
        self._ova = ova
        self._name = name
        self._capacity = capacity
        self._encoder = StreamVmdkEncoder(capacity, self._emit, way_out=_WAY_OUT)
        self._digest = hashlib.sha256()
        self._header: Place | None = None

    @property
    def longest_emission(self) -> int:
        return self._encoder.longest_emission

    def prepare(self, index: int, data: memoryview, digest: bytes) -> PreparedBlock:
        return prepare_block(index, data)

    def wire_bytes(self, prepared: PreparedBlock) -> int:
        return prepared.size

    def write(self, index: int, prepared: PreparedBlock) -> None:
        """:raises: what the sink raised for an earlier part."""
        self._ova.check()
        self._begin()
        self._encoder.append(prepared)

    def finish(self, manifest: Manifest) -> None:
        """Close the file and tell its size in the header before it; the OVA goes on."""
        if manifest.capacity != self._capacity:
            raise ValueError(f"a manifest of {manifest.capacity} bytes for a disk of {self._capacity}")
        header = self._begin()
        self._encoder.finish()
        disk = DiskFile(self._name, self._encoder.position, self._capacity, manifest.data_bytes)
        self._ova.end_disk(header, disk, self._digest.hexdigest())

    def interrupt(self) -> None:
        self._ova.interrupt()

    def close(self) -> None:
        """Nothing of its own."""

    def _begin(self) -> Place:
        if self._header is None:
            self._header = self._ova.reserve(tar.HEADER)
            self._encoder.begin()
        return self._header

    def _emit(self, chunks: Sequence[bytes], size: int) -> None:
        # A VMDK is whole sectors, so nothing has to be padded behind it.
        for chunk in chunks:
            self._digest.update(chunk)
        self._ova.put(chunks)
