"""The NBD client against a server that is scripted to violate the protocol in every way."""

from __future__ import annotations

import struct
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wavelift.base.errors import Cancelled, PermanentError, UnreachableError, WaveliftError
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK
from wavelift.transfer.file import FileWriter
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.nbd.client import NbdClient
from wavelift.transfer.nbd.link import NbdAddress
from wavelift.transfer.nbd.protocol import NbdProtocolError
from wavelift.transfer.nbd.reader import NbdReader
from wavelift.transfer.pipeline import CopyOptions, copy
from wavelift.transfer.protocols import Extent

from .conftest import QUICK, noise, read_all
from .scripted import Script, ScriptedServer

pytestmark = pytest.mark.wire

ZERO, HOLE = 2, 1
Make = Callable[..., NbdClient]


def test_reads_and_block_status(client: Make, socket_folder: Path) -> None:
    content = noise(BLOCK) + bytes(BLOCK) + noise(1000, 3)
    with ScriptedServer(socket_folder, Script(content, [(BLOCK, 0), (BLOCK, ZERO), (1000, HOLE)])) as server:
        nbd = client(server.path)
        assert nbd.size == len(content)
        assert read_all(nbd) == content
        # A hole is no promise of zeros.
        assert list(nbd.allocation()) == [
            Extent(0, BLOCK),
            Extent(BLOCK, BLOCK, zero=True),
            Extent(2 * BLOCK, 1000),
        ]
        assert [each.offset for each in NbdReader(nbd, skip_zeros=True).extents()] == [0, 2 * BLOCK]


@pytest.mark.parametrize("context", [True, False])
def test_a_server_without_structured_replies_or_block_status(client: Make, socket_folder: Path, context: bool) -> None:
    content = noise(70_000)
    script = Script(content, [(len(content), ZERO)], structured=context, context=not context)
    with ScriptedServer(socket_folder, script) as server:
        nbd = client(server.path)
        assert read_all(nbd) == content
        assert list(nbd.allocation()) == [Extent(0, len(content))]


def test_a_server_with_a_block_size_is_asked_for_whole_blocks(client: Make, socket_folder: Path) -> None:
    content = noise(64 * 1024)
    with ScriptedServer(socket_folder, Script(content, block_size=(4096, 4096, 8192))) as server:
        nbd = client(server.path)
        piece = bytearray(9000)
        nbd.read_into(5000, memoryview(piece))
        assert piece == content[5000:14000]
        assert server.requests == [(0, 4096, 8192), (0, 12288, 4096)]


class Case:
    """A disk, how the server answers and where it cuts."""

    def __init__(self, draw: st.DrawFn) -> None:
        lengths = draw(st.lists(st.integers(1, 200_000), min_size=1, max_size=8))
        flags = draw(st.lists(st.sampled_from([0, HOLE, ZERO, ZERO | HOLE]), min_size=8, max_size=8))
        self.extents = list(zip(lengths, flags, strict=False))
        self.content = b"".join(
            bytes(size) if flag & ZERO else noise(size, 1 + number) for number, (size, flag) in enumerate(self.extents)
        )
        small = st.integers(1, 60_000)
        self.script = Script(
            self.content,
            self.extents,
            structured=draw(st.booleans()),
            block_size=draw(st.sampled_from([(1, 1, 65536), (1, 4096, 1 << 25)])),
            chunks=draw(st.lists(small, max_size=5)),
            backwards=draw(st.booleans()),
            fragments=draw(st.lists(st.integers(1, 5000), max_size=30)),
            cuts=draw(st.lists(st.integers(1, len(self.content) + 600), max_size=6)),
            hold=draw(st.integers(1, 4)),
            status_limit=draw(st.integers(1, 400_000).filter(lambda each: each > 20_000)),
        )
        self.connections = draw(st.integers(1, 3))
        starts = draw(st.lists(st.tuples(st.integers(0, len(self.content) - 1), small), max_size=6))
        self.areas = [Extent(at, min(size, len(self.content) - at)) for at, size in starts]
        self.ahead = draw(st.sampled_from([1, BLOCK, 16 * BLOCK]))


ANY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@given(case=st.composite(Case)())
@ANY
def test_same_bytes_or_a_clear_error(case: Case) -> None:
    """Any extents, sizes, fragments, order of answers, and cuts at any byte, those of the handshake included."""
    _same_or_clear(case)


@pytest.mark.proof
@given(case=st.composite(Case)())
@settings(ANY, max_examples=1000)
def test_same_bytes_or_a_clear_error_at_length(case: Case) -> None:
    _same_or_clear(case)


def _same_or_clear(case: Case) -> None:
    with tempfile.TemporaryDirectory(prefix="wl-nbd-") as name, ScriptedServer(Path(name), case.script) as server:
        error = _outcome(case, server.path)
    if error is not None:
        assert case.script.cuts
        assert "connection" in error.what
        assert error.next_step


def _outcome(case: Case, path: str) -> WaveliftError | None:
    try:
        nbd = NbdClient(
            NbdAddress(unix=path), cancel=CancelFlag(), connections=case.connections, patience=QUICK, timeout=60
        )
        try:
            _compare(nbd, case)
        finally:
            nbd.close()
    except UnreachableError as error:
        return error
    return None


def _compare(nbd: NbdClient, case: Case) -> None:
    size = len(case.content)
    for areas, skip_zeros in ((None, False), (None, True), (case.areas, False)):
        reader = NbdReader(nbd, areas=areas, skip_zeros=skip_zeros, ahead_bytes=case.ahead)
        got = bytearray(size)
        for piece in reader.stream().pieces():
            start = piece.index * BLOCK
            block = bytearray(b"\xff" * (min(start + BLOCK, size) - start))
            piece.load(memoryview(block))
            got[start : start + len(block)] = block
        for area in reader.extents():
            there = slice(area.offset, area.offset + area.length)
            assert got[there] == case.content[there]
        if areas is None:
            assert got == case.content


def test_many_threads_share_connections_through_cuts(client: Make, socket_folder: Path, tmp_path: Path) -> None:
    content = noise(24 * BLOCK + 12345)
    script = Script(content, cuts=[3 * BLOCK, 5 * BLOCK + 17, BLOCK], hold=3)
    with ScriptedServer(socket_folder, script) as server:
        nbd = client(server.path, connections=2)
        manifest = Manifest.empty(len(content))
        writer = FileWriter(tmp_path / "out", len(content))
        stats = copy(NbdReader(nbd).stream(), writer, manifest, cancel=CancelFlag(), options=CopyOptions(4))
        assert (tmp_path / "out").read_bytes() == content
        assert stats.read_bytes == len(content)
        assert server.connections >= 5  # both, and one more for each cut


def test_what_is_in_flight_is_bounded_and_enough(client: Make, socket_folder: Path) -> None:
    content = noise(32 * BLOCK)
    with ScriptedServer(socket_folder, Script(content, hold=1000, pause=0.1)) as server:
        nbd = client(server.path)
        stream = NbdReader(nbd, ahead_bytes=8 * BLOCK).stream()
        block = memoryview(bytearray(BLOCK))
        for piece in stream.pieces():
            piece.load(block)
            assert block == content[piece.index * BLOCK :][:BLOCK]
        assert server.most_in_flight == 8 * BLOCK


def test_a_failing_read_is_asked_again_and_a_refused_one_is_not(client: Make, socket_folder: Path) -> None:
    content = noise(4 * BLOCK)
    errors = {0: [5, 12], BLOCK: [5] * 50, 2 * BLOCK: [22]}
    with ScriptedServer(socket_folder, Script(content, errors=errors)) as server:
        nbd = client(server.path, server="web01")
        buffer = bytearray(BLOCK)
        nbd.read_into(0, memoryview(buffer))
        assert buffer == content[:BLOCK]
        with pytest.raises(WaveliftError, match=r"EIO \(oops\)") as failed:
            nbd.read_into(BLOCK, memoryview(buffer))
        assert failed.value.retryable
        assert failed.value.where["offset"] == BLOCK
        assert failed.value.where["server"] == "web01"
        with pytest.raises(PermanentError, match="EINVAL"):
            nbd.read_into(2 * BLOCK, memoryview(buffer))
        nbd.read_into(3 * BLOCK, memoryview(buffer))  # the connection is none the worse for it
        assert buffer == content[3 * BLOCK :]
        assert server.connections == 1 + 1 + 2  # from the second failure on a new connection is tried
        assert [offset for _, offset, _ in server.requests].count(BLOCK) == QUICK.attempts


def test_a_server_that_shuts_down_is_met_again(client: Make, socket_folder: Path) -> None:
    content = noise(2 * BLOCK)
    with ScriptedServer(socket_folder, Script(content, errors={0: [108]})) as server:
        assert read_all(client(server.path)) == content
        assert server.connections == 2


def test_another_export_never_takes_the_place_of_the_first(client: Make, socket_folder: Path) -> None:
    with ScriptedServer(socket_folder, Script(noise(2 * BLOCK), cuts=[BLOCK])) as server:
        nbd = client(server.path)
        server.script.size = 4 * BLOCK
        with pytest.raises(NbdProtocolError, match="another export"):
            read_all(nbd)


def _reply(change: Callable[[bytearray], None]) -> Callable[[str, bytes], bytes]:
    def twist(kind: str, data: bytes) -> bytes:
        if kind != "reply":
            return data
        changed = bytearray(data)
        change(changed)
        return bytes(changed)

    return twist


def _set(offset: int, form: str, value: int) -> Callable[[bytearray], None]:
    return lambda data: struct.pack_into(form, data, offset, value)


BROKEN = {
    "magic": _set(0, ">I", 0x12345678),
    "simple reply": _set(0, ">I", 0x67446698),
    "cookie": _set(8, ">Q", 99_999),
    "unknown chunk": _set(6, ">H", 3),
    "block status": _set(6, ">H", 5),
    "length": _set(16, ">I", 4 * BLOCK),
    "no data": _set(16, ">I", 8),
    "offset before": _set(20, ">Q", 0),
    "offset behind": _set(20, ">Q", 3 * BLOCK),
    "nothing": _set(6, ">H", 0),
    "hole too long": lambda data: data.__setitem__(
        slice(None), data[:6] + struct.pack(">H", 2) + data[8:16] + struct.pack(">IQI", 12, BLOCK, 2 * BLOCK)
    ),
    "done too early": lambda data: data.__setitem__(
        slice(None), data[:6] + struct.pack(">H", 1) + data[8:16] + struct.pack(">IQ", 9, BLOCK) + b"x"
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_server_that_breaks_the_protocol_is_an_error_at_once(client: Make, socket_folder: Path, name: str) -> None:
    script = Script(noise(2 * BLOCK), twist=_reply(BROKEN[name]))
    with ScriptedServer(socket_folder, script) as server:
        nbd = client(server.path)
        with pytest.raises(NbdProtocolError, match="breaks the NBD protocol") as broken:
            nbd.read_into(BLOCK, memoryview(bytearray(BLOCK)))
        assert broken.value.next_step
        with pytest.raises(NbdProtocolError):
            nbd.read_into(0, memoryview(bytearray(BLOCK)))
        assert server.connections == 1


def test_bytes_that_come_twice_are_an_error(client: Make, socket_folder: Path) -> None:
    def twice(data: bytearray) -> None:
        if data[6:8] == b"\0\1":
            struct.pack_into(">Q", data, 20, 0)

    with ScriptedServer(socket_folder, Script(noise(BLOCK), chunks=[1000, 1000], twist=_reply(twice))) as server:
        with pytest.raises(NbdProtocolError, match="twice"):
            read_all(client(server.path))


STATUS = {
    "another context": _set(20, ">I", 8),
    "empty extent": _set(24, ">I", 0),
    "half an extent": _set(16, ">I", 11),
}


@pytest.mark.parametrize("name", STATUS)
def test_impossible_block_status_is_an_error(client: Make, socket_folder: Path, name: str) -> None:
    with ScriptedServer(socket_folder, Script(noise(BLOCK), twist=_reply(STATUS[name]))) as server:
        with pytest.raises(NbdProtocolError):
            list(client(server.path).allocation())


def test_block_status_that_fails_is_only_a_hint_less(client: Make, socket_folder: Path) -> None:
    extents = [(BLOCK, ZERO), (3 * BLOCK, 0)]
    script = Script(bytes(4 * BLOCK), extents, status_limit=BLOCK, errors={BLOCK: [95]})
    with ScriptedServer(socket_folder, script) as server:
        assert list(client(server.path).allocation()) == [Extent(0, BLOCK, zero=True), Extent(BLOCK, 3 * BLOCK)]


@pytest.mark.parametrize(
    ("kind", "twisted", "words"),
    [
        ("hello", b"SSH-2.0-OpenSSH_9.2 and", "does not speak NBD"),
        ("hello", b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x00", "old style"),
        ("option", bytes(20), "garbled"),
    ],
)
def test_who_is_no_nbd_server_is_told_so(
    client: Make, socket_folder: Path, kind: str, twisted: bytes, words: str
) -> None:
    script = Script(b"x" * 512, twist=lambda sent, data: twisted if sent == kind else data)
    with ScriptedServer(socket_folder, script) as server, pytest.raises(NbdProtocolError, match=words):
        client(server.path)


@pytest.mark.parametrize("told", [(3, 4096, 8192), (512, 512, 700), (0, 1, 1), (4096, 4096, 8192)])
def test_impossible_block_sizes_are_an_error(client: Make, socket_folder: Path, told: tuple[int, int, int]) -> None:
    with ScriptedServer(socket_folder, Script(b"x" * 5000, block_size=told)) as server:
        with pytest.raises(NbdProtocolError, match="block size"):
            client(server.path)


def test_a_silent_server_is_given_up_in_time(client: Make, socket_folder: Path) -> None:
    silent = threading.Event()

    def hang(kind: str, data: bytes) -> bytes:
        if kind == "reply":
            silent.wait(120)
        return data

    with ScriptedServer(socket_folder, Script(noise(BLOCK), twist=hang)) as server:
        try:
            with pytest.raises(UnreachableError, match=r"nothing for 0\.1 s"):
                read_all(client(server.path, timeout=0.1))
        finally:
            silent.set()


def test_an_interrupt_wakes_whoever_reads(client: Make, socket_folder: Path) -> None:
    asked = threading.Event()
    silent = threading.Event()

    def hang(kind: str, data: bytes) -> bytes:
        if kind == "reply":
            asked.set()
            silent.wait(120)
        return data

    with ScriptedServer(socket_folder, Script(noise(4 * BLOCK), twist=hang)) as server, ThreadPoolExecutor(3) as pool:
        nbd = client(server.path)
        waiting = [pool.submit(nbd.read_into, at * BLOCK, memoryview(bytearray(BLOCK))) for at in range(3)]
        assert asked.wait(60)
        nbd.interrupt()
        try:
            for each in waiting:
                assert isinstance(each.exception(60), Cancelled)
        finally:
            silent.set()


def test_a_server_that_nobody_started(client: Make, socket_folder: Path) -> None:
    with pytest.raises(UnreachableError, match="nobody serves"):
        client(str(socket_folder / "none"))
    with pytest.raises(UnreachableError, match="refuses"):
        client(NbdAddress(host="127.0.0.1", port=1))
