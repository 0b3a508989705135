"""Writes a disk as numbered parts of one stream-optimised VMDK: a multipart upload without scratch space."""

from __future__ import annotations

from wavelift.transfer.manifest import Manifest
from wavelift.transfer.parts import MAX_PART, MAX_PARTS, MIN_PART, PartStream, part_size_of
from wavelift.transfer.protocols import PartSink
from wavelift.transfer.vmdk.encoder import PreparedBlock, StreamVmdkEncoder, prepare_block, worst_size

__all__ = ["MAX_PART", "MAX_PARTS", "MIN_PART", "VmdkPartWriter", "part_size_for"]


def part_size_for(capacity: int) -> int:
    """The part size, bytes, with which a disk of ``capacity`` bytes fits into 10,000 parts even if nothing of it can
    be compressed: 8 MiB up to 77 GiB, then about a ten-thousandth of the disk."""
    return part_size_of(worst_size(capacity))


class VmdkPartWriter(PartStream):
    """An ordered block writer that feeds a :class:`~wavelift.transfer.protocols.PartSink`.

    A part ends with the first block that brings it to ``part_size``; it is at most one block (528 KiB) longer.

    :param capacity: of the disk, bytes.
    :param part_size: bytes; S3 refuses less than 5 MiB. By default :func:`part_size_for` the capacity.
    :param uploads: threads that hash and send parts, at most.
    """

    ordered = True
    writes_zeros = False

    def __init__(self, sink: PartSink, capacity: int, *, part_size: int | None = None, uploads: int = 3) -> None:
        self._encoder = StreamVmdkEncoder(capacity, self.put)
        longest = self._encoder.longest_emission
        super().__init__(sink, part_size=part_size or part_size_for(capacity), longest=longest, uploads=uploads)
        self._begun = False

    def prepare(self, index: int, data: memoryview, digest: bytes) -> PreparedBlock:
        return prepare_block(index, data)

    def wire_bytes(self, prepared: PreparedBlock) -> int:
        return prepared.size

    def write(self, index: int, prepared: PreparedBlock) -> None:
        """:raises: what the sink raised for an earlier part."""
        self.check()
        self._begin()
        self._encoder.append(prepared)

    def finish(self, manifest: Manifest) -> None:
        """Close the file, wait for all parts, complete the object."""
        self._begin()
        self._encoder.finish()
        self.complete()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._encoder.begin()
