"""What lies outside of Airflow: the simulators and the ledger, and what waves may leave there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tests.addresses import AddressAlarm
from tests.airflow.waves import BLOCK, BUCKET
from tests.ledgers import within

from wavelift.cli.simulators import Stage
from wavelift.ledger import Ledger, Migration, cutovers, lineage, migrations, replication_runs
from wavelift.ledger.replication_records import ReplicationRun
from wavelift.ledger.slots import standing


@dataclass
class Outside:
    """A pair of simulators, the DAGs folder, and a ledger."""

    stage: Stage
    dags: Path
    ledger_url: str
    ledger: Ledger = field(init=False)
    before: tuple[dict[str, Any], dict[str, Any]] = field(init=False)
    """What both simulators held at first."""
    alarm: AddressAlarm = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger.open(self.ledger_url)
        self.before = (self.vcenter.state(), self.aws.state())
        self.alarm = AddressAlarm(self.vcenter, self.aws)

    @property
    def vcenter(self) -> Any:
        return self.stage.vcenter

    @property
    def aws(self) -> Any:
        return self.stage.aws

    def wave_of(self, name: str) -> Path:
        return self.dags / "waves" / f"{name}.yaml"

    def snapshots_taken(self, server: str) -> list[dict[str, Any]]:
        """Every snapshot that was ever taken of a server."""
        return [one for one in self.vcenter.evidence() if one["vm"] == server]

    def machine(self, server: str) -> dict[str, Any]:
        """A server as the vCenter holds it."""
        return next(one for one in self.vcenter.state()["vms"] if one["name"] == server)

    def uploads(self, text: str) -> list[dict[str, Any]]:
        """Unfinished uploads whose key contains ``text``."""
        return [one for one in self.aws.state()["buckets"][BUCKET]["uploads"] if text in one["key"]]

    def assert_proven(self, server: str, image_id: str) -> None:
        """What ImportImage read of the server's first disk is what its last snapshot froze, byte for byte."""
        frozen = Path(self.snapshots_taken(server)[-1]["disks"][0]["file"]).read_bytes()
        read = [
            one
            for one in self.aws.evidence()["imports"]
            if one["image"] == image_id and fnmatchcase(one["key"], f"*/{server}/*/disk-0.vmdk")
        ]
        assert len(read) == 1, read
        assert Path(read[0]["raw"]).read_bytes().rstrip(b"\0") == frozen.rstrip(b"\0")

    def assert_held(self, server: str, image_id: str) -> None:
        """The image's own EBS snapshots hold what the server's last snapshot froze, byte for byte. Nothing of wavelift
        is asked. Only where imports convert nothing (``change_boot_disk=False``)."""
        (image,) = self.aws.client("ec2").describe_images(ImageIds=[image_id])["Images"]
        devices = sorted(image["BlockDeviceMappings"], key=lambda one: str(one["DeviceName"]))
        frozen = self.snapshots_taken(server)[-1]["disks"]
        assert len(devices) == len(frozen)
        for device, disk in zip(devices, frozen, strict=True):
            self.assert_snapshot_holds(device["Ebs"]["SnapshotId"], Path(disk["file"]))

    def assert_snapshot_holds(self, snapshot_id: str, frozen: Path) -> None:
        ebs = self.aws.client("ebs")
        held = bytearray()
        selection: dict[str, Any] = {}
        while True:
            page = ebs.list_snapshot_blocks(SnapshotId=snapshot_id, **selection)
            for block in page.get("Blocks", []):
                wanted = {"BlockIndex": block["BlockIndex"], "BlockToken": block["BlockToken"]}
                answer = ebs.get_snapshot_block(SnapshotId=snapshot_id, **wanted)
                held.extend(bytes(block["BlockIndex"] * BLOCK - len(held)))
                held.extend(answer["BlockData"].read())
            if not page.get("NextToken"):
                break
            selection = {"NextToken": page["NextToken"]}
        assert held.rstrip(b"\0") == frozen.read_bytes().rstrip(b"\0")

    def leftovers(self, waves: set[str]) -> list[str]:
        """What lies outside of these waves and is no result that the ledger names."""
        return [*self._left_in_vcenter(waves), *self._left_in_aws(waves)]

    def _left_in_vcenter(self, waves: set[str]) -> Iterator[str]:
        for vm in self.vcenter.state()["vms"]:
            if vm["path"].split("/")[-2] in waves and (vm["snapshots"] or vm["leases"]):
                yield f"{vm['name']}: {vm['snapshots']} {vm['leases']}"

    def _left_in_aws(self, waves: set[str]) -> Iterator[str]:
        bucket = self.aws.state()["buckets"][BUCKET]
        results = {one.run_key: one for one in self.ended() if one.image_id}
        copies = [one for one in self.copies() if one.recorded_at]
        hashes = {one.id.removeprefix("mig-") for one in results.values()}
        hashes |= {one.id.removeprefix("run-") for one in copies}
        for key in (*bucket["objects"], *(upload["key"] for upload in bucket["uploads"])):
            parts = key.split("/")
            manifest = key.endswith(".manifest") and parts[2] in hashes
            if parts[0] == "staging" and parts[1] in waves and not manifest:
                yield f"s3: {key}"
        ec2 = self.aws.client("ec2")
        named = {one.image_id for one in results.values()} | {one.ami_id for one in copies}
        standing = set(self.aws.state()["images"])
        for task in ec2.describe_import_image_tasks()["ImportImageTasks"]:
            wave = {tag["Key"]: tag["Value"] for tag in task.get("Tags", [])}.get("wavelift:wave")
            if wave in waves and task["Status"] not in ("completed", "deleted"):
                yield f"import: {task['ImportTaskId']} {task['Status']}"
            if wave in waves and task["Status"] == "completed" and task["ImageId"] in standing - named:
                yield f"image: {task['ImageId']} is named by nobody"

    def ended(self) -> list[Migration]:
        return list(within(self.ledger.read(), migrations.list_migrations, limit=500).items)

    def copies(self) -> list[ReplicationRun]:
        """Every replication run."""
        return list(within(self.ledger.read(), replication_runs.list_runs, limit=500).items)

    def snapshots_of_copies(self) -> set[str]:
        """EBS snapshots that replication holds: of its AMIs, and what next runs build on."""
        found = {
            disk.snapshot_id
            for one in self.copies()
            for disk in within(self.ledger.read(), lineage.read_lineage, one.job_id)
        }
        amis = [one.ami_id for one in self.copies() if one.ami_id]
        images = self.aws.client("ec2").describe_images(ImageIds=amis)["Images"] if amis else []
        return found | {disk["Ebs"]["SnapshotId"] for image in images for disk in image["BlockDeviceMappings"]}

    def assert_nothing_is_left(self, waves: set[str]) -> None:
        """Both simulators hold what they held, and what the ledger names as results."""
        vcenter_before, aws_before = self.before
        self.alarm.check()
        assert not within(self.ledger.read(), standing)
        assert not self.leftovers(waves)
        now = self.vcenter.state()
        assert (now["sessions"], now["leases"]) == (vcenter_before["sessions"], vcenter_before["leases"])
        rows = self.ended()
        after = self.aws.state()
        moved = within(self.ledger.read(), cutovers.list_cutovers, limit=500).items
        # A test may terminate the instance of a reverted cutover, as a person would; nothing else ends one.
        migrated, cut = ({one.instance_id for one in each if one.instance_id} for each in (rows, moved))
        assert migrated <= set(after["instances"]) <= migrated | cut
        copied = {one.ami_id for one in self.copies() if one.ami_id}
        assert set(after["images"]) == copied | {one.image_id for one in rows if one.image_id}
        named = self.snapshots_of_copies() | {id for one in rows for id in one.snapshot_ids}
        assert {one["id"] for one in after["snapshots"]} == named
        for tasks in ("import_tasks", "export_tasks"):
            assert after[tasks] == aws_before[tasks]
        assert not [upload for bucket in after["buckets"].values() for upload in bucket["uploads"]]
