"""Cuts the bytes of one object into numbered parts: a multipart upload without scratch space.

A part can be *held*: :meth:`PartStream.reserve` leaves a place open for bytes that are known later (the size of a file
in a tar's header, its digest), and the part with it stays in memory until :meth:`PartStream.fill` has closed its last
one. S3 takes parts in any order, so the parts behind it go out meanwhile.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from wavelift.base.errors import Cancelled
from wavelift.base.units import MIB
from wavelift.transfer.protocols import PartSink

MIN_PART: Final = 8 * MIB
"""S3 wants 5 MiB; 8 keeps the requests per GiB low and the buffers small."""
MAX_PARTS: Final = 10_000
"""S3: parts of one multipart upload."""
MAX_PART: Final = 5 * 1024 * MIB
"""S3: bytes of one part."""
HELD_PART: Final = 5 * MIB
"""S3's least of every part but the last: a held one lies in memory for as long as a disk takes, so it ends here."""
BUFFER_BUDGET: Final = 44 * MIB
"""Of all part buffers of one object, as long as two of them fit (disks up to about 200 GiB)."""


def part_size_of(most: int, *, parts: int = MAX_PARTS - 1) -> int:
    """The part size, bytes, with which an object of at most ``most`` bytes fits into ``parts`` parts of at least that
    size: 8 MiB up to 77 GiB, then about a ten-thousandth of it."""
    needed = -(-most // parts)
    return min(max(MIN_PART, -(-needed // MIB) * MIB), MAX_PART - MIB)


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of the object that :meth:`PartStream.fill` brings later; whole in one part."""

    part: int
    start: int
    """Within the part."""
    length: int


@dataclass(slots=True)
class _Held:
    """A part that was cut with open places."""

    data: bytearray
    open: set[Place] = field(default_factory=set)


class PartStream:
    """Feeds a :class:`~wavelift.transfer.protocols.PartSink` from one thread.

    A part ends with the first emission that brings it to ``part_size``, so it is at most one emission longer. Where the
    cuts fall depends only on the content before them, so an object that is made again gives the same parts up to its
    first change, each recognised by its SHA-256 (invariant 6). A part with an open place ends at 5 MiB already.

    Memory: ``uploads + 1`` buffers of a part, fewer where they would exceed 44 MiB, never fewer than two; and the held
    parts: those with open places, and one that is on its way.

    :param part_size: bytes; S3 refuses less than 5 MiB.
    :param longest: the most bytes that one :meth:`put` or :meth:`reserve` brings.
    :param uploads: threads that hash and send parts, at most.
    """

    def __init__(self, sink: PartSink, *, part_size: int, longest: int, uploads: int = 3) -> None:
        self.part_size = part_size
        self.object_bytes = 0
        """Bytes of the object so far, in parts that are cut."""
        self.parts = 0
        """Parts cut so far."""
        self._sink = sink
        self._held_size = min(HELD_PART, part_size)
        self._room = part_size + longest
        self._spare = min(uploads + 1, max(2, BUFFER_BUDGET // self._room))
        self._pool = ThreadPoolExecutor(self._spare - 1, thread_name_prefix="part-upload")
        self._free: list[mmap.mmap] = []
        self._buffer = self._new_buffer()
        self._fill = 0
        self._changed = threading.Condition()
        self._uploading = 0
        self._interrupted = False
        self._error: BaseException | None = None
        self._open: set[Place] = set()
        """Places of the part that is being filled."""
        self._held: dict[int, _Held] = {}
        self._late = 0
        """Parts that were held and are on their way."""

    def check(self) -> None:
        """:raises: what the sink raised for an earlier part. :raises Cancelled: after :meth:`interrupt`."""
        if self._error is not None:
            raise self._error
        if self._interrupted:
            raise Cancelled("the upload was interrupted")

    def put(self, chunks: Sequence[bytes], size: int) -> None:
        """The next bytes, whole in one part.

        :param size: of all chunks together.
        :raises: as :meth:`check`.
        """
        if self._fill >= (self._held_size if self._open else self.part_size):
            self._cut()
        fill = self._fill
        for chunk in chunks:
            end = fill + len(chunk)
            self._buffer[fill:end] = chunk
            fill = end
        self._fill = fill

    def reserve(self, length: int) -> Place:
        """Leave the next ``length`` bytes open; the part that has them is held until they are filled.

        :raises: as :meth:`check`.
        """
        if self._fill >= self._held_size:
            self._cut()
        place = Place(self.parts + 1, self._fill, length)
        self._open.add(place)
        self.put((bytes(length),), length)
        return place

    def fill(self, place: Place, data: bytes) -> None:
        """Write what ``place`` was left open for, once. The part goes out when it was its last open place.

        :raises: as :meth:`check`.
        """
        if len(data) != place.length:
            raise ValueError(f"{len(data)} bytes for a place of {place.length}")
        self.check()
        span = slice(place.start, place.start + place.length)
        held = self._held.get(place.part)
        if held is None:
            self._open.remove(place)
            self._buffer[span] = data
            return
        held.open.remove(place)
        held.data[span] = data
        if not held.open:
            self._release(place.part)

    def complete(self) -> None:
        """Ship the last part, wait for all, make them one object.

        :raises: as :meth:`check`, and what the sink raises.
        """
        if self._open or self._held:
            raise ValueError("places of the object were never filled")
        self._ship()
        with self._changed:
            while self._uploading and not self._stopped():
                self._changed.wait()
            self.check()
        self._sink.complete()

    def interrupt(self) -> None:
        """Make a call that waits raise Cancelled; called from another thread."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the upload threads; waits for parts that are on their way. Idempotent."""
        self.interrupt()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._free.clear()
        self._held.clear()

    def _cut(self) -> None:
        """End the part: hold it where a place of it is open, else hand it to an upload thread."""
        if self._open:
            self._hold()
        else:
            self._ship()
            self._buffer = self._take_buffer()

    def _hold(self) -> None:
        """Keep the part aside, in memory of its own size: a buffer is as large as the largest part."""
        with self._changed:
            while self._late and not self._stopped():  # else slow uploads of many small disks' parts would pile up
                self._changed.wait()
            self.check()
        number = self._numbered()
        self._held[number] = _Held(bytearray(memoryview(self._buffer)[: self._fill]), self._open)
        self._open = set()
        self._fill = 0

    def _release(self, number: int) -> None:
        held = self._held.pop(number)
        with self._changed:
            self._uploading += 1
            self._late += 1
        self._pool.submit(self._upload, number, held.data, len(held.data))

    def _ship(self) -> None:
        """Hand the filled buffer to an upload thread."""
        with self._changed:
            self.check()
            self._uploading += 1
        self._pool.submit(self._upload, self._numbered(), self._buffer, self._fill)
        self._fill = 0

    def _numbered(self) -> int:
        """The number of the part that ends here."""
        self.parts += 1
        self.object_bytes += self._fill
        return self.parts

    def _upload(self, number: int, buffer: mmap.mmap | bytearray, length: int) -> None:
        try:
            if not self._stopped():
                with memoryview(buffer)[:length] as data:
                    self._sink.put_part(number, data, hashlib.sha256(data).digest())
        except BaseException as error:
            self._error = self._error or error
        finally:
            with self._changed:
                if isinstance(buffer, bytearray):
                    self._late -= 1
                else:
                    self._free.append(buffer)
                self._uploading -= 1
                self._changed.notify_all()

    def _take_buffer(self) -> mmap.mmap:
        with self._changed:
            if self._spare and not self._free:
                return self._new_buffer()
            while not self._free and not self._stopped():
                self._changed.wait()
            self.check()
            return self._free.pop()

    def _new_buffer(self) -> mmap.mmap:
        # Anonymous maps, not bytearrays: only what is filled becomes memory, and it goes back at the end.
        self._spare -= 1
        return mmap.mmap(-1, self._room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _stopped(self) -> bool:
        return self._interrupted or self._error is not None
