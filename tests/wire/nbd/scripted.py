"""An NBD server that does what a script says: cuts, fragments, reorders and breaks the protocol. Written from the
protocol's text and sharing nothing with the client, whose errors it is there to catch."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__test__ = False

OPTIONS = {5: "starttls", 7: "go", 8: "structured", 10: "meta"}


class Cut(Exception):
    """The connection ends here."""


@dataclass
class Script:
    """How the server behaves. Bytes are counted per connection, handshake included."""

    content: bytes
    extents: Sequence[tuple[int, int]] = ()
    """(length, flags) of the whole disk; none: everything is data."""
    structured: bool = True
    context: bool = True
    multi_conn: bool = True
    block_size: tuple[int, int, int] | None = (1, 4096, 1 << 25)
    size: int | None = None
    """Told instead of the content's."""
    chunks: Sequence[int] = ()
    """Lengths of the data chunks of an answer, in turn; the rest comes as one."""
    backwards: bool = False
    """Chunks from the last to the first."""
    fragments: Sequence[int] = ()
    """Lengths of the pieces in which bytes go out, in turn."""
    cuts: Sequence[int] = ()
    """After how many bytes the first, second … connection is cut; later ones are not."""
    hold: int = 1
    """Requests collected before they are answered, the last one first."""
    errors: dict[int, list[int]] = field(default_factory=dict)
    """Offset of a request → error numbers of its answers, one after the other."""
    status_limit: int = 1 << 40
    """Bytes that one answer about block status covers."""
    pause: float = 0.005
    """Seconds without a request after which those that are held are answered."""
    twist: Callable[[str, bytes], bytes] = lambda kind, data: data
    """Changes what is sent: ``hello``, ``option``, ``reply``."""


class ScriptedServer:
    """Serves on a Unix socket until closed."""

    def __init__(self, folder: Path, script: Script) -> None:
        self.script = script
        self.path = str(folder / "scripted.sock")
        self.connections = 0
        self.requests: list[tuple[int, int, int]] = []
        self.most_in_flight = 0
        """Bytes."""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(16)
        self._accepting = threading.Thread(target=self._accept, name="scripted-nbd", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self._accepting.join()
        with self._lock:
            for sock in self._open:
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        Path(self.path).unlink()

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                number = self.connections
                self.connections += 1
                self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock, number), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            _Session(self, sock, number).run()
        except (Cut, OSError):
            pass
        finally:
            with self._lock:
                self._open.discard(sock)
                sock.close()


class _Session:
    def __init__(self, server: ScriptedServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.script = server.script
        self.sock = sock
        cuts = self.script.cuts
        self.left = cuts[number] if number < len(cuts) else None
        self.fragment = 0
        self.structured = False

    def run(self) -> None:
        self.send(self.script.twist("hello", b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)))
        self.take(4)
        while self.option() != 7:
            pass
        self.transmit()

    # --- handshake --------------------------------------------------------------------------------------------------

    def option(self) -> int:
        option, length = map(int, struct.unpack(">8xII", self.take(16)))
        data = self.take(length)
        if option == 8:
            self.structured = self.script.structured
            self.answer(option, 1 if self.structured else 0x80000001)
        elif option == 10:
            assert data.endswith(b"base:allocation")
            if self.script.context:
                self.answer(option, 4, struct.pack(">I", 7) + b"base:allocation")
            self.answer(option, 1)
        elif option == 7:
            self.go(option)
        else:
            self.answer(option, 0x80000001)
        return option

    def go(self, option: int) -> None:
        size = len(self.script.content) if self.script.size is None else self.script.size
        self.answer(option, 3, struct.pack(">HQH", 0, size, 3 | (0x100 if self.script.multi_conn else 0)))
        if self.script.block_size:
            self.answer(option, 3, struct.pack(">HIII", 3, *self.script.block_size))
        self.answer(option, 1)

    def answer(self, option: int, kind: int, data: bytes = b"") -> None:
        reply = struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data
        self.send(self.script.twist("option", reply))

    # --- transmission -----------------------------------------------------------------------------------------------

    def transmit(self) -> None:
        held: list[tuple[int, bytes, int, int]] = []
        while True:
            try:
                # Whoever waits for its answers sends no more: what is held is answered after a pause.
                self.sock.settimeout(self.script.pause if held else None)
                magic, _, kind, cookie, offset, length = struct.unpack(">IHH8sQI", self.take(28))
            except TimeoutError:
                self.flush(held)
                continue
            assert magic == 0x25609513
            if kind == 2:
                return
            self.server.requests.append((kind, offset, length))
            held.append((kind, cookie, offset, length))
            self.server.most_in_flight = max(self.server.most_in_flight, sum(each[3] for each in held))
            if len(held) >= self.script.hold:
                self.flush(held)

    def flush(self, held: list[tuple[int, bytes, int, int]]) -> None:
        self.sock.settimeout(None)
        while held:
            self.reply(*held.pop())

    def reply(self, kind: int, cookie: bytes, offset: int, length: int) -> None:
        planned = self.script.errors.get(offset)
        if planned:
            self.refuse(cookie, planned.pop(0))
        elif kind == 7:
            self.chunk(cookie, 5, struct.pack(">I", 7) + self.status(offset, length), last=True)
        elif not self.structured:
            data = self.script.content[offset : offset + length]
            self.send(self.script.twist("reply", struct.pack(">II", 0x67446698, 0) + cookie + data))
        else:
            self.data(cookie, offset, length)

    def refuse(self, cookie: bytes, code: int) -> None:
        if self.structured:
            self.chunk(cookie, 0x8001, struct.pack(">IH", code, 4) + b"oops", last=True)
        else:
            self.send(struct.pack(">II", 0x67446698, code) + cookie)

    def data(self, cookie: bytes, offset: int, length: int) -> None:
        cuts = []
        at = offset
        for size in (*self.script.chunks, length):
            size = min(size, offset + length - at)
            if size:
                cuts.append((at, size))
                at += size
        if self.script.backwards:
            cuts.reverse()
        for start, size in cuts:
            piece = self.script.content[start : start + size]
            if piece == bytes(size) and len(cuts) > 1:
                self.chunk(cookie, 2, struct.pack(">QI", start, size), last=False)
            else:
                self.chunk(cookie, 1, struct.pack(">Q", start) + piece, last=len(cuts) == 1)
        if len(cuts) > 1:
            self.chunk(cookie, 0, b"", last=True)

    def status(self, offset: int, length: int) -> bytes:
        found = []
        at = 0
        end = offset + min(length, self.script.status_limit)
        for size, flags in self.script.extents or ((len(self.script.content), 0),):
            start, at = at, at + size
            if start < end and at > offset:
                found.append((min(at, end) - max(start, offset), flags))
        return b"".join(struct.pack(">II", *each) for each in found)

    def chunk(self, cookie: bytes, kind: int, payload: bytes, *, last: bool) -> None:
        head = struct.pack(">IHH", 0x668E33EF, int(last), kind) + cookie + struct.pack(">I", len(payload))
        self.send(self.script.twist("reply", head + payload))

    # --- bytes ------------------------------------------------------------------------------------------------------

    def take(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            got = self.sock.recv(length - len(data))
            if not got:
                raise Cut
            data += got
        return data

    def send(self, data: bytes) -> None:
        while data:
            sizes = self.script.fragments
            size = len(data)
            if self.fragment < len(sizes):
                size = min(size, sizes[self.fragment])
                self.fragment += 1
            if self.left is not None:
                size = min(size, self.left)
                self.left -= size
            self.sock.sendall(data[:size])
            data = data[size:]
            if self.left == 0:
                raise Cut
