"""The table of fault x phase: what strikes where, how it must end, and that nothing is left (the ``stage`` fixture).

A row without ``fails`` gets through: after ``tries`` of the struck phase, and with every disk proven against what the
snapshot froze. A row with ``fails`` ends in that error after ``tries``, and its words name what ``says`` lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from wavelift.adapters.vsphere.faults import QuiesceError
from wavelift.base.errors import (
    BusyError,
    CorruptStreamError,
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    ProofError,
    RemoteJobError,
    TlsError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.units import GIB, MIB, TIB
from wavelift.services.dataplane.guards import LastingGuardError

from .journey import Journey, Outcome, Stage

pytestmark = pytest.mark.wire

Strike = Callable[["Journey"], object]
Check = Callable[["Journey", "Outcome"], None]


@dataclass(frozen=True)
class Row:
    """One fault in one phase."""

    fault: str
    phase: str
    strike: Strike = lambda journey: None
    server: str | Mapping[str, Any] = "web01"
    wave: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    fails: type[WaveliftError] | None = None
    refused: bool = False
    """Pre-flight keeps it back: nothing was created."""
    says: tuple[str, ...] = ()
    tries: int = 1
    check: Check = lambda journey, done: None
    undo: Strike = lambda journey: None

    def __str__(self) -> str:
        return f"{self.phase}-{self.fault}".replace(" ", "-")


# --- strikes --------------------------------------------------------------------------------------------------------


def vc(**rule: Any) -> Strike:
    """A rule of the vCenter simulator."""
    return lambda journey: journey.stage.vc.rule(**rule)


def aws(**rule: Any) -> Strike:
    """A rule of the AWS simulator."""
    return lambda journey: journey.stage.aws.rule(**rule)


def s3(operation: str, **rule: Any) -> Strike:
    return aws(service="s3", operation=operation, **rule)


def ec2(operation: str, **rule: Any) -> Strike:
    return aws(service="ec2", operation=operation, **rule)


def both(*strikes: Strike) -> Strike:
    return lambda journey: [strike(journey) for strike in strikes]


def before(phase: str, strike: Strike) -> Strike:
    """Just before the first try of a phase."""

    def arrange(journey: Journey) -> None:
        journey.before[phase] = lambda: strike(journey)

    return arrange


def during(done: int, strike: Strike, *, rate: int = MIB) -> Strike:
    """Once ``done`` bytes of a disk have passed; the first body comes slowly, so that there is a middle."""

    def arrange(journey: Journey) -> None:
        journey.stage.vc.rule(kind="nfc", action="slow", rate=rate)
        struck: list[object] = []

        def look(progress: Any) -> None:
            if progress.phase == "export" and progress.done >= done and not struck:
                struck.append(strike(journey))

        journey.progress = look

    return arrange


def connection(**options: Any) -> Strike:
    """Another setting of the vSphere connection."""
    return lambda journey: journey.stage.session_options.update(options)


def wrong_keys(journey: Journey) -> None:
    session = journey.stage.aws.session(aws_access_key_id=journey.stage.aws.access_key, aws_secret_access_key="no")
    journey.access = journey.stage.access(session)


def power(vm: str, state: str) -> Strike:
    return lambda journey: journey.stage.vc.set_vm(vm, power=state)


def datastore(free: int) -> Strike:
    return lambda journey: journey.stage.vc.set_datastore("datastore1", free=free)


def other_disks(journey: Journey) -> None:
    """As if a disk had grown since pre-flight."""

    def retask(task: Any) -> Any:
        first, *rest = task.facts.disks
        grown = first.model_copy(update={"capacity": first.capacity - MIB})
        return task.model_copy(update={"facts": task.facts.model_copy(update={"disks": (grown, *rest)})})

    journey.retask = retask


def quick_guards(journey: Journey) -> None:
    journey.options = type(journey.options)(guard_seconds=0.1)


def move(leases: str) -> Strike:
    def strike(journey: Journey) -> None:
        (vm,) = [one for one in journey.stage.vc.state()["vms"] if one["name"] == "web01"]
        other = next(name for name in journey.stage.vc.hosts if name != vm["host"])
        journey.home = vm["host"]
        journey.stage.vc.migrate("web01", other, leases=leases)  # type: ignore[arg-type]

    return strike


def move_back(journey: Journey) -> None:
    journey.stage.vc.migrate("web01", journey.home)


def without_role(journey: Journey) -> None:
    iam = journey.stage.aws.client("iam")
    for name in iam.list_role_policies(RoleName="vmimport")["PolicyNames"]:
        iam.delete_role_policy(RoleName="vmimport", PolicyName=name)
    iam.delete_role(RoleName="vmimport")


def remove_snapshot_by_hand(journey: Journey) -> None:
    from wavelift.adapters.vsphere.snapshots import remove_snapshot
    from wavelift.base.run import CancelFlag

    assert journey.outcome.snapshot is not None
    ref = journey.outcome.snapshot.ref
    with journey.stage.connect() as session:
        assert remove_snapshot(session, ref.vm, ref.name, cancel=CancelFlag()) == 1


def spoil_manifest(journey: Journey) -> None:
    assert journey.outcome.export is not None
    disk = journey.outcome.export.disks[0]
    client = journey.stage.aws.client("s3")
    body = bytearray(client.get_object(Bucket=disk.bucket, Key=disk.manifest_key)["Body"].read())
    body[-40] ^= 1
    client.put_object(Bucket=disk.bucket, Key=disk.manifest_key, Body=bytes(body))


def delete_staged(journey: Journey) -> None:
    assert journey.outcome.export is not None
    disk = journey.outcome.export.disks[0]
    journey.stage.aws.client("s3").delete_object(Bucket=disk.bucket, Key=disk.object_key)


# --- checks ---------------------------------------------------------------------------------------------------------


def one_login(journey: Journey, done: Outcome) -> None:
    assert journey.stage.vc.counters()["methods"]["Login"] == 1


def crash_consistent(journey: Journey, done: Outcome) -> None:
    assert done.snapshot is not None
    assert not done.snapshot.ref.quiesced
    assert done.snapshot.ref.quiesce_note.startswith("crash-consistent")


def quiesced(journey: Journey, done: Outcome) -> None:
    assert done.snapshot is not None
    assert done.snapshot.ref.quiesced


def parts_kept(journey: Journey, done: Outcome) -> None:
    assert done.export is not None
    assert sum(disk.parts_kept for disk in done.export.disks) > 0
    assert journey.stage.aws.counters()["s3.parts"].get("repeated", 0) == 0


def corrupt_offset(journey: Journey, done: Outcome) -> None:
    """The error names the very grain that the rule damaged."""
    (rule,) = [rule for rule in journey.stage.vc.rules() if rule["action"] == "corrupt"]
    assert done.error is not None
    assert str(done.error.where["offset"]) in " ".join(rule["details"])


def one_instance(journey: Journey, done: Outcome) -> None:
    assert len(journey.stage.aws.state()["instances"]) == 1


SLOW = vc(kind="nfc", action="slow", rate=6 * MIB, times=0)

TABLE = [
    # --- pre-flight: stopped before anything is created
    Row("unknown VM", "preflight", server="nobody", refused=True, says=("nobody", "no VM fits", "spelling")),
    Row("two VMs of one name", "preflight", server="twin", refused=True,
        says=("twin", "left/twin", "right/twin", "path")),
    Row("one of two by its path", "preflight", server={"path": "/dc1/vm/left/twin"}),
    Row("bad vCenter password", "preflight", connection(password="wrong"), fails=LoginError,
        says=("refused the user name or password", "Correct the connection"), check=one_login),
    Row("bad AWS keys", "preflight", wrong_keys, fails=LoginError, says=("AWS connection",)),
    Row("vCenter's certificate", "preflight", connection(ca_bundle=None), fails=TlsError,
        says=("authority that is not trusted", "CA bundle", "certificate_mode")),
    Row("no tools, required", "preflight", server={"name": "mute01", "quiesce": "require"}, refused=True,
        says=("mute01", "VMware Tools is not running", "quiesce: prefer")),
    Row("no tools, preferred", "preflight", server="mute01", check=crash_consistent),
    Row("encrypted VM", "preflight", server="enc01", refused=True, says=("enc01", "encrypted", "Decrypt")),
    Row("RDM", "preflight", server="rdm01", refused=True, says=("rdm01", "raw device mapping", "Storage vMotion")),
    Row("role missing", "preflight", environment={"role": "nobody"}, refused=True, says=("nobody", "role", "iam show")),
    Row("bucket missing", "preflight", environment={"staging": {"bucket": "no-such-bucket"}}, refused=True,
        says=("no-such-bucket",)),
    Row("privilege missing", "preflight", connection(username="limited@vsphere.local", password="limited-pw-88"),
        refused=True, says=("VApp.Export", "vsphere role")),
    Row("full datastore", "preflight", datastore(GIB), undo=datastore(8 * TIB), refused=True,
        says=("datastore1", "min_free_pct", "Free space")),
    Row("must be off and runs", "preflight", server={"name": "web01", "source_power": "require_off"}, refused=True,
        says=("require_off", "Shut the VM down")),
    # --- snapshot
    Row("quiesce fails, preferred", "snapshot", vc(kind="quiesce", times=0), check=crash_consistent),
    Row("quiesce fails once, required", "snapshot", vc(kind="quiesce"), server={"name": "web01", "quiesce": "require"},
        tries=2, check=quiesced),
    Row("quiesce fails, required", "snapshot", vc(kind="quiesce", times=0),
        server={"name": "web01", "quiesce": "require"}, fails=QuiesceError, tries=3, says=("quiesce", "prefer")),
    Row("answer lost", "snapshot", vc(kind="drop", method="CreateSnapshot_Task", action="after")),
    Row("call lost", "snapshot", vc(kind="drop", method="CreateSnapshot_Task"), tries=2),
    Row("task fails once", "snapshot", vc(kind="task", method="CreateSnapshot_Task", fault="GenericVmConfigFault"),
        tries=2),
    Row("no permission", "snapshot", vc(kind="fault", method="CreateSnapshot_Task", fault="NoPermission",
        args={"privilegeId": "VirtualMachine.State.CreateSnapshot"}), fails=MissingPrivilegeError,
        says=("web01", "VirtualMachine.State.CreateSnapshot", "vsphere role")),
    Row("switched on since pre-flight", "snapshot", before("snapshot", power("off01", "poweredOn")),
        server={"name": "off01", "source_power": "require_off"}, undo=power("off01", "poweredOff"),
        fails=PermanentError, says=("off01", "must be powered off", "Shut it down")),
    Row("disks changed since pre-flight", "snapshot", other_disks, fails=PermanentError,
        says=("web01", "disks changed since the pre-flight", "new run")),
    Row("consolidation needed", "snapshot",
        before("snapshot", lambda journey: journey.stage.vc.set_vm("web01", consolidation_needed=True)),
        undo=lambda journey: journey.stage.vc.set_vm("web01", consolidation_needed=False),
        fails=BusyError, tries=3, says=("web01", "consolidation", "Consolidate")),
    # --- export: the source
    Row("session expires", "export", during(MIB, lambda journey: journey.stage.vc.expire_sessions())),
    Row("lease never ready", "export", vc(kind="lease", action="never_ready"), tries=2),
    Row("lease in error", "export", vc(kind="lease", action="error", fault="FileFault"), tries=2),
    Row("lease dies", "export", both(SLOW, vc(kind="lease", action="dies", delay=0.7, fault="Timedout"))),
    Row("lease dies always", "export",
        both(SLOW, vc(kind="lease", action="dies", delay=0.5, fault="Timedout", times=0)),
        fails=UnreachableError, tries=3, says=("web01", "lease", "retry")),
    Row("VM busy", "export", vc(kind="fault", method="ExportSnapshot", fault="TaskInProgress",
        args={"task": {"type": "Task", "value": "task-7"}}, times=3)),
    Row("answer with the lease lost", "export", vc(kind="drop", method="ExportSnapshot", action="after")),
    Row("body cut", "export", vc(kind="nfc", action="cut", bytes=2 * MIB)),
    Row("body cut always", "export", vc(kind="nfc", action="cut", bytes=2 * MIB, times=0), fails=UnreachableError,
        tries=3, says=("web01", "SCSI 0:0", "bytes", "retry")),
    Row("body truncated", "export", vc(kind="nfc", action="truncate", bytes=2 * MIB), tries=2),
    Row("body truncated always", "export", vc(kind="nfc", action="truncate", bytes=2 * MIB, times=0),
        fails=CorruptStreamError, tries=3, says=("web01", "SCSI 0:0", "offset", "Read it again")),
    Row("grain corrupt", "export", vc(kind="nfc", action="corrupt", grain=7), tries=2),
    Row("grain corrupt always", "export", vc(kind="nfc", action="corrupt", grain=7, times=0),
        fails=CorruptStreamError, tries=3, says=("web01", "SCSI 0:0", "offset"), check=corrupt_offset),
    Row("host answers 503", "export", vc(kind="nfc", action="status", status=503)),
    Row("host's certificate", "export",
        before("export", connection(esxi_mode="pin", esxi_thumbprints=("ab" * 32,))), fails=TlsError,
        says=("not the pinned one", "esxi")),
    Row("host unreachable", "export", vc(kind="nfc", action="status", status=503, times=0), fails=UnreachableError,
        tries=3, says=("web01", "SCSI 0:0", "503")),
    Row("VM moved", "export", during(MIB, move("break")), undo=move_back, tries=2),
    Row("VM moved, lease lives", "export", both(quick_guards, during(MIB, move("keep"))), undo=move_back, tries=2),
    Row("datastore fills up", "export", both(quick_guards, during(MIB, datastore(GIB))),
        undo=datastore(8 * TIB), fails=LastingGuardError, says=("web01", "datastore1", "min_free_pct", "Make room")),
    Row("snapshot too old", "export", both(quick_guards, during(99 * MIB, lambda journey: None)),
        wave={"max_snapshot_hours": 0.4 / 3600}, fails=LastingGuardError,
        says=("web01", "max_snapshot_hours", "wavelift-")),
    Row("snapshot removed by someone", "export", before("export", remove_snapshot_by_hand), fails=NotFoundError,
        says=("web01", "snapshot", "reserve")),
    Row("switched on during the transfer", "export", both(quick_guards, during(MIB, power("off01", "poweredOn"))),
        server={"name": "off01", "source_power": "require_off"}, undo=power("off01", "poweredOff"),
        fails=PermanentError, says=("off01", "must be powered off")),
    # --- export: the target
    Row("S3 throttles", "export", s3("UploadPart", throttle=True, count=3), server="big01"),
    Row("S3 answers 500", "export", s3("UploadPart", status=500, count=3), server="big01"),
    Row("part cut", "export", s3("UploadPart", cut_request_after=MIB, count=2), server="big01"),
    Row("part's answer lost", "export", s3("UploadPart", cut_response_after=0, count=2), server="big01"),
    Row("token expired", "export", s3("UploadPart", code="ExpiredToken", status=400, count=1), server="big01"),
    Row("part fails, then not", "export", s3("UploadPart", part=4, code="OperationAborted", status=409, count=1),
        server="big01", tries=2,
        check=parts_kept),
    Row("part fails for good", "export", s3("UploadPart", part=3, status=500), server="big01", fails=WaveliftError,
        tries=3, says=("big01", "could not store part 3", "disk 0 (SCSI 0:0)")),
    Row("storage refused", "export", s3("UploadPart", code="AccessDenied", status=403), fails=MissingPrivilegeError,
        says=("web01", "s3:PutObject")),
    Row("upload refused", "export", s3("CreateMultipartUpload", code="AccessDenied", status=403),
        fails=MissingPrivilegeError, says=("s3:PutObject",)),
    Row("completion fails", "export", s3("CompleteMultipartUpload", status=500, count=3), server="big01",
        check=parts_kept),
    Row("completion's answer lost", "export", s3("CompleteMultipartUpload", cut_response_after=0, count=1)),
    # --- the snapshot's removal
    Row("removal fails once", "remove", vc(kind="task", method="RemoveSnapshot_Task", fault="GenericVmConfigFault"),
        tries=2),
    Row("removal's answer lost", "remove", vc(kind="drop", method="RemoveSnapshot_Task", action="after")),
    Row("removal is slow", "remove", vc(kind="task", method="RemoveSnapshot_Task", delay=1.5)),
    Row("removal wants consolidation", "remove", vc(kind="consolidation")),
    # --- verify
    Row("read-back cut", "verify", s3("GetObject", key="*.vmdk", cut_response_after=MIB, count=2), server="big01"),
    Row("read-back throttled", "verify", s3("GetObject", key="*.vmdk", throttle=True, count=2)),
    Row("read-back fails, then not", "verify", s3("GetObject", key="*.vmdk", status=500, count=9)),
    Row("read-back refused", "verify", s3("GetObject", code="AccessDenied", status=403), fails=MissingPrivilegeError,
        says=("s3:GetObject",)),
    Row("object gone", "verify", before("verify", delete_staged), fails=ProofError, says=("disk-0.vmdk", "gone")),
    # --- import
    Row("import ends deleted", "import", aws(kind="import", outcome="deleted",
        message="ClientError: No valid partitions were found"), fails=RemoteJobError,
        says=("web01", "ClientError: No valid partitions were found", "our reading", "boot disk", "import-ami-")),
    Row("import ends deleted once", "import", aws(kind="import", outcome="deleted", count=1,
        message="ServerError: an internal error has occurred during conversion."), tries=2),
    Row("role missing", "import", before("import", without_role), fails=MissingPrivilegeError,
        says=("role", "vmimport", "iam show"),
        undo=lambda journey: journey.stage.aws.bootstrap(journey.stage.account.bucket)),
    Row("staged disk gone", "import", before("import", delete_staged), fails=ProofError,
        says=("web01", "SCSI 0:0", "gone", "reserve")),
    Row("submission throttled", "import", ec2("ImportImage", throttle=True, count=2)),
    Row("submission's answer lost", "import", ec2("ImportImage", cut_response_after=0, count=1)),
    Row("description throttled", "import", ec2("DescribeImportImageTasks", throttle=True, count=2)),
    Row("report throttled", "compare", aws(service="ebs", throttle=True, count=2)),
    Row("report fails, then not", "compare", aws(service="ebs", operation="ListSnapshotBlocks", status=500, count=3),
        tries=2),
    # --- launch
    Row("no capacity once", "launch", ec2("RunInstances", code="InsufficientInstanceCapacity", status=500, count=3),
        tries=2, check=one_instance),
    Row("launch's answer lost", "launch", ec2("RunInstances", cut_response_after=0, count=1), check=one_instance),
    Row("launch refused", "launch", ec2("RunInstances", code="UnauthorizedOperation", status=403),
        fails=MissingPrivilegeError, says=("web01", "ec2:RunInstances")),
]  # fmt: skip


SAMPLE = frozenset({
    "unknown VM", "one of two by its path", "bad vCenter password", "vCenter's certificate", "privilege missing",
    "full datastore", "quiesce fails, required", "answer lost", "no permission", "session expires", "lease dies",
    "body cut", "grain corrupt always", "VM moved", "datastore fills up", "snapshot removed by someone",
    "S3 throttles", "part fails, then not", "part fails for good", "storage refused", "completion's answer lost",
    "removal's answer lost", "removal wants consolidation", "read-back cut", "object gone", "import ends deleted",
    "submission's answer lost", "report fails, then not", "no capacity once", "launch's answer lost",
})  # fmt: skip
"""Of each phase what gets through and what fails, and of each way to fail one. ``make proof`` runs the whole table."""


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=() if row.fault in SAMPLE else pytest.mark.proof) for row in TABLE], ids=str
)
def test_trouble(stage: Stage, row: Row) -> None:
    stage.vc.reset_counters()
    stage.aws.control("DELETE", "counters")
    stage.environment_changes.update(row.environment)
    server = row.server if isinstance(row.server, str) else dict(row.server)
    journey = stage.journey(server, **row.wave)
    journey.looked_before = row.phase != "preflight"
    journey.until = row.phase if row.phase in ("import", "compare", "launch") else "verify"
    row.strike(journey)
    try:
        done = journey.run()
        row.check(journey, done)
    finally:
        with ExitStack() as stack:
            stack.callback(stage.clear_rules)
            row.undo(journey)
    assert [str(error) for error in done.errors if not isinstance(error, WaveliftError)] == []
    if row.refused or row.fails is not None:
        _assert_failed(stage, row, done)
    else:
        assert done.error is None, f"{done.phase}: {done.error}"
        assert done.tries == {phase: row.tries if phase == row.phase else 1 for phase in done.tries}
        assert done.export is not None
        stage.assert_objects_equal_source(done.export)


def _assert_failed(stage: Stage, row: Row, done: Outcome) -> None:
    assert done.error is not None, "it got through"
    text = str(done.error)
    assert done.phase == row.phase, text
    assert [part for part in row.says if part not in text] == [], text
    if row.refused:
        assert "CreateSnapshot_Task" not in stage.vc.counters()["methods"]
        assert "s3.CreateMultipartUpload" not in stage.aws.counters()
        return
    assert row.fails is not None
    assert type(done.error) is row.fails or row.fails is WaveliftError, f"{type(done.error)}: {text}"
    assert done.tries[row.phase] == row.tries, text
    assert done.error.next_step, text
    if done.migration is not None:
        assert done.migration.error == text


def _unused(rows: list[Row]) -> Iterator[str]:
    seen: set[str] = set()
    for row in rows:
        if str(row) in seen:
            yield str(row)
        seen.add(str(row))


def test_rows_are_told_apart() -> None:
    assert list(_unused(TABLE)) == []
    assert {row.fault for row in TABLE} >= SAMPLE
