"""Jobs, admission and outcome of replication over a ledger (SMS-03 to SMS-10, AIR-04)."""

from __future__ import annotations

import pickle
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import Alive, HandClock, run_context
from tests.ledgers import within

from wavelift.base.domain import DiskLineage, ReplicatedDisk, ReplicationResult
from wavelift.base.errors import BusyError, NotFoundError, PermanentError, RefusedError, SpecError
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import (
    AmiState,
    Ledger,
    Progress,
    ReplicationJob,
    ReplicationRun,
    SourceServer,
    jobs,
    lineage,
    replication_runs,
)
from wavelift.ledger.events import last_details, list_events
from wavelift.ledger.jobs import JobFilter, list_jobs, read_schedules, wave_schedule_of
from wavelift.ledger.lineage import read_lineage
from wavelift.ledger.replication_runs import (
    RunFilter,
    current_runs,
    list_runs,
    of_dag_run,
    record_progress,
    unfinished_before,
)
from wavelift.rules.guests import Guest
from wavelift.rules.replication import JobState, RunState, RunType
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.admission import Admission, Asked, admit_runs, continue_run, reserve_runs
from wavelift.services.replication.deletion import complete_deletion, delete_job
from wavelift.services.replication.jobs import (
    ChangeKind,
    JobOrder,
    apply_wave,
    create_jobs,
    extend_job,
    pause_job,
    plan_changes,
    remember_server,
    resume_job,
    update_job,
    warn_terms,
)
from wavelift.services.replication.outcome import (
    cancel_run,
    complete_run,
    expired_amis,
    fail_run,
    mark_cancelled,
    quarantine_run,
    quarantine_tracking,
    record_ami_removed,
    record_run,
)

pytestmark = pytest.mark.unit

START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
WAVE = "erp"


def _disk(key: int, snapshot: str, parent: str = "", uuid: str = "") -> ReplicatedDisk:
    return ReplicatedDisk(
        index=key - 2000,
        boot=key == 2000,
        label=f"Hard disk {key - 1999}",
        kind="delta" if parent else "seed",
        reader="nfc",
        parent_snapshot_id=parent,
        lineage=DiskLineage(
            key=key,
            address=f"SCSI 0:{key - 2000}",
            uuid=uuid or f"uuid-{key}",
            file="[ds1] web01/web01.vmdk",
            capacity=8,
            change_id="52 a/1",
            snapshot_id=snapshot,
            bucket="staging",
            manifest_key=f"{snapshot}.manifest",
            manifest_digest="aa",
        ),
        content_digest="bb",
        data_bytes=8,
        bytes_read=5,
        bytes_sent=3,
        blocks_sent=1,
    )


def _result(*disks: ReplicatedDisk) -> ReplicationResult:
    return ReplicationResult(server="web01", snapshot="snapshot-1", disks=disks)


class Desk:
    """The wave ``erp`` as a test talks to it; DAG runs named in ``dead`` have ended."""

    def __init__(self, ledger: Ledger, clock: HandClock) -> None:
        self.ledger, self.clock = ledger, clock
        self.dead: set[str] = set()
        self.last = 0

    def create(self, server: str = "web01", **plan: Any) -> ReplicationJob:
        order = JobOrder(server=server, plan=ReplicationPlan(**plan))
        (made,) = create_jobs(self.ledger, WAVE, [order], by="ana", clock=self.clock)
        return made

    def alive(self, run: DagRun) -> bool:
        assert run.dag_id == "erp.replicate"
        return run.dag_run_id not in self.dead

    def ctx(self, run: DagRun) -> RunContext:
        return run_context(run, requester="ana", clock=self.clock, liveness=Alive(self.alive))

    def reserve(self, *servers: str, id: str = "") -> tuple[ReplicationRun, ...]:
        run = DagRun("erp.replicate", id or self._next())
        return reserve_runs(self.ledger, WAVE, servers or ("web01",), self.ctx(run))

    def admit(self, id: str = "", **more: Any) -> Admission:
        run = DagRun("erp.replicate", id or self._next())
        return admit_runs(self.ledger, WAVE, Asked(**more), self.ctx(run))

    def begin(self) -> ReplicationRun:
        (run,) = self.admit().granted
        return run

    def record(self, run: ReplicationRun, *disks: ReplicatedDisk) -> ReplicationRun:
        return record_run(self.ledger, run.id, _result(*disks), clock=self.clock)

    def complete(self, run: ReplicationRun, ami: str = "") -> ReplicationRun:
        rows = {row.key: row.snapshot_id for row in within(self.ledger.read(), lineage.rows, run.job_id)}
        self.record(run, _disk(2000, f"snap-{run.id}", rows.get(2000, "")))
        return complete_run(self.ledger, run.id, ami_id=ami, clock=self.clock)

    def fail(self, run: ReplicationRun) -> ReplicationRun:
        return fail_run(self.ledger, run.id, "it broke", clock=self.clock)

    def rules(self, admission: Admission) -> list[str]:
        return [each.rule for each in (*admission.refused, *admission.skipped)]

    def _next(self) -> str:
        self.last += 1
        return f"run-{self.last}"


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replication") / "empty.db"
    Ledger.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def desk(tmp_path: Path, made_once: Path, clock: HandClock) -> Desk:
    path = shutil.copy(made_once, tmp_path / "wavelift.db")
    return Desk(Ledger.open(f"sqlite:///{path}"), clock)


# Jobs


def test_sms_03_a_job_is_made_read_changed_and_listed(desk: Desk, clock: HandClock) -> None:
    made = desk.create(frequency_hours=12, description="shop front")
    assert (made.state, made.seed_at, made.schedule.next_after(START)) == (JobState.ACTIVE, START, START + 12 * HOUR)
    assert within(desk.ledger.read(), jobs.standing, WAVE) == (made,)
    clock.sleep(60)
    changed = update_job(
        desk.ledger, made.id, frequency_hours=24, keep_amis=2, license_type="byol", by="bob", clock=clock
    )
    assert (changed.frequency_hours, changed.keep_amis, changed.license_type) == (24, 2, "byol")
    assert changed.scheduled_since == clock.time
    assert within(desk.ledger.read(), read_schedules, WAVE) == {"web01": changed.schedule}
    assert within(desk.ledger.read(), list_jobs, JobFilter(search="SHOP")).items == (changed,)
    assert within(desk.ledger.read(), list_jobs, JobFilter(waves=())).total == 0
    actions = [event.action for event in within(desk.ledger.read(), list_events, object_kind="replication_job")]
    assert actions == ["replication_job.created", "replication_job.updated"]


def test_sms_03_what_a_job_cannot_be(desk: Desk, clock: HandClock) -> None:
    made = desk.create()
    with pytest.raises(BusyError, match="has a replication job"):
        desk.create()
    with pytest.raises(SpecError, match="more than 30 days ahead"):
        desk.create("db01", seed_time="2027-01-01T00:00:00Z")
    with pytest.raises(SpecError, match="not in the range 12 to 24"):
        desk.create("db01", frequency_hours=6)
    with pytest.raises(PermanentError, match="no field colour"):
        update_job(desk.ledger, made.id, colour="red", by="ana", clock=clock)
    with pytest.raises(NotFoundError):
        within(desk.ledger.read(), jobs.get, "job-x")
    linux = Guest("debian11_64Guest", "Debian", "linux", 64, "supported", "x")
    order = JobOrder(server="db01", plan=ReplicationPlan(), license_type="aws", guest=linux)
    with pytest.raises(RefusedError, match="not possible for this guest"):
        create_jobs(desk.ledger, WAVE, [order], by="ana", clock=clock)
    order = JobOrder(
        server="db01",
        plan=ReplicationPlan(ami="register"),
        guest=Guest("w", "W", "windows-server", 64, "supported", "x"),
    )
    with pytest.raises(RefusedError, match="billing data"):
        create_jobs(desk.ledger, WAVE, [order], by="ana", clock=clock)


def test_a_spec_is_applied_and_drift_is_shown(desk: Desk, clock: HandClock) -> None:
    orders = [JobOrder(server=name, plan=ReplicationPlan()) for name in ("web01", "db01")]
    done = apply_wave(desk.ledger, WAVE, orders, by="ana", clock=clock)
    assert [change.kind for change in done] == [ChangeKind.CREATE, ChangeKind.CREATE]
    clock.sleep(3600)
    assert {change.kind for change in plan_changes(desk.ledger, WAVE, orders)} == {ChangeKind.KEEP}
    pause_job(desk.ledger, done[0].job.id if done[0].job else "", by="ana", clock=clock)
    orders = [JobOrder(server="web01", plan=ReplicationPlan(frequency_hours=12))]
    drift = plan_changes(desk.ledger, WAVE, orders)
    assert [(change.kind, change.server, change.fields) for change in drift] == [
        (ChangeKind.UPDATE, "web01", {"frequency_hours": (24, 12)}),
        (ChangeKind.MISSING, "db01", None),
    ]
    (changed, _missing) = apply_wave(desk.ledger, WAVE, orders, by="ana", clock=clock)
    assert changed.job is not None
    assert (changed.job.frequency_hours, changed.job.state) == (12, JobState.PAUSED)
    assert set(within(desk.ledger.read(), read_schedules, WAVE)) == {"db01"}
    row = within(desk.ledger.read(), wave_schedule_of, WAVE)
    assert row is not None
    assert row.version == 2, "one new row for each change of the wave, however many jobs"


def test_pausing_and_resuming(desk: Desk, clock: HandClock) -> None:
    job = desk.create(seed_time=START.isoformat())
    pause_job(desk.ledger, job.id, by="ana", clock=clock)
    assert within(desk.ledger.read(), read_schedules, WAVE) == {}
    assert desk.rules(desk.admit()) == ["paused"]
    clock.sleep(24 * 3600 + 60)
    resumed = resume_job(desk.ledger, job.id, by="ana", clock=clock)
    assert resumed.schedule.newest(clock.now()) is None, "the instant a minute ago is not made up"
    assert desk.admit().granted


def test_a_name_never_changes_its_server_under_a_lineage(desk: Desk, clock: HandClock) -> None:
    job = desk.create()

    def meet(uuid: str, *, source: str = "vc-1") -> ReplicationJob:
        seen = SourceServer(source=source, name="web01", moref="vm-1", instance_uuid=uuid)
        return remember_server(desk.ledger, job.id, seen, by="run", clock=clock)

    assert meet("uuid-1").identity == "uuid-1"
    assert meet("uuid-2").identity == "uuid-2", "nothing was replicated yet"
    desk.complete(desk.begin())
    assert meet("uuid-2").source == "vc-1"
    with pytest.raises(PermanentError, match="stands for another server"):
        meet("uuid-1")
    assert meet("uuid-2", source="vc-one").source == "vc-one", "the connection got another name, the server is the same"
    with pytest.raises(PermanentError, match="stands for another server"):
        meet("", source="vc-2")


# On demand


def test_sms_06_two_on_demand_runs_in_24_hours_failed_ones_counted(desk: Desk, clock: HandClock) -> None:
    desk.create()
    desk.complete(desk.begin())
    clock.sleep(3600)
    desk.fail(desk.begin())
    admission = desk.admit()
    (refused,) = admission.refused
    assert (refused.rule, refused.until) == ("quota", START + 24 * HOUR)
    with pytest.raises(RefusedError) as caught:
        desk.reserve()
    assert caught.value.where["rule"] == "quota"
    assert caught.value.where["until"] == (START + 24 * HOUR).isoformat()
    assert pickle.loads(pickle.dumps(caught.value)).refusals == caught.value.refusals
    clock.time = START + 24 * HOUR
    desk.begin()
    states = [run.state for run in within(desk.ledger.read(), list_runs, RunFilter(states=[RunState.REFUSED])).items]
    assert states == [RunState.REFUSED], "the one that reached Airflow is in the history"


def test_sms_06_one_run_at_a_time(desk: Desk) -> None:
    job = desk.create()
    run = desk.begin()
    assert within(desk.ledger.read(), current_runs, [job.id]) == {job.id: run}
    assert desk.rules(desk.admit()) == ["in_progress"]
    with pytest.raises(RefusedError, match="in progress"):
        desk.reserve()


def test_air_04_a_reservation_is_taken_up_by_its_dag_run(desk: Desk, clock: HandClock) -> None:
    desk.create()
    desk.create("db01")
    (reserved,) = desk.reserve(id="r1")
    assert desk.reserve(id="r1") == (reserved,)
    assert desk.rules(desk.admit("other", servers=["web01"])) == ["in_progress"]
    clock.sleep(119)
    (granted,) = desk.admit("r1").granted
    assert (granted.id, granted.state, granted.type) == (reserved.id, RunState.ACTIVE, RunType.ON_DEMAND)
    assert desk.admit("r1", servers=["web01"]).granted == (granted,)
    with pytest.raises(PermanentError, match="already: active"):
        desk.reserve(id="r1")


def test_air_04_a_reservation_without_dag_run_expires_uncounted(desk: Desk, clock: HandClock) -> None:
    desk.create()
    for _ in range(3):
        desk.reserve()
        clock.sleep(120)
    (late,) = desk.admit("run-3").granted
    assert late.counted_at == clock.time
    desk.complete(late)
    desk.complete(desk.begin())
    assert desk.rules(desk.admit()) == ["quota"]
    assert desk.rules(desk.admit("run-2")) == ["quota"], "another one that comes late asks like any other"
    assert desk.rules(desk.admit("run-2")) == ["quota"]


def test_air_04_all_servers_of_a_request_are_reserved_or_none(desk: Desk) -> None:
    desk.create()
    with pytest.raises(RefusedError, match="no replication job for server 'ghost'") as caught:
        desk.reserve("web01", "ghost")
    assert [each.server for each in caught.value.refusals] == ["ghost"]
    assert within(desk.ledger.read(), list_runs).total == 0
    with pytest.raises(PermanentError, match="No server is named"):
        reserve_runs(desk.ledger, WAVE, [], desk.ctx(DagRun("d", "r")))


def test_clearing_goes_on_with_the_same_run_and_counts_nothing_twice(desk: Desk, clock: HandClock) -> None:
    desk.create()
    run = desk.begin()
    for _ in range(4):
        assert desk.fail(run).state is RunState.FAILED
        job = within(desk.ledger.read(), jobs.get, run.job_id)
        if job.state is JobState.PAUSED:
            resume_job(desk.ledger, job.id, by="ana", clock=clock)
        clock.sleep(60)
        (again,) = desk.admit("run-1").granted
        assert (again.id, again.counted_at) == (run.id, START)
    done = desk.complete(run)
    assert desk.admit("run-1").granted == ()
    assert desk.admit("run-1").finished == (done,)
    assert desk.begin(), "one is left"


def test_a_server_cleared_behind_admit_goes_on_or_is_refused(desk: Desk, clock: HandClock) -> None:
    desk.create()
    first = desk.fail(desk.begin())

    def go_on() -> ReplicationRun:
        return continue_run(desk.ledger, first.id, desk.ctx(first.run))

    assert go_on().state is RunState.ACTIVE
    assert go_on().state is RunState.ACTIVE
    desk.fail(first)
    second = desk.begin()
    with pytest.raises(RefusedError, match="in progress"):
        go_on()
    desk.complete(second)
    desk.complete(go_on())
    with pytest.raises(PermanentError, match="has ended as completed"):
        go_on()


def test_a_run_whose_dag_run_has_ended_is_closed(desk: Desk) -> None:
    job = desk.create()
    run = desk.begin()
    desk.dead.add(run.dag_run_id)
    assert len(desk.admit().granted) == 1
    closed = within(desk.ledger.read(), replication_runs.get, run.id)
    assert (closed.state, closed.error) == (RunState.FAILED, "Its DAG run ended before it did")
    assert within(desk.ledger.read(), jobs.get, job.id).failures == 1


def test_backfills_are_refused(desk: Desk) -> None:
    desk.create()
    with pytest.raises(PermanentError, match="backfill"):
        desk.admit(backfill=True)


# Scheduled


def test_sms_04_a_scheduled_run_takes_every_due_server_once(desk: Desk, clock: HandClock) -> None:
    desk.create("a", seed_time=START.isoformat())
    desk.create("b", seed_time=(START + timedelta(minutes=5)).isoformat())
    desk.create("far", seed_time=(START + timedelta(minutes=20)).isoformat())
    (first,) = desk.admit("s1", scheduled_for=START).granted
    assert (first.server, first.type, first.scheduled_for, first.counted_at) == ("a", RunType.AUTOMATIC, START, None)
    clock.sleep(300)
    assert [run.server for run in desk.admit("s2", scheduled_for=START + timedelta(minutes=5)).granted] == ["b"]
    assert desk.admit("s1", scheduled_for=START).granted == (first,)


def test_sms_07_an_instant_while_a_run_is_in_progress_is_skipped_for_good(desk: Desk, clock: HandClock) -> None:
    desk.create(seed_time=START.isoformat())
    run = desk.begin()
    admission = desk.admit("s1", scheduled_for=START)
    assert (admission.granted, admission.refused) == ((), ())
    (skipped,) = admission.skipped
    assert skipped.rule == "in_progress"
    desk.complete(run)
    assert len(desk.admit("s1", scheduled_for=START).skipped) == 1
    assert desk.admit("s2", scheduled_for=START + timedelta(minutes=5)) == Admission()
    clock.time = START + 24 * HOUR
    assert len(desk.admit("s3", scheduled_for=clock.time).granted) == 1, "the next one stands"


# Outcome


def test_inv_4_lineage_advances_with_the_whole_recorded_set(desk: Desk, clock: HandClock) -> None:
    job = desk.create()
    run = desk.begin()
    desk.record(run, _disk(2000, "snap-1"), _disk(2001, "snap-2"))
    again = desk.record(run, _disk(2000, "snap-1"), _disk(2001, "snap-2"))
    assert (again.bytes_read, again.bytes_sent, again.blocks_sent, again.superseded) == (10, 6, 2, [])
    complete_run(desk.ledger, run.id, ami_id="ami-1", proof={"level": "full"}, clock=clock)
    told = within(desk.ledger.read(), last_details, object_id=run.id, action="replication_run.completed")
    assert told is not None
    assert (told["ami_id"], told["verified"]) == ("ami-1", {"level": "full"})
    assert within(desk.ledger.read(), last_details, object_id="run-0", action="replication_run.completed") is None
    second = desk.begin()
    with pytest.raises(PermanentError, match="not the recorded one"):
        desk.record(second, _disk(2000, "snap-3", "snap-1"), _disk(2001, "snap-4", "snap-x"))
    with pytest.raises(PermanentError, match="no complete set"):
        desk.record(second, _disk(2000, "snap-3"), _disk(2000, "snap-4"))
    assert [disk.snapshot_id for disk in within(desk.ledger.read(), read_lineage, job.id)] == ["snap-1", "snap-2"]
    recorded = desk.record(second, _disk(2000, "snap-3", "snap-1"))
    assert [disk.snapshot_id for disk in within(desk.ledger.read(), read_lineage, job.id)] == ["snap-3"]
    assert recorded.superseded is not None
    assert [disk["snapshot_id"] for disk in recorded.superseded] == ["snap-1", "snap-2"]


@pytest.mark.parametrize(
    ("disks", "recorded"),
    [
        pytest.param([("a", 2005, "snap-a"), ("b", 2001, "snap-b")], True, id="one at another unit"),
        pytest.param([("b", 2000, "snap-b"), ("a", 2001, "snap-a")], True, id="swapped"),
        pytest.param([("a", 2000, "snap-b"), ("b", 2001, "snap-a")], False, id="each on the other's"),
        pytest.param([("a", 2000, "snap-a"), ("a", 2001, "snap-a")], False, id="two children of one"),
        pytest.param([("c", 2000, "snap-a")], False, id="another disk at the old place"),
    ],
)
def test_inv_4_a_disk_is_known_by_its_uuid_wherever_it_is(
    desk: Desk, disks: list[tuple[str, int, str]], recorded: bool
) -> None:
    job = desk.create()
    desk.fail(desk.record(desk.begin(), _disk(2000, "snap-a", uuid="a"), _disk(2001, "snap-b", uuid="b")))
    run = desk.begin()
    sent = [_disk(key, f"new-{uuid}-{key}", parent, uuid) for uuid, key, parent in disks]
    if recorded:
        desk.record(run, *sent)
        named = {disk.key: disk.snapshot_id for disk in within(desk.ledger.read(), read_lineage, job.id)}
        assert named == {key: f"new-{uuid}-{key}" for uuid, key, _ in disks}
    else:
        with pytest.raises(PermanentError, match="not the recorded one"):
            desk.record(run, *sent)
        assert {disk.snapshot_id for disk in within(desk.ledger.read(), read_lineage, job.id)} == {"snap-a", "snap-b"}


def test_inv_4_a_failed_run_never_becomes_a_base(desk: Desk, clock: HandClock) -> None:
    job = desk.create()
    run = desk.fail(desk.begin())
    with pytest.raises(PermanentError, match="has ended as failed"):
        desk.record(run, _disk(2000, "snap-1"))
    assert within(desk.ledger.read(), read_lineage, job.id) == ()
    active = desk.begin()
    with pytest.raises(PermanentError, match="no recorded disks"):
        complete_run(desk.ledger, active.id, clock=clock)


def test_inv_4_what_failed_since_the_last_recorded_run_may_have_left_a_seed(desk: Desk, clock: HandClock) -> None:
    """Newest first; neither cancelled nor quarantined ones, and none of another job."""
    desk.create()
    other = desk.create("web02")

    def begin(server: str = "web01") -> ReplicationRun:
        clock.time += 25 * HOUR
        (run,) = desk.admit(servers=[server]).granted
        return run

    def before(run: ReplicationRun) -> list[str]:
        return [each.id for each in within(desk.ledger.read(), unfinished_before, run)]

    first = desk.fail(begin())
    assert before(first) == []
    cancelled = begin()
    cancel_run(desk.ledger, cancelled.id, by="ana", clock=clock)
    mark_cancelled(desk.ledger, cancelled.id, "asked", clock=clock)
    assert desk.fail(begin("web02")).job_id == other.id
    second = desk.fail(begin())
    assert before(second) == [first.id]
    third = desk.complete(begin())
    assert before(third) == [second.id, first.id], "its report removes what they left"
    fourth = begin()
    assert before(fourth) == [], "the recorded run is what it builds on"
    desk.record(fourth, _disk(2000, "snap-4", f"snap-{third.id}"))
    quarantine_run(desk.ledger, fourth.id, "block 7 differs", clock=clock)
    desk.fail(fourth)
    fifth = desk.fail(begin())
    assert before(begin()) == [fifth.id]


def test_inv_1_a_run_whose_verify_failed_is_no_parent(desk: Desk, clock: HandClock) -> None:
    job = desk.create()
    run = desk.begin()
    desk.record(run, _disk(2000, "snap-1"))
    (gone,) = quarantine_run(desk.ledger, run.id, "block 7 differs", clock=clock)
    assert gone.snapshot_id == "snap-1"
    assert within(desk.ledger.read(), read_lineage, job.id) == ()
    assert quarantine_run(desk.ledger, run.id, "block 7 differs", clock=clock) == ()
    with pytest.raises(PermanentError, match="no recorded disks"):
        complete_run(desk.ledger, run.id, clock=clock)
    with pytest.raises(PermanentError, match="quarantined: block 7"):
        desk.record(run, _disk(2000, "snap-2"))
    desk.fail(run)
    (again,) = desk.admit("run-1").granted
    desk.record(again, _disk(2000, "snap-2"))
    assert quarantine_tracking(desk.ledger, run.id, 2000, "audit", clock=clock)
    assert not quarantine_tracking(desk.ledger, run.id, 2000, "another", clock=clock), "told already"
    assert not quarantine_tracking(desk.ledger, run.id, 1, "audit", clock=clock)
    assert [disk.quarantine for disk in within(desk.ledger.read(), read_lineage, job.id)] == ["audit"]


def test_a_job_pauses_after_failures_in_a_row_and_can_be_resumed(desk: Desk, clock: HandClock) -> None:
    job = desk.create(pause_after_failures=2)
    desk.fail(desk.begin())
    desk.complete(desk.begin())
    assert within(desk.ledger.read(), jobs.get, job.id).failures == 0
    clock.sleep(25 * 3600)
    desk.fail(desk.begin())
    assert within(desk.ledger.read(), jobs.get, job.id).state is JobState.ACTIVE
    desk.fail(desk.begin())
    paused = within(desk.ledger.read(), jobs.get, job.id)
    assert (paused.state, paused.failures) == (JobState.PAUSED, 2)
    assert "it broke" in paused.state_reason
    clock.sleep(25 * 3600)
    resume_job(desk.ledger, job.id, by="ana", clock=clock)
    desk.fail(desk.begin())
    assert within(desk.ledger.read(), jobs.get, job.id).state is JobState.ACTIVE, "counted anew"


def test_amis_beyond_those_kept_expire(desk: Desk, clock: HandClock) -> None:
    job = desk.create(keep_amis=2)
    for number in range(4):
        desk.complete(desk.begin(), f"ami-{number}")
        clock.sleep(13 * 3600)
    assert [run.ami_id for run in expired_amis(desk.ledger, job.id)] == ["ami-1", "ami-0"]
    for run in expired_amis(desk.ledger, job.id):
        gone = record_ami_removed(desk.ledger, run.id, clock=clock)
        assert gone.ami_state is AmiState.DEREGISTERED
    assert expired_amis(desk.ledger, job.id) == ()
    assert within(desk.ledger.read(), jobs.get, job.id).latest_ami_id == "ami-3"


def test_sms_10_a_term_of_90_days_with_warnings_and_extension(desk: Desk, clock: HandClock) -> None:
    job = desk.create(seed_time=START.isoformat())
    with pytest.raises(PermanentError, match="begins with the first replication"):
        extend_job(desk.ledger, job.id, by="ana", clock=clock)
    clock.sleep(3600)
    desk.complete(desk.begin())
    begun = within(desk.ledger.read(), jobs.get, job.id)
    assert begun.term_ends_at == START + HOUR + timedelta(days=90)
    given = []
    for day in range(92):
        clock.time = START + HOUR + timedelta(days=day)
        given += [(day, notice.days) for notice in warn_terms(desk.ledger, WAVE, clock=clock)]
    assert given == [(76, 14), (83, 7), (89, 1)]
    assert desk.rules(desk.admit()) == ["term"]
    assert desk.admit(scheduled_for=START + timedelta(days=91)) == Admission()
    extended = extend_job(desk.ledger, job.id, days=10, by="ana", clock=clock)
    assert extended.term_ends_at == clock.time + timedelta(days=10)
    extend_job(desk.ledger, job.id, days=3650, by="ana", clock=clock)
    with pytest.raises(PermanentError, match="more than 7300 days from now"):
        extend_job(desk.ledger, job.id, days=3650, by="ana", clock=clock)
    assert desk.begin()


def test_sms_09_deleting_a_job_ends_its_run_and_keeps_what_must_be_removed(desk: Desk, clock: HandClock) -> None:
    job = desk.create()
    desk.complete(desk.begin(), "ami-1")
    run = desk.begin()
    deletion = delete_job(desk.ledger, job.id, by="bob", clock=clock)
    assert [each.id for each in deletion.cut_short] == [run.id]
    assert [disk.key for disk in deletion.lineage] == [2000]
    assert within(desk.ledger.read(), replication_runs.get, run.id).cancel_requested
    with pytest.raises(PermanentError, match="has ended as deleted"):
        desk.record(run, _disk(2000, "snap-9"))
    assert desk.fail(run).state is RunState.DELETED
    assert delete_job(desk.ledger, job.id, by="bob", clock=clock).lineage == deletion.lineage
    with pytest.raises(BusyError):
        desk.create()
    with pytest.raises(PermanentError, match="is deleted"):
        resume_job(desk.ledger, job.id, by="bob", clock=clock)
    done = complete_deletion(desk.ledger, job.id, by="bob", clock=clock)
    assert complete_deletion(desk.ledger, job.id, by="bob", clock=clock) == done
    assert (done.state, within(desk.ledger.read(), read_lineage, job.id)) == (JobState.DELETED, ())
    assert within(desk.ledger.read(), list_jobs).total == 0
    assert desk.create().id != job.id
    assert within(desk.ledger.read(), list_runs, RunFilter(job_id=job.id)).total == 2, "the history stays"
    assert desk.rules(desk.admit(run.dag_run_id)) == ["deleted"]


def test_a_job_or_run_changes_only_under_the_lock_of_its_wave(desk: Desk, clock: HandClock) -> None:
    """Also on SQLite, where nothing else would notice."""
    job, run = desk.create(), desk.begin()
    with desk.ledger.write(jobs.lock_name("crm")) as tx:
        with pytest.raises(RuntimeError, match="without its lock: replication/erp"):
            jobs.apply(tx, job, "updated", at=clock.now(), by="ana", description="x")
        with pytest.raises(RuntimeError, match="without its lock: replication/erp"):
            replication_runs.request_cancel(tx, run.id, by="ana", clock=clock)
    assert not within(desk.ledger.read(), replication_runs.get, run.id).cancel_requested


def test_a_run_that_ended_keeps_its_end(desk: Desk, clock: HandClock) -> None:
    for server in ("a", "b", "c"):
        desk.create(server)
    runs = desk.admit("run-1").granted
    desk.complete(runs[0])
    cancel_run(desk.ledger, runs[1].id, by="bob", clock=clock)
    within(
        desk.ledger.write(),
        record_progress,
        runs[2].id,
        Progress("Uploading", 140, bytes_done=5),
        clock=clock,
    )
    for each in runs:
        mark_cancelled(desk.ledger, runs[1].id, "on request", clock=clock)
        desk.fail(each)
    after = {run.server: run.state for run in within(desk.ledger.read(), of_dag_run, DagRun("erp.replicate", "run-1"))}
    assert after == {"a": RunState.COMPLETED, "b": RunState.CANCELLED, "c": RunState.FAILED}
    with pytest.raises(PermanentError, match="already ended"):
        cancel_run(desk.ledger, runs[1].id, by="bob", clock=clock)
