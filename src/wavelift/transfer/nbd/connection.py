"""One NBD connection with many requests in flight, shared by threads.

It has no thread of its own. A thread that waits for an answer receives, and hands the other threads their answers. If
the owner of a request is waiting, its answer is received straight into the owner's buffer; otherwise into one of ours.
A cut connection is made again, and what was in flight is asked for again.
"""

from __future__ import annotations

import itertools
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from wavelift.base.errors import Cancelled, UnreachableError, WaveliftError
from wavelift.base.run import CancelFlag
from wavelift.base.units import KIB
from wavelift.transfer.nbd.link import Link, NbdAddress
from wavelift.transfer.nbd.protocol import (
    BLOCK_STATUS,
    CHUNK,
    CHUNK_DATA,
    CHUNK_DONE,
    CHUNK_ERROR,
    CHUNK_ERROR_OFFSET,
    CHUNK_HOLE,
    CHUNK_IS_ERROR,
    CHUNK_MAGIC,
    CHUNK_NONE,
    CHUNK_STATUS,
    DISCONNECT,
    READ,
    REQUEST,
    REQUEST_MAGIC,
    SHUTTING_DOWN,
    SIMPLE,
    SIMPLE_MAGIC,
    Export,
    NbdProtocolError,
    negotiate,
)

_STATUS_CHUNK_LIMIT: Final = 8 * 1024 * KIB + 4
"""2^20 extents: what one answer about block status may at most hold."""
_ERROR_CHUNK_LIMIT: Final = 4 * KIB + 14
_SPARE_BUFFERS: Final = 32
"""Buffers of one length kept for answers that come early."""
_SPARE_LENGTHS: Final = 4


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a cut connection is made anew, or a failed read is asked again, before that is an error.

    The pauses between the attempts add up to 6.2 s. Any answer that comes through makes the count begin again.
    """

    attempts: int = 5
    pause: float = 0.2
    """Seconds before the first one; doubled each time."""


class Request:
    """A question under way, and what came of it."""

    __slots__ = (
        "code",
        "done",
        "error",
        "extents",
        "filled",
        "kind",
        "length",
        "offset",
        "spans",
        "targets",
        "touched",
    )

    def __init__(self, kind: int, offset: int, length: int, parts: int = 1) -> None:
        """``parts``: of equal length, each with a target and a waiter of its own."""
        self.kind = kind
        self.offset = offset
        self.length = length
        self.targets: list[memoryview | None] = [None] * parts
        self.touched = False
        """An answer may already be on its way into the targets."""
        self.done = False
        self.reset()

    def reset(self) -> None:
        """Nothing was answered yet."""
        self.filled = 0
        self.spans: list[tuple[int, int]] = []
        self.extents: list[tuple[int, int]] | None = None
        self.code = 0
        """The server's error number."""
        self.error: WaveliftError | str | None = None
        """Ours when the connection is lost for good; the server's words beside ``code``."""


class Connection:
    """See the module. ``expect`` is what an earlier connection agreed on: another export must not take its place."""

    def __init__(
        self,
        address: NbdAddress,
        *,
        cancel: CancelFlag,
        timeout: float,
        patience: Patience,
        expect: Export | None = None,
    ) -> None:
        """:raises UnreachableError: nobody answers. :raises WaveliftError: see :func:`negotiate`."""
        self.address = address
        self._cancel = cancel
        self._timeout = timeout
        self._patience = patience
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._pending: dict[int, Request] = {}
        self._cookies = itertools.count(1)
        self._leading = False
        self._closed = False
        self._failed: WaveliftError | None = None
        self._failures = 0
        self._spare: dict[int, list[bytearray]] = {}
        """By length."""
        self._head = memoryview(bytearray(CHUNK.size))
        self._offset = memoryview(bytearray(8))
        self.export, self._link = self._dial(expect)

    # --- for everybody ----------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Send the question; never waits for an answer.

        :raises WaveliftError: the connection is lost for good, or closed.
        """
        with self._changed:
            if self._failed is not None:
                raise self._failed
            cookie = next(self._cookies)
            self._pending[cookie] = request
            link = self._link
        # Should the connection be made anew from here on, this request is among those that are asked again.
        self._send(link, cookie, request)

    def wait(self, request: Request, into: memoryview | None = None, part: int = 0) -> None:
        """Until it is answered or lost; receives for all when nobody does. The content of the part is in its target
        then: in ``into``, unless it came before."""
        with self._changed:
            if into is not None and not request.touched:
                request.targets[part] = into
        while True:
            with self._changed:
                while self._leading and not request.done:
                    self._changed.wait()
                if request.done:
                    break
                self._leading = True
            try:
                self._lead(request)
            finally:
                with self._changed:
                    self._leading = False
                    self._changed.notify_all()

    def give_back(self, buffer: object) -> None:
        """A buffer that is not needed any more; the one used last is warm and goes first."""
        if isinstance(buffer, bytearray) and (len(buffer) in self._spare or len(self._spare) < _SPARE_LENGTHS):
            kept = self._spare.setdefault(len(buffer), [])
            if len(kept) < _SPARE_BUFFERS:
                kept.append(buffer)

    def renew(self) -> None:
        """Cut the connection, so that the next wait makes a new one."""
        self._link.break_off()

    def break_off(self) -> None:
        """End every wait with :class:`Cancelled`; from any thread."""
        self._closed = True
        self._link.break_off()

    def close(self) -> None:
        """When no other call is under way."""
        if not self._closed and self._failed is None:
            with suppress(OSError):
                self._link.send(REQUEST.pack(REQUEST_MAGIC, 0, DISCONNECT, 0, 0, 0))
        self._fail(Cancelled("the NBD connection is closed"))
        self._link.close()

    # --- the leader's -----------------------------------------------------------------------------------------------

    def _lead(self, request: Request) -> None:
        while not request.done:
            try:
                self._receive(request)
            except NbdProtocolError as error:
                self._fail(error)
            except OSError as error:
                self._recover(error)

    def _receive(self, mine: Request) -> None:
        """One reply, or one chunk of one."""
        done = self._receive_chunk() if self.export.structured else self._receive_simple()
        if done is not None:
            self._failures = 0
            with self._changed:
                done.done = True
                if done is not mine:
                    self._changed.notify_all()

    def _receive_simple(self) -> Request:
        head = self._head[: SIMPLE.size]
        self._link.receive(head)
        magic, code, cookie = SIMPLE.unpack(head)
        request = self._asked(magic == SIMPLE_MAGIC, cookie)
        if code == SHUTTING_DOWN:
            raise ConnectionAbortedError("the server is shutting down")
        if code:
            request.code = code
        else:
            self._link.receive_all(self._targets(request))
        self._pending.pop(cookie)
        return request

    def _receive_chunk(self) -> Request | None:
        self._link.receive(self._head)
        magic, flags, kind, cookie, length = CHUNK.unpack(self._head)
        request = self._asked(magic == CHUNK_MAGIC, cookie)
        self._chunk(request, kind, length)
        if not flags & CHUNK_DONE:
            if kind == CHUNK_NONE:
                raise self._broken("sends an empty chunk that ends nothing")
            return None
        if request.code == SHUTTING_DOWN:
            raise ConnectionAbortedError("the server is shutting down")
        if not request.code:
            if request.kind == READ and request.filled != request.length:
                raise self._broken(f"sent {request.filled} of {request.length} bytes at offset {request.offset}")
            if request.kind == BLOCK_STATUS and not request.extents:
                raise self._broken(f"tells no block status at offset {request.offset}")
        self._pending.pop(cookie)
        return request

    def _chunk(self, request: Request, kind: int, length: int) -> None:
        if kind == CHUNK_DATA and request.kind == READ and length > 8:
            self._data(request, length - 8)
        elif kind == CHUNK_HOLE and request.kind == READ and length == 12:
            offset, size = struct.unpack(">QI", self._take(12))
            for view in self._places(request, offset, size):
                view[:] = bytes(len(view))
        elif kind == CHUNK_STATUS and request.kind == BLOCK_STATUS and 12 <= length <= _STATUS_CHUNK_LIMIT:
            self._status(request, self._take(length))
        elif kind in (CHUNK_ERROR, CHUNK_ERROR_OFFSET) or kind & CHUNK_IS_ERROR:
            self._refusal(request, kind, length)
        elif kind != CHUNK_NONE or length:
            raise self._broken(f"sends a chunk of type {kind} and {length} bytes for a request of type {request.kind}")

    def _data(self, request: Request, size: int) -> None:
        if size == request.length:  # nearly always: the whole answer by one call
            self._link.receive_all([self._offset, *self._targets(request)])
            self._note(request, int.from_bytes(self._offset, "big"), size)
            return
        self._link.receive(self._offset)
        self._link.receive_all(self._places(request, int.from_bytes(self._offset, "big"), size))

    def _note(self, request: Request, offset: int, size: int) -> int:
        """That these bytes of the disk came, each exactly once; where they begin in the request."""
        start = offset - request.offset
        end = start + size
        if not size or start < 0 or end > request.length:
            raise self._broken(f"sends {size} bytes at {offset}, which nobody asked for")
        if any(start < stop and begin < end for begin, stop in request.spans):
            raise self._broken(f"sends the bytes at {offset} twice")
        request.spans.append((start, end))
        request.filled += size
        return start

    def _places(self, request: Request, offset: int, size: int) -> list[memoryview]:
        """Where these bytes of the disk go."""
        start = self._note(request, offset, size)
        targets = self._targets(request)
        each = request.length // len(targets)
        cut = (
            target[max(0, start - number * each) : max(0, start + size - number * each)]
            for number, target in enumerate(targets)
        )
        return [view for view in cut if len(view)]

    def _status(self, request: Request, payload: bytes) -> None:
        context, *told = struct.unpack(f">{len(payload) // 4}I", payload) if not len(payload) % 4 else (None,)
        if context is None or context != self.export.context or len(told) % 2 or request.extents is not None:
            raise self._broken("garbles the block status")
        lengths, flags = told[::2], told[1::2]
        # Only the last one may reach beyond what was asked for.
        if (
            not all(lengths)
            or sum(lengths[:-1]) >= request.length
            or any(each % self.export.minimum for each in lengths)
        ):
            raise self._broken(f"tells an impossible block status at offset {request.offset}")
        request.extents = list(zip(lengths, flags, strict=True))

    def _refusal(self, request: Request, kind: int, length: int) -> None:
        least = 14 if kind == CHUNK_ERROR_OFFSET else 6
        if not least <= length <= _ERROR_CHUNK_LIMIT:
            raise self._broken(f"sends an error of {length} bytes")
        payload = self._take(length)
        code, words = struct.unpack(">IH", payload[:6])
        if not code or 6 + words > length:
            raise self._broken("garbles an error")
        if not request.code:
            request.code, request.error = code, payload[6 : 6 + words].decode(errors="replace")

    def _asked(self, magic_fits: bool, cookie: int) -> Request:
        request = self._pending.get(cookie) if magic_fits else None
        if request is None:
            raise self._broken(
                "answers something that nobody asked" if magic_fits else "sends no reply where one is due"
            )
        return request

    def _targets(self, request: Request) -> list[memoryview]:
        """The owners' buffers as far as they wait, ours for the others."""
        each = request.length // len(request.targets)
        with self._changed:
            request.touched = True
            found = [memoryview(self._buffer(each)) if one is None else one for one in request.targets]
            request.targets = [*found]
        return found

    def _buffer(self, length: int) -> bytearray:
        kept = self._spare.get(length)
        return kept.pop() if kept else bytearray(length)

    def _take(self, length: int) -> bytes:
        buffer = bytearray(length)
        self._link.receive(memoryview(buffer))
        return bytes(buffer)

    # --- trouble ----------------------------------------------------------------------------------------------------

    def _dial(self, expect: Export | None) -> tuple[Export, Link]:
        link = Link.open(self.address, self._timeout, self._cancel)
        try:
            export = negotiate(link, self.address)
        except OSError as error:
            link.close()
            raise self._unreachable(error) from error
        except WaveliftError:
            link.close()
            raise
        if expect is not None and export != expect:
            link.close()
            raise self._broken(f"serves another export than before ({export.size} bytes instead of {expect.size})")
        return export, link

    def _recover(self, error: BaseException) -> None:
        """A new connection on which everything in flight is asked again; or the end of all."""
        self._link.break_off()
        with self._sending:
            self._link.close()
        while True:
            if self._closed or self._cancel.is_set():
                self._fail(Cancelled("the reading of the disk was interrupted"))
                return
            if self._failures >= self._patience.attempts:
                self._fail(error if isinstance(error, WaveliftError) else self._unreachable(error))
                return
            self._cancel.wait(self._patience.pause * 2**self._failures)
            self._failures += 1
            try:
                _, link = self._dial(self.export)
            except UnreachableError as again:
                error = again
                continue
            except WaveliftError as final:
                self._fail(final)
                return
            break
        with self._changed:
            for request in self._pending.values():
                request.reset()
            again_asked = list(self._pending.items())
            self._link = link
        if self._closed:  # meanwhile: the new link was not there to be broken off
            link.break_off()
        for cookie, request in again_asked:
            self._send(link, cookie, request)

    def _send(self, link: Link, cookie: int, request: Request) -> None:
        packed = REQUEST.pack(REQUEST_MAGIC, 0, request.kind, cookie, request.offset, request.length)
        try:
            with self._sending:
                link.send(packed)
        except OSError:
            link.break_off()  # whoever receives makes a new one

    def _fail(self, error: WaveliftError) -> None:
        with self._changed:
            self._failed = self._failed or error
            for request in self._pending.values():
                request.error = self._failed
                request.done = True
            self._pending.clear()
            self._changed.notify_all()
        self._link.break_off()

    def _unreachable(self, error: BaseException) -> UnreachableError:
        words = str(error) or type(error).__name__
        return UnreachableError(
            f"the connection to {self.address} failed: {words}", next_step="Look whether the NBD server still runs"
        )

    def _broken(self, what: str) -> NbdProtocolError:
        return NbdProtocolError(
            f"{self.address} breaks the NBD protocol: it {what}",
            next_step="Report it with the server's version; until then another reader can be used",
        )
