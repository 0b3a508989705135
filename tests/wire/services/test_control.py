"""Waiting, cancelling, fencing, credentials that end: what happens beside the bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import boto3
import pytest
from botocore.credentials import DeferredRefreshableCredentials, create_assume_role_refresher
from botocore.session import get_session

from wavelift.adapters.vsphere import snapshots
from wavelift.base.errors import Cancelled, CorruptStreamError, FencedError, WaveliftError
from wavelift.base.run import MemoryCheckpoints
from wavelift.base.units import KIB, MIB
from wavelift.rules.estimate import table
from wavelift.services.common.slots import InQueue
from wavelift.services.dataplane import guest_ports
from wavelift.services.dataplane.importing import ImportRunning, ImportWaiting

from .journey import Journey, Outcome, Stage

pytestmark = pytest.mark.wire

PROMPT_S = 30.0
"""For a machine as busy as it may be: what is not stopped goes on for minutes."""
TRICKLE: Final = 16 * KIB
"""Bytes per second of a source from which the next MiB takes a minute."""


# --- waiting for a place --------------------------------------------------------------------------------------------


def _foreign_import(stage: Stage, export: Any) -> str:
    """Somebody else's import in the same account, which never ends by itself."""
    stage.aws.rule(kind="import", outcome="stuck", phase="pending", count=1)
    (disk,) = export.disks
    answer = stage.aws.client("ec2").import_image(
        RoleName="vmimport",
        DiskContainers=[{"Format": "VMDK", "UserBucket": {"S3Bucket": disk.bucket, "S3Key": disk.object_key}}],
    )
    return str(answer["ImportTaskId"])


@pytest.mark.parametrize(
    ("ours", "theirs"), [(1, 5), pytest.param(5, 1, marks=pytest.mark.proof)], ids=["counted", "refused"]
)
def test_inv_8_an_import_waits_while_the_account_is_full(stage: Stage, ours: int, theirs: int) -> None:
    """Whether our count or AWS's refusal says so: it waits, and goes on when the place is free."""
    journey = stage.journey("web01")
    journey.import_limit = ours
    stage.aws.settings(import_limit=theirs)
    seen: list[ImportRunning | ImportWaiting | InQueue] = []
    foreign: list[str] = []

    def watch(found: ImportRunning | ImportWaiting | InQueue) -> None:
        seen.append(found)
        if foreign and len(seen) == 3:
            stage.aws.client("ec2").cancel_import_task(ImportTaskId=foreign.pop())

    journey.before["import"] = lambda: foreign.append(_foreign_import(stage, journey.outcome.export))
    journey.watch_import = watch
    try:
        done = journey.run()
    finally:
        stage.aws.settings(import_limit=5)
    assert done.error is None
    assert done.tries["import"] == 1
    assert [type(one) for one in seen[:3]] == [ImportWaiting] * 3
    assert isinstance(seen[0], ImportWaiting)
    assert "1" in seen[0].words
    stage.assert_imports_equal_source(done)


def test_inv_5_an_import_that_was_cancelled_under_us_is_submitted_again(stage: Stage) -> None:
    """What the trigger of a cleared task does, seconds after the new try began to watch."""
    stage.aws.rule(kind="import", outcome="stuck", phase="converting", count=1)
    journey = stage.journey("web01")
    cancelled: list[str] = []

    def watch(found: ImportRunning | ImportWaiting | InQueue) -> None:
        # Not sooner: only from there on the rule, which is for one import, has been used up.
        if isinstance(found, ImportRunning) and found.phase == "converting" and not cancelled:
            cancelled.append(found.task_id)
            stage.aws.client("ec2").cancel_import_task(ImportTaskId=found.task_id)

    journey.watch_import = watch
    done = journey.run()
    assert done.error is None
    assert done.tries["import"] == 1
    assert done.image is not None
    assert done.image.task_id not in cancelled
    stage.assert_imports_equal_source(done)


def test_nothing_depends_on_the_words_of_an_import(stage: Stage) -> None:
    stage.aws.settings(other_words=True)
    try:
        done = stage.journey("web01").run()
    finally:
        stage.aws.settings(other_words=False)
    assert done.error is None


# --- being told to stop ---------------------------------------------------------------------------------------------


def _during_export(journey: Journey, act: Callable[[], object]) -> list[float]:
    """``act`` at the first news of the export; when that was. The news comes at once, and then next to nothing."""
    journey.stage.vc.rule(kind="nfc", action="slow", rate=TRICKLE, bytes=2 * MIB)
    when: list[float] = []

    def look(progress: Any) -> None:
        if not when:
            when.append(time.monotonic())
            act()

    journey.progress = look
    return when


def _timed(journey: Journey, when: list[float]) -> tuple[Outcome, float]:
    """The outcome, and seconds from the act to the end of the export."""
    ended: list[float] = []
    journey.before["remove"] = lambda: ended.append(time.monotonic())
    done = journey.run()
    return done, ended[0] - when[0]


def test_inv_4_a_killed_export_stops_and_everything_goes(stage: Stage) -> None:
    journey = stage.journey("web01")
    when = _during_export(journey, lambda: journey.cancel.set("the task was killed"))
    done, seconds = _timed(journey, when)
    assert isinstance(done.error, Cancelled)
    assert done.tries["export"] == 1
    assert "the task was killed" in str(done.error)
    assert seconds < PROMPT_S


def test_an_error_at_the_target_does_not_wait_for_a_silent_source(stage: Stage) -> None:
    """The source gives next to nothing; what fails elsewhere must end the export all the same."""
    journey = stage.journey("web01")

    def fail() -> None:
        raise WaveliftError("the progress could not be stored", next_step="Look at Airflow")

    when = _during_export(journey, fail)
    ended: list[float] = []
    step = journey.export

    def export(task: Any) -> Any:
        try:
            return step(task)
        finally:
            ended.append(time.monotonic())

    journey.export = export  # type: ignore[method-assign]
    journey.run()
    assert ended[0] - when[0] < PROMPT_S


def test_a_killed_verify_stops(stage: Stage) -> None:
    stage.aws.rule(service="s3", operation="GetObject", key="*.vmdk", status=500)
    journey = stage.journey("web01")
    journey.before["verify"] = lambda: threading.Timer(0.05, journey.cancel.set).start()
    done = journey.run()
    assert done.phase == "verify"
    assert isinstance(done.error, WaveliftError)


class SharedStore(MemoryCheckpoints):
    """Belongs to whoever took it last; older owners are fenced."""

    def __init__(self) -> None:
        super().__init__()
        self.fenced = False

    def _check(self) -> None:
        if self.fenced:
            raise FencedError("another try of this task owns the work now")

    def get(self, key: str) -> Any | None:
        self._check()
        return super().get(key)

    def set(self, key: str, value: Any) -> None:
        self._check()
        super().set(key, value)


@pytest.mark.parametrize("where", ["beginning", "middle", "completion"])
def test_an_outlived_export_touches_nothing(stage: Stage, where: str) -> None:
    """Its uploads stay for the try that owns them now; nothing is completed, aborted or deleted."""
    journey = stage.journey("web01")
    (task,) = journey.preflight()
    store = SharedStore()
    journey.stores[task.name, "export"] = store
    journey.reserve(task)
    journey.outcome.snapshot = journey.take_snapshot(task)
    stage.aws.control("DELETE", "counters")
    if where == "beginning":
        store.fenced = True
    if where == "middle":
        _during_export(journey, lambda: setattr(store, "fenced", True))
        journey.progress = _beating(journey.progress, store)
    if where == "completion":
        rule = stage.aws.rule(service="s3", operation="UploadPart", latency=240)
        stop = threading.Event()

        def fence() -> None:
            while not stop.wait(0.02):
                if any(one["id"] == rule and one["applied"] for one in stage.aws.rules()):
                    store.fenced = True
                    stage.clear_rules()
                    return

        thread = threading.Thread(target=fence)
        thread.start()
    try:
        with pytest.raises(FencedError):
            journey.export(task)
    finally:
        if where == "completion":
            stop.set()
            thread.join()
    counters = stage.aws.counters()
    for operation in ("AbortMultipartUpload", "CompleteMultipartUpload", "DeleteObjects", "DeleteObject"):
        assert f"s3.{operation}" not in counters
    assert ("s3.CreateMultipartUpload" in counters) == (where != "beginning")
    store.fenced = False
    journey.progress = lambda progress: None
    stage.clear_rules()
    journey.outcome.export = journey.export(task)
    stage.assert_objects_equal_source(journey.outcome.export)
    journey.remove(task)
    journey.report({task.name: journey.outcome})


def _beating(then: Callable[[Any], None], store: SharedStore) -> Callable[[Any], None]:
    def beat(progress: Any) -> None:
        then(progress)
        store.set("progress", progress.done)

    return beat


# --- credentials ----------------------------------------------------------------------------------------------------


def _assumed(stage: Stage) -> boto3.Session:
    """Credentials that botocore refreshes by AssumeRole, as Airflow's AWS connection with a role does."""
    refresh = create_assume_role_refresher(
        stage.aws.client("sts"), {"RoleArn": stage.account.assumable_role_arn, "RoleSessionName": "wavelift"}
    )
    core = get_session()
    core._credentials = DeferredRefreshableCredentials(refresh, "assume-role")
    return boto3.Session(botocore_session=core, region_name=stage.aws.region)


def test_inv_9_credentials_that_live_for_seconds_do(stage: Stage) -> None:
    stage.aws.settings(session_seconds=2)
    stage.vc.rule(kind="nfc", action="slow", rate=12 * MIB)
    try:
        journey = stage.journey("big01", access=stage.access(_assumed(stage)))
        journey.until = "verify"
        done = journey.run()
    finally:
        stage.aws.settings(session_seconds=0)
    assert done.error is None
    assert set(done.tries.values()) == {1}
    assert done.export is not None
    stage.assert_objects_equal_source(done.export)


def test_inv_9_credentials_that_aws_ends_early_are_renewed_at_every_step(stage: Stage) -> None:
    """The local clock still believes in them."""
    journey = stage.journey("web01", access=stage.access(_assumed(stage)))
    for phase in ("snapshot", "export", "remove", "verify", "import", "launch"):
        journey.before[phase] = stage.aws.expire_sessions
    done = journey.run()
    assert done.error is None
    assert set(done.tries.values()) == {1}


# --- what vCenter says and what it sends ----------------------------------------------------------------------------


def test_a_body_of_another_size_is_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """vCenter says another size than it sends."""
    journey = stage.journey("web01")

    def shrink() -> None:
        taken = journey.outcome.snapshot
        assert taken is not None
        disk = taken.disks[0].model_copy(update={"capacity": taken.disks[0].capacity - MIB})
        journey.outcome.snapshot = taken.model_copy(update={"disks": (disk,)})
        monkeypatch.setattr(snapshots, "snapshot_disks", lambda *_, **__: (disk,))

    journey.before["export"] = shrink
    done = journey.run()
    assert isinstance(done.error, CorruptStreamError)
    assert done.tries["export"] == 3
    text = str(done.error)
    assert [part for part in (f"{16 * MIB}", f"{15 * MIB}", "web01", "SCSI 0:0") if part not in text] == []


# --- the plan -------------------------------------------------------------------------------------------------------


def test_amp_06_the_plan_tells_what_would_be_made_and_makes_nothing(stage: Stage) -> None:
    stage.vc.reset_counters()
    stage.aws.control("DELETE", "counters")
    journey = stage.journey({"folder": "/dc1/vm/trio"}, "db01", "rdm01")
    journey.preflight()
    report = journey.outcome.preflight
    assert report is not None
    estimate = report.estimate
    assert (estimate.servers, estimate.disks, estimate.snapshots) == (4, 6, 4), "the one that was refused is left out"
    assert estimate.capacity == sum(task.facts.capacity for task in report.passed)
    rows = dict(table(estimate))
    assert any("s3://staging-bucket/stage" in line for line in estimate.creates)
    assert any("4 t3.small" in line for line in estimate.creates)
    assert estimate.costs["upload requests"] > 0
    assert rows["moves"].startswith("4 servers, 6 disks, ")
    assert type(report).load(report.dump()) == report
    changes = {
        name
        for name in stage.aws.counters()
        if not name.split(".")[1].startswith(("Get", "List", "Describe", "Head", "Simulate"))
    }
    assert changes == set()
    assert not [name for name in stage.vc.counters()["methods"] if name.endswith("_Task") or "Export" in name]


def test_sms_11_the_requirements_that_something_answers_are_asked(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what the guest of web01 reports; its address is one of the documentation's, which nobody asks by itself."""
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(guest_ports, "unfit", lambda address: "")

    def connect(address: str, port: int) -> str:
        asked.append((address, port))
        return ""

    monkeypatch.setattr(guest_ports, "connect", connect)
    journey = stage.journey("web01", "off01")
    journey.preflight()
    assert journey.outcome.preflight is not None
    told = {one.subject: one.what for one in journey.outcome.preflight.findings if one.code == "guest.remote"}
    assert asked == [("192.0.2.11", 22)]
    assert told == {
        "web01": "remote access: checked: port 22 of 192.0.2.11 answers the connector",
        "off01": "remote access: not checked, because the VM is off",
    }
    systems = {one.subject: one.what for one in journey.outcome.preflight.findings if one.code == "guest.file_systems"}
    assert systems["web01"] == "root file system: checked: / is xfs"
    assert systems["off01"] == "root file system: not checked, because the VM is off"
