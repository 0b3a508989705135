"""A triggerer that watches 200 imports for ten intervals of two seconds: calls, CPU and memory.

``ours`` is 200 wavelift triggers in one event loop, as a triggerer runs them. The peer works like the triggers of
Airflow's providers: each queries its own import (boto3, in threads, one client for all). The simulated AWS counts
``calls_per_interval``. There is no floor, because no disk is transferred. The limits are the number of calls, and the
CPU relative to the peer's.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks import harness
from benchmarks.export_upload import REGION

IMPORTS: Final = 200
INTERVAL_S: Final = 2.0
INTERVALS: Final = 10
CONNECTION: Final = "aws_bench"
PEER: Final = "one call each"


def ours(ids: list[str]) -> None:
    from wavelift.airflow.triggers.imports import ImportWatchTrigger

    async def watch() -> None:
        settings: dict[str, Any] = {"aws_conn_id": CONNECTION, "region_name": REGION, "poll_seconds": INTERVAL_S}
        triggers = [ImportWatchTrigger(import_task_id=id, **settings) for id in ids]

        async def wait(trigger: ImportWatchTrigger) -> object:
            return (await anext(trigger.run())).payload

        tasks = [asyncio.create_task(wait(trigger)) for trigger in triggers]
        await asyncio.sleep(INTERVAL_S * INTERVALS)
        ended = [task.result() for task in tasks if task.done()]
        assert not ended, f"{len(ended)} triggers fired, the first with {ended[0]}"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    _measured(watch)


def each_its_own(ids: list[str], connection: Mapping[str, Any]) -> None:
    import boto3

    session = boto3.Session(connection["login"], connection["password"])
    client = session.client("ec2", **connection["extra"])

    async def one(id: str) -> None:
        while True:
            await asyncio.to_thread(client.describe_import_image_tasks, ImportTaskIds=[id])
            await asyncio.sleep(INTERVAL_S)

    async def watch() -> None:
        tasks = [asyncio.create_task(one(id)) for id in ids]
        await asyncio.sleep(INTERVAL_S * INTERVALS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    _measured(watch)


def _measured(watch: Any) -> None:
    idle, before = harness.peak_mib(), sum(os.times()[:2])
    asyncio.run(watch())
    harness.report_job(watching_cpu_s=sum(os.times()[:2]) - before, added_mib=harness.peak_mib() - idle)


def job(who: str, order: str) -> None:
    told = json.loads(Path(order).read_text())
    if who == "ours":
        os.environ[f"AIRFLOW_CONN_{CONNECTION.upper()}"] = json.dumps(told["connection"])
        ours(told["ids"])
    else:
        each_its_own(told["ids"], told["connection"])


@contextmanager
def stuck_imports(folder: Path) -> Iterator[tuple[Any, list[str]]]:
    """200 imports that never end."""
    from wavelift.simulators.aws import start

    with start(folder / "aws", tls=True, import_limit=IMPORTS, change_boot_disk=False) as aws:
        aws.bootstrap(bucket="bench-bucket", role=True)
        aws.rule(kind="import", key="*", outcome="stuck", phase="pending", count=-1)
        aws.client("s3").put_object(Bucket="bench-bucket", Key="disk.raw", Body=bytes(1 << 20))
        ec2 = aws.client("ec2")
        disk = {"Format": "raw", "UserBucket": {"S3Bucket": "bench-bucket", "S3Key": "disk.raw"}}
        yield aws, [ec2.import_image(DiskContainers=[disk])["ImportTaskId"] for _ in range(IMPORTS)]


def main() -> None:
    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if options.job:
        job(*options.job)
        return
    with harness.workspace(options) as folder, stuck_imports(folder) as (aws, ids):
        order = folder / "order.json"
        extra = {"region_name": REGION, "endpoint_url": aws.endpoint_url, "verify": str(aws.verify)}
        connection = {"conn_type": "aws", "login": aws.access_key, "password": aws.secret_key, "extra": extra}
        order.write_text(
            json.dumps({"ids": ids, "connection": connection, "url": aws.endpoint_url, "ca": str(aws.verify)})
        )
        order.chmod(0o600)

        def contender(name: str, who: str) -> harness.Contender:
            return harness.Contender(
                name,
                harness.job_command("benchmarks.watch_imports", who, order),
                before=lambda: aws.control("DELETE", "counters"),
                check=lambda: {"calls_per_interval": _calls(aws) / INTERVALS},
            )

        harness.compare(
            "watch_imports",
            ours=contender("ours", "ours"),
            peers=[contender(PEER, "each")],
            data_bytes=0,
            params={"imports": IMPORTS, "interval_s": INTERVAL_S, "intervals": INTERVALS},
            runs=options.runs,
            limits=_limits,
            cpu="watching_cpu_s",
        )


def _calls(aws: Any) -> int:
    return int(aws.counters()["ec2.DescribeImportImageTasks"]["calls"])


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    ours = result["ours"]
    return [
        harness.Limit("describe calls per interval and region", ours["calls_per_interval"], at_most=1 + 1 / INTERVALS),
        harness.Limit(f"CPU / {PEER}", ours["ratio_to_peer"][PEER], at_most=1),
    ]


if __name__ == "__main__":
    main()
