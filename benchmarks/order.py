"""Executes an order of :mod:`benchmarks.lab`: the contender's process, which imports only what a task would import.

``python -m benchmarks.order --job ORDER``
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import harness


class FileCheckpoints:
    """A state store that outlives its process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _all(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}
        return values

    def get(self, key: str) -> Any | None:
        return self._all().get(key)

    def set(self, key: str, value: Any) -> None:
        self._change(lambda values: values.__setitem__(key, value))

    def delete(self, key: str) -> None:
        self._change(lambda values: values.pop(key, None))

    def _change(self, change: Callable[[dict[str, Any]], object]) -> None:
        values = self._all()
        change(values)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(values))
        fresh.replace(self._path)


def vsphere_config(told: dict[str, Any]) -> Any:
    """Of an order."""
    from wavelift.adapters.vsphere.session import VsphereConfig
    from wavelift.adapters.vsphere.vddk import VddkConfig

    config = {**told["vsphere"], "esxi_thumbprints": (), "dns_suffixes": ()}
    if config["vddk"]:
        config["vddk"] = VddkConfig(**{**config["vddk"], "transports": tuple(config["vddk"]["transports"])})
    return VsphereConfig(**config)


def job(order: str) -> None:
    """Carry an order out; the result goes into its file, the figures to the harness."""
    import boto3
    from tests.contexts import run_context

    from wavelift.adapters.aws.access import AwsAccess
    from wavelift.adapters.vsphere.session import connect
    from wavelift.base.domain import DiskLineage
    from wavelift.base.run import DagRun, MemoryCheckpoints
    from wavelift.services.dataplane.disk_crew import FrozenServer
    from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot
    from wavelift.services.dataplane.replication import ReplicationOptions, RunHistory, replicate_server

    told = json.loads(Path(order).read_text())
    aws = told["aws"]
    access = AwsAccess(
        boto3.Session(*aws["keys"], region_name=aws["region"]), aws["region"], aws["endpoint"], aws["ca"]
    )
    options = ReplicationOptions(**{**told["options"], "state_folder": Path(told["options"]["state_folder"])})
    kept = FileCheckpoints(Path(told["checkpoints"])) if told["run_key"] else MemoryCheckpoints()
    dag_id, dag_run_id, server = (told["run_key"] or f"bench/{os.getpid()}-{time.time_ns()}/{Path(order).stem}").split(
        "/", 2
    )
    with connect(vsphere_config(told)) as session:
        access.client("ebs"), access.client("s3"), access.client("ec2")
        idle, began, started = harness.peak_mib(), time.process_time(), time.monotonic()
        result = replicate_server(
            FrozenServer(session, ServerTask.load(told["task"]), TakenSnapshot.load(told["snapshot"])),
            access,
            run_context(DagRun(dag_id, dag_run_id), server, checkpoints=kept),
            options,
            RunHistory([DiskLineage.load(lineage) for lineage in told["lineages"]]),
        )
        took = {"running_s": time.monotonic() - started, "running_cpu_s": time.process_time() - began}
    Path(told["result"]).write_text(json.dumps([disk.dump() for disk in result.disks]))
    (disk,) = result.disks
    harness.report_job(
        **took,
        added_mib=harness.peak_mib() - idle,
        blocks_sent=disk.blocks_sent,
        blocks_audited=disk.blocks_audited,
        bytes_read=disk.bytes_read,
        bytes_sent=disk.bytes_sent,
    )


if __name__ == "__main__":
    parser = harness.arguments(__doc__)
    job(*parser.parse_args().job)
