"""Reading one export over one or more connections."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from wavelift.base.errors import PermanentError, WaveliftError
from wavelift.base.run import CancelFlag
from wavelift.base.units import MIB
from wavelift.transfer.nbd.connection import Connection, Patience, Request
from wavelift.transfer.nbd.link import NbdAddress
from wavelift.transfer.nbd.protocol import (
    BLOCK_STATUS,
    ERRORS,
    READ,
    STATE_ZERO,
    STATUS_LIMIT,
    TRANSIENT,
    Export,
    NbdProtocolError,
)
from wavelift.transfer.protocols import Extent

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 60.0
"""Without a byte: a busy datastore takes seconds, not minutes."""
PIECE: Final = 2 * MIB
"""Bytes per request of a large read: a fifth less CPU than with 1 MiB, and what virt-v2v asks VDDK for."""


class Read(NamedTuple):
    """Bytes that were asked for."""

    request: Request
    connection: Connection
    part: int = 0
    """Of a request for several blocks."""


class NbdClient:
    """One export; its methods may be called from many threads.

    :param connections: at most; more than one only where the server says that they all see the same.
    :param timeout: seconds without a byte.
    :param explain: what stands behind the server may know better why it failed; asked before an error is raised.
    :param where: coordinates for errors.
    :raises WaveliftError: no connection, or nothing to read there.
    """

    def __init__(
        self,
        address: NbdAddress,
        *,
        cancel: CancelFlag,
        connections: int = 1,
        timeout: float = TIMEOUT_S,
        patience: Patience | None = None,
        explain: Callable[[], WaveliftError | None] = lambda: None,
        **where: object,
    ) -> None:
        self.address = address
        self._cancel = cancel
        self._timeout = timeout
        self._patience = patience or Patience()
        self._explain = explain
        self._where = where
        self._lock = threading.Lock()
        self._turn = 0
        try:
            self._connections = [self._connect(None)]
        except WaveliftError as error:
            raise self._explained(error) from error
        self.export: Final[Export] = self._connections[0].export
        self._limit = connections if self.export.multi_conn else 1
        """Connections to have, at most."""
        self.piece: Final = min(PIECE, self.export.maximum)

    @property
    def size(self) -> int:
        return self.export.size

    # --- reading ----------------------------------------------------------------------------------------------------

    def start(self, offset: int, length: int, target: memoryview | None = None) -> Read:
        """Ask for bytes without waiting for them; whoever starts many of them bounds what is in flight.

        :param offset: and ``length``: multiples of the export's block size, but for the end of the disk.
        :param target: where they may go, as long as they are waited for.
        """
        request = self._request(offset, length, 1)
        request.targets[0] = target
        return self._submit(request)

    def start_parts(self, offset: int, length: int, parts: int) -> list[Read]:
        """:meth:`start` of ``parts`` neighbours of ``length`` bytes each, by one request."""
        first = self._submit(self._request(offset, length * parts, parts))
        return [Read(first.request, first.connection, part) for part in range(parts)]

    def _request(self, offset: int, length: int, parts: int) -> Request:
        if not 0 < length <= self.export.maximum or offset < 0 or offset + length > self.size:
            raise ValueError(f"{length} bytes at {offset} of {self.size}")
        return Request(READ, offset, length, parts)

    def finish(self, read: Read, into: memoryview) -> None:
        """Wait for the bytes, which are in ``into`` then.

        :raises UnreachableError: the connection is lost for good. :raises NbdProtocolError: the server breaks it.
        :raises WaveliftError: the server could not read them. :raises Cancelled: interrupted.
        """
        found = self._finish(read, into)
        if found is not into:
            into[:] = found
            read.connection.give_back(found.obj)

    def exchange(self, read: Read, buffer: bytearray) -> bytearray:
        """Like :meth:`finish` for a read without a target: ``buffer``, or another one of its length, which is the
        caller's for it. Copies nothing."""
        found = self._finish(read, memoryview(buffer)).obj
        assert isinstance(found, bytearray)
        if found is not buffer:
            read.connection.give_back(buffer)
        return found

    def _finish(self, read: Read, into: memoryview) -> memoryview:
        """Where the bytes are."""
        request, part = read.request, read.part
        for left in range(self._patience.attempts - 1, -1, -1):
            read.connection.wait(request, into, part)
            if not request.code:
                if isinstance(request.error, WaveliftError):
                    raise self._explained(request.error) from request.error
                found = request.targets[part]
                assert found is not None
                return found
            if not left or request.code not in TRANSIENT:
                break
            failures = self._patience.attempts - left
            self._cancel.wait(self._patience.pause * 2 ** (failures - 1))
            self._cancel.check()
            if failures > 1:
                # What stands behind a connection (VDDK's handle) may be spoilt for good: a new one opens it anew.
                read.connection.renew()
            length = request.length // len(request.targets)
            request, part = Request(READ, request.offset + part * length, length), 0
            request.targets[0] = into
            read = self._submit(request)
        raise self._explained(self._refused(request, "read"))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset`` on, whatever the export's block size; errors as :meth:`finish`."""
        if not len(buffer):
            return
        minimum = self.export.minimum
        start = offset // minimum * minimum
        end = min(-(-(offset + len(buffer)) // minimum) * minimum, self.size)
        if start == offset and end == offset + len(buffer):
            self._fill(offset, buffer)
            return
        wide = bytearray(end - start)
        self._fill(start, memoryview(wide))
        buffer[:] = wide[offset - start : offset - start + len(buffer)]

    def _fill(self, offset: int, buffer: memoryview) -> None:
        reads = []
        for at in range(0, len(buffer), self.piece):
            part = buffer[at : at + self.piece]
            reads.append((self.start(offset + at, len(part), part), part))
        for read, part in reads:
            self.finish(read, part)

    # --- block status -----------------------------------------------------------------------------------------------

    def allocation(self) -> Iterator[Extent]:
        """What the server says of the whole disk, ascending and without gaps; ``zero`` where it promises zeros.

        A server without block status, or one that fails to tell, gives one extent of data: this is only a hint.
        """
        if self.export.context is None:
            yield Extent(0, self.size)
            return
        begin, zero, position = 0, False, 0
        for length, is_zero in self._told():
            if is_zero != zero and position > begin:
                yield Extent(begin, position - begin, zero)
                begin = position
            zero = is_zero
            position += length
        if position > begin:
            yield Extent(begin, position - begin, zero)

    def _told(self) -> Iterator[tuple[int, bool]]:
        position = 0
        while position < self.size:
            asked = min(STATUS_LIMIT, self.size - position)
            request = Request(BLOCK_STATUS, position, asked)
            connection = self._submit(request).connection
            connection.wait(request)
            if isinstance(request.error, WaveliftError):
                raise self._explained(request.error) from request.error
            if request.code:
                log.info("%s does not tell the block status at %d: %s", self.address, position, request.code)
                yield self.size - position, False
                return
            for length, flags in request.extents or ():
                length = min(length, self.size - position)
                if length:
                    yield length, bool(flags & STATE_ZERO)
                    position += length
            if position % self.export.minimum and position < self.size:  # where the next question may not begin
                yield self.size - position, False
                return

    # --- life -------------------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """End all that waits with :class:`~wavelift.base.errors.Cancelled`; from any thread."""
        for each in tuple(self._connections):
            each.break_off()

    def close(self) -> None:
        """When no other call is under way. Idempotent."""
        for each in self._connections:
            each.close()

    def _submit(self, request: Request) -> Read:
        connection = self._next()
        try:
            connection.submit(request)
        except WaveliftError as error:
            raise self._explained(error) from error
        return Read(request, connection)

    def _next(self) -> Connection:
        """The connections in turn; the next one is made when the first round comes to it."""
        with self._lock:
            self._turn += 1
            at = self._turn % self._limit
            if at < len(self._connections):
                return self._connections[at]
            try:
                self._connections.append(self._connect(self.export))
            except NbdProtocolError:
                raise
            except WaveliftError as error:
                log.warning("%s gives no more than %d connections: %s", self.address, len(self._connections), error)
                self._limit = len(self._connections)
            return self._connections[-1]

    def _connect(self, expect: Export | None) -> Connection:
        return Connection(
            self.address, cancel=self._cancel, timeout=self._timeout, patience=self._patience, expect=expect
        )

    # --- errors -----------------------------------------------------------------------------------------------------

    def _explained(self, error: WaveliftError) -> WaveliftError:
        self._cancel.check()
        found = self._explain() or error
        return type(found)(found.what, next_step=found.next_step, **{**self._where, **found.where})

    def _refused(self, request: Request, what: str) -> WaveliftError:
        name = ERRORS.get(request.code, f"error {request.code}")
        words = f" ({request.error})" if request.error else ""
        kind = WaveliftError if request.code in TRANSIENT else PermanentError
        return kind(
            f"the NBD server could not {what} {request.length} bytes: {name}{words}",
            next_step="Look at the server's log",
            offset=request.offset,
            export=str(self.address),
        )
