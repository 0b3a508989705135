"""A wave's clean-up and an export of one of its instances never take what is the other's (invariants 4, 5)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import pytest
from tests.contexts import Alive

from wavelift.adapters.aws.ec2 import DEVICES, Ec2, ImageRequest
from wavelift.adapters.aws.export_sources import ExportSources, SnapshotsRequest, image_name
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.adapters.aws.tagging import to_aws
from wavelift.base.names import MADE_BY, run_hash, tags
from wavelift.base.units import BLOCK
from wavelift.ledger.exports import export_id
from wavelift.rules.export_facts import ImageFacts, InstanceFacts
from wavelift.services.dataplane.abandon import abandon, abandon_run
from wavelift.services.dataplane.cleanup import sweep
from wavelift.services.dataplane.export_messages import ExportPlace, ExportPlan
from wavelift.services.dataplane.export_staging import discard_export, made_with, manifest_key, metadata_of
from wavelift.services.dataplane.importing import registered_name, remove_outdated
from wavelift.services.dataplane.messages import Admitted, CleanupReport, KnownRun
from wavelift.services.dataplane.staging import ServerStaging

from .export_lab import exports_bucket
from .journey import Stage

pytestmark = pytest.mark.wire

SERVER: Final = "web01"
MIGRATED: Final = f"lab.migrate/ended/{SERVER}"
EXPORTED: Final = "instance_export.lab/ended/"
EXPORT: Final = export_id(EXPORTED)
KEY: Final = f"lab/{EXPORT}.ova"
"""Below a prefix that is called as the wave's folder."""


@dataclass
class World:
    """What a run of the wave left: image, instance, a staged disk, an upload. And an export of the instance."""

    stage: Stage
    bucket: str
    image: str
    instance: str
    plan: ExportPlan

    @property
    def ours(self) -> dict[str, str]:
        return tags("lab", SERVER, MIGRATED)

    def standing(self) -> dict[str, Any]:
        """Ids and keys of everything, by whose it is."""
        state = self.stage.aws.state()
        own, exported = run_hash(MIGRATED), run_hash(EXPORTED)
        ec2 = self.stage.aws.client("ec2")
        rows = [
            *(
                (row["SnapshotId"], row.get("Tags", []))
                for row in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
            ),
            *((row["ImageId"], row.get("Tags", [])) for row in ec2.describe_images(Owners=["self"])["Images"]),
        ]
        of: dict[str, set[str]] = {own: set(), exported: set()}
        for name, labels in rows:
            run = {one["Key"]: one["Value"] for one in labels}.get("wavelift:run", "")
            if run in of:
                of[run].add(name)
        for bucket in (self.stage.account.bucket, self.bucket):
            held = state["buckets"][bucket]
            mine = exported if bucket == self.bucket else own
            of[mine] |= {f"{bucket}/{key}" for key in held["objects"]} | {one["id"] for one in held["uploads"]}
        return {"wave": of[own], "export": of[exported]}


@pytest.fixture
def world(stage: Stage) -> Iterator[World]:
    sim, access = stage.aws, stage.access()
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    ours = tags("lab", SERVER, MIGRATED)
    disk = ebs.start_snapshot(VolumeSize=1, Tags=to_aws(ours), Description=f"{MADE_BY}{SERVER}")["SnapshotId"]
    checksum = base64.b64encode(hashlib.sha256(bytes(BLOCK)).digest()).decode()
    block = {"SnapshotId": disk, "BlockIndex": 0, "BlockData": bytes(BLOCK), "DataLength": BLOCK}
    ebs.put_snapshot_block(**block, Checksum=checksum, ChecksumAlgorithm="SHA256")
    ebs.complete_snapshot(SnapshotId=disk, ChangedBlocksCount=1)
    name = registered_name(MIGRATED, "instant")
    image = Ec2(access).register(ImageRequest(name, [disk], "legacy-bios", tags=ours)).image_id
    instance = ec2.run_instances(
        ImageId=image,
        MinCount=1,
        MaxCount=1,
        InstanceType="t3.small",
        SubnetId=stage.account.subnet_ids[0],
        TagSpecifications=[{"ResourceType": kind, "Tags": to_aws(ours)} for kind in ("instance", "volume")],
    )["Instances"][0]["InstanceId"]
    sim.advance(1)
    with exports_bucket(sim) as bucket:
        plan = _plan(stage, bucket, instance, image)
        made = World(stage, bucket, image, instance, plan)
        _leave(made)
        yield made
        _take_back(made)
        ec2.terminate_instances(InstanceIds=[instance])
        for one in (image, *(row["ImageId"] for row in ec2.describe_images(Owners=["self"])["Images"])):
            Ec2(access).deregister(one, delete_snapshots=True)
        for row in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]:
            Ec2(access).delete_snapshot(row["SnapshotId"])


def _plan(stage: Stage, bucket: str, instance: str, image: str) -> ExportPlan:
    account = "123456789012"
    place = ExportPlace(
        environment="lab",
        aws_conn_id="aws_lab",
        region=stage.aws.region,
        account=account,
        bucket=bucket,
        role="vmimport",
        queue="near",
        limit=5,
    )
    facts = InstanceFacts(
        instance_id=instance,
        region=stage.aws.region,
        account=account,
        caller=account,
        state="running",
        image=ImageFacts(image_id=image),
        seen_at="2026-12-01T10:00:00+00:00",  # type: ignore[arg-type]
    )
    return ExportPlan(
        export=EXPORT,
        place=place,
        instance=facts,
        method="direct",
        why="",
        target="vmware",
        format="ova",
        controller="lsilogic",
        prefix="lab/",
        may_reboot=False,
        verify="full",
    )


def _leave(world: World) -> None:
    """Of both methods that make something in EC2, and of both runs what lies in S3."""
    stage, access, plan = world.stage, world.stage.access(), world.plan
    sources, labels = ExportSources(access), made_with(plan)
    found = stage.aws.client("ec2").describe_instances(InstanceIds=[world.instance])["Reservations"][0]["Instances"][0]
    volumes = [one["Ebs"]["VolumeId"] for one in found["BlockDeviceMappings"]]
    assert [one["DeviceName"] for one in found["BlockDeviceMappings"]] == [DEVICES[0]]
    sources.take(SnapshotsRequest(world.instance, volumes, "call-1", labels))
    sources.make_image(world.instance, image_name(run_hash(EXPORTED), 1), reboot=False, tags=labels)
    stage.aws.advance(stage.aws.settings()["image_seconds"] + 1)
    with closing(S3Staging(access, world.bucket, tags=labels)) as s3:
        s3.multipart(KEY, metadata=metadata_of(EXPORT))
        s3.put_object(KEY, b"an OVA", metadata=metadata_of(EXPORT))
        s3.put_object(manifest_key(KEY, 0), b"a manifest", metadata=metadata_of(EXPORT))
    with ServerStaging.of(access, stage.wave(SERVER).servers[0], MIGRATED) as staging:
        staging.s3.multipart(staging.object_key(1, "an instant"), metadata={})
        staging.s3.put_object(staging.object_key(0, "an instant"), b"a disk")


def _take_back(world: World) -> None:
    _remove_export(world)
    with ServerStaging.of(world.stage.access(), world.stage.wave(SERVER).servers[0], MIGRATED) as staging:
        staging.discard()


def _sweep(world: World) -> CleanupReport:
    admitted = Admitted(
        wave=world.stage.wave(SERVER),
        mode="cleanup",
        dag_id="lab.migrate",
        run_id="cleaning",
        requested_by="tester",
        runs=(KnownRun(dag_id="lab.migrate", run_id="ended", servers=(SERVER,)),),
        dry_run=False,
    )
    with world.stage.connect() as session:
        return sweep(session, world.stage.access(), admitted, Alive(lambda run: False), dag_id="lab.migrate")


def _abandon(world: World) -> None:
    abandon(world.stage.access(), world.stage.wave(SERVER).servers[0], MIGRATED)


def _abandon_run(world: World) -> None:
    abandon_run(world.stage.access(), MIGRATED)


def _outdated(world: World) -> None:
    """All images of the run but another one: its own goes, with its snapshot, once no instance is there."""
    world.stage.aws.client("ec2").terminate_instances(InstanceIds=[world.instance])
    assert remove_outdated(world.stage.access(), MIGRATED, image_id="ami-of-a-newer-instant") == (world.image,)


def _remove_export(world: World) -> None:
    access, plan = world.stage.access(), world.plan
    discard_export(access, plan.place, KEY, export=EXPORT)
    ExportSources(access).remove({"wavelift:run": run_hash(EXPORTED)})


@pytest.mark.parametrize("clean_up", [_sweep, _abandon, _abandon_run, _outdated])
def test_inv_4_no_clean_up_of_a_wave_takes_what_an_export_made(world: World, clean_up: Callable[[World], Any]) -> None:
    """The exported instance is the wave's, and so are the tags of its volumes."""
    before = world.standing()
    assert len(before["export"]) == 2 + 1 + 1 + 2  # snapshots of both methods, image, upload, objects
    clean_up(world)
    after = world.standing()
    assert after["export"] == before["export"]
    if clean_up in (_sweep, _abandon, _outdated):
        assert after["wave"] < before["wave"]


def test_inv_4_a_clean_up_does_not_even_list_an_export(world: World) -> None:
    told = _sweep(world)
    assert {one.run for one in told.leftovers} == {run_hash(MIGRATED)}
    assert {one.kind for one in told.leftovers} == {"upload", "staged disk"}


def test_inv_4_the_end_of_an_export_takes_nothing_of_a_wave(world: World) -> None:
    before = world.standing()
    assert len(before["wave"]) == 1 + 1 + 2
    _remove_export(world)
    after = world.standing()
    assert after == {"wave": before["wave"], "export": set()}
    assert world.stage.aws.client("ec2").describe_instances(InstanceIds=[world.instance])["Reservations"]
