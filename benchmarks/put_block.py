"""PutSnapshotBlock: wavelift's writer compared with plain boto3, over TLS to one server that stores nothing.

Both hash each block of 512 KiB once, from one buffer of random bytes in memory, with the same number of threads. The
figures to compare are ``putting_cpu_s`` and ``putting_s``. They exclude Python's start and the creation of boto3's
clients, which both contenders need once per process. The server counts the bytes of the blocks. Floor: each block
hashed and sent.
"""

from __future__ import annotations

import base64
import hashlib
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks import floor, harness
from benchmarks.ebs_sink import ebs_sink
from benchmarks.export_upload import DEMO_KEYS, REGION
from wavelift.base.units import BLOCK, MIB

POOL: Final = 64 * MIB
THREADS: Final = 16
PARTS: Final = ("sha256", "tls_send")


def pool() -> bytes:
    return random.Random(1).randbytes(POOL)


def blocks(size: int) -> Iterator[tuple[int, memoryview]]:
    whole = memoryview(pool())
    for index in range(size // BLOCK):
        at = index * BLOCK % POOL
        yield index, whole[at : at + BLOCK]


def linear_checksum(size: int) -> str:
    digests = b"".join(hashlib.sha256(data).digest() for _, data in blocks(size))
    return base64.b64encode(hashlib.sha256(digests).digest()).decode()


class Figures:
    """Of what happens from here on."""

    def __init__(self) -> None:
        self._idle = harness.peak_mib()
        self._cpu, self._wall = time.process_time(), time.monotonic()

    def report(self, size: int) -> None:
        cpu, wall = time.process_time() - self._cpu, time.monotonic() - self._wall
        harness.report_job(
            putting_s=wall,
            putting_cpu_s=cpu,
            puts_per_s=size / BLOCK / wall,
            added_mib=harness.peak_mib() - self._idle,
        )


def ours(url: str, ca: str, size: int, threads: int) -> None:
    import boto3

    from wavelift.adapters.aws.access import AwsAccess
    from wavelift.adapters.aws.ebs_snapshot import NewSnapshot, start_snapshot
    from wavelift.adapters.aws.ebs_write import EbsWriter, PutOptions
    from wavelift.transfer.journal import Journal, JournalIdentity
    from wavelift.transfer.manifest import Manifest

    session = boto3.Session(*DEMO_KEYS.values(), region_name=REGION)
    access = AwsAccess(session, REGION, url, ca)
    started = start_snapshot(access, NewSnapshot(capacity=size, token="bench", tags={}))
    pieces = blocks(size)
    first = next(pieces)
    figures = Figures()
    manifest = Manifest.empty(size)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), JournalIdentity(started.snapshot_id, "bench", size))
        writer = EbsWriter(access, started, journal, puts=PutOptions(threads))
        for index, data in (first, *pieces):
            digest = hashlib.sha256(data).digest()
            manifest.set(index, digest)
            writer.write(index, writer.prepare(index, data, digest))
        writer.finish(manifest)
        writer.close()
    figures.report(size)


def plain(url: str, ca: str, size: int, threads: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import boto3
    from botocore.config import Config

    session = boto3.Session(*DEMO_KEYS.values(), region_name=REGION)
    client = session.client("ebs", endpoint_url=url, verify=ca, config=Config(max_pool_connections=threads))
    started = client.start_snapshot(VolumeSize=-(-size // (1024 * MIB)))
    pieces = blocks(size)
    first = next(pieces)
    figures = Figures()

    def put(piece: tuple[int, memoryview]) -> bytes:
        index, data = piece
        digest = hashlib.sha256(data).digest()
        client.put_snapshot_block(
            SnapshotId=started["SnapshotId"],
            BlockIndex=index,
            BlockData=bytes(data),
            DataLength=BLOCK,
            Checksum=base64.b64encode(digest).decode(),
            ChecksumAlgorithm="SHA256",
        )
        return digest

    with ThreadPoolExecutor(threads) as pool:
        digests = b"".join(pool.map(put, (first, *pieces)))
    client.complete_snapshot(
        SnapshotId=started["SnapshotId"],
        ChangedBlocksCount=size // BLOCK,
        Checksum=base64.b64encode(hashlib.sha256(digests).digest()).decode(),
        ChecksumAlgorithm="SHA256",
        ChecksumAggregationMethod="LINEAR",
    )
    figures.report(size)


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.set_defaults(size_mib=1024)
    options = parser.parse_args()
    if options.job:
        who, url, ca, size, threads = options.job
        {"ours": ours, "plain": plain}[who](url, ca, int(size), int(threads))
        return
    size = options.size_mib * MIB
    checksum = linear_checksum(size)
    with harness.workspace(options) as folder, ebs_sink(folder) as sink:

        def contender(name: str, who: str, threads: int) -> harness.Contender:
            command = harness.job_command("benchmarks.put_block", who, sink.url, sink.ca, size, threads)
            return harness.Contender(
                name, command, check=lambda: sink.check(size // BLOCK, checksum), wires=[sink.wire(size)]
            )

        raw = folder / "pool.raw"
        raw.write_bytes(pool())

        harness.compare(
            "put_block",
            ours=contender("wavelift", "ours", THREADS),
            variants=[contender("wavelift, one thread", "ours", 1)],
            peers=[contender("boto3", "plain", THREADS), contender("boto3, one thread", "plain", 1)],
            data_bytes=size,
            params={"blocks": size // BLOCK, "threads": THREADS},
            runs=options.runs,
            limits=_limits,
            floor=harness.Floor(floor.contender(raw, PARTS, size), dict.fromkeys(PARTS, size)),
            cpu="putting_cpu_s",
        )


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    pairs = {"boto3": result["ours"], "boto3, one thread": result["variants"]["wavelift, one thread"]}
    return [
        harness.Limit("CPU / floor", result["ours"]["ratio_to_floor"], at_most=1.7),
        *(harness.Limit(f"CPU / {peer}", one["ratio_to_peer"][peer], at_most=0.55) for peer, one in pairs.items()),
    ]


if __name__ == "__main__":
    main()
