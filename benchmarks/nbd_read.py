"""Reading an NBD export, compared with ``nbdcopy``: the whole disk in order, and 10,000 random areas of 64 KiB; each
without latency and with 5 ms of latency per request.

The servers (nbdkit; its CPU is not counted) serve a file from the page cache over a Unix socket. Both contenders only
read: ours in one thread over one connection (``ours_4``: over four), nbdcopy into nothing with its four connections.
nbdcopy can't read areas: for comparison, it reads as many bytes in order with requests of the same size. For ours,
``limit_mib_s`` is the rate that the bytes in flight allow at the latency of single requests, measured in the same run,
or the rate without latency if that is lower. ``of_limit`` is the share of it that was reached while reading
(``reading_s``, without Python's start). nbdkit logs each request, and ``server_bytes`` is their sum. Floor: as many
bytes received over a Unix socket.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks import floor, harness
from wavelift.base.units import GIB, KIB, MIB

AREAS: Final = 10_000
AREA: Final = 64 * KIB
LATENCY_MS: Final = 5
SERVER_THREADS: Final = 64
"""Per connection: each holds one request for its latency."""
PROBES: Final = 100
MODES: Final = ("sequential", "random")
_READ: Final = re.compile(rb" Read id=\d+ offset=0x[0-9a-f]+ count=(0x[0-9a-f]+)")
_FAILED: Final = re.compile(rb"\.\.\.Read id=\d+ return=-")


def job(kind: str, socket: str, seed: int, connections: int) -> None:
    from wavelift.base.run import CancelFlag
    from wavelift.transfer.conveyor import Scratch
    from wavelift.transfer.manifest import block_length
    from wavelift.transfer.nbd.client import NbdClient, Read
    from wavelift.transfer.nbd.link import NbdAddress
    from wavelift.transfer.nbd.reader import AHEAD_BYTES, AHEAD_REQUESTS, NbdReader

    idle = harness.peak_mib()
    began, started = time.process_time(), time.monotonic()
    client = NbdClient(NbdAddress(unix=socket), cancel=CancelFlag(), connections=connections)
    scratch = Scratch()
    if kind == "sequential":
        reader = NbdReader(client)
        for piece in reader.stream().pieces():
            scratch.load(piece, block_length(client.size, piece.index))
    else:  # below the stream, which would fill each block around its area with zeros
        asked: deque[Read] = deque()
        buffer = bytearray(AREA)
        for offset in random_areas(client.size, seed):
            if len(asked) == AHEAD_REQUESTS:
                buffer = client.exchange(asked.popleft(), buffer)
            asked.append(client.start(offset, AREA))
        for read in asked:
            buffer = client.exchange(read, buffer)
    client.close()
    harness.report_job(
        added_mib=harness.peak_mib() - idle,
        reading_cpu_s=time.process_time() - began,
        reading_s=time.monotonic() - started,
        in_flight_bytes=AHEAD_BYTES if kind == "sequential" else AHEAD_REQUESTS * AREA,
    )


def random_areas(size: int, seed: int) -> list[int]:
    """Offsets, ascending, of areas that neither overlap nor touch."""
    chance = random.Random(seed)
    return [3 * AREA * slot for slot in sorted(chance.sample(range(size // (3 * AREA)), AREAS))]


@contextmanager
def served(folder: Path, name: str, image: Path, latency_ms: int) -> Iterator[str]:
    """nbdkit with ``image``; its socket."""
    path = folder / f"{name}.sock"
    log = ["--filter=log", *(["--filter=delay"] if latency_ms else []), "file", str(image), f"logfile={log_of(path)}"]
    delay = [f"rdelay={latency_ms}ms"] if latency_ms else []
    nbdkit = shutil.which("nbdkit", path="/usr/sbin:/usr/bin:/usr/local/bin") or "nbdkit"
    process = subprocess.Popen([nbdkit, "-f", "-r", "-t", str(SERVER_THREADS), "-U", str(path), *log, *delay])
    try:
        deadline = time.monotonic() + 10
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("nbdkit did not start")
            time.sleep(0.01)
        yield str(path)
    finally:
        process.terminate()
        process.wait()
        path.unlink(missing_ok=True)
        log_of(path).unlink(missing_ok=True)


def log_of(socket: str | Path) -> Path:
    return Path(socket).with_suffix(".log")


def bytes_read(log: Path) -> int:
    """What nbdkit says that it was asked for and gave.

    :raises RuntimeError: when a request failed.
    """
    text = log.read_bytes()
    if _FAILED.search(text):
        raise RuntimeError("nbdkit could not answer a request")
    return sum(int(found, 16) for found in _READ.findall(text))


def main() -> None:
    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if options.job:
        kind, socket, seed, connections = options.job
        job(kind, socket, int(seed), int(connections))
        return
    results = {}
    with harness.workspace(options) as folder:
        disk, small = folder / "disk.raw", folder / "small.raw"
        size = max(options.size_mib * MIB, 4 * AREAS * AREA)
        for path, length in ((disk, size), (small, AREAS * AREA)):
            fill(path, length, options.seed)
        for mode in MODES:
            for latency in (0, LATENCY_MS):
                with ExitStack() as servers:
                    socket = servers.enter_context(served(folder, "disk", disk, latency))
                    theirs = (
                        socket
                        if mode == "sequential"
                        else servers.enter_context(served(folder, "small", small, latency))
                    )
                    results[f"{mode}_{latency}ms"] = _compare(options, mode, latency, socket, theirs, size, disk)
    for mode in MODES:
        ideal, slow = (results[f"{mode}_{latency}ms"] for latency in (0, LATENCY_MS))
        pairs = [(slow["ours"], ideal["ours"])]
        pairs += [(one, ideal["variants"][name]) for name, one in slow["variants"].items()]
        for one, other in pairs:
            allowed = one["in_flight_bytes"] / slow["params"]["request_s"] / MIB
            data = slow["params"]["data_bytes"] / MIB
            one["limit_mib_s"] = round(min(allowed, data / other["reading_s"]), 1)
            one["of_limit"] = round(data / one["reading_s"] / one["limit_mib_s"], 3)
    first = results["sequential_0ms"]
    print(json.dumps({**first, "all": results}), flush=True)


def _compare(  # noqa: PLR0913 - what the benchmark has set up
    options: Any, mode: str, latency: int, socket: str, theirs: str, size: int, disk: Path
) -> dict[str, Any]:
    data = size if mode == "sequential" else AREAS * AREA

    def wire(socket: str) -> harness.Wire:
        return harness.Wire(lambda: bytes_read(log_of(socket)), data)

    def ours(connections: int) -> harness.Contender:
        command = harness.job_command("benchmarks.nbd_read", mode, socket, options.seed, connections)
        return harness.Contender(f"ours_{connections}", command, wires=[wire(socket)])

    requests = ["--request-size=65536"] if mode == "random" else []
    peer = ["nbdcopy", "--no-extents", *requests, f"nbd+unix:///?socket={theirs}", "null:"]
    return harness.compare(
        "nbd_read",
        ours=ours(1),
        variants=[ours(4)],
        peers=[harness.Contender("nbdcopy", peer, wires=[wire(theirs)])],
        data_bytes=data,
        params={
            "request_s": round(request_seconds(socket, mode), 5),
            "mode": mode,
            "latency_ms": latency,
            "size": size,
            "area": AREA,
            "server_threads": SERVER_THREADS,
        },
        runs=options.runs,
        floor=harness.Floor(floor.contender(disk, ["unix_receive"], min(data, GIB)), {"unix_receive": data}),
        cpu="reading_cpu_s",
        limits=_limits,
    )


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    if result["params"]["mode"] != "sequential" or result["params"]["latency_ms"]:
        return []
    return [harness.Limit("CPU / nbdcopy", result["ours"]["ratio_to_peer"]["nbdcopy"], at_most=1.2)]


def request_seconds(socket: str, mode: str) -> float:
    """How long one request takes alone, its transfer included; the median of many."""
    from wavelift.base.run import CancelFlag
    from wavelift.transfer.nbd.client import NbdClient
    from wavelift.transfer.nbd.link import NbdAddress

    client = NbdClient(NbdAddress(unix=socket), cancel=CancelFlag())
    buffer = memoryview(bytearray(client.piece if mode == "sequential" else AREA))
    taken = []
    for number in range(PROBES):
        began = time.monotonic()
        client.read_into(number * len(buffer), buffer)
        taken.append(time.monotonic() - began)
    client.close()
    return statistics.median(taken)


def fill(path: Path, length: int, seed: int) -> None:
    """Random bytes: neither end may find them easy."""
    unit = random.Random(seed).randbytes(8 * MIB)
    with path.open("wb") as out:
        for at in range(0, length, len(unit)):
            out.write(unit[: length - at])


if __name__ == "__main__":
    main()
