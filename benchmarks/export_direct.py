"""An EBS snapshot as an OVA in S3: read block by block over TLS, hashed, encoded, uploaded over TLS; one pass.

Peer: ``qemu-img convert`` to a stream-optimised VMDK from and to a local file. It reads no network, hashes nothing, and
needs room for the whole file. Both ends are TLS servers of this benchmark in separate processes: one has the blocks in
memory, the other discards what it gets, and both count. Before that, one run goes into a file, whose disk is compared
with the corpus: every further run must upload as many bytes. Floor: the blocks received, hashed (EBS's checksum is the
manifest's digest) and deflated, the parts hashed twice (S3's checksum, the OVA's manifest) and sent.

``moving_cpu_s_per_gib`` excludes the start of Python and boto3. ``added_mib`` is relative to the idle process.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import floor, harness
from benchmarks.ebs_source import SNAPSHOT, ebs_source
from benchmarks.export_upload import DEMO_KEYS, REGION
from benchmarks.servers import SinkHandler, running, told_by
from wavelift.base.units import GIB, MIB

if TYPE_CHECKING:
    from wavelift.transfer.protocols import PartSink

PARTS: Final = ("tls_receive", "sha256", "deflate", "sha256_packed", "tls_send_packed")
PEER: Final = "qemu-img"
NAME: Final = "exp-0123456789ab"
TO_FILE: Final = "file"


class FolderSink:
    """Parts in any order, and then one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = path.with_suffix(".parts")
        self._folder.mkdir()

    def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
        (self._folder / f"{number:05}").write_bytes(data)

    def complete(self) -> None:
        with self._path.open("wb") as out:
            for part in sorted(self._folder.iterdir()):
                out.write(part.read_bytes())
        shutil.rmtree(self._folder)


def job(source: str, source_ca: str, target: str, target_ca: str) -> None:
    """:param target: the sink's URL; or, with ``file`` for its authority, the path of a file."""
    import boto3

    from wavelift.adapters.aws.access import AwsAccess
    from wavelift.adapters.aws.ebs import EbsStream
    from wavelift.adapters.aws.s3 import S3Staging
    from wavelift.base.run import CancelFlag
    from wavelift.transfer.manifest import Manifest
    from wavelift.transfer.ova import OvaAssembly, OvaPlan
    from wavelift.transfer.ovf import Machine
    from wavelift.transfer.pipeline import copy

    session = boto3.Session(*DEMO_KEYS.values(), region_name=REGION)
    access = AwsAccess(session, REGION, source, source_ca)
    access.client("ebs")
    staging = None if target_ca == TO_FILE else S3Staging(AwsAccess(session, REGION, target, target_ca), "bench")
    sink: PartSink = FolderSink(Path(target)) if staging is None else staging.multipart(f"{NAME}.ova", metadata={})
    cancel = CancelFlag()
    idle, cpu, began = harness.peak_mib(), time.process_time(), time.monotonic()
    with closing(EbsStream(access, SNAPSHOT, cancel=cancel)) as stream:
        machine = Machine(name="bench", cpus=2, memory_mib=4096, networks=("net",))
        plan = OvaPlan(name=NAME, machine=machine, capacities=(stream.size,), mtime=1_700_000_000)
        with closing(OvaAssembly(sink, plan)) as assembly:
            stats = copy(stream, assembly.disk(0), Manifest.empty(stream.size), cancel=cancel)
            result = assembly.finish()
    cpu, took = time.process_time() - cpu, time.monotonic() - began
    harness.report_job(
        added_mib=harness.peak_mib() - idle,
        moving_s=took,
        moving_cpu_s=cpu,
        moving_cpu_s_per_gib=cpu * GIB / stats.data_bytes,
        object_mib=result.object_bytes / MIB,
        parts=result.parts,
    )


def prove(folder: Path, ova: Path, raw: Path) -> int:
    """That the OVA holds the disk; its size."""
    harness.must_run("tar", "-xf", ova, "-C", folder)
    disk = folder / f"{NAME}-disk1.vmdk"
    harness.must_run("qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, disk)
    size = ova.stat().st_size
    for path in (ova, disk):
        path.unlink()
    return size


def main() -> None:
    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if options.job:
        job(*options.job)
        return
    corpus = harness.corpus_of(options)
    with harness.workspace(options) as folder:
        raw, vmdk, ova = folder / "corpus.raw", folder / "theirs.vmdk", folder / "ours.ova"
        places = [folder / "source", folder / "sink"]
        for place in places:
            place.mkdir()
        data = corpus.make(raw)
        with ebs_source(places[0], raw) as source, running(SinkHandler, places[1]) as (sink, ca):
            module = "benchmarks.export_direct"
            harness.must_run(*harness.job_command(module, source.url, source.ca, ova, TO_FILE))
            uploaded = harness.Wire(lambda: int(told_by(sink, ca)["bytes"]), prove(folder, ova, raw))
            convert = ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", str(raw), str(vmdk)]
            harness.compare(
                "export_direct",
                ours=harness.Contender(
                    "wavelift",
                    harness.job_command(module, source.url, source.ca, sink, ca),
                    wires=[source.wire(data), uploaded],
                ),
                peers=[harness.Contender(PEER, convert, output=vmdk, needs={"deflate": data})],
                data_bytes=data,
                params=corpus.params,
                runs=options.runs,
                floor=harness.Floor(
                    floor.contender(raw, PARTS, data),
                    {**dict.fromkeys(PARTS, data), "sha256_packed": 2 * data},
                ),
                limits=_limits,
                cpu="moving_cpu_s",
            )


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    ours = result["ours"]
    return [
        harness.Limit("CPU-s / GiB of data", ours["moving_cpu_s_per_gib"], at_most=6),
        harness.Limit("MiB added", ours["added_mib"], at_most=160),
        harness.Limit("CPU / floor", ours["ratio_to_floor"], at_most=1.8),
        harness.Limit(f"CPU / {PEER}", ours["ratio_to_peer"][PEER], at_most=0.5),
    ]


if __name__ == "__main__":
    main()
