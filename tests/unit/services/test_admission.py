"""Slots in the order of asking, and one migration per server (AMP-04, invariants 4 and 8)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.contexts import Alive, HandClock, run_context
from tests.ledgers import fresh_ledger, within

from wavelift.base.errors import BusyError, NotFoundError, PermanentError, UnreachableError
from wavelift.base.run import DagRun
from wavelift.ledger import Ledger, Migration, SourceServer, migrations, waves
from wavelift.ledger.events import list_events
from wavelift.ledger.slots import position, standing
from wavelift.rules.flows import SlotKind
from wavelift.rules.lifecycle import MigrationState
from wavelift.rules.queue import Place, Priority
from wavelift.services.common import slots as admission
from wavelift.services.common.slots import Granted, Queued
from wavelift.services.migration.begin import NewMigration, begin_migration

pytestmark = pytest.mark.unit

IsAlive = Callable[[DagRun], bool]
START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
A = DagRun("erp.migrate", "run-a")
B = DagRun("crm.migrate", "run-b")


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return fresh_ledger(tmp_path / "wavelift.db")


class Desk:
    """The slots of one connector as a test talks to them."""

    def __init__(self, ledger: Ledger, clock: HandClock, *, limit: int = 2) -> None:
        self.ledger, self.clock, self.limit = ledger, clock, limit
        self.kind, self.scope = SlotKind.TRANSFER, "hall-a"

    def request(self, holder: str, run: DagRun = A, priority: Priority = Priority.NORMAL) -> Granted | int:
        """Granted, or the place in the queue."""
        request = admission.SlotRequest(self.kind, self.scope, holder, self.limit)
        ctx = run_context(run, clock=self.clock)
        found = admission.request_slots(self.ledger, [request], ctx, priority=priority)
        return found.position if isinstance(found, Queued) else found

    def poll(self, holder: str) -> Granted | int | None:
        """How the request stands in the ledger."""
        queue = within(self.ledger.read(), standing, self.kind, self.scope)
        mine = next((each for each in queue if each.holder == holder), None)
        if mine is None:
            return None
        return Granted(mine.granted_at) if mine.granted_at else within(self.ledger.read(), position, mine)

    def ready(self, holder: str) -> bool:
        return admission.look(self.ledger, [holder])[holder] is None

    def release(self, holder: str) -> bool:
        return admission.give_back(self.ledger, holder, kinds=[self.kind], clock=self.clock)

    def reclaim(self, is_run_alive: IsAlive) -> list[str]:
        ctx = run_context(A, clock=self.clock, liveness=Alive(is_run_alive))
        return [each.holder for each in admission.reclaim(self.ledger, ctx, [Place(self.kind, self.scope)])]


@pytest.fixture
def desk(ledger: Ledger, clock: HandClock) -> Desk:
    return Desk(ledger, clock)


def _only(*alive: DagRun) -> IsAlive:
    return lambda run: run in alive


# Slots


def test_amp_04_slots_up_to_the_limit_then_places_in_order(desk: Desk) -> None:
    assert [desk.request(holder) for holder in "abcd"] == [
        Granted(START),
        Granted(START),
        1,
        2,
    ]


def test_asking_again_keeps_slot_and_place(desk: Desk, clock: HandClock) -> None:
    first = [desk.request(holder) for holder in "abcd"]
    clock.sleep(60)
    assert [desk.request(holder) for holder in reversed("abcd")] == first[::-1]
    assert len(within(desk.ledger.read(), standing)) == 4


def test_a_free_slot_waits_for_the_first_in_the_queue(desk: Desk) -> None:
    for holder in "abcd":
        desk.request(holder)
    assert desk.release("b")

    assert not desk.ready("d")
    assert desk.request("d") == 2
    assert desk.poll("c") == 1
    assert desk.ready("c")
    assert desk.request("e") == 3, "a newcomer goes behind those who wait"
    assert desk.request("c") == Granted(START)
    assert desk.poll("d") == 1


def test_two_free_slots_are_for_the_first_two_in_whatever_order_they_come(desk: Desk) -> None:
    for holder in "abcde":
        desk.request(holder)
    desk.release("a")
    desk.release("b")

    assert [desk.ready(holder) for holder in "cde"] == [True, True, False]
    assert isinstance(desk.request("d"), Granted)
    assert desk.request("e") == 2
    assert isinstance(desk.request("c"), Granted)


def test_releasing_leaves_the_queue_and_twice_does_no_harm(desk: Desk) -> None:
    for holder in "abcd":
        desk.request(holder)
    assert desk.release("c")
    assert not desk.release("c")
    assert desk.poll("c") is None
    assert desk.ready("c"), "a waiter whose request is gone must wake to ask anew"
    assert desk.poll("d") == 1
    assert desk.request("c") == 2, "whoever left begins at the end"


def test_polling_writes_nothing(desk: Desk) -> None:
    for holder in "abc":
        desk.request(holder)
    before = (within(desk.ledger.read(), standing), within(desk.ledger.read(), list_events))
    for _ in range(3):
        desk.poll("c")
        desk.ready("c")
    assert (within(desk.ledger.read(), standing), within(desk.ledger.read(), list_events)) == before


def test_scopes_and_kinds_do_not_count_for_each_other(desk: Desk) -> None:
    desk.request("a")
    desk.request("b")
    desk.scope = "hall-b"
    assert isinstance(desk.request("a"), Granted)
    desk.kind, desk.scope = SlotKind.DATASTORE, "hall-a"
    assert isinstance(desk.request("a"), Granted)
    desk.release("a")
    desk.kind = SlotKind.TRANSFER
    assert isinstance(desk.poll("a"), Granted)


def test_a_lowered_limit_takes_from_nobody_and_gives_to_nobody(desk: Desk) -> None:
    for holder in "abc":
        desk.request(holder)
    desk.limit = 1
    desk.release("a")
    assert isinstance(desk.request("b"), Granted)
    assert desk.request("c") == 1
    desk.release("b")
    assert isinstance(desk.request("c"), Granted)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(desk: Desk, limit: int) -> None:
    desk.limit = limit
    with pytest.raises(PermanentError, match=f"limit={limit}"):
        desk.request("a")
    with pytest.raises(PermanentError):
        desk.request("b")
    assert within(desk.ledger.read(), standing) == ()


def test_amp_04_a_restart_costs_nobody_the_place(desk: Desk, ledger: Ledger) -> None:
    before = [desk.request(holder) for holder in "abcd"]
    ledger.close()
    desk.ledger = Ledger.open(f"sqlite:///{ledger.url.removeprefix('sqlite:///')}")
    assert [desk.request(holder) for holder in "abcd"] == before


# Runs that have ended


def test_inv_8_the_slot_of_an_ended_run_is_free_and_its_waiters_leave(desk: Desk) -> None:
    for holder, run in (("a", A), ("b", B), ("a2", A), ("b2", B), ("b3", B)):
        desk.request(holder, run)

    assert desk.reclaim(_only(B)) == ["a", "a2"]

    assert desk.poll("a") is None
    assert [(desk.poll(holder), desk.ready(holder)) for holder in ("b2", "b3")] == [(1, True), (2, False)]
    released = [
        event
        for event in within(desk.ledger.read(), list_events)
        if event.action in ("slot.released", "slot.withdrawn")
    ]
    assert [(event.object_id, event.action) for event in released] == [("a", "slot.released"), ("a2", "slot.withdrawn")]
    assert released[0].details["reason"] == "its DAG run has ended"


def test_airflow_is_asked_once_per_run_and_interval(desk: Desk, clock: HandClock) -> None:
    asked: list[DagRun] = []

    def alive(run: DagRun) -> bool:
        asked.append(run)
        return True

    for holder in "abcd":
        desk.request(holder, A)
    assert desk.reclaim(alive) == []
    assert asked == [A]
    assert {each.asked_at for each in within(desk.ledger.read(), standing)} == {START}

    clock.sleep(29)
    desk.request("e", A)
    desk.request("f", B)
    desk.reclaim(alive)
    assert asked == [A, B], "a new request in a run asked about a moment ago is no new question"

    clock.sleep(1)
    desk.reclaim(alive)
    assert asked == [A, B, A]


def test_a_run_that_asks_again_while_airflow_is_asked_keeps_its_slot(desk: Desk) -> None:
    """The run ended, we asked, somebody cleared it, its reserve task asked for the slot: all before we write."""
    desk.request("a")
    desk.request("idle")

    def dead_then_cleared(run: DagRun) -> bool:
        assert isinstance(desk.request("a"), Granted)
        return False

    assert desk.reclaim(dead_then_cleared) == ["idle"]
    assert isinstance(desk.poll("a"), Granted)


@pytest.mark.parametrize("kind", list(SlotKind))
def test_inv_8_what_an_ended_task_holds_in_a_living_run_is_free_whatever_the_kind(
    desk: Desk, clock: HandClock, kind: SlotKind
) -> None:
    """A release that failed for good: the run's other servers may go on for hours."""
    desk.kind = kind
    for holder in ("failed", "works", "waits", "gone"):
        desk.request(holder)
    ended = run_context(A, clock=clock, liveness=Alive(holder=lambda holder: holder not in ("failed", "gone")))
    assert [each.holder for each in admission.reclaim(desk.ledger, ended, [Place(desk.kind, desk.scope)])] == [
        "failed",
        "gone",
    ]
    assert isinstance(desk.request("waits"), Granted)
    reasons = [event.details.get("reason") for event in within(desk.ledger.read(), list_events)]
    assert reasons.count("its task has ended") == 2


def test_a_task_that_asks_again_while_airflow_is_asked_keeps_its_slot(desk: Desk, clock: HandClock) -> None:
    desk.request("a")

    def ended_then_cleared(holder: str) -> bool:
        assert isinstance(desk.request("a"), Granted)
        return False

    ctx = run_context(A, clock=clock, liveness=Alive(holder=ended_then_cleared))
    assert admission.reclaim(desk.ledger, ctx, [Place(desk.kind, desk.scope)]) == []
    assert isinstance(desk.poll("a"), Granted)


def test_a_request_made_while_airflow_is_asked_stays(desk: Desk) -> None:
    desk.request("a")

    def dead_then_more(run: DagRun) -> bool:
        desk.request("b")
        return False

    assert desk.reclaim(dead_then_more) == ["a"]
    assert isinstance(desk.poll("b"), Granted)


def test_nothing_is_freed_when_airflow_does_not_answer(desk: Desk) -> None:
    desk.request("a", A)
    desk.request("b", B)

    def cut(run: DagRun) -> bool:
        if run == B:
            raise UnreachableError("no answer")
        return False

    with pytest.raises(UnreachableError):
        desk.reclaim(cut)
    assert [each.holder for each in within(desk.ledger.read(), standing)] == ["a", "b"]


# One migration per server

ALL_ALIVE = _only(A, B)


def _freeze(ledger: Ledger, clock: HandClock, run: DagRun) -> None:
    within(
        ledger.write(waves.LOCK),
        waves.freeze_wave_run,
        waves.NewWaveRun(
            run=run, wave=run.dag_id.split(".")[0], mode="migrate", requested_by="ana", source="ui", spec={}
        ),
        clock=clock,
    )


@pytest.fixture
def frozen(ledger: Ledger, clock: HandClock) -> Ledger:
    _freeze(ledger, clock, A)
    _freeze(ledger, clock, B)
    return ledger


def _begin(
    ledger: Ledger, clock: HandClock, run: DagRun, *, name: str = "web01", alive: IsAlive = ALL_ALIVE
) -> Migration:
    server = SourceServer(source="vc-1", name=name, moref="vm-1", instance_uuid="uuid-1")
    wanted = NewMigration("erp", server, "hall-a", "eu-central-1")
    return begin_migration(ledger, wanted, run_context(run, name, clock=clock, liveness=Alive(alive)))


def test_beginning_twice_is_one_migration(frozen: Ledger, clock: HandClock) -> None:
    first = _begin(frozen, clock, A)
    again = _begin(frozen, clock, A)
    assert again.id == first.id
    assert again.state is MigrationState.QUEUED
    assert within(frozen.read(), migrations.list_migrations).total == 1


def test_inv_4_a_server_in_another_live_run_is_busy_and_the_run_is_named(frozen: Ledger, clock: HandClock) -> None:
    mine = _begin(frozen, clock, A)
    with pytest.raises(BusyError) as caught:
        _begin(frozen, clock, B)
    assert caught.value.where == {"server": "web01", "dag": A.dag_id, "run": A.dag_run_id, "migration": mine.id}
    assert within(frozen.read(), migrations.list_migrations).total == 1


def test_two_names_of_one_server_in_one_run_are_busy_too(frozen: Ledger, clock: HandClock) -> None:
    _begin(frozen, clock, A)
    with pytest.raises(BusyError, match="run-a"):
        _begin(frozen, clock, A, name="alias", alive=_only())


def test_what_a_dead_run_left_open_is_closed(frozen: Ledger, clock: HandClock) -> None:
    left = _begin(frozen, clock, A)
    mine = _begin(frozen, clock, B, alive=_only(B))

    closed = within(frozen.read(), migrations.get, left.id)
    assert (closed.state, closed.error) == (MigrationState.FAILED, "Its DAG run ended before it did")
    assert mine.state is MigrationState.QUEUED
    assert mine.server_id == left.server_id


def test_a_dead_run_that_is_cleared_while_airflow_is_asked_keeps_the_server(frozen: Ledger, clock: HandClock) -> None:
    left = _begin(frozen, clock, A)

    def dead_then_cleared(run: DagRun) -> bool:
        _begin(frozen, clock, A)
        return False

    with pytest.raises(BusyError, match=left.id):
        _begin(frozen, clock, B, alive=dead_then_cleared)
    assert within(frozen.read(), migrations.get, left.id).state is MigrationState.QUEUED


def test_inv_4_a_failed_migration_has_the_server_until_its_snapshot_is_gone(frozen: Ledger, clock: HandClock) -> None:
    left = _begin(frozen, clock, A)
    within(frozen.write(), migrations.record_intent, left.id, name="wavelift-1", vm="vm-1", clock=clock)
    within(frozen.write(), migrations.fail, left.id, "no", clock=clock)

    with pytest.raises(BusyError):
        _begin(frozen, clock, B)
    assert _begin(frozen, clock, B, alive=_only(B)).state is MigrationState.QUEUED
    within(frozen.write(), migrations.fail, _begin(frozen, clock, B, alive=_only(B)).id, "again", clock=clock)
    assert within(frozen.read(), migrations.get, left.id).error == "no"

    within(frozen.write(), migrations.record_snapshot_removed, left.id, clock=clock)
    assert _begin(frozen, clock, B).state is MigrationState.QUEUED


def test_other_servers_of_the_vcenter_are_free(frozen: Ledger, clock: HandClock) -> None:
    _begin(frozen, clock, A)
    server = SourceServer(source="vc-2", name="web01", moref="vm-1", instance_uuid="uuid-1")
    wanted = NewMigration("crm", server, "hall-b", "eu-central-1")
    other = begin_migration(frozen, wanted, run_context(B, "web01", clock=clock, liveness=Alive(_only(A, B))))
    assert other.state is MigrationState.QUEUED


@pytest.mark.parametrize("ended", [True, False])
def test_clearing_an_ended_migration_drops_the_wish_to_cancel(frozen: Ledger, clock: HandClock, ended: bool) -> None:
    mine = _begin(frozen, clock, A)
    within(frozen.write(), migrations.request_cancel, mine.id, by="bob", clock=clock)
    if ended:
        within(frozen.write(), migrations.mark_cancelled, mine.id, "cancelled by bob", clock=clock)

    again = _begin(frozen, clock, A)

    assert again.cancel_requested is not ended
    assert (again.state, again.error, again.finished_at) == (MigrationState.QUEUED, "", None)


def test_a_migration_needs_its_frozen_run(ledger: Ledger, clock: HandClock) -> None:
    with pytest.raises(NotFoundError, match="run-a"):
        _begin(ledger, clock, A)
    assert within(ledger.read(), migrations.list_migrations).total == 0
