"""A seed: every block of a frozen disk is read over TLS and put over TLS into a server that stores nothing.

``ours`` reads, by ranges of the datastore's file, the areas that vSphere reports as in use and a sample of the rest, as
the first run of a job with ``change_tracking: enable`` does on VMFS. ``whole`` reads the complete file with its zeros,
as every other seed by ranges does. ``nfc`` reads the stream of an export lease, which omits zeros. All data comes from
the vCenter simulator, is decoded if necessary, hashed, put by the default number of threads, and written to the
journal. ``100 ms`` is ``ours`` with this latency in every put. The peer is coldsnap, if it is installed (``cargo
install coldsnap``): it reads a local file, so its reading costs nothing. The checksum that the server gets at the end
must be the frozen disk's linear checksum. The server counts the bytes of the blocks, and the vCenter simulator counts
the bytes that it sent (``source_bytes``). Floor: the disk received by the same method (for ``nfc`` compressed, then
inflated), each block hashed and sent.

``moving_cpu_s_per_gib`` excludes what every task process needs: Python, boto3, pyVmomi, two logins. ``added_mib`` is
relative to the idle process after login.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import floor, harness
from benchmarks.ebs_sink import EbsSink, ebs_sink
from benchmarks.export_upload import DEMO_KEYS, REGION
from benchmarks.order import vsphere_config
from wavelift.base.units import BLOCK, GIB

if TYPE_CHECKING:
    from benchmarks.lab import Lab
    from wavelift.adapters.vsphere.session import VsphereSession
    from wavelift.base.run import CancelFlag
    from wavelift.transfer.protocols import BlockStream

LATENCY_MS: Final = 100
PUTS_PER_S: Final = 1000
"""AWS's quota per snapshot."""
PARTS: Final = ("tls_receive", "tls_receive_packed", "inflate", "sha256", "tls_send")
PATHS: Final = {"ranges": "/folder", "whole": "/folder", "nfc": "/nfc"}
"""Where vCenter's simulator serves what is read."""


@contextmanager
def opened(kind: str, session: VsphereSession, told: dict[str, Any], cancel: CancelFlag) -> Iterator[BlockStream]:
    """The frozen disk of an order, read one way or the other."""
    from wavelift.adapters.vsphere.devices import FrozenVm
    from wavelift.adapters.vsphere.lease import ExportLease
    from wavelift.services.dataplane.bases import FIRST_RUN, Base
    from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot
    from wavelift.services.dataplane.readers import Readings, open_reader
    from wavelift.transfer.vmdk import StreamVmdkSource

    task, snapshot = ServerTask.load(told["task"]), TakenSnapshot.load(told["snapshot"])
    place = FrozenVm(task.facts.moref, snapshot.ref.moref, task.name)
    (disk,) = snapshot.disks
    if kind != "nfc":
        reading = Readings(session, task, snapshot, cancel).of(disk, Base.seed(FIRST_RUN))
        assert reading.route is not None, reading
        areas = None if kind == "whole" else reading.areas
        with closing(open_reader(session, reading.route, cancel=cancel, areas=areas)) as reader:
            with closing(reader.stream()) as stream:
                yield stream
    else:
        with ExportLease(session, place, snapshot.disks, cancel=cancel, percent=lambda: 50) as lease:
            with closing(StreamVmdkSource(lease.open(disk))) as stream:
                yield stream


def job(kind: str, order: str, url: str, ca: str) -> None:
    import boto3

    from wavelift.adapters.aws.access import AwsAccess
    from wavelift.adapters.aws.ebs_snapshot import NewSnapshot, start_snapshot
    from wavelift.adapters.aws.ebs_write import EbsWriter
    from wavelift.adapters.vsphere.session import connect
    from wavelift.base.run import CancelFlag
    from wavelift.transfer.journal import Journal, JournalIdentity
    from wavelift.transfer.manifest import Manifest
    from wavelift.transfer.pipeline import copy

    told = json.loads(Path(order).read_text())
    access = AwsAccess(boto3.Session(*DEMO_KEYS.values(), region_name=REGION), REGION, url, ca)
    cancel = CancelFlag()
    with connect(vsphere_config(told)) as session, tempfile.TemporaryDirectory() as folder:
        access.client("ebs")
        idle, cpu, began = harness.peak_mib(), time.process_time(), time.monotonic()
        with opened(kind, session, told, cancel) as stream:
            started = start_snapshot(access, NewSnapshot(capacity=stream.size, token="bench", tags={}))
            journal = Journal(Path(folder), JournalIdentity(started.snapshot_id, "bench", stream.size))
            writer = EbsWriter(access, started, journal, cancel=cancel)
            manifest = Manifest.empty(stream.size)
            stats = copy(stream, writer, manifest, cancel=cancel)
        cpu, took = time.process_time() - cpu, time.monotonic() - began
    harness.report_job(
        added_mib=harness.peak_mib() - idle,
        moving_s=took,
        moving_cpu_s=cpu,
        moving_cpu_s_per_gib=cpu * GIB / stats.data_bytes,
        copying_s=stats.seconds,
        puts_per_s=stats.sent_blocks / stats.seconds,
        bytes_read=stats.read_bytes,
    )


def main() -> None:
    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if options.job:
        job(*options.job)
        return
    from benchmarks.lab import lab  # its simulators and test doubles are none of a contender's cost

    corpus = harness.corpus_of(options)
    with harness.workspace(options) as folder:
        raw = folder / "disk.raw"
        data = corpus.make(raw)
        with ExitStack() as stack:
            at = stack.enter_context(lab(folder, raw, tracked=False))
            sinks = [_sink(stack, folder, latency) for latency in (0, LATENCY_MS)]
            one = at.replica.begin()
            try:
                _compare(options.runs, at, at.order(one), sinks, raw, data, _linear(at, one), corpus.params)
            finally:
                at.replica.end(one, None)


def _sink(stack: ExitStack, folder: Path, latency_ms: int) -> EbsSink:
    own = folder / f"sink-{latency_ms}"
    own.mkdir()
    return stack.enter_context(ebs_sink(own, latency_ms=latency_ms))


def _linear(at: Lab, one: Any) -> str:
    manifest = at.frozen(one)
    digests = b"".join(manifest.digest(index) or b"" for index in manifest.data_blocks())
    return base64.b64encode(hashlib.sha256(digests).digest()).decode()


def _compare(  # noqa: PLR0913 - what the benchmark has set up
    runs: int,
    at: Lab,
    order: Path,
    sinks: list[EbsSink],
    raw: Path,
    data: int,
    checksum: str,
    params: Mapping[str, Any],
) -> None:
    near, far = sinks
    sending = {"sha256": data, "tls_send": data}
    size = raw.stat().st_size
    needs = {
        "ranges": {"tls_receive": data, **sending},
        "whole": {"tls_receive": size, **sending},
        "nfc": {"tls_receive_packed": data, "inflate": data, **sending},
    }

    def contender(name: str, kind: str, sink: EbsSink) -> harness.Contender:
        def before() -> None:
            at.stage.vc.clear_rules() if kind == "nfc" else at.serve_ranges()
            at.stage.vc.reset_counters()

        def check() -> dict[str, float]:
            sink.check(data // BLOCK, checksum)
            handed_out = at.stage.vc.counters()["paths"][PATHS[kind]]["bytes"]
            assert kind == "nfc" or handed_out >= needs[kind]["tls_receive"], f"{handed_out} bytes were read"
            return {"source_bytes": handed_out}

        return harness.Contender(
            name,
            harness.job_command("benchmarks.seed_ebs", kind, order, sink.url, sink.ca),
            before=before,
            check=check,
            wires=[sink.wire(data)],
            needs=needs[kind],
        )

    harness.compare(
        "seed_ebs",
        ours=contender("ranges", "ranges", near),
        variants=[
            contender("whole", "whole", near),
            contender("nfc", "nfc", near),
            contender(f"{LATENCY_MS} ms", "ranges", far),
        ],
        peers=list(_coldsnap(raw, near, data, checksum)),
        data_bytes=data,
        params={**params, "blocks": data // BLOCK, "latency_ms": LATENCY_MS},
        runs=runs,
        limits=_limits,
        floor=harness.Floor(floor.contender(raw, PARTS, data), needs["ranges"]),
        cpu="moving_cpu_s",
    )


def _coldsnap(raw: Path, sink: EbsSink, data: int, checksum: str) -> Iterator[harness.Contender]:
    program = shutil.which("coldsnap")
    if program is None:
        return
    words = [program, "--region", REGION, "--endpoint", sink.url, "upload", "--omit-zero-blocks", str(raw)]
    yield harness.Contender(
        "coldsnap",
        words,
        environment={**DEMO_KEYS, "SSL_CERT_FILE": sink.ca},
        check=lambda: sink.check(data // BLOCK, checksum),
        wires=[sink.wire(data)],
        needs={"sha256": data, "tls_send": data},
    )


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    ranges, nfc, far = result["ours"], result["variants"]["nfc"], result["variants"][f"{LATENCY_MS} ms"]
    allowed = min(PUTS_PER_S, ranges["puts_per_s"])
    return [
        harness.Limit("ranges: CPU / floor", ranges["ratio_to_floor"], at_most=1.8),
        harness.Limit("nfc: CPU / floor", nfc["ratio_to_floor"], at_most=1.8),
        harness.Limit("ranges: MiB added", ranges["added_mib"], at_most=160),
        harness.Limit("nfc: MiB added", nfc["added_mib"], at_most=160),
        harness.Limit(f"puts/s at {LATENCY_MS} ms / allowed", far["puts_per_s"] / allowed, at_least=0.9),
    ]


if __name__ == "__main__":
    main()
