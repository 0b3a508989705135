"""A lease's stream over TLS: decoded, hashed, encoded again, and uploaded over TLS to S3. Peer: ``curl | aws s3 cp``.

The peer transfers the vendor's bytes unchanged and proves nothing. Both ends are TLS servers of this benchmark in
separate processes, the same for all contenders. They count the bytes that they sent and the bytes of the finished
object. The read-back of ``verify`` is not included. Floor: the stream received and inflated, its blocks hashed and
deflated, the parts hashed and sent. The peer's own floor is receiving and sending.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks import floor, harness
from benchmarks.servers import servers, told_by

DEMO_KEYS = {"AWS_ACCESS_KEY_ID": "AKIABENCHMARK0000001", "AWS_SECRET_ACCESS_KEY": "benchmark"}
REGION = "eu-central-1"
PARTS: Final = ("tls_receive_packed", "inflate", "sha256", "deflate", "sha256_packed", "tls_send_packed")
PEER: Final = "curl | aws s3 cp"


def job(source: str, sink: str, ca: str) -> None:
    import ssl

    import boto3
    import urllib3

    from wavelift.adapters.aws.access import AwsAccess
    from wavelift.adapters.aws.s3 import S3Staging
    from wavelift.base.run import CancelFlag
    from wavelift.transfer.manifest import Manifest
    from wavelift.transfer.pipeline import copy
    from wavelift.transfer.vmdk import StreamVmdkSource
    from wavelift.transfer.vmdk_writer import VmdkPartWriter

    session = boto3.Session(DEMO_KEYS["AWS_ACCESS_KEY_ID"], DEMO_KEYS["AWS_SECRET_ACCESS_KEY"], region_name=REGION)
    staging = S3Staging(AwsAccess(session, REGION, sink, verify=ca), "bench")
    idle = harness.peak_mib()
    pool = urllib3.PoolManager(ssl_context=ssl.create_default_context(cafile=ca))
    body = pool.request("GET", source, preload_content=False, decode_content=False)
    stream = StreamVmdkSource(body)
    manifest = Manifest.empty(stream.size)
    part_sink = staging.multipart("disk.vmdk", metadata={})
    writer = VmdkPartWriter(part_sink, stream.size)
    stats = copy(stream, writer, manifest, cancel=CancelFlag())
    body.close()
    harness.report_job(added_mib=harness.peak_mib() - idle, parts=writer.parts, data_mib=stats.data_bytes / (1 << 20))


def main() -> None:
    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if options.job:
        job(*options.job)
        return
    corpus = harness.corpus_of(options)
    with harness.workspace(options) as folder:
        raw, stream = folder / "corpus.raw", folder / "stream.vmdk"
        data = corpus.make(raw)
        harness.must_run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, stream)
        # What ours uploads: the same encoder into a file.
        parts = folder / "parts.vmdk"
        harness.must_run(*harness.job_command("benchmarks.vmdk_write", "as_uploaded", raw, parts))
        with servers(folder, stream) as at:
            pipe = (
                f"curl -sS --cacert {shlex.quote(at['ca'])} {at['source']}/disk.vmdk | "
                f"aws --endpoint-url {at['sink']} --ca-bundle {shlex.quote(at['ca'])} --region {REGION} "
                f"s3 cp --expected-size {stream.stat().st_size} - s3://bench/disk.vmdk"
            )

            def wires(uploaded: Path) -> list[harness.Wire]:
                def counted(end: str) -> int:
                    return int(told_by(at[end], at["ca"])["bytes"])

                return [
                    harness.Wire(lambda: counted("sink"), uploaded.stat().st_size),
                    harness.Wire(lambda: counted("source"), stream.stat().st_size, "source_bytes"),
                ]

            harness.compare(
                "export_upload",
                ours=harness.Contender(
                    "wavelift",
                    harness.job_command("benchmarks.export_upload", at["source"], at["sink"], at["ca"]),
                    wires=wires(parts),
                ),
                peers=[
                    harness.Contender(
                        PEER,
                        ["bash", "-o", "pipefail", "-c", pipe],
                        environment=DEMO_KEYS,
                        wires=wires(stream),
                        needs={"tls_receive_packed": data, "tls_send_packed": data},
                    )
                ],
                data_bytes=data,
                params={**corpus.params, "stream_mib": round(stream.stat().st_size / (1 << 20), 1)},
                runs=options.runs,
                floor=harness.Floor(floor.contender(raw, PARTS, data, stream=stream), dict.fromkeys(PARTS, data)),
                limits=_limits,
            )


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    ours = result["ours"]
    return [
        harness.Limit("CPU / floor", ours["ratio_to_floor"], at_most=1.5),
        harness.Limit(f"CPU / {PEER}", ours["ratio_to_peer"][PEER], at_most=2.5),
    ]


if __name__ == "__main__":
    main()
