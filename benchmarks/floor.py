"""The minimum CPU of a path, measured in the same run: the *floor* of a benchmark.

A benchmark names the parts of its path, and for each part the number of bytes of the disk that it processes. One more
contender with one thread measures the cost of each part per GiB of the same data: the blocks of the same file, 512 KiB
at a time, compressed in grains of 64 KiB. The sum is the floor. A tool that transfers the disk on that path and checks
it can hardly use less, but a tool that leaves work out can (wavelift's encoder stores random grains without deflating
them). For a connection, only the CPU of our end counts.

The cost of ``packed`` parts is per GiB of the disk, not per GiB of its compressed form.
"""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import chain, repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from isal import igzip_lib, isal_zlib

from benchmarks import harness
from wavelift.base.units import BLOCK, GIB, SECTOR

GRAIN: Final = 64 * 1024
LEVEL: Final = 1
_ZEROS: Final = bytes(BLOCK)
_WINDOW: Final = 15
"""Bits of deflate's window."""
_CHUNK: Final = 256 * 1024
_MARKER: Final = struct.Struct("<QI")

PARTS: Final = frozenset(
    {
        "sha256",
        "sha256_packed",
        "deflate",
        "inflate",
        "tls_send",
        "tls_send_packed",
        "tls_receive",
        "tls_receive_packed",
        "unix_receive",
    }
)
"""A send or receive by TLS is AES-GCM, its checksums and the kernel's copying."""
OF_STREAM: Final = frozenset({"inflate", "tls_receive_packed"})
"""Of the grains of the stream-optimised VMDK where the benchmark has one."""

Packed = list[bytes]
Work = Callable[[bytes, Packed], object]


def contender(raw: Path, parts: Sequence[str], data_bytes: int, *, stream: Path | None = None) -> harness.Contender:
    """The one that measures ``parts``.

    :param raw: holds the disk; its blocks that are not zero are taken, again from the start when there are too few.
    :param stream: the disk as a stream-optimised VMDK, for what is read from one; else our own grains are.
    """
    wrong = set(parts) - PARTS
    if wrong:
        raise ValueError(f"no parts of a floor: {sorted(wrong)}")
    command = harness.job_command("benchmarks.floor", raw, data_bytes, stream or "", *sorted(set(parts)))
    return harness.Contender("floor", command)


def data_blocks(raw: Path) -> Iterator[bytes]:
    """The blocks that are not zero; holes are not read."""
    return (block for _, block in _data(raw))


def data_places(raw: Path) -> Iterator[int]:
    """Their indices, ascending."""
    return (index for index, _ in _data(raw))


def _data(raw: Path) -> Iterator[tuple[int, bytes]]:
    with raw.open("rb", buffering=0) as file:
        at = 0
        while True:
            try:
                found = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            at = found // BLOCK * BLOCK
            file.seek(at)
            block = file.read(BLOCK)
            if block != _ZEROS[: len(block)]:
                yield at // BLOCK, block
            at += BLOCK


def up_to(blocks: Callable[[], Iterator[bytes]], total: int) -> Iterator[bytes]:
    """So many bytes of them, from the start again when they end."""
    left = total
    for block in chain.from_iterable(blocks() for _ in repeat(None)):
        if left <= 0:
            return
        yield block
        left -= len(block)


def pack(block: bytes) -> Packed:
    """Its grains that are not zero."""
    grains = (block[start : start + GRAIN] for start in range(0, len(block), GRAIN))
    return [isal_zlib.compress(grain, LEVEL) for grain in grains if grain != _ZEROS[: len(grain)]]


def unpack(packed: Packed) -> None:
    for grain in packed:
        igzip_lib.decompress(grain, igzip_lib.DECOMP_ZLIB, _WINDOW, GRAIN)


def grains_of(stream: Path) -> Iterator[bytes]:
    """The compressed grains of a stream-optimised VMDK that qemu-img made, unchecked."""
    with stream.open("rb") as file:
        header = file.read(SECTOR)
        file.seek(struct.unpack_from("<Q", header, 64)[0] * SECTOR)
        while marker := file.read(SECTOR):
            lba_or_sectors, size = _MARKER.unpack_from(marker)
            if size:
                more = -(-(_MARKER.size + size) // SECTOR) * SECTOR - SECTOR
                yield (marker + file.read(more))[_MARKER.size : _MARKER.size + size]
            elif struct.unpack_from("<I", marker, _MARKER.size)[0] == 0:
                return  # the end mark
            else:
                file.seek(lba_or_sectors * SECTOR, os.SEEK_CUR)


def _hash_packed(block: bytes, packed: Packed) -> None:
    digest = hashlib.sha256()
    for grain in packed:
        digest.update(grain)
    digest.digest()


def _send_each(connection: socket.socket, packed: Packed) -> None:
    for grain in packed:
        connection.sendall(grain)


def _receive(connection: socket.socket, length: int, buffer: memoryview) -> None:
    while length:
        count = connection.recv_into(buffer[: min(length, len(buffer))])
        if not count:
            raise RuntimeError("the other end of the floor's connection went away")
        length -= count


class Parts:
    """What each part is, for a block or for its grains."""

    def __init__(self, wanted: Sequence[str], wires: dict[str, socket.socket]) -> None:
        buffer = memoryview(bytearray(BLOCK))

        def receive(name: str) -> Callable[[int], None]:
            return lambda length: _receive(wires[name], length, buffer)

        def weight(packed: Packed) -> int:
            return sum(map(len, packed))

        every: dict[str, Work] = {
            "sha256": lambda block, packed: hashlib.sha256(block).digest(),
            "sha256_packed": _hash_packed,
            "deflate": lambda block, packed: pack(block),
            "inflate": lambda block, packed: unpack(packed),
            "tls_send": lambda block, packed: wires["tls_send"].sendall(block),
            "tls_send_packed": lambda block, packed: _send_each(wires["tls_send"], packed),
            "tls_receive": lambda block, packed: receive("tls_receive")(len(block)),
            "tls_receive_packed": lambda block, packed: receive("tls_receive")(weight(packed)),
            "unix_receive": lambda block, packed: receive("unix_receive")(len(block)),
        }
        self.work: Final = {name: every[name] for name in wanted}
        self.cpu_s: Final = dict.fromkeys(wanted, 0.0)
        self.bytes: Final = dict.fromkeys(wanted, 0)

    def measure(self, names: Sequence[str], block: bytes, packed: Packed, length: int) -> None:
        for name in names:
            work = self.work[name]
            began = time.thread_time()
            work(block, packed)
            self.cpu_s[name] += time.thread_time() - began
            self.bytes[name] += length

    def told(self) -> dict[str, float]:
        return {name: self.cpu_s[name] * GIB / max(self.bytes[name], 1) for name in self.work}


def other_end(kind: str, pair: str, ready: Connection) -> None:
    """In a process of its own: one connection, emptied or fed until it ends."""
    listener = socket.socket(socket.AF_UNIX if kind == "unix_receive" else socket.AF_INET)
    listener.bind(str(Path(pair).with_name("unix")) if kind == "unix_receive" else ("127.0.0.1", 0))
    listener.listen()
    ready.send(listener.getsockname())
    connection, _ = listener.accept()
    if kind != "unix_receive":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair)
        connection = context.wrap_socket(connection, server_side=True)
    buffer = bytearray(_CHUNK)
    with suppress(OSError):
        while kind != "tls_send" or connection.recv_into(buffer):
            if kind != "tls_send":
                connection.sendall(_ZEROS)


@contextmanager
def wire(kind: str, authority: Path) -> Iterator[socket.socket]:
    """A connection to another process."""
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    pair = str(authority.with_name("server.pem"))
    process = spawn.Process(target=other_end, args=(kind, pair, theirs), daemon=True)
    process.start()
    try:
        if not mine.poll(30):
            raise RuntimeError("the other end of the floor's connection did not start")
        address: Any = mine.recv()
        connection = socket.socket(socket.AF_UNIX if kind == "unix_receive" else socket.AF_INET)
        connection.connect(address)
        if kind != "unix_receive":
            context = ssl.create_default_context(cafile=str(authority))
            connection = context.wrap_socket(connection, server_hostname="127.0.0.1")
        with closing(connection):
            yield connection
    finally:
        process.kill()
        process.join()


def job(folder: Path, raw: Path, total: int, stream: Path | None, wanted: Sequence[str]) -> None:
    from wavelift.simulators.kit import tls

    authority = tls.make(folder, host="127.0.0.1").ca_file
    kinds = {name.removesuffix("_packed") for name in wanted if name.startswith(("tls_", "unix_"))}
    with ExitStack() as stack:
        wires = {kind: stack.enter_context(wire(kind, authority)) for kind in sorted(kinds)}
        parts = Parts(wanted, wires)
        of_stream = [name for name in wanted if stream and name in OF_STREAM]
        of_disk = [name for name in wanted if name not in of_stream]
        packs = any(name.endswith("_packed") or name == "inflate" for name in of_disk)
        for block in up_to(lambda: data_blocks(raw), total) if of_disk else ():
            parts.measure(of_disk, block, pack(block) if packs else [], len(block))
        for grain in grains_of(stream) if stream and of_stream else ():
            parts.measure(of_stream, b"", [grain], GRAIN)
    harness.report_job(**parts.told())


def main() -> None:
    options = harness.arguments(__doc__).parse_args()
    raw, total, stream, *wanted = options.job or sys.exit("measured by the other benchmarks")
    with harness.workspace(options) as folder:
        job(folder, Path(raw), int(total), Path(stream) if stream else None, wanted)


if __name__ == "__main__":
    main()
