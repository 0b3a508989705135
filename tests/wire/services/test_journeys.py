"""Servers that get through: every shape of disk, lease and guest, proven against what the snapshot froze."""

from __future__ import annotations

from typing import Any

import pytest

from wavelift.base.errors import UnreachableError
from wavelift.base.names import snapshot_name
from wavelift.base.units import MIB
from wavelift.services.dataplane.disk_crew import TransferOptions
from wavelift.services.dataplane.transfer import WHY_STREAM

from .journey import Stage

pytestmark = pytest.mark.wire


@pytest.mark.parametrize(
    ("server", "body"),
    [
        *((server, "footer") for server in ("db01", "empty01", "odd01")),
        pytest.param("web01", "footer", marks=pytest.mark.proof),
        ("web01", "qemu"),
        pytest.param("odd01", "qemu", marks=pytest.mark.proof),
        pytest.param("db01", "qemu", marks=pytest.mark.proof),
        pytest.param("empty01", "qemu", marks=pytest.mark.proof),
    ],
)
def test_amp_06_a_server_gets_through(stage: Stage, server: str, body: str) -> None:
    """One disk; three in an order that neither lease nor device keys have, of sizes that no block fits; one without
    data; one with an odd number of sectors."""
    stage.vc.rule(kind="nfc", action=body, times=0)
    done = stage.journey(server).run()
    assert done.error is None
    assert set(done.tries.values()) == {1}
    assert done.export is not None
    assert [disk.boot for disk in done.export.disks] == [True] + [False] * (len(done.export.disks) - 1)
    assert {(disk.reader, disk.reader_reason) for disk in done.export.disks} == {("nfc", WHY_STREAM)}
    assert done.verified is not None
    assert done.verified.bytes_verified == sum(disk.capacity for disk in done.export.disks)
    assert done.launched is not None
    assert done.launched.instance_id
    stage.assert_objects_equal_source(done.export)
    stage.assert_imports_equal_source(done)


def test_inv_11_disks_are_in_the_order_of_bus_and_unit(stage: Stage) -> None:
    journey = stage.journey("db01")
    journey.until = "verify"
    done = journey.run()
    assert done.export is not None
    assert [disk.address for disk in done.export.disks] == ["SCSI 0:0", "SCSI 0:3", "SCSI 1:0"]
    assert [disk.capacity for disk in done.export.disks] == [9 * MIB, 10 * MIB + 3072, 12 * MIB]


def test_inv_4_what_guests_write_meanwhile_is_not_in_it(stage: Stage) -> None:
    stage.vc.start_writer(rate=8 * MIB, blocks=64)
    stage.vc.rule(kind="nfc", action="slow", rate=4 * MIB)
    journey = stage.journey("web01")
    journey.until = "verify"
    try:
        done = journey.run()
        assert done.export is not None
        live = stage.vc.guest_read("web01", 0, 0, 16 * MIB)
    finally:
        stage.vc.stop_writer()
    assert done.error is None
    frozen = stage.frozen_disk(done.export.snapshot, done.export.disks[0].key).read_bytes()
    assert live != frozen, "the guest wrote nothing: the test proves nothing"
    stage.assert_objects_equal_source(done.export)


def test_sms_11_a_folder_moves_all_that_is_in_it(stage: Stage) -> None:
    journey = stage.journey({"folder": "/dc1/vm/trio"})
    done = journey.run_all()
    assert sorted(done) == ["empty01", "mute01", "off01"]
    for one in done.values():
        assert one.error is None
        stage.assert_imports_equal_source(one)
    assert journey.outcome.report is not None
    assert [line.state for line in journey.outcome.report.outcomes] == ["completed"] * 3


def test_one_bad_server_stops_no_other(stage: Stage) -> None:
    stage.vc.rule(kind="nfc", action="cut", bytes=MIB, vm="off01", times=0)
    journey = stage.journey({"folder": "/dc1/vm/trio"}, "nobody")
    journey.until = "verify"
    done = journey.run_all()
    assert isinstance(done["off01"].error, UnreachableError)
    assert [one.error for name, one in done.items() if name != "off01"] == [None, None]
    assert journey.outcome.report is not None
    told = {line.server: line.error for line in journey.outcome.report.failed}
    assert "SCSI 0:0" in told["off01"]
    assert "no VM fits" in told["nobody"]


@pytest.mark.proof
def test_vms_of_one_name_go_by_their_paths(stage: Stage) -> None:
    journey = stage.journey({"path": "/dc1/vm/left/twin"}, {"path": "/dc1/vm/right/twin"}, defaults={"launch": "none"})
    done = journey.run_all()
    assert sorted(done) == ["twin@dc1:vm:left", "twin@dc1:vm:right"]
    for one in done.values():
        assert one.error is None
        stage.assert_imports_equal_source(one)


def test_inv_6_a_disk_that_fails_costs_the_others_nothing(stage: Stage) -> None:
    """The first error is the real one, and what the other disk had stored is kept for the retry."""
    stage.vc.rule(kind="nfc", action="slow", rate=8 * MIB, vm="pair01", disk=0)
    part = {"service": "s3", "operation": "UploadPart", "key": "*disk-1.vmdk"}
    held = stage.aws.rule(**part, latency=240, count=1)
    stage.aws.rule(**part, code="OperationAborted", status=409, count=1)
    stage.aws.control("DELETE", "counters")
    journey = stage.journey("pair01")
    journey.until = "verify"
    journey.options = TransferOptions(parallel_disks=2)

    def look(progress: Any) -> None:
        if any(upload["parts"] and "disk-0" in upload["key"] for upload in stage.uploads()):
            stage.aws.control("DELETE", "rules", {"id": held})  # the other disk may fail now

    journey.progress = look
    done = journey.run()
    assert done.error is None
    (first,) = done.errors
    assert "could not store part 1" in str(first)
    assert first.where["disk"] == "disk 1 (SCSI 0:1)"
    assert done.tries["export"] == 2
    assert done.export is not None
    assert done.export.disks[0].parts_kept >= 1
    assert stage.aws.counters()["s3.parts"].get("repeated", 0) == 0
    stage.assert_objects_equal_source(done.export)


def test_inv_6_disks_that_are_done_are_not_read_again(stage: Stage) -> None:
    stage.vc.rule(kind="nfc", action="truncate", bytes=2 * MIB, vm="pair01", disk=1)
    stage.vc.reset_counters()
    journey = stage.journey("pair01")
    journey.until = "verify"
    journey.options = TransferOptions(parallel_disks=1)
    seen: list[Any] = []
    journey.progress = _watcher(seen)
    done = journey.run()
    assert done.error is None
    assert done.tries["export"] == 2
    again = [one for one in seen if one.disk == "disk 0 (SCSI 0:0)" and one.phase == "export" and one.done == one.total]
    assert len(again) == 2, "the retry tells of the disk that is done, else the sum of all would be wrong"
    assert stage.vc.counters()["paths"]["/nfc"]["requests"] == 3
    assert done.export is not None
    stage.assert_objects_equal_source(done.export)


def test_inv_4_one_snapshot_of_ours_at_a_time(stage: Stage) -> None:
    """Another run's snapshot stands: this one waits and fails, and leaves that one alone."""
    from wavelift.adapters.vsphere import snapshots
    from wavelift.base.run import CancelFlag

    other = snapshot_name("lab.migrate/another/web01")
    (vm,) = [one["moref"] for one in stage.vc.state()["vms"] if one["name"] == "web01"]
    with stage.connect() as session:
        snapshots.ensure_snapshot(session, vm, other, "", quiesce="never", cancel=CancelFlag())
        done = stage.journey("web01").run()
        assert done.error is not None
        assert done.phase == "snapshot"
        assert done.tries["snapshot"] == 3
        assert other in str(done.error)
        assert "cleanup" in done.error.next_step
        assert snapshots.remove_snapshot(session, vm, other, cancel=CancelFlag()) == 1


def _watcher(seen: list[Any]) -> Any:
    return lambda progress: seen.append(progress)


def test_amp_07_progress_tells_disk_phase_and_bytes(stage: Stage) -> None:
    stage.vc.rule(kind="nfc", action="slow", rate=4 * MIB)
    journey = stage.journey("web01")
    journey.until = "verify"
    seen: list[Any] = []
    journey.progress = _watcher(seen)
    journey.run()
    export = [one for one in seen if one.phase == "export"]
    assert {(one.server, one.disk, one.total) for one in seen} == {("web01", "disk 0 (SCSI 0:0)", 16 * MIB)}
    assert [one.done for one in export] == sorted(one.done for one in export)
    assert len(export) >= 2
    assert export[-1].done == 16 * MIB
    assert export[-1].sent > 0
    assert {one.phase for one in seen} == {"export", "verify"}
