"""What an export meets when the world changes between two of its calls, or does not show what it has just done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from tests.eventually import eventually
from tests.wire.aws.proving import bare_image

from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.export_sources import ExportSources
from wavelift.base.errors import PermanentError, TamperedError, WaveliftError
from wavelift.services.dataplane.export_messages import ExportOrder
from wavelift.services.instance_export import ending
from wavelift.services.instance_export.messages import ExportReport
from wavelift.services.instance_export.waits import ForPlace

from .test_export_chain import Lab, attached_later, begun, finished, images, lab

__all__ = ["images", "lab"]  # fixtures

pytestmark = pytest.mark.wire


# AWS is consistent in the end only


def test_vie_06_a_task_that_aws_does_not_show_yet_is_cancelled(lab: Lab, young: float) -> None:
    one = begun(lab)
    lab.hold("converting", one)
    lab.sim.settings(unseen_seconds=young)
    lab.chain.begin()
    assert lab.chain.known().task_id
    lab.chain.cancel()
    assert ended_late(lab, young).state == "cancelled"
    assert eventually(lambda: lab.state()["export_tasks"] == [])
    assert lab.nothing_left()


@pytest.fixture
def young(lab: Lab) -> Iterator[float]:
    """Seconds, for ``unseen_seconds``: EC2 shows nothing that is younger. In force as soon as the test says so."""
    yield 30.0
    lab.sim.clear_rules()
    lab.sim.settings(unseen_seconds=0.0)


def later(lab: Lab, seconds: float) -> None:
    lab.sim.advance(seconds)
    lab.chain.clock.sleep(seconds)


def ended_late(lab: Lab, seconds: float) -> ExportReport:
    """The removal begins at once, and is called again until it has ended, which takes EC2's time."""
    known, ctx = lab.chain.known(), lab.chain.ctx()
    ending.remove(lab.chain.ledger, lab.access, known, ctx, words="", fence=lambda: None)
    later(lab, seconds)
    return lab.chain.end(words="begin: it was stopped")


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("method", ["image", "direct"])
def test_vie_06_what_ec2_does_not_show_yet_is_removed_nevertheless(
    lab: Lab, method: str, lost: bool, young: float
) -> None:
    begun(lab, method=method, disks=1, format="vmdk" if method == "image" else "ova")
    lab.sim.settings(unseen_seconds=young)
    if lost:
        call = "CreateImage" if method == "image" else "CreateSnapshots"
        lab.sim.rule(service="ec2", operation=call, cut_response_after=0, count=1)
    with suppress(WaveliftError):
        lab.chain.begin()
    assert lab.made()["snapshots"]
    lab.chain.cancel()
    assert ended_late(lab, young).state == "cancelled"
    assert lab.nothing_left()


@pytest.mark.parametrize("method", ["image", "direct"])
def test_what_ec2_does_not_show_yet_is_waited_for(lab: Lab, method: str, young: float) -> None:
    begun(lab, method=method, disks=1, format="vmdk" if method == "image" else "ova")
    lab.sim.settings(unseen_seconds=young)
    assert not isinstance(lab.chain.begin(), ExportOrder)
    assert not isinstance(lab.chain.begin(), ExportOrder)
    later(lab, young)
    lab.sim.settings(unseen_seconds=0.0)
    assert finished(lab).state == "completed"


def test_vie_06_of_a_second_try_that_aws_does_not_show_yet_nothing_is_left(lab: Lab, young: float) -> None:
    one = begun(lab)
    lab.sim.rule(kind="export", phase="converting", key=one, message="ServerError: internal failure", count=1)
    with pytest.raises(WaveliftError):
        lab.chain.begun()
    lab.sim.settings(unseen_seconds=young)
    lab.hold("converting", one)
    later(lab, young)
    lab.sim.rule(service="ec2", operation="CreateInstanceExportTask", cut_response_after=0, count=1)
    with pytest.raises(WaveliftError):
        lab.chain.begin()
    lab.chain.cancel()
    assert ended_late(lab, young).state == "cancelled"
    assert eventually(lambda: lab.state()["export_tasks"] == [])
    assert lab.nothing_left()


# Volumes


def test_amp_10_a_volume_that_is_attached_while_the_snapshots_are_taken_is_not_left_out_in_silence(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = begun(lab, disks=2)
    attached: list[Any] = []
    take = ExportSources.take
    manager = attached_later(lab, two)

    def late(self: ExportSources, request: Any) -> Any:
        attached.append(manager.__enter__())
        return take(self, request)

    monkeypatch.setattr(ExportSources, "take", late)
    try:
        with pytest.raises(PermanentError, match="attached"):
            lab.chain.begun()
        assert attached[0]
    finally:
        manager.__exit__(None, None, None)
    assert lab.chain.end(words="begin: a volume more").state == "failed"
    assert lab.nothing_left()


def test_amp_10_an_image_that_has_a_volume_more_is_not_exported(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    one = begun(lab, method="image", format="vmdk")
    make = ExportSources.make_image
    with ExitStack() as stack:

        def late(self: ExportSources, *given: Any, **named: Any) -> Any:
            stack.enter_context(attached_later(lab, one))
            return make(self, *given, **named)

        monkeypatch.setattr(ExportSources, "make_image", late)
        with pytest.raises(PermanentError, match="was attached"):
            lab.chain.begun()
    assert lab.chain.end(words="begin: a volume more").state == "failed"
    assert lab.nothing_left()


def test_amp_10_a_volume_that_came_while_an_export_waited_for_its_place_is_seen(lab: Lab) -> None:
    one = begun(lab)
    lab.sim.rule(service="ec2", operation="CreateInstanceExportTask", status=400, code="ResourceLimitExceeded", count=1)
    assert isinstance(lab.chain.begin(), ForPlace)
    lab.chain.clock.sleep(3600)
    with attached_later(lab, one), pytest.raises(PermanentError, match="was attached"):
        lab.chain.begun()
    assert lab.chain.end(words="begin: a volume more").state == "failed"
    assert lab.nothing_left()


# What came by XCom


def test_inv_4_an_edited_key_overwrites_nobody_s_object(lab: Lab) -> None:
    begun(lab, disks=2)
    order, s3 = lab.chain.begun(), lab.sim.client("s3")
    s3.put_object(Bucket=lab.bucket, Key="theirs.ova", Body=b"theirs")
    plan = order.plan.model_copy(update={"export": "exp-000000000000", "prefix": ""})
    for wrong in (
        order.model_copy(update={"key": "theirs.ova"}),
        order.model_copy(update={"key": "exp-000000000000.ova", "plan": plan}),
    ):
        with pytest.raises(TamperedError):
            lab.chain.read_disks(wrong)
    assert lab.objects() == ["theirs.ova"]
    assert s3.get_object(Bucket=lab.bucket, Key="theirs.ova")["Body"].read() == b"theirs"
    lab.chain.end(words="read: its order was edited")


@pytest.mark.parametrize("disks", [1, 2])
def test_inv_1_an_edited_plan_is_no_export(lab: Lab, disks: int) -> None:
    """The descriptor says of the machine what the plan says, and the sizes of disks are compared with it."""
    begun(lab, disks=disks)
    order = lab.chain.begun()
    facts = order.plan.instance.model_copy(update={"memory": 1 << 30, "boot_mode": "uefi"})
    edited = order.model_copy(update={"plan": order.plan.model_copy(update={"instance": facts})})
    written = lab.chain.read_disks(edited)
    with pytest.raises(TamperedError, match="plan"):
        lab.chain.record(written, lab.chain.verify(edited, written))
    assert lab.chain.end(words="record: edited").state == "failed"
    assert lab.nothing_left()


def test_inv_4_somebody_else_s_object_at_the_key_is_not_overwritten(lab: Lab) -> None:
    begun(lab, disks=2)
    order, s3 = lab.chain.begun(), lab.sim.client("s3")
    s3.put_object(Bucket=lab.bucket, Key=order.key, Body=b"theirs")
    with pytest.raises(PermanentError, match="another"):
        lab.chain.read_disks(order)
    assert lab.chain.end(words="read: it is taken").state == "failed"
    assert s3.get_object(Bucket=lab.bucket, Key=order.key)["Body"].read() == b"theirs"


@pytest.fixture
def fifteen(lab: Lab) -> Iterator[str]:
    """An image of so many empty disks as one controller has places."""
    ec2 = Ec2(lab.access)
    image = lab.images[15] = bare_image(lab.access, 15)
    snapshots = ec2.images([image])[image].snapshot_ids
    yield image
    del lab.images[15]
    ec2.deregister(image, delete_snapshots=False)
    for one in snapshots:
        ec2.delete_snapshot(one)


@pytest.mark.usefixtures("fifteen")
def test_amp_10_fifteen_empty_disks(lab: Lab) -> None:
    """All of them lie in one part."""
    made = lab.chain.whole(instance=lab.instance(15), verify="full")
    assert (made.state, len(made.opened)) == ("completed", 15)
