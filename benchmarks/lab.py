"""Both simulators with one server, as the tests use them, and a replication run of this server as a contender.

The simulators are separate processes, and their CPU is not counted. The code that prepares a run writes an *order*, a
JSON file. ``python -m benchmarks.order --job ORDER`` executes it and reports.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
from wavelift.base.units import BLOCK
from wavelift.simulators import vcenter
from wavelift.simulators.aws import start as start_aws
from wavelift.simulators.vcenter import SimDisk, SimVm
from wavelift.transfer.file import FileReader
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import copy

SERVER: Final = "web01"


class Lab:
    """One server on simulators that keep what they freeze; its runs enable change tracking if it is off."""

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

    def wire(self) -> harness.Wire:
        """Blocks that AWS's simulator took; a run reports ``blocks_sent``."""
        return harness.Wire(lambda: self.puts() * BLOCK, lambda figures: int(figures["blocks_sent"]) * BLOCK)

    def puts(self) -> int:
        """Of blocks, so far."""
        return int(self.stage.aws.counters().get("ebs.blocks", {}).get("puts", 0))

    def frozen_disk(self, one: Try) -> Path:
        (disk,) = one.snapshot.disks
        return self.stage.frozen_disk(one.snapshot.ref.moref, disk.key)

    def frozen(self, one: Try) -> Manifest:
        """What the simulator says that it froze."""
        (disk,) = one.snapshot.disks
        reader = FileReader(self.frozen_disk(one))
        manifest = Manifest.empty(disk.capacity)
        copy(reader.stream(), _Nowhere(), manifest, cancel=CancelFlag())
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
