"""The fixed newstyle handshake and the constants of the protocol (NetworkBlockDevice/nbd, doc/proto.md).

It is strict: if a server does what the specification forbids, that is an error.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import Final

from wavelift.base.errors import CorruptStreamError, NotFoundError, PermanentError, UnreachableError, WaveliftError
from wavelift.base.units import KIB, MIB, SECTOR
from wavelift.transfer.nbd.link import Link, NbdAddress

REQUEST_LIMIT: Final = 32 * MIB
"""The largest request that every server must take, unless it says otherwise."""
STATUS_LIMIT: Final = 0x8000_0000
"""Bytes per question for block status: lengths are 32 bits wide."""

READ: Final = 0
DISCONNECT: Final = 2
BLOCK_STATUS: Final = 7
REQUEST: Final = struct.Struct(">IHHQQI")
REQUEST_MAGIC: Final = 0x25609513

SIMPLE: Final = struct.Struct(">IIQ")
SIMPLE_MAGIC: Final = 0x67446698
CHUNK: Final = struct.Struct(">IHHQI")
CHUNK_MAGIC: Final = 0x668E33EF
CHUNK_DONE: Final = 1
CHUNK_NONE: Final = 0
CHUNK_DATA: Final = 1
CHUNK_HOLE: Final = 2
CHUNK_STATUS: Final = 5
CHUNK_IS_ERROR: Final = 0x8000
CHUNK_ERROR: Final = 0x8001
CHUNK_ERROR_OFFSET: Final = 0x8002

STATE_HOLE: Final = 1
STATE_ZERO: Final = 2
"""The only flag of ``base:allocation`` that promises zeros; a hole alone may read as anything."""

ERRORS: Final = {
    1: "EPERM",
    5: "EIO",
    12: "ENOMEM",
    22: "EINVAL",
    28: "ENOSPC",
    75: "EOVERFLOW",
    95: "ENOTSUP",
    108: "ESHUTDOWN",
}
"""The protocol's own numbers, which are Linux's."""
TRANSIENT: Final = frozenset({errno.EIO, errno.ENOMEM})
"""Worth another attempt: what stands behind the server may have been slow or short of memory."""
SHUTTING_DOWN: Final = 108

_HELLO: Final = struct.Struct(">8s8sH")
_OPTION: Final = struct.Struct(">8sII")
_REPLY: Final = struct.Struct(">QIII")
_REPLY_MAGIC: Final = 0x3E889045565A9
_FIXED_NEWSTYLE: Final = 1
_NO_ZEROES: Final = 2
_STARTTLS: Final = 5
_GO: Final = 7
_STRUCTURED: Final = 8
_SET_META_CONTEXT: Final = 10
_ACK: Final = 1
_INFO: Final = 3
_META_CONTEXT: Final = 4
_ERROR: Final = 0x8000_0000
_REFUSALS: Final = {
    1: "does not know the option",
    2: "refuses it by its policy",
    3: "calls the option invalid",
    4: "was built without it",
    5: "demands TLS",
    6: "has no such export",
    7: "is shutting down",
    8: "wants block sizes to be asked for",
    9: "calls the option too large",
}
_UNKNOWN_EXPORT: Final = 6
_SHUTDOWN: Final = 7
_TLS_REQUIRED: Final = 5
_INFO_EXPORT: Final = 0
_INFO_BLOCK_SIZE: Final = 3
_REPLY_LIMIT: Final = 64 * KIB
"""Bytes of one answer in the handshake: descriptions and error texts are shorter."""
_REPLIES: Final = 64
"""Answers to one option."""
_HAS_FLAGS: Final = 1
_READ_ONLY: Final = 2
_MULTI_CONN: Final = 0x100
_CONTEXT: Final = b"base:allocation"


class NbdProtocolError(CorruptStreamError):
    """The server breaks the protocol. The client does not try again: what follows such an answer is anybody's guess."""


@dataclass(frozen=True, slots=True)
class Export:
    """What was agreed on."""

    size: int
    read_only: bool
    multi_conn: bool
    structured: bool
    minimum: int = SECTOR
    """Bytes that offsets and lengths must be multiples of; a server that names none is asked for sectors."""
    maximum: int = REQUEST_LIMIT
    """Bytes of one request."""
    context: int | None = None
    """Id of ``base:allocation``; None: it has no block status."""


def negotiate(link: Link, address: NbdAddress) -> Export:
    """The handshake, up to the first request.

    :raises NbdProtocolError: it breaks the protocol. :raises NotFoundError: no such export.
    :raises TlsError: the certificate. :raises PermanentError: it refuses what we need. :raises OSError: cut.
    """
    return _Handshake(link, address).run()


class _Refused(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class _Handshake:
    def __init__(self, link: Link, address: NbdAddress) -> None:
        self._link = link
        self._address = address

    def run(self) -> Export:
        self._greet()
        try:
            if self._address.tls is not None:
                self._secure()
            structured = self._optional(_STRUCTURED, b"") is not None
            context = self._context() if structured else None
            return self._go(structured, context)
        except _Refused as refused:
            raise self._explained(refused) from refused

    def _greet(self) -> None:
        magic, version, flags = _HELLO.unpack(self._take(_HELLO.size))
        if magic != b"NBDMAGIC":
            raise self.broken("it does not speak NBD")
        if version != b"IHAVEOPT" or not flags & _FIXED_NEWSTYLE:
            raise self.broken("it speaks the old style of the handshake")
        self._link.send(struct.pack(">I", _FIXED_NEWSTYLE | flags & _NO_ZEROES))

    def _secure(self) -> None:
        self._ask(_STARTTLS, b"")
        self._link.start_tls(self._address)

    def _context(self) -> int | None:
        name = self._address.export.encode()
        asked = struct.pack(">I", len(name)) + name + struct.pack(">II", 1, len(_CONTEXT)) + _CONTEXT
        found = None
        for kind, payload in self._optional(_SET_META_CONTEXT, asked) or ():
            if kind != _META_CONTEXT or len(payload) < 4 or payload[4:] != _CONTEXT or found is not None:
                raise self.broken("it offers a metadata context that nobody asked for")
            found = int.from_bytes(payload[:4], "big")
        return found

    def _go(self, structured: bool, context: int | None) -> Export:
        name = self._address.export.encode()
        asked = struct.pack(">I", len(name)) + name + struct.pack(">HH", 1, _INFO_BLOCK_SIZE)
        infos: dict[int, bytes] = {}
        for kind, payload in self._ask(_GO, asked):
            if kind != _INFO or len(payload) < 2:
                raise self.broken(f"it answers {kind} to GO")
            infos[int.from_bytes(payload[:2], "big")] = payload[2:]
        told = infos.get(_INFO_EXPORT, b"")
        if len(told) != 10:
            raise self.broken("it does not tell the export's size")
        size, flags = struct.unpack(">QH", told)
        if not flags & _HAS_FLAGS or size >= 1 << 63:
            raise self.broken(f"it tells a size of {size} with flags {flags:#x}")
        minimum, maximum = self._block_size(infos.get(_INFO_BLOCK_SIZE), size)
        return Export(
            size=size,
            read_only=bool(flags & _READ_ONLY),
            multi_conn=bool(flags & _MULTI_CONN),
            structured=structured,
            minimum=minimum,
            maximum=maximum,
            context=context,
        )

    def _block_size(self, told: bytes | None, size: int) -> tuple[int, int]:
        if told is None:
            return SECTOR, REQUEST_LIMIT
        if len(told) != 12:
            raise self.broken("it tells block sizes of another shape")
        minimum, _, maximum = struct.unpack(">III", told)
        if not minimum or minimum & (minimum - 1) or minimum > 64 * KIB or maximum < minimum or maximum % minimum:
            raise self.broken(f"it tells block sizes from {minimum} to {maximum}")
        if size % minimum:
            raise self.broken(f"its export of {size} bytes is no multiple of its block size, {minimum}")
        return minimum, min(maximum, REQUEST_LIMIT)

    # --- options ----------------------------------------------------------------------------------------------------

    def _optional(self, option: int, data: bytes) -> list[tuple[int, bytes]] | None:
        """None when the server has none of it."""
        try:
            return self._ask(option, data)
        except _Refused as refused:
            if refused.code in (_TLS_REQUIRED, _SHUTDOWN, _UNKNOWN_EXPORT):
                raise
            return None

    def _ask(self, option: int, data: bytes) -> list[tuple[int, bytes]]:
        """The answers before the acknowledgement."""
        self._link.send(_OPTION.pack(b"IHAVEOPT", option, len(data)) + data)
        answers: list[tuple[int, bytes]] = []
        while len(answers) < _REPLIES:
            magic, echoed, kind, length = _REPLY.unpack(self._take(_REPLY.size))
            if magic != _REPLY_MAGIC or echoed != option or length > _REPLY_LIMIT:
                raise self.broken(f"its answer to option {option} is garbled")
            payload = self._take(length)
            if kind == _ACK:
                if payload:
                    raise self.broken("its acknowledgement carries data")
                return answers
            if kind & _ERROR:
                raise _Refused(kind & ~_ERROR, payload.decode(errors="replace"))
            answers.append((kind, payload))
        raise self.broken(f"it does not end its answer to option {option}")

    def _take(self, length: int) -> bytes:
        buffer = bytearray(length)
        self._link.receive(memoryview(buffer))
        return bytes(buffer)

    # --- errors -----------------------------------------------------------------------------------------------------

    def broken(self, what: str) -> NbdProtocolError:
        return NbdProtocolError(
            f"{self._address} is not a server that can be read from: {what}",
            next_step="Point it to an NBD server of the fixed newstyle protocol, such as nbdkit",
        )

    def _explained(self, refused: _Refused) -> WaveliftError:
        words = _REFUSALS.get(refused.code, f"answers with error {refused.code}")
        text = f"{self._address} {words}" + (f": {refused}" if str(refused) else "")
        if refused.code == _UNKNOWN_EXPORT:
            return NotFoundError(text, next_step="Check the export's name", export=self._address.export)
        if refused.code == _SHUTDOWN:
            return UnreachableError(text, next_step="Try again when the server is back")
        cure = "Give the CA of the NBD server" if refused.code == _TLS_REQUIRED else "Look at the server's settings"
        return PermanentError(text, next_step=cure)
