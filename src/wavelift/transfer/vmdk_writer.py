"""Writes a disk as numbered parts of one stream-optimised VMDK: a multipart upload without scratch space."""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from wavelift.base.errors import Cancelled
from wavelift.base.units import MIB
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.protocols import PartSink
from wavelift.transfer.vmdk.encoder import PreparedBlock, StreamVmdkEncoder, prepare_block, worst_size

MIN_PART: Final = 8 * MIB
"""S3 wants 5 MiB; 8 keeps the requests per GiB low and the buffers small."""
MAX_PARTS: Final = 10_000
"""S3: parts of one multipart upload."""
MAX_PART: Final = 5 * 1024 * MIB
"""S3: bytes of one part."""
BUFFER_BUDGET: Final = 44 * MIB
"""Of all part buffers of one disk, as long as two of them fit (disks up to about 200 GiB)."""


def part_size_for(capacity: int) -> int:
    """The part size, bytes, with which a disk of ``capacity`` bytes fits into 10,000 parts even if nothing of it can
    be compressed: 8 MiB up to 77 GiB, then about a ten-thousandth of the disk."""
    # A part is never smaller than its target but for the last one.
    needed = -(-worst_size(capacity) // (MAX_PARTS - 1))
    return min(max(MIN_PART, -(-needed // MIB) * MIB), MAX_PART - MIB)


class VmdkPartWriter:
    """An ordered block writer that feeds a :class:`~wavelift.transfer.protocols.PartSink`.

    A part ends with the first block that brings it to ``part_size``; it is at most one block (528 KiB) longer. Where
    the cuts fall depends only on the disk's content before them, so a disk that is read again gives the same parts up
    to its first change, each recognised by its SHA-256 (invariant 6).

    Memory: ``uploads + 1`` buffers of a part, fewer where they would exceed 44 MiB, never fewer than two.

    :param capacity: of the disk, bytes.
    :param part_size: bytes; S3 refuses less than 5 MiB. By default :func:`part_size_for` the capacity.
    :param uploads: threads that hash and send parts, at most.
    """

    ordered = True
    writes_zeros = False

    def __init__(self, sink: PartSink, capacity: int, *, part_size: int | None = None, uploads: int = 3) -> None:
        self.part_size = part_size or part_size_for(capacity)
        self.object_bytes = 0
        """Bytes of the object so far."""
        self.parts = 0
        """Parts handed over so far."""
        self._sink = sink
        self._encoder = StreamVmdkEncoder(capacity, self._emit)
        self._room = self.part_size + self._encoder.longest_emission
        self._spare = min(uploads + 1, max(2, BUFFER_BUDGET // self._room))
        self._pool = ThreadPoolExecutor(self._spare - 1, thread_name_prefix="part-upload")
        self._free: list[mmap.mmap] = []
        self._buffer = self._new_buffer()
        self._fill = 0
        self._changed = threading.Condition()
        self._uploading = 0
        self._interrupted = False
        self._error: BaseException | None = None
        self._begun = False

    def prepare(self, index: int, data: memoryview, digest: bytes) -> PreparedBlock:
        return prepare_block(index, data)

    def wire_bytes(self, prepared: PreparedBlock) -> int:
        return prepared.size

    def write(self, index: int, prepared: PreparedBlock) -> None:
        """:raises: what the sink raised for an earlier part."""
        self._check()
        self._begin()
        self._encoder.append(prepared)

    def finish(self, manifest: Manifest) -> None:
        """Close the file, wait for all parts, complete the object."""
        self._begin()
        self._encoder.finish()
        self._ship()
        with self._changed:
            while self._uploading and not self._stopped():
                self._changed.wait()
            self._check()
        self._sink.complete()

    def interrupt(self) -> None:
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the upload threads; waits for parts that are on their way."""
        self.interrupt()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._free.clear()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._encoder.begin()

    def _emit(self, chunks: Sequence[bytes], size: int) -> None:
        if self._fill >= self.part_size:
            self._ship()
            self._buffer = self._take_buffer()
        fill = self._fill
        for chunk in chunks:
            end = fill + len(chunk)
            self._buffer[fill:end] = chunk
            fill = end
        self._fill = fill

    def _ship(self) -> None:
        """Hand the filled buffer to an upload thread."""
        with self._changed:
            self._check()
            self._uploading += 1
        self.parts += 1
        self.object_bytes += self._fill
        self._pool.submit(self._upload, self.parts, self._buffer, self._fill)
        self._fill = 0

    def _upload(self, number: int, buffer: mmap.mmap, length: int) -> None:
        try:
            if not self._stopped():
                with memoryview(buffer)[:length] as data:
                    self._sink.put_part(number, data, hashlib.sha256(data).digest())
        except BaseException as error:
            self._error = self._error or error
        finally:
            with self._changed:
                self._free.append(buffer)
                self._uploading -= 1
                self._changed.notify_all()

    def _take_buffer(self) -> mmap.mmap:
        with self._changed:
            if self._spare and not self._free:
                return self._new_buffer()
            while not self._free and not self._stopped():
                self._changed.wait()
            self._check()
            return self._free.pop()

    def _new_buffer(self) -> mmap.mmap:
        # Anonymous maps, not bytearrays: only what is filled becomes memory, and it goes back at the end.
        self._spare -= 1
        return mmap.mmap(-1, self._room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _stopped(self) -> bool:
        return self._interrupted or self._error is not None

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._interrupted:
            raise Cancelled("the upload was interrupted")
