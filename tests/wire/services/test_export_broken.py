"""What an export meets when the world changes between two of its calls, or does not show what it has just done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests.eventually import eventually

from wavelift.adapters.aws.export_sources import ExportSources
from wavelift.base.errors import PermanentError, WaveliftError
from wavelift.services.dataplane.export_messages import ExportOrder
from wavelift.services.instance_export import ending
from wavelift.services.instance_export.messages import ExportReport

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


def test_vie_06_the_object_of_a_task_that_aws_has_forgotten_goes(lab: Lab) -> None:
    begun(lab)
    lab.chain.begun()
    assert len(lab.objects()) == 1
    lab.sim.advance(lab.sim.settings()["export_memory_seconds"] + 1)
    lab.chain.clock.sleep(lab.sim.settings()["export_memory_seconds"] + 1)
    assert lab.chain.end(words="verify: the object does not open").state == "failed"
    assert lab.objects() == []


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
