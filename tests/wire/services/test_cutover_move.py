"""One server's cutover over both simulators and a ledger: from its slot to its network, and what must never happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import run_context
from tests.ledgers import fresh_ledger, within

from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.vsphere import switch as power
from wavelift.base.domain import LaunchResult, ReplicationResult
from wavelift.base.errors import PermanentError, TamperedError
from wavelift.base.names import TAG_RUN, run_hash, run_key
from wavelift.base.run import CancelFlag, DagRun, MemoryCheckpoints, Progress, RunContext, SystemClock
from wavelift.ledger import cutovers, jobs, lineage, replication_runs
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.cutover import CutoverState, SourceBefore
from wavelift.rules.wave_cutover import Check, CutoverPlan
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.common.wanted import DEFAULT_TERMS
from wavelift.services.cutover import launch as launching
from wavelift.services.cutover import moving
from wavelift.services.cutover.launch import Starting, launch
from wavelift.services.cutover.reserve import reserve
from wavelift.services.cutover.switch import Switched, switch
from wavelift.services.dataplane import source_switch
from wavelift.services.dataplane.checks import CheckOutcome, CheckReport
from wavelift.services.dataplane.disk_crew import FrozenServer
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.replication import RunHistory, replicate_server
from wavelift.services.dataplane.replication_messages import ReservedRun, StoppedSource
from wavelift.services.dataplane.snapshot import take_snapshot
from wavelift.services.dataplane.snapshot_removal import remove_snapshot
from wavelift.services.dataplane.source_switch import stop_source
from wavelift.services.migration.launch import launch_once
from wavelift.services.replication.image import MadeImage, Replicated, advance_image
from wavelift.services.replication.jobs import JobOrder, create_jobs
from wavelift.services.replication.record import record

from .journey import Stage
from .replica import Killed, Replica

pytestmark = pytest.mark.wire

SERVER, WAVE = "copy01", "lab"
FENCED = (False, False, False)


class Cut:
    """The tasks of one server of a cutover run that went."""

    def __init__(self, stage: Stage, folder: Path, **plan: Any) -> None:
        self.stage = stage
        self.ledger = fresh_ledger(folder / "cutover.db")
        self.replica = Replica(stage, SERVER)
        self.run = DagRun("lab.cutover", folder.name)
        journey = stage.journey(SERVER)
        stage.looked.clear()
        (found,) = journey.preflight()
        change = {"cutover": CutoverPlan(ami="register", **plan)}
        self.task: ServerTask = found.model_copy(
            update={"plan": found.plan.cutting_over().model_copy(update=change), "final": True}
        )
        orders = [JobOrder(server=SERVER, plan=ReplicationPlan())]
        (job,) = create_jobs(self.ledger, WAVE, orders, by="test", clock=SystemClock())
        self.job = job.id
        self.images: list[str] = []
        self.open()

    def open(self) -> None:
        """A cutover of this run, which went."""
        self.key = run_key(self.run.dag_id, self.run.dag_run_id, SERVER)
        self.checkpoints = MemoryCheckpoints()
        columns = {"wave": WAVE, "server": SERVER, "environment": "lab", "requested_by": "test", "job_id": self.job}
        with self.ledger.write(jobs.lock_name(WAVE)) as tx:
            made = cutovers.insert(
                tx,
                at=SystemClock().now(),
                by="test",
                run=self.run,
                run_key=self.key,
                state=CutoverState.WAITING,
                tier="all",
                tier_index=0,
                **columns,
            )
            cutovers.apply(tx, made, "going", at=SystemClock().now(), by="test", state=CutoverState.GOING)

    @property
    def known(self) -> Cutover:
        return within(self.ledger.read(), moving.of_server, self.ctx())

    def ctx(self, **more: Any) -> RunContext:
        return run_context(self.run, SERVER, **{"checkpoints": self.checkpoints, **more})

    def reserve(self) -> ReservedRun:
        found = reserve(self.ledger, self.task, self.ctx(), limit=4, terms=DEFAULT_TERMS)
        assert isinstance(found, ReservedRun), found
        return found

    def stop(self, reserved: ReservedRun) -> StoppedSource:
        with self.stage.connect() as session:
            found = stop_source(session, self.task, reserved, self.ctx())
        assert isinstance(found, StoppedSource), found
        return found

    def send(self, reserved: ReservedRun, progress: Callable[[Progress], None] = lambda _: None) -> ReplicationResult:
        """Snapshot, transfer, and the snapshot's removal."""
        with self.stage.connect() as session:
            try:
                taken = take_snapshot(session, self.task, self.ctx(), replicates=True)
                source = FrozenServer(session, self.task, taken)
                history = RunHistory(reserved.lineages, reserved.unfinished, lambda *_: None)
                ctx = self.ctx(progress=progress)
                result = replicate_server(source, self.stage.access(), ctx, self.replica.options, history)
            finally:
                remove_snapshot(session, self.stage.access, self.task, self.ctx())
        self.replica.record(result)
        return result

    def recorded(self, stopped: StoppedSource, result: ReplicationResult) -> None:
        moving.moving(self.ledger, self.task, self.ctx())
        moving.note(self.ledger, self.ctx(), {"down": stopped.down_at})
        assert record(self.ledger, self.stage.access(), self.task, result, self.ctx()) == ()

    def image(self, result: ReplicationResult, *, attested: bool = True) -> MadeImage:
        sent = Replicated(self.task, result, None, attested=attested, method="register" if attested else None)
        made = advance_image(self.ledger, self.stage.access(), sent, self.ctx(), limit=5)
        assert isinstance(made, MadeImage), made
        self.images.append(made.image_id)
        return made

    def imaged(self) -> MadeImage:
        reserved = self.reserve()
        stopped = self.stop(reserved)
        result = self.send(reserved)
        self.recorded(stopped, result)
        return self.image(result)

    def launch(self, image: MadeImage) -> LaunchResult:
        for _ in range(200):
            found = launch(self.ledger, self.stage.access(), self.task, image, self.ctx())
            if isinstance(found, LaunchResult):
                return found
            assert isinstance(found, Starting)
            SystemClock().sleep(0.05)
        raise AssertionError("it does not run")

    def instances(self) -> list[str]:
        found = Ec2(self.stage.access()).find_ours({TAG_RUN: run_hash(self.key)}).instances
        return [one.instance_id for one in found]

    def put_back(self) -> None:
        """As the tests after this one want to find it."""
        before = self.known.source
        vm = self.task.facts.moref
        if before is not None:
            cards = SourceBefore.load(before).cards
            with self.stage.connect() as session:
                power.unfence(session, vm, cards, server=SERVER, cancel=CancelFlag())
                power.power_on(session, vm, server=SERVER, cancel=CancelFlag())
                power.unfence(session, vm, cards, server=SERVER, cancel=CancelFlag())
        ec2 = Ec2(self.stage.access())
        ec2.terminate(self.instances())
        for image in self.images:
            ec2.deregister(image, delete_snapshots=False)
        self.replica.discard()
        self.ledger.close()


@pytest.fixture
def cut(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cut]:
    monkeypatch.setattr(source_switch, "OFF_SECONDS", 0.1)
    monkeypatch.setattr(source_switch, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(power, "POLL_S", 0.05)
    made = Cut(stage, tmp_path)
    yield made
    made.put_back()


def passed(launched: LaunchResult, *, ok: bool = True) -> CheckReport:
    outcome = CheckOutcome(kind="status", name="EC2 status checks", passed=ok, words="" if ok else "it does not answer")
    return CheckReport(server=SERVER, instance_id=launched.instance_id, outcomes=(outcome,))


def test_from_the_slot_to_the_network(cut: Cut, stage: Stage) -> None:
    image = cut.imaged()
    shown = next(vm for vm in stage.vc.state()["vms"] if vm["name"] == SERVER)
    assert shown["power"] == "poweredOff"
    assert {(nic["start_connected"], nic["connected"], nic["allow_guest_control"]) for nic in shown["nics"]} <= {FENCED}
    launched = cut.launch(image)
    assert cut.launch(image) == launched, "asked again, it is the same"
    assert cut.instances() == [launched.instance_id]
    with pytest.raises(TamperedError, match="does not say that the server's instance passed"):
        switch(cut.ledger, stage.access(), cut.task, passed(launched, ok=False), cut.ctx())
    more = cut.task.plan.model_copy(
        update={"cutover": CutoverPlan(ami="register", checks=(Check(kind="tcp", port=22),))}
    )
    with pytest.raises(TamperedError, match="does not say that the server's instance passed"):
        asked = cut.task.model_copy(update={"plan": more})  # of two checks, one was left out
        switch(cut.ledger, stage.access(), asked, passed(launched), cut.ctx())
    assert cut.known.moment("checked") is None
    done = switch(cut.ledger, stage.access(), cut.task, passed(launched), cut.ctx())
    assert isinstance(done, Switched)
    known = cut.known
    assert (known.state, known.instance_id) == (CutoverState.SWITCHED, done.instance_id)
    moments = ["stopping", "down", "launched", "checked", "switched"]
    times = [known.moment(name) for name in moments]
    assert times == sorted(times, key=lambda at: at or SystemClock().now())
    assert all(times)
    assert known.target == {"aws_conn_id": "aws_lab", "region": stage.aws.region, "account": "123456789012"}
    assert switch(cut.ledger, stage.access(), cut.task, passed(launched), cut.ctx()) == done
    assert cut.launch(image) == launched, "a launch that is cleared after the switch does nothing"


@pytest.mark.parametrize("when", ["before the ledger knows it", "after"])
def test_a_launch_that_dies_makes_no_second_instance(cut: Cut, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    image = cut.imaged()
    real, once = launch_once, launching._looked_at

    def killed(*args: Any) -> Any:
        (real if when.startswith("before") else once)(*args)
        raise Killed

    name = "launch_once" if when.startswith("before") else "_looked_at"
    monkeypatch.setattr(launching, name, killed)
    with pytest.raises(Killed):
        cut.launch(image)
    (first,) = cut.instances()
    assert bool(cut.known.instance_id) == (when == "after")
    monkeypatch.setattr(launching, "launch_once", real)
    monkeypatch.setattr(launching, "_looked_at", once)
    assert cut.launch(image).instance_id == first
    assert cut.instances() == [first]


def test_nothing_is_launched_beside_a_source_that_was_not_stopped_or_goes_back(cut: Cut) -> None:
    reserved = cut.reserve()
    stopped = cut.stop(reserved)
    result = cut.send(reserved)
    assert record(cut.ledger, cut.stage.access(), cut.task, result, cut.ctx()) == ()
    image = cut.image(result)
    with pytest.raises(PermanentError, match="was not stopped and fenced"):
        cut.launch(image)
    moving.note(cut.ledger, cut.ctx(), {"down": stopped.down_at})
    with pytest.raises(TamperedError, match="not the image of the server's last changes"):
        cut.launch(image.model_copy(update={"image_id": "ami-0123456789abcdef0"}))
    with cut.ledger.write(jobs.lock_name(WAVE)) as tx:
        known = cutovers.get(tx, cut.known.id)
        cutovers.apply(tx, known, "test", at=SystemClock().now(), by="test", state=CutoverState.REVERTING)
    with pytest.raises(PermanentError, match="being reverted"):
        cut.launch(image)
    assert cut.instances() == []


def test_a_source_that_is_powered_on_in_mid_transfer_fails_the_run(cut: Cut, stage: Stage) -> None:
    """And what was sent becomes neither a base nor an image."""
    reserved = cut.reserve()
    cut.stop(reserved)

    def meanwhile(progress: Progress) -> None:
        stage.vc.set_vm(SERVER, power="poweredOn")

    with pytest.raises(PermanentError, match="was stopped for its cutover, and runs again"):
        cut.send(reserved, meanwhile)
    run = within(cut.ledger.read(), replication_runs.get, reserved.run)
    assert run.recorded_at is None
    assert within(cut.ledger.read(), lineage.read_lineage, run.job_id) == ()
    found = Ec2(stage.access()).snapshots_with({TAG_RUN: run_hash(cut.key)})
    cut.replica.made += [each.snapshot_id for each in found]


def test_no_snapshot_is_taken_of_a_source_that_runs_again(cut: Cut, stage: Stage) -> None:
    cut.stop(cut.reserve())
    stage.vc.set_vm(SERVER, power="poweredOn")
    with stage.connect() as session, pytest.raises(PermanentError, match="and runs again"):
        take_snapshot(session, cut.task, cut.ctx(), replicates=True)


def test_only_the_last_run_of_a_cutover_needs_no_proof(cut: Cut) -> None:
    reserved = cut.reserve()
    stopped = cut.stop(reserved)
    result = cut.send(reserved)
    cut.recorded(stopped, result)
    with pytest.raises(TamperedError, match="not read back as its plan says"):
        cut.image(result, attested=False)
