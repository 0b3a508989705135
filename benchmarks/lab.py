"""Both simulators with one server on them, as the tests drive them, and a replication run of it as a contender.

The simulators are processes of their own and their CPU is not counted; whoever prepares a run leaves an *order*, a JSON
file, and ``python -m benchmarks.lab --job ORDER`` carries it out and reports.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tests.vddk import VddkStandIn
from tests.wire.services.journey import Stage
from tests.wire.services.replica import Replica, Try

from benchmarks import harness
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.base.domain import ReplicatedDisk
from wavelift.base.run import CancelFlag
from wavelift.simulators import vcenter
from wavelift.simulators.aws import start as start_aws
from wavelift.simulators.vcenter import SimDisk, SimVm
from wavelift.transfer.extents import as_stream
from wavelift.transfer.file import FileReader
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import copy

SERVER: Final = "web01"


class Lab:
    """One server on simulators that keep what they freeze; its runs turn change tracking on where it is off."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.replica = Replica(stage, SERVER, defaults={"change_tracking": "enable"})
        self._orders = 0

    def serve_ranges(self) -> None:
        """As VMFS5 does, or a host that owns the lock; without it the datastore locks a running VM's files."""
        self.stage.vc.rule(kind="folder", action="unlocked", times=0)

    def vddk(self) -> VddkStandIn:
        return VddkStandIn(self.stage.folder / "vddk", self.stage.vc)

    def order(self, one: Try, *, vddk: VddkStandIn | None = None, run_key: str = "", **options: Any) -> Path:
        """A run of ``one``'s snapshot on what the replica holds, as a file.

        :param run_key: empty: a new one each time that the order is carried out.
        """
        self._orders += 1
        config = asdict(self.stage.config())
        config["vddk"] = asdict(vddk.config()) if vddk else None
        path = self.stage.folder / f"order-{self._orders}.json"
        path.write_text(
            json.dumps(
                {
                    "vsphere": config,
                    "aws": {
                        "endpoint": self.stage.aws.endpoint_url,
                        "ca": str(self.stage.aws.ca_file),
                        "keys": [self.stage.aws.access_key, self.stage.aws.secret_key],
                        "region": self.stage.aws.region,
                    },
                    "task": one.task.dump(),
                    "snapshot": one.snapshot.dump(),
                    "lineages": [lineage.dump() for lineage in self.replica.lineages],
                    "run_key": run_key,
                    "options": {"state_folder": str(self.stage.folder / f"state-{self._orders}"), **options},
                    "result": str(self.result_of(path)),
                    "checkpoints": str(path.with_suffix(".checkpoints")),
                }
            )
        )
        return path

    @staticmethod
    def result_of(order: Path) -> Path:
        return order.with_suffix(".result")

    def disk_of(self, order: Path) -> ReplicatedDisk:
        """The last result of ``order``."""
        (disk,) = json.loads(self.result_of(order).read_text())
        return ReplicatedDisk.load(disk)

    def delete(self, disk: ReplicatedDisk) -> None:
        Ec2(self.stage.access()).delete_snapshot(disk.lineage.snapshot_id)

    def frozen(self, one: Try) -> Manifest:
        """What the simulator says that it froze."""
        (disk,) = one.snapshot.disks
        reader = FileReader(self.stage.frozen_disk(one.snapshot.ref.moref, disk.key))
        manifest = Manifest.empty(disk.capacity)
        copy(as_stream(reader), _Nowhere(), manifest, cancel=CancelFlag())
        reader.close()
        return manifest


class _Nowhere:
    """A writer for those who want the manifest only."""

    ordered = False
    writes_zeros = False

    def prepare(self, index: int, data: memoryview, digest: bytes) -> None:
        """Nothing."""

    def wire_bytes(self, prepared: None) -> int:
        return 0

    def write(self, index: int, prepared: None) -> None:
        """Nothing."""

    def finish(self, manifest: Manifest) -> None:
        """Nothing."""

    interrupt = close = abort = lambda self: None


@contextmanager
def lab(folder: Path, raw: Path, *, tracked: bool = True, **options: Any) -> Iterator[Lab]:
    """:param tracked: change tracking is on from the start. :param options: of the vCenter simulator."""
    server = SimVm(SERVER, [SimDisk(raw)], guest_id="debian12_64Guest", change_tracking=tracked)
    settings: dict[str, Any] = {"evidence": True, "cache_bodies": True, "task_seconds": 0.02, **options}
    with (
        start_aws(folder / "aws", tls=True, evidence=False) as aws,
        vcenter.start(folder / "vcenter", [server], **settings) as vc,
    ):
        stage = Stage(vc, aws, aws.bootstrap(bucket="staging-bucket"), folder)
        made = Lab(stage)
        try:
            yield made
        finally:
            for journey in stage.journeys:
                journey.close()


# --- the contender ------------------------------------------------------------------------------------------------


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

    from wavelift.adapters.aws.access import AwsAccess
    from wavelift.adapters.vsphere.session import connect
    from wavelift.base.domain import DiskLineage
    from wavelift.base.run import MemoryCheckpoints, RunContext
    from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot
    from wavelift.services.dataplane.replication import ReplicationOptions, replicate_server

    told = json.loads(Path(order).read_text())
    aws = told["aws"]
    access = AwsAccess(
        boto3.Session(*aws["keys"], region_name=aws["region"]), aws["region"], aws["endpoint"], aws["ca"]
    )
    options = ReplicationOptions(**{**told["options"], "state_folder": Path(told["options"]["state_folder"])})
    kept = FileCheckpoints(Path(told["checkpoints"])) if told["run_key"] else MemoryCheckpoints()
    run_key = told["run_key"] or f"bench/{os.getpid()}-{time.time_ns()}/{SERVER}"
    with connect(vsphere_config(told)) as session:
        access.client("ebs"), access.client("s3"), access.client("ec2")
        idle, began, started = harness.peak_mib(), time.process_time(), time.monotonic()
        result = replicate_server(
            session,
            access,
            ServerTask.load(told["task"]),
            TakenSnapshot.load(told["snapshot"]),
            [DiskLineage.load(lineage) for lineage in told["lineages"]],
            RunContext(run_key, checkpoints=kept),
            options,
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
