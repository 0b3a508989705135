"""The rate limit of a machine: the total of its transfers, the share of each, and the effect of killed transfers."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import struct
import threading
from pathlib import Path

import pytest
from tests.eventually import eventually

from wavelift.base.errors import Cancelled, SpecError, WaveliftError
from wavelift.base.run import CancelFlag
from wavelift.base.units import MBIT
from wavelift.transfer.line import FILE, LOOK_S, SPAN_S, SharedLine

pytestmark = pytest.mark.unit

LIMIT = 8.0
"""Megabits: a million bytes a second."""
PIECE = 10_000


class _Time:
    """A clock that goes on only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    def wait(self, cancel: CancelFlag, seconds: float) -> None:
        self.now += seconds


def _line(folder: Path, time: _Time, limit: float | None = LIMIT) -> SharedLine:
    return SharedLine(folder, lambda: limit, clock=time.clock, wait=time.wait)


@pytest.mark.parametrize("count", [1, 4])
def test_all_transfers_together_keep_the_rate(tmp_path: Path, count: int) -> None:
    time = _Time()
    lines = [_line(tmp_path, time) for _ in range(count)]
    cancel = CancelFlag()
    for turn in range(1000):
        lines[turn % count].take(PIECE, cancel)
    rate = 1000 * PIECE / (time.now - 1000)
    assert LIMIT * MBIT * 0.95 <= rate <= LIMIT * MBIT * (1 + (count + 1) * SPAN_S / 10)


def test_large_pieces_and_many_threads_get_no_more_than_small_ones(tmp_path: Path) -> None:
    """Two processes' worth of lines, in threads: one takes 512 KiB by four threads, the other 4 KiB by one."""
    greedy, modest = (SharedLine(tmp_path, lambda: 400.0) for _ in range(2))
    passed = {"greedy": 0, "modest": 0}
    cancel = CancelFlag()
    lock = threading.Lock()

    def run(name: str, line: SharedLine, piece: int) -> None:
        try:
            while True:
                line.take(piece, cancel)
                with lock:
                    passed[name] += piece
        except Cancelled:
            pass

    threads = [threading.Thread(target=run, args=("greedy", greedy, 1 << 19)) for _ in range(4)]
    threads.append(threading.Thread(target=run, args=("modest", modest, 1 << 12)))
    for thread in threads:
        thread.start()
    enough = eventually(lambda: sum(passed.values()) > 40 << 20)
    cancel.set()
    for thread in threads:
        thread.join()
    assert enough
    assert 0.3 < passed["modest"] / passed["greedy"] < 3, "first come, first served gave one a hundredth"


def test_what_one_does_not_use_another_may(tmp_path: Path) -> None:
    time = _Time()
    busy, idle = _line(tmp_path, time), _line(tmp_path, time)
    idle.take(PIECE, CancelFlag())
    began = time.now
    for _ in range(500):
        busy.take(PIECE, CancelFlag())
    assert 500 * PIECE / (time.now - began) >= 0.95 * LIMIT * MBIT


def test_the_limit_is_read_again(tmp_path: Path) -> None:
    time = _Time()
    limits: list[float | None] = [LIMIT]
    line = SharedLine(tmp_path, lambda: limits[0], clock=time.clock, wait=time.wait)
    line.take(PIECE, CancelFlag())
    assert line.limited
    limits[0] = None
    time.now += LOOK_S
    began = time.now
    for _ in range(100):
        line.take(1 << 30, CancelFlag())
    assert (time.now, line.limited) == (began, False)
    limits[0] = LIMIT
    time.now += LOOK_S
    for _ in range(100):
        line.take(PIECE, CancelFlag())
    assert time.now - began - LOOK_S >= 0.8


def test_a_slip_of_the_pen_in_the_settings_ends_no_running_transfer(tmp_path: Path) -> None:
    time = _Time()
    limits: list[float | Exception] = [SpecError("max_mbit_s is 'fast'")]

    def limit() -> float:
        found = limits[0]
        if isinstance(found, Exception):
            raise found
        return found

    line = SharedLine(tmp_path, limit, clock=time.clock, wait=time.wait)
    with pytest.raises(SpecError, match="fast"):
        line.take(PIECE, CancelFlag())
    limits.insert(0, LIMIT)
    line.take(PIECE, CancelFlag())
    limits.pop(0)
    time.now += LOOK_S
    line.take(PIECE, CancelFlag())
    assert line.limited


@pytest.mark.parametrize(
    "left", [b"", b"half", struct.pack("<d", 9e9), struct.pack("<d", -5.0), struct.pack("<d", float("nan"))]
)
def test_what_a_machine_that_died_left_in_the_file_stops_nobody(tmp_path: Path, left: bytes) -> None:
    (tmp_path / FILE).write_bytes(left)
    time = _Time()
    _line(tmp_path, time).take(PIECE, CancelFlag())
    assert time.now < 1001


def test_a_wish_to_stop_is_obeyed_by_who_waits_and_by_who_queues_behind(tmp_path: Path) -> None:
    line = SharedLine(tmp_path, lambda: 0.001)
    cancel = CancelFlag()
    told: list[BaseException] = []

    def run() -> None:
        try:
            line.take(1 << 20, cancel)
        except Cancelled as error:
            told.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    cancel.set("killed")
    for thread in threads:
        thread.join(60)
    assert len(told) == 3


def _hold(folder: str) -> None:
    """A process that dies with the lock."""
    fd = os.open(Path(folder) / FILE, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, b"torn")
    (Path(folder) / "held").touch()
    signal.pause()


def test_a_killed_holder_of_the_lock_holds_up_nobody(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(tmp_path),))
    process.start()
    assert eventually((tmp_path / "held").exists)
    done = threading.Event()

    def run() -> None:
        SharedLine(tmp_path, lambda: LIMIT).take(PIECE, CancelFlag())
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    thread.join(60)
    assert done.is_set()


def test_a_state_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WaveliftError, match="line's file can't be written") as told:
        SharedLine(tmp_path / "file", lambda: LIMIT).take(1, CancelFlag())
    assert "state folder" in told.value.next_step
