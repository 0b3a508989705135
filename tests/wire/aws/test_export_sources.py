"""Snapshots of one instant and temporary images of exports: made once, told apart, removed (AMP-10, invariant 5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
from tests.wire.aws.exporting import eventually, launched, run_tags, volumes_of
from tests.wire.aws.proving import bare_image

from wavelift.adapters.aws import export_sources
from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.export_sources import TAG_CALL, ExportSources, SnapshotsRequest, image_name
from wavelift.base.errors import (
    BusyError,
    LimitReachedError,
    NotFoundError,
    PermanentError,
    ThrottledError,
    UnreachableError,
)
from wavelift.base.names import TAG_RUN
from wavelift.base.units import GIB
from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire
TOKEN: Final = "wl-0123456789ab-snapshots-0"


@pytest.fixture
def instance(aws: AwsSimulator, access: AwsAccess, account: Bootstrap) -> Iterator[str]:
    """With two volumes; nothing of it is left."""
    image = bare_image(access, disks=2)
    made = launched(access, image, account.subnet_ids[0])
    yield made
    aws.clear_rules()
    Ec2(access).terminate([made])
    Ec2(access).deregister(image, delete_snapshots=True)


@pytest.fixture
def tags(access: AwsAccess, instance: str) -> Iterator[dict[str, str]]:
    """Of a run; what the run made is removed at the end."""
    found = run_tags()
    yield found
    ExportSources(access).remove(found)
    assert not Ec2(access).find_ours({TAG_RUN: found[TAG_RUN]})


def request(access: AwsAccess, instance: str, tags: dict[str, str], token: str = TOKEN) -> SnapshotsRequest:
    return SnapshotsRequest(instance, volumes_of(access, instance), token, tags, "exp-1 of app01")


def calls(aws: AwsSimulator, operation: str) -> int:
    return sum(one["calls"] for name, one in aws.counters().items() if name.endswith(f".{operation}"))


def test_snapshots_of_one_instant_are_made_once_and_followed(
    aws: AwsSimulator, access: AwsAccess, instance: str, tags: dict[str, str]
) -> None:
    sources, wanted = ExportSources(access), request(access, instance, tags)
    before = calls(aws, "CreateSnapshots")
    made = sources.take(wanted)
    assert [one.volume_id for one in made.snapshots] == list(wanted.volume_ids)
    assert {one.started for one in made.snapshots} == {made.started}
    assert {one.size for one in made.snapshots} == {GIB}
    again = sources.take(wanted)
    assert [one.snapshot_id for one in again.snapshots] == [one.snapshot_id for one in made.snapshots]
    assert calls(aws, "CreateSnapshots") - before == 1
    ids = [one.snapshot_id for one in made.snapshots]
    done = eventually(lambda: all(one.completed for one in sources.look(ids).values()) and sources.take(wanted))
    assert done.completed
    assert done.progress == 100
    done.check()
    shown = sources.look([ids[0], "snap-0123456789abcdef0"])
    assert list(shown) == [ids[0]]
    assert shown[ids[0]].description == "wavelift: exp-1 of app01"
    assert shown[ids[0]].tags == {**tags, TAG_CALL: TOKEN}, "and none of the volume's"


def test_inv_5_a_lost_answer_makes_no_second_set(
    aws: AwsSimulator, access: AwsAccess, instance: str, tags: dict[str, str]
) -> None:
    sources, wanted = ExportSources(access), request(access, instance, tags)
    before = calls(aws, "CreateSnapshots")
    aws.rule(service="ec2", operation="CreateSnapshots", cut_response_after=0)
    with pytest.raises(UnreachableError, match="could not take the snapshots"):
        sources.take(wanted)
    found = sources.take(wanted)
    assert len(found.snapshots) == 2
    assert calls(aws, "CreateSnapshots") - before == 1
    assert len(sources.find(tags)) == 2


def test_a_set_that_ec2_does_not_show_whole_yet_is_waited_for(
    aws: AwsSimulator, access: AwsAccess, instance: str, tags: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, wanted = ExportSources(access), request(access, instance, tags)
    made = sources.take(wanted)
    shown = list(made.snapshots[:1])
    looks: list[int] = []

    def of_call(self: ExportSources, tags: Any, token: str) -> Any:
        looks.append(1)
        return shown if len(looks) < 3 else list(made.snapshots)

    monkeypatch.setattr(ExportSources, "of_call", of_call)
    monkeypatch.setattr(export_sources, "SEEN_POLL_S", 0.01)
    before = calls(aws, "CreateSnapshots")
    assert sources.take(wanted).snapshots == made.snapshots
    assert calls(aws, "CreateSnapshots") == before
    monkeypatch.setattr(export_sources, "SEEN_WAIT_S", 0.05)
    looks[:] = [-1000]
    monkeypatch.setattr(ExportSources, "of_call", lambda *_: shown)
    with pytest.raises(PermanentError, match=f"lack a volume: {wanted.volume_ids[1]}"):
        sources.take(wanted)


def test_inv_4_snapshots_of_two_instants_are_never_one_set(
    access: AwsAccess, instance: str, tags: dict[str, str]
) -> None:
    sources = ExportSources(access)
    first = sources.take(request(access, instance, tags))
    second = sources.take(request(access, instance, tags, f"{TOKEN}-1"))
    everything = sources.find(tags)
    assert len(everything) == 4
    assert first.started <= second.started
    mixed = [first.snapshots[0], second.snapshots[1]]
    volumes = volumes_of(access, instance)
    assert export_sources.one_instant(mixed, volumes) is None
    both = export_sources.one_instant([*second.snapshots, *first.snapshots], volumes)
    assert both is not None
    assert both.snapshots == first.snapshots, "the first one, whatever the order"
    assert both.unasked == (), "of another call"
    twice = [*first.snapshots, first.snapshots[0]]
    assert export_sources.one_instant(twice, volumes) is None, "which of the two would it be?"
    same_second = [replace(one, started=first.started) for one in (*first.snapshots, *second.snapshots)]
    told_apart = export_sources.one_instant(same_second, volumes)
    assert told_apart is not None
    assert told_apart.snapshots == first.snapshots
    one_volume = export_sources.one_instant(first.snapshots, volumes[:1])
    assert one_volume is not None
    assert one_volume.unasked == (first.snapshots[1],)


def test_what_the_run_made_goes_and_nothing_else(
    aws: AwsSimulator, access: AwsAccess, instance: str, tags: dict[str, str]
) -> None:
    sources, ec2 = ExportSources(access), access.client("ec2")
    made = sources.take(request(access, instance, tags))
    named = {"ResourceType": "snapshot", "Tags": [{"Key": TAG_RUN, "Value": tags[TAG_RUN]}]}
    foreign = ec2.create_snapshot(
        VolumeId=volumes_of(access, instance)[0], Description="nightly, with all tags", TagSpecifications=[named]
    )["SnapshotId"]
    other = sources.take(request(access, instance, run_tags()))
    done = sources.remove({TAG_RUN: tags[TAG_RUN]})
    assert set(done.snapshots) == {one.snapshot_id for one in made.snapshots}
    assert sources.remove(tags).snapshots == (), "again: nothing more"
    left = sources.look([foreign, *(one.snapshot_id for one in (*made.snapshots, *other.snapshots))])
    assert set(left) == {foreign, *(one.snapshot_id for one in other.snapshots)}
    for snapshot_id in left:
        ec2.delete_snapshot(SnapshotId=snapshot_id)


def test_a_snapshot_of_which_somebody_made_an_image_stays_and_is_told(
    access: AwsAccess, instance: str, tags: dict[str, str]
) -> None:
    sources, wanted = ExportSources(access), request(access, instance, tags)
    ids = [one.snapshot_id for one in sources.take(wanted).snapshots]
    eventually(lambda: all(one.completed for one in sources.look(ids).values()))
    device = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": ids[0]}}
    image = access.client("ec2").register_image(
        Name="somebody's", RootDeviceName="/dev/sda1", BlockDeviceMappings=[device], VirtualizationType="hvm"
    )["ImageId"]
    done = sources.remove(tags)
    assert done.snapshots == (ids[1],)
    assert list(done.kept) == [ids[0]]
    Ec2(access).deregister(image, delete_snapshots=False)


@pytest.mark.parametrize("reboot", [False, True])
def test_a_temporary_image_is_made_once_and_goes_with_its_snapshots(
    aws: AwsSimulator, access: AwsAccess, instance: str, tags: dict[str, str], reboot: bool
) -> None:
    sources, name = ExportSources(access), image_name(tags[TAG_RUN], 0)
    aws.rule(service="ec2", operation="CreateImage", cut_response_after=0, count=1)
    made = sources.make_image(instance, name, reboot=reboot, tags=tags, description="exp-1")
    assert sources.make_image(instance, name, reboot=reboot, tags=tags).image_id == made.image_id
    ready = eventually(lambda: (found := sources.image(made.image_id)).state == "available" and found)
    assert len(ready.snapshot_ids) == 2
    done = sources.remove(tags)
    assert done.images == (made.image_id,)
    assert set(done.snapshots) == set(ready.snapshot_ids)
    with pytest.raises(NotFoundError):
        sources.image(made.image_id)


def test_an_image_whose_answer_was_lost_and_that_ec2_does_not_show_yet_is_worth_another_look(
    aws: AwsSimulator, access: AwsAccess, instance: str, tags: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, name = ExportSources(access), image_name(tags[TAG_RUN], 3)
    aws.rule(service="ec2", operation="CreateImage", cut_response_after=0, count=1)
    with monkeypatch.context() as late:
        late.setattr(Ec2, "image_named", lambda self, name: None)
        with pytest.raises(UnreachableError, match="does not show it yet"):
            sources.make_image(instance, name, reboot=False, tags=tags)
    assert calls(aws, "CreateImage") >= 2
    made = sources.make_image(instance, name, reboot=False, tags=tags)
    eventually(lambda: sources.image(made.image_id).state == "available")


def test_a_snapshot_whose_image_goes_at_this_moment_is_waited_for(
    access: AwsAccess, instance: str, tags: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EC2 may count it as used for some seconds after the deregistration: it would stay, and cost, for ever."""
    sources, deletes = ExportSources(access), []
    made = sources.make_image(instance, image_name(tags[TAG_RUN], 2), reboot=False, tags=tags)
    eventually(lambda: sources.image(made.image_id).state == "available")
    delete = Ec2.delete_snapshot

    def slow(self: Ec2, snapshot_id: str) -> None:
        deletes.append(snapshot_id)
        if deletes.count(snapshot_id) < 3:
            raise BusyError("InvalidSnapshot.InUse")
        delete(self, snapshot_id)

    monkeypatch.setattr(Ec2, "delete_snapshot", slow)
    monkeypatch.setattr(export_sources, "SEEN_POLL_S", 0.01)
    done = sources.remove(tags)
    assert (len(done.snapshots), done.kept, len(deletes)) == (2, {}, 6)


def test_inv_4_snapshots_of_an_image_that_went_before_are_found(
    access: AwsAccess, instance: str, tags: dict[str, str]
) -> None:
    """Killed between the two removals."""
    sources = ExportSources(access)
    made = sources.make_image(instance, image_name(tags[TAG_RUN], 1), reboot=False, tags=tags)
    eventually(lambda: sources.image(made.image_id).state == "available")
    Ec2(access).deregister(made.image_id, delete_snapshots=False)
    assert len(sources.remove(tags).snapshots) == 2


def test_an_image_with_our_tag_and_another_name_stays(access: AwsAccess, instance: str, tags: dict[str, str]) -> None:
    """Backups copy the tags of what they back up."""
    sources = ExportSources(access)
    copy = access.client("ec2").create_image(
        InstanceId=instance,
        Name="AwsBackup_app01",
        NoReboot=True,
        TagSpecifications=[{"ResourceType": "image", "Tags": [{"Key": TAG_RUN, "Value": tags[TAG_RUN]}]}],
    )["ImageId"]
    eventually(lambda: sources.image(copy).state == "available")
    assert sources.remove(tags) == export_sources.Removed()
    Ec2(access).deregister(copy, delete_snapshots=True)


def test_nothing_is_looked_for_or_removed_without_a_run(access: AwsAccess, instance: str) -> None:
    sources = ExportSources(access)
    for tags in ({}, {"Name": "app01"}, {TAG_RUN: ""}):
        for call in (sources.remove, sources.find):
            with pytest.raises(PermanentError, match="need the tag wavelift:run"):
                call(tags)
        with pytest.raises(PermanentError, match="need the tag wavelift:run"):
            sources.take(request(access, instance, tags))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("SnapshotCreationPerVolumeRateExceeded", ThrottledError),
        ("ConcurrentSnapshotLimitExceeded", LimitReachedError),
        ("InvalidInstanceID.NotFound", NotFoundError),
    ],
)
def test_refusals_have_their_kinds(
    aws: AwsSimulator, access: AwsAccess, instance: str, tags: dict[str, str], code: str, kind: type[Exception]
) -> None:
    aws.rule(service="ec2", operation="CreateSnapshots", code=code, status=400)
    with pytest.raises(kind, match=f"could not take the snapshots: AWS says {code}"):
        ExportSources(access).take(request(access, instance, tags))
