"""A lease's stream over TLS, decoded, hashed, encoded again, and uploaded over TLS to S3; beside ``curl | aws s3 cp``.

The peer moves the vendor's bytes as they are and proves nothing. Both ends are TLS servers of this benchmark in
processes of their own, the same for all. The read-back of ``verify`` is not included.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from benchmarks import harness
from benchmarks.servers import servers

DEMO_KEYS = {"AWS_ACCESS_KEY_ID": "AKIABENCHMARK0000001", "AWS_SECRET_ACCESS_KEY": "benchmark"}
REGION = "eu-central-1"


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
        with servers(folder, stream) as at:
            pipe = (
                f"curl -sS --cacert {shlex.quote(at['ca'])} {at['source']}/disk.vmdk | "
                f"aws --endpoint-url {at['sink']} --ca-bundle {shlex.quote(at['ca'])} --region {REGION} "
                f"s3 cp --expected-size {stream.stat().st_size} - s3://bench/disk.vmdk"
            )
            harness.compare(
                "export_upload",
                ours=harness.Contender(
                    "wavelift",
                    harness.job_command("benchmarks.export_upload", at["source"], at["sink"], at["ca"]),
                ),
                peers=[
                    harness.Contender("curl | aws s3 cp", ["bash", "-o", "pipefail", "-c", pipe], environment=DEMO_KEYS)
                ],
                data_bytes=data,
                params={**corpus.params, "stream_mib": round(Path(stream).stat().st_size / (1 << 20), 1)},
                runs=options.runs,
            )


if __name__ == "__main__":
    main()
