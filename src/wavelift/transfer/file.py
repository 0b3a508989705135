"""Raw disk images on a local file system, as source and as target."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from wavelift.base.errors import CorruptStreamError, WaveliftError
from wavelift.base.units import BLOCK
from wavelift.transfer.extents import ReaderStream
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.protocols import BlockStream, Extent


class FileReader:
    """A raw image; holes of the file system are not read."""

    def __init__(self, path: str | os.PathLike[str], *, _fd: int | None = None) -> None:
        self._path = Path(path)
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC) if _fd is None else _fd
        self._size = os.lseek(self._fd, 0, os.SEEK_END)

    @property
    def size(self) -> int:
        return self._size

    def extents(self) -> Iterator[Extent]:
        """Data extents as SEEK_DATA and SEEK_HOLE give them; one single extent where the file system has neither."""
        position = 0
        while position < self._size:
            try:
                start = os.lseek(self._fd, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole follows
                    return
                raise
            end = os.lseek(self._fd, start, os.SEEK_HOLE)
            yield Extent(start, end - start)
            position = end

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """:raises CorruptStreamError: when the file became shorter meanwhile. :raises WaveliftError: a medium error."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise WaveliftError(
                    f"{self._path.name} could not be read: {error.strerror}",
                    next_step="Look at the worker's disk or mount, then try again",
                    offset=offset + done,
                ) from error
            if not count:
                raise CorruptStreamError(
                    f"{self._path.name} became shorter while it was read",
                    next_step="Read a file that nobody writes to",
                    offset=offset + done,
                )
            done += count

    def clone(self) -> FileReader:
        """Of the very same file, whatever its path has come to mean since: two files must never mix."""
        return FileReader(self._path, _fd=os.dup(self._fd))

    def stream(self) -> BlockStream:
        return ReaderStream(self)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FileWriter:
    """A sparse raw image, made new: blocks are written by the workers, in any order.

    :param path: must not exist.
    :param capacity: bytes.
    :param sync: force the content to disk before ``finish`` returns.
    """

    ordered = False
    writes_zeros = False

    def __init__(self, path: str | os.PathLike[str], capacity: int, *, sync: bool = True) -> None:
        self._path = Path(path)
        self._sync = sync
        # The kernel takes one writer per file at a time and lets the others spin; waiting here costs no CPU.
        self._turn = threading.Lock()
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, capacity)

    def prepare(self, index: int, data: memoryview, digest: bytes) -> memoryview:
        return data

    def wire_bytes(self, prepared: memoryview) -> int:
        return len(prepared)

    def write(self, index: int, prepared: memoryview) -> None:
        done = 0
        with self._turn:
            while done < len(prepared):
                done += os.pwrite(self._fd, prepared[done:], index * BLOCK + done)

    def finish(self, manifest: Manifest) -> None:
        if self._sync:
            os.fsync(self._fd)

    def interrupt(self) -> None:
        """Local writes do not wait for anything."""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
