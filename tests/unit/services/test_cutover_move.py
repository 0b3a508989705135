"""One server of a cutover by the ledger: when its source may be stopped, and what fails or ends whom."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contexts import Alive, HandClock, run_context
from tests.ledgers import within
from tests.unit.services.test_nfc_slots import _task
from tests.unit.services.test_replication import WAVE, Desk, clock, desk, made_once

from wavelift.adapters.aws.addresses import Addresses, Interface
from wavelift.base.domain import NicFacts
from wavelift.base.errors import PermanentError, RefusedError
from wavelift.base.names import run_key
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import cutovers, jobs, replication_runs
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.cutover import CutoverState, SourceBefore, StepState
from wavelift.rules.queue import Priority
from wavelift.rules.replication import JobState, RunState, RunType
from wavelift.services.common.slots import InQueue
from wavelift.services.common.wanted import Terms
from wavelift.services.cutover import launch, moving, tiers
from wavelift.services.cutover.reserve import InTier, reserve
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.replication_messages import ReservedRun
from wavelift.services.replication.deletion import delete_job

__all__ = ["clock", "desk", "made_once"]

pytestmark = pytest.mark.unit

RUN = DagRun("erp.cutover", "c1")
CARD = NicFacts(key=4000, mac="00:50:56:00:00:01", start_connected=True, connected=True, allow_guest_control=True)
NEXT = Terms(priority=Priority.NEXT)


class Wave:
    """Servers of one cutover run that went, each in a tier."""

    def __init__(self, desk: Desk, clock: HandClock, **tier_of: int) -> None:
        self.desk, self.clock, self.ledger = desk, clock, desk.ledger
        self.dead: set[str] = set()
        for server, tier in tier_of.items():
            job = desk.create(server)
            self.write(
                cutovers.insert,
                at=clock.now(),
                by="ana",
                run=RUN,
                run_key=run_key(RUN.dag_id, RUN.dag_run_id, server),
                wave=WAVE,
                server=server,
                environment="prod",
                state=CutoverState.WAITING,
                requested_by="ana",
                tier=f"tier{tier}",
                tier_index=tier,
                job_id=job.id,
            )
            self.change(server, state=CutoverState.GOING)

    def write(self, call: Any, *args: Any, **columns: Any) -> Any:
        with self.ledger.write(jobs.lock_name(WAVE)) as tx:
            return call(tx, *args, **columns)

    def of(self, server: str) -> Cutover:
        return within(self.ledger.read(), moving.of_server, self.ctx(server))

    def change(self, server: str, **columns: Any) -> None:
        self.write(cutovers.apply, self.of(server), "test", at=self.clock.now(), by="test", **columns)

    def ctx(self, server: str) -> RunContext:
        alive = Alive(holder=lambda key: key.rpartition("/")[2] not in self.dead)
        return run_context(RUN, server, clock=self.clock, liveness=alive)

    def task(self, server: str, *cards: NicFacts, power: str = "poweredOn") -> ServerTask:
        task = _task(server, vddk=False)
        seen = {"nics": cards or (CARD,), "power": power, "ip_addresses": ("10.0.0.5",)}
        return task.model_copy(update={"facts": task.facts.model_copy(update=seen)})

    def reserve(self, server: str, *cards: NicFacts, limit: int = 4) -> ReservedRun | InQueue | InTier | None:
        return reserve(self.ledger, self.task(server, *cards), self.ctx(server), limit=limit, terms=NEXT)

    def fail(self, server: str, words: str = "launch: it broke") -> None:
        ctx = self.ctx(server)
        moving.fail(self.ledger, RUN, self.of(server).id, words, ctx)

    def wakes(self, server: str) -> bool:
        return bool(tiers.to_wake(self.ledger, [self.of(server).id], now=self.clock.now()))


def test_what_a_revert_restores_is_stored_with_the_intent_to_stop(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, web01=0)
    found = wave.reserve("web01")
    assert isinstance(found, ReservedRun)
    known = wave.of("web01")
    assert (known.state, known.run_id, known.phase) == (CutoverState.MOVING, found.run, "Stops its source")
    assert known.moment("stopping") == clock.time
    before = SourceBefore.load(known.source)
    assert (before.vm, before.powered_on, before.cards, before.addresses) == ("vm-web01", True, (CARD,), ("10.0.0.5",))
    assert found.stop is not None
    assert (found.stop.cutover, found.stop.before, found.stop.not_after) == (known.id, before, None)
    run = within(desk.ledger.read(), replication_runs.get, found.run)
    assert (run.type, run.state, run.run) == (RunType.CUTOVER, RunState.ACTIVE, RUN)


def test_the_job_of_a_server_that_is_being_cut_over_is_not_deleted(desk: Desk, clock: HandClock) -> None:
    """Its source may be off, and its last changes lie in the job's snapshots. What finalizes it deletes the job."""
    wave = Wave(desk, clock, web01=0)
    job = wave.of("web01").job_id
    for state in ("going", "moving", "failed", "reverting"):
        wave.change("web01", state=CutoverState(state))
        with pytest.raises(PermanentError, match=f"is {state}: its job is not deleted"):
            delete_job(desk.ledger, job, by="bob", clock=clock)
    wave.change("web01", state=CutoverState.REVERTED)
    assert delete_job(desk.ledger, job, by="bob", clock=clock).job.state is JobState.DELETING


def test_an_interface_that_an_older_file_prepared_is_not_launched_on(
    desk: Desk, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was approved names another address."""
    wave = Wave(desk, clock, web01=0)
    known, subject = wave.of("web01"), (cutovers.PREPARED_KIND, cutovers.prepared_id(WAVE, "web01"))
    spec = {"subnet": "subnet-1", "address": "10.0.0.5"}
    row = {"name": "address", "kind": "address", "words": "", "undo_words": "", "spec": spec}
    wave.write(cutovers.plan_steps, *subject, [row], at=clock.now())
    for state in (StepState.INTENDED, StepState.APPLIED):
        (step,) = within(desk.ledger.read(), cutovers.steps_of, *subject)
        wave.write(cutovers.change_step, step, to=state, at=clock.now(), by="test")
    made = Interface("eni-1", "subnet-1", "10.0.0.5", "available", security_groups=("sg-old",))
    regrouped: list[object] = []
    monkeypatch.setattr(Addresses, "set_groups", lambda self, *to: regrouped.append(to))
    monkeypatch.setattr(launch, "_interface_of", lambda access, row: made)
    aws: Any = None

    def plan(subnet: str) -> Any:
        return SimpleNamespace(subnet=subnet, security_groups=("sg-new",))

    found = [
        launch._prepared_interface(desk.ledger, aws, known, plan(subnet), address)
        for subnet, address in (("subnet-1", "10.0.0.5"), ("subnet-1", "10.0.0.6"), ("subnet-2", "10.0.0.5"))
    ]
    assert found == ["eni-1", "", ""]
    assert regrouped == [("eni-1", ["sg-new"])], "the security groups that were approved"


def test_a_fenced_source_is_never_taken_for_what_it_was(desk: Desk, clock: HandClock) -> None:
    """The pre-flight was cleared, too: it sees what we did."""
    wave = Wave(desk, clock, web01=0)
    wave.reserve("web01")
    fenced = CARD.model_copy(update={"start_connected": False, "connected": False, "allow_guest_control": False})
    for state in (CutoverState.MOVING, CutoverState.FAILED):
        wave.change("web01", state=state)
        again = wave.reserve("web01", fenced)
        assert isinstance(again, ReservedRun)
        assert again.stop is not None
        assert again.stop.before.cards == SourceBefore.load(wave.of("web01").source).cards == (CARD,)
        assert wave.of("web01").state is CutoverState.MOVING


def test_moments_of_an_earlier_stop_do_not_count_for_the_next(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, web01=0)
    wave.reserve("web01")
    moving.note(desk.ledger, wave.ctx("web01"), {"down": clock.now(), "recorded": clock.now()})
    wave.change("web01", state=CutoverState.FAILED)
    wave.reserve("web01")
    assert set(wave.of("web01").times or {}) & set(moving.OF_ONE_STOP) == set()


def test_unknown_cards_stop_no_source(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, web01=0)
    with pytest.raises(PermanentError, match="did not note its network cards"):
        wave.reserve("web01", NicFacts(key=0))
    assert wave.of("web01").state is CutoverState.GOING


def test_no_source_is_stopped_before_its_slot_is_won(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, web01=0, web02=0)
    assert isinstance(wave.reserve("web01", limit=1), ReservedRun)
    assert isinstance(wave.reserve("web02", limit=1), InQueue)
    known = wave.of("web02")
    assert (known.state, known.source) == (CutoverState.GOING, None)
    assert known.phase.startswith("Waits: 1st in line")


# Tiers


def test_a_tier_waits_for_the_checks_of_the_earlier_ones(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, db01=0, db02=0, web01=1)
    wave.reserve("db01")
    found = wave.reserve("web01")
    assert isinstance(found, InTier)
    assert found.words == "db01 (tier0), db02 (tier0)"
    assert not wave.wakes("web01")
    for server in ("db01", "db02"):
        assert isinstance(wave.reserve("web01"), InTier)
        wave.reserve(server)
        moving.note(desk.ledger, wave.ctx(server), {"checked": clock.now()})
    assert wave.wakes("web01")
    assert isinstance(wave.reserve("web01"), ReservedRun)


def test_after_a_failure_later_tiers_are_refused_and_what_runs_goes_on(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, db01=0, app01=1, web01=2)
    wave.reserve("db01")
    moving.note(desk.ledger, wave.ctx("db01"), {"checked": clock.now()})
    wave.reserve("app01")
    wave.fail("db01")
    assert isinstance(wave.reserve("app01"), ReservedRun), "it is under way"
    assert wave.wakes("web01")
    with pytest.raises(PermanentError, match=r"earlier tier was not cut over: db01 \(tier0: failed\)"):
        wave.reserve("web01")


@pytest.mark.parametrize(
    "state", [CutoverState.ENDED, CutoverState.REVERTING, CutoverState.FAILED], ids=lambda state: state.value
)
def test_whatever_keeps_an_earlier_server_back_keeps_later_tiers_back(
    desk: Desk, clock: HandClock, state: CutoverState
) -> None:
    wave = Wave(desk, clock, db01=0, web01=1)
    if state is not CutoverState.ENDED:
        wave.change("db01", state=CutoverState.MOVING)
    wave.change("db01", state=state)
    with pytest.raises(PermanentError, match="earlier tier"):
        wave.reserve("web01")


def test_tasks_that_were_killed_are_found_by_asking_airflow(desk: Desk, clock: HandClock) -> None:
    """A killed task tells the ledger nothing: whoever waits asks, and tells it."""
    wave = Wave(desk, clock, db01=0, web01=1)
    wave.reserve("db01")
    wave.dead.add("db01")
    with pytest.raises(PermanentError, match="earlier tier"):
        wave.reserve("web01")
    known = wave.of("db01")
    assert (known.state, known.error) == (CutoverState.FAILED, tiers.STOPPED_UNHEARD)


def test_one_of_those_who_wait_is_asked_to_look(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, db01=0, web01=1, web02=1)
    ids = [wave.of(server).id for server in ("web01", "web02")]
    assert len(tiers.first_of_each_run(desk.ledger, ids)) == 1


# Window, cancel, refusals


def _window(wave: Wave, server: str, minutes: int, p90_minutes: int) -> None:
    end = wave.clock.time + timedelta(minutes=minutes)
    wave.change(server, window_end=end, forecast={"reachable_p90_s": p90_minutes * 60.0})


def test_no_source_is_stopped_whose_downtime_may_end_outside_the_window(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, web01=0, web02=0)
    _window(wave, "web01", 60, 20)
    _window(wave, "web02", 60, 20)
    found = wave.reserve("web01")
    assert isinstance(found, ReservedRun)
    assert found.stop is not None
    assert found.stop.not_after == clock.time + timedelta(minutes=40)
    clock.sleep(41 * 60)
    assert wave.wakes("web02")
    with pytest.raises(PermanentError, match="does not hold the server's downtime any more"):
        wave.reserve("web02")
    assert wave.of("web02").source is None
    assert isinstance(wave.reserve("web01"), ReservedRun), "what is under way goes on, whatever the window"


def test_a_window_that_closes_while_it_waits_for_a_slot(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, web01=0, web02=0)
    wave.reserve("web01", limit=1)
    _window(wave, "web02", 60, 20)
    assert isinstance(wave.reserve("web02", limit=1), InQueue)
    clock.sleep(3600)
    with pytest.raises(PermanentError, match="window"):
        wave.reserve("web02", limit=2)


def test_a_cancelled_cutover_stops_nothing(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, web01=0)
    wave.change("web01", cancel_requested=True)
    assert wave.wakes("web01")
    with pytest.raises(PermanentError, match="cancelled on request"):
        wave.reserve("web01")
    assert wave.of("web01").source is None


@pytest.mark.parametrize("state", [CutoverState.WAITING, CutoverState.REVERTING, CutoverState.ENDED])
def test_nothing_is_stopped_without_go_or_on_the_way_back(desk: Desk, clock: HandClock, state: CutoverState) -> None:
    wave = Wave(desk, clock, web01=0)
    if state is CutoverState.REVERTING:
        wave.change("web01", state=CutoverState.MOVING)
    else:
        wave.change("web01", state=CutoverState.ENDED)
    wave.change("web01", state=state)
    with pytest.raises(PermanentError, match="does not go on"):
        wave.reserve("web01")


def test_a_switched_server_is_not_moved_again(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, web01=0)
    wave.change("web01", state=CutoverState.MOVING)
    wave.change("web01", state=CutoverState.SWITCHED)
    assert wave.reserve("web01") is None


def test_once_the_image_is_made_nothing_is_sent_again(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, web01=0)
    found = wave.reserve("web01")
    assert isinstance(found, ReservedRun)
    desk.complete(within(desk.ledger.read(), replication_runs.get, found.run), "ami-1")
    with pytest.raises(PermanentError, match="nothing is sent again") as caught:
        wave.reserve("web01")
    assert "server.launch" in caught.value.next_step


def test_a_rule_of_replication_runs_that_refuses_stops_nothing(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, web01=0)
    job = within(desk.ledger.read(), jobs.find_standing, WAVE, "web01")
    assert job is not None
    wave.write(jobs.apply, job, "test", at=clock.now(), by="test", state=JobState.DELETING)
    with pytest.raises(RefusedError, match="The last changes may not be sent"):
        wave.reserve("web01")
    assert wave.of("web01").source is None


# Failures


def test_before_its_source_is_touched_a_failure_ends_the_cutover_and_its_run(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, web01=0, web02=0)
    wave.reserve("web01", limit=1)
    wave.reserve("web02", limit=1)
    wave.fail("web02", "server.reserve: no")
    known = wave.of("web02")
    assert (known.state, known.error) == (CutoverState.ENDED, "server.reserve: no")
    run = within(desk.ledger.read(), replication_runs.get, replication_runs.run_id(known.run_key))
    assert run.state is RunState.FAILED
    wave.fail("web02", "again")
    assert wave.of("web02").error == "server.reserve: no", "the first words stay"


def test_after_that_it_has_failed_and_a_cleared_task_goes_on(desk: Desk, clock: HandClock) -> None:
    wave = Wave(desk, clock, web01=0)
    wave.reserve("web01")
    wave.fail("web01")
    assert wave.of("web01").state is CutoverState.FAILED
    known = moving.moving(desk.ledger, _planned(wave), wave.ctx("web01"))
    assert (known.state, known.error) == (CutoverState.MOVING, "")


def _planned(wave: Wave, on_window_end: str = "continue") -> ServerTask:
    from types import SimpleNamespace

    task = wave.task("web01")
    plan = SimpleNamespace(cutover=SimpleNamespace(on_window_end=on_window_end))
    return ServerTask.model_construct(name=task.name, plan=plan, facts=task.facts)


@pytest.mark.parametrize("choice", ["continue", "revert"])
def test_what_is_under_way_when_the_window_ends(desk: Desk, clock: HandClock, choice: str) -> None:
    wave = Wave(desk, clock, web01=0)
    _window(wave, "web01", 60, 20)
    wave.reserve("web01")
    clock.sleep(3601)
    task = _planned(wave, choice)
    if choice == "continue":
        assert moving.moving(desk.ledger, task, wave.ctx("web01")).state is CutoverState.MOVING
    else:
        with pytest.raises(PermanentError, match="was not switched"):
            moving.moving(desk.ledger, task, wave.ctx("web01"))


def test_nothing_is_noted_once_it_goes_back(desk: Desk, clock: HandClock, tmp_path: Path) -> None:
    wave = Wave(desk, clock, web01=0)
    wave.reserve("web01")
    wave.change("web01", state=CutoverState.REVERTING)
    with pytest.raises(PermanentError, match="being reverted"):
        moving.note(desk.ledger, wave.ctx("web01"), {}, instance_id="i-1")
    wave.fail("web01")
    assert wave.of("web01").state is CutoverState.REVERTING
