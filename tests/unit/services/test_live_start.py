"""A live run until HCX moves its servers: admission, plan, approval, window, slots, and the ids that HCX gave."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import HandClock
from tests.ledgers import fresh_ledger, within
from tests.unit.services.live import HOUR, Live, environment, error

from wavelift.base.errors import (
    DeniedError,
    NotApprovedError,
    PermanentError,
    RefusedError,
    SpecError,
    TamperedError,
)
from wavelift.ledger.slots import standing
from wavelift.rules.authority import Action
from wavelift.rules.conf import LiveConf
from wavelift.rules.flows import SlotKind
from wavelift.rules.grants import LONGEST_LIFETIME
from wavelift.rules.hcx_wave import FOLLOWED_NEAR
from wavelift.rules.live import LiveState
from wavelift.services.common.slots import InQueue
from wavelift.services.dataplane.live_messages import LiveOrder, Started
from wavelift.services.live_migration.admit import ASKED_AHEAD
from wavelift.services.live_migration.approvals import plan_question, switchover_question
from wavelift.services.live_migration.follow import following
from wavelift.services.live_migration.orders import ACTING
from wavelift.services.live_migration.plan import LiveTerms, require_some
from wavelift.services.live_migration.record import record
from wavelift.services.live_migration.requests import cancel, give_back, made_before
from wavelift.services.live_migration.requests import reserve as reserve_request
from wavelift.services.live_migration.reserve import group_name, wait_for_window

pytestmark = pytest.mark.unit


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def live(tmp_path: Path, clock: HandClock) -> Live:
    return Live(fresh_ledger(tmp_path / "ledger.db"), clock)


def window(clock: HandClock, start: float, end: float) -> dict[str, str]:
    now = clock.now()
    return {
        "window_start": (now + timedelta(hours=start)).isoformat(),
        "window_end": (now + timedelta(hours=end)).isoformat(),
    }


def slots_of(live: Live, id: str = "r1") -> list[tuple[str, str, str, bool]]:
    found = within(live.ledger.read(), standing)
    return sorted(
        (str(each.kind), each.scope, each.holder.rpartition("/")[2], each.granted_at is not None)
        for each in found
        if each.run == live.run(id)
    )


# Admission


def test_a_run_opens_one_migration_per_server_and_freezes_its_window(live: Live, clock: HandClock) -> None:
    admitted = live.admit(**window(clock, 2, 4), servers=["a"], accept_warnings=True)
    assert set(admitted.migrations) == {"a"}
    assert admitted.wave.accept_warnings
    assert live.states() == {"a": "waiting"}
    row = live.rows()["a"]
    assert (row.window_start, row.kind, row.manager) == (clock.now() + 2 * HOUR, "rav", "hcx_dc1")
    assert live.admit(**window(clock, 2, 4), servers=["a"]).migrations == admitted.migrations
    assert not live.admit("p1", mode="plan").migrations


@pytest.mark.parametrize(
    ("spec", "hours", "words"),
    [
        ({}, (-3, -1), "was over at"),
        ({}, (-3, 0.2), "ends in less than 30 minutes"),
        ({}, (2, 2.2), "ends in less than 30 minutes"),
        ({"approve_switchover": True}, (0.1, 4), "must be approved 15 minutes before"),
        ({"approve_switchover": True}, (6 * 24 + 1, 6 * 24 + 4), "held back for its approval for 6 days at most"),
        ({"type": "vmotion"}, (-3, -1), "was over at"),
    ],
)
def test_a_window_that_can_t_be_kept_is_refused(
    live: Live, clock: HandClock, spec: dict[str, Any], hours: tuple[float, float], words: str
) -> None:
    if "approve_switchover" in spec:
        start, end = clock.now() + 9 * HOUR, clock.now() + 12 * HOUR
        spec = {**spec, "window": {"start": start.isoformat(), "end": end.isoformat()}}
    live.spec = spec
    with pytest.raises(SpecError, match=words):
        live.admit(**window(clock, *hours))
    assert not live.rows()


@pytest.mark.parametrize(("days", "hours", "refused"), [(4, 72, False), (4.1, 72, True), (0, 168, False)])
def test_a_run_that_its_queue_can_t_follow_to_the_end_is_refused(
    live: Live, clock: HandClock, days: float, hours: int, refused: bool
) -> None:
    """The grant of the task that follows is signed once, and the queue near HCX can't ask for another."""
    live.environment = environment(hcx={"connection": "hcx_dc1", "queue": "near-hcx", "reach": "connector"})
    live.spec = {"max_hours": hours}
    conf = window(clock, days * 24, days * 24 + 4) if days else {}
    if refused:
        with pytest.raises(SpecError, match="followed for more than 7 days"):
            live.admit(**conf)
        return
    live.moving(**conf)
    to = following(live.ledger, live.ctx())
    assert to.until - clock.now() <= FOLLOWED_NEAR


def test_grants_outlive_what_they_are_for() -> None:
    assert max(FOLLOWED_NEAR, ASKED_AHEAD + ACTING) < LONGEST_LIFETIME


def test_half_a_window_is_none(live: Live, clock: HandClock) -> None:
    with pytest.raises(SpecError, match="first and its last instant"):
        live.admit(window_start=window(clock, 1, 2)["window_start"])


def test_only_who_may_migrate_begins_and_approves(live: Live, clock: HandClock) -> None:
    with pytest.raises(DeniedError):
        live.admit(by="carl")  # who may only cut over
    with pytest.raises(DeniedError):
        live.admit(priority="next")
    live.admit()
    live.plan()
    assert plan_question(live.ledger, live.ctx()).action is Action.MIGRATE


def test_a_server_that_hcx_may_still_move_is_not_started_again(live: Live) -> None:
    """Also once the run that started it is over: nobody knows how it ended."""
    live.moving(servers=["a"])
    live.dead = {"r1"}
    with pytest.raises(RefusedError, match=r"HCX may still move it: migration liv-.*wavelift live cancel"):
        live.admit("r2")
    assert not live.rows("r2"), "all of them or none"
    assert live.admit("r2", servers=["b"]).migrations


@pytest.mark.parametrize("alive", [True, False])
def test_a_server_that_waits_in_another_run_is_free_once_that_run_has_ended(live: Live, alive: bool) -> None:
    live.admit()
    live.dead = set() if alive else {"r1"}
    if alive:
        with pytest.raises(RefusedError, match="is waiting"):
            live.admit("r2")
        return
    live.admit("r2")
    assert (live.states(), live.states("r2")) == ({"a": "ended", "b": "ended"}, {"a": "waiting", "b": "waiting"})


# The plan


def test_the_plan_stores_what_pre_flight_resolved_and_leaves_alone_what_can_t_go(live: Live) -> None:
    live.admit()
    planned = live.plan(live.found(findings=[error("b")]))
    assert planned.going == ("a",)
    assert "b: is left alone: it has a snapshot. remove it" in planned.lines()
    rows = live.rows()
    assert (rows["a"].plan_digest, rows["a"].instance_uuid, rows["a"].mesh) == (planned.digest, "uuid-a", "mesh-1")
    assert (rows["b"].state, rows["b"].error) == (LiveState.ENDED, "it has a snapshot. remove it")


def test_an_error_of_the_whole_wave_stops_all(live: Live) -> None:
    live.admit()
    planned = live.plan(live.found(findings=[error("*", "HCX has no mesh")]))
    with pytest.raises(PermanentError, match="No server can be migrated: a: HCX has no mesh"):
        require_some(planned)
    assert live.states() == {"a": "ended", "b": "ended"}


def test_a_plan_only_tells(live: Live) -> None:
    live.admit(mode="plan")
    assert live.plan().going == ("a", "b")
    assert not live.rows()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"type": "vmotion"}, "type"),
        ({"provision": "thick"}, "provision"),
        ({"storage": {"id": "d", "name": "Other", "type": "datastore"}}, "datastore"),
        ({"placement": []}, "pool"),
        ({"options": {"retain_mac": False}}, "options"),
        ({"name": "c"}, "server"),
    ],
)
def test_what_came_by_xcom_is_what_the_wave_says(live: Live, changes: dict[str, Any], field: str) -> None:
    live.admit()
    with pytest.raises(TamperedError) as refused:
        live.plan(live.found(live.task("a", **changes)))
    assert refused.value.where["field"] == field
    card = live.task("a").cards[0]
    moved = card.model_copy(update={"destination": card.destination.model_copy(update={"name": "L2E_db"})})
    with pytest.raises(TamperedError, match="not what the wave says"):
        live.plan(live.found(live.task("a", cards=(moved,))))


def test_a_run_that_can_never_have_its_slots_does_not_wait_for_them(live: Live) -> None:
    live.terms = LiveTerms(per_mesh=1)
    live.admit()
    planned = live.plan()
    assert (
        planned.servers[0].why
        == "the run has 2 servers over one service mesh, which takes 1 at a time; choose 1 at most"
    )
    assert not planned.going


def test_the_same_vm_under_another_wave_s_name_is_left_alone(live: Live) -> None:
    live.moving(servers=["a"])
    other = Live(live.ledger, live.clock)
    other.name, other.servers = "crm", ("z",)
    other.admit("x1")
    planned = other.plan(other.found(other.task("z", before=live.task("a").before)), "x1")
    assert "of wave erp is about the same VM, and is moving" in planned.servers[0].why


# The order


def test_nothing_starts_without_a_yes_to_this_very_plan(live: Live, clock: HandClock) -> None:
    live.admit()
    planned = live.plan()
    with pytest.raises(NotApprovedError, match="Nobody has approved"):
        live.reserve()
    live.approve(planned, valid=HOUR)
    clock.sleep(3601)
    with pytest.raises(NotApprovedError, match="counted until"):
        live.reserve()
    assert live.states() == {"a": "waiting", "b": "waiting"}


def test_the_group_s_name_is_written_down_before_hcx_is_asked(live: Live) -> None:
    order = live.ordered()
    assert order.group_name == group_name(live.ctx())
    assert {row.group_name for row in live.rows().values()} == {order.group_name}
    assert live.states() == {"a": "starting", "b": "starting"}
    assert [task.name for task in order.tasks] == ["a", "b"]
    again = live.reserve(clears=1)
    assert isinstance(again, LiveOrder)
    assert (again.group_name, again.tasks, again.clear_number) == (order.group_name, order.tasks, 1)
    assert again.digest == order.digest, "the same is started, only by a newer order"


def test_hcx_holds_the_switchover_of_some_types_back_and_we_the_start_of_others(live: Live, clock: HandClock) -> None:
    order = live.ordered(**window(clock, 2, 4))
    assert (order.window_start, order.window_end) == (clock.now() + 2 * HOUR, clock.now() + 4 * HOUR)
    live.spec, live.name = {"type": "vmotion"}, "crm"
    live.servers = ("c",)
    live.admit(**window(clock, 2, 4))
    planned = live.plan()
    assert wait_for_window(live.ledger, live.ctx()) == clock.now() + 2 * HOUR
    clock.sleep(2 * 3600)
    assert wait_for_window(live.ledger, live.ctx()) is None
    live.approve(planned)
    order = live.reserve()  # type: ignore[assignment]
    assert order.window_start is None
    clock.sleep(3 * 3600)
    assert wait_for_window(live.ledger, live.ctx()) is None, "it went, and goes on"


def test_a_window_that_is_over_by_now_starts_nothing(live: Live, clock: HandClock) -> None:
    live.admit(**window(clock, 1, 2))
    live.approve(live.plan())
    clock.sleep(1.6 * 3600)
    for step in (live.reserve, lambda: wait_for_window(live.ledger, live.ctx())):
        with pytest.raises(PermanentError, match="ends in less than 30 minutes"):
            step()
    assert not slots_of(live)


def test_a_right_that_was_taken_away_meanwhile_starts_nothing(live: Live) -> None:
    live.admit()
    live.approve(live.plan())
    live.environment = environment(may={"migrate": ["user:ben"]})
    with pytest.raises(DeniedError):
        live.reserve()


def test_who_was_cancelled_while_the_run_waited_is_not_in_the_group(live: Live, clock: HandClock) -> None:
    live.admit()
    live.approve(live.plan())
    cancel(live.ledger, live.rows()["a"].id, by="ana", clock=clock, over=False)
    order = live.reserve()
    assert isinstance(order, LiveOrder)
    assert [task.name for task in order.tasks] == ["b"]
    assert live.states() == {"a": "ended", "b": "starting"}


# Slots


def test_two_runs_never_hold_a_half_each(live: Live) -> None:
    live.terms = LiveTerms(per_manager=3)
    order = live.ordered()
    other = Live(live.ledger, live.clock)
    other.name, other.servers, other.terms = "crm", ("c", "d"), live.terms
    other.admit("x1")
    other.approve(other.plan(id="x1"), "x1")
    queued = other.reserve("x1")
    assert isinstance(queued, InQueue)
    assert queued.words == "2nd in line for HCX manager hcx_dc1: 2 of 3 in use; the rest is for those before"
    assert {granted for *_, granted in slots_of(other, "x1")} == {False}, "it keeps nothing"
    assert other.states("x1") == {"c": "waiting", "d": "waiting"}
    assert other.rows("x1")["c"].phase == queued.words
    third = Live(live.ledger, live.clock)
    third.name, third.servers, third.terms = "hr", ("e",), live.terms
    third.admit("y1")
    third.approve(third.plan(id="y1"), "y1")
    assert isinstance(third.reserve("y1"), InQueue), "who came later does not take the place that it will need"
    record(live.ledger, live.started(order), live.ctx())
    live.ended(a="failed", b="failed")
    live.report()
    assert not slots_of(live)
    assert isinstance(other.reserve("x1"), LiveOrder)


def test_a_dead_run_s_slots_are_free_and_a_living_one_s_are_not(live: Live) -> None:
    live.terms = LiveTerms(per_manager=2)
    live.ordered()
    other = Live(live.ledger, live.clock)
    other.name, other.servers, other.terms = "crm", ("c", "d"), live.terms
    other.admit("x1")
    other.approve(other.plan(id="x1"), "x1")
    assert isinstance(other.reserve("x1"), InQueue)
    live.clock.sleep(60)
    other.dead = {"r1"}
    assert isinstance(other.reserve("x1"), LiveOrder)
    assert not slots_of(live)


def test_a_vmotion_takes_one_slot_between_the_sites(live: Live) -> None:
    live.spec = {"type": "vmotion"}
    live.ordered()
    assert slots_of(live) == [(SlotKind.HCX_SERIAL, "hcx_dc1/vsphere_dc1>vsphere_sddc", "", True)]


# What HCX answered


def test_ids_are_noted_once_and_another_one_is_refused(live: Live) -> None:
    order = live.ordered()
    found = record(live.ledger, live.started(order, without=["b"]), live.ctx())
    assert (found.moving, found.refused) == ({"a": "m-a"}, {"b": "no"})
    assert live.states() == {"a": "moving", "b": "failed"}
    row = live.rows()["a"]
    assert (row.migration_id, row.group_id) == ("m-a", "g-1")
    assert record(live.ledger, live.started(order.model_copy(update={"tasks": order.tasks[:1]})), live.ctx()).moving
    for changes, field in (
        ({"group_name": "other"}, "group_name"),
        ({"servers": [{"server": "a", "migration_id": "m-x"}]}, "migration_id"),
        ({"servers": [{"server": "c", "migration_id": "m-c"}]}, "server"),
    ):
        told = live.started(order).dump() | {"servers": [{"server": "a", "migration_id": "m-a"}]}
        forged = Started.load({**told, **changes})
        with pytest.raises(TamperedError) as refused:
            record(live.ledger, forged, live.ctx())
        assert refused.value.where["field"] == field


def test_a_start_that_started_nothing_fails(live: Live) -> None:
    order = live.ordered()
    with pytest.raises(PermanentError, match="HCX started nothing: a: no; b: no"):
        record(live.ledger, live.started(order, without=["a", "b"]), live.ctx())
    assert live.states() == {"a": "failed", "b": "failed"}


# From outside


def test_a_reservation_is_taken_by_its_run_and_given_back_without_one(live: Live, clock: HandClock) -> None:
    conf = LiveConf(mode="migrate", servers=["a"])
    (row,) = reserve_request(live.ledger, live.wave(), conf, live.ctx(), request_id="mine")
    assert (row.state, row.request_id) == (LiveState.RESERVED, "mine")
    assert made_before(live.ledger, live.run(), conf) == (row,)
    with pytest.raises(PermanentError, match="is about a"):
        made_before(live.ledger, live.run(), LiveConf(mode="migrate", servers=["b"]))
    with pytest.raises(RefusedError):
        live.admit("r2")
    give_back(live.ledger, live.run(), clock)
    assert live.states() == {"a": "expired"}
    assert live.admit("r2").migrations
    assert reserve_request(live.ledger, live.wave(), LiveConf(mode="plan"), live.ctx("r3")) == ()


def test_a_reservation_that_nobody_took_ends(live: Live, clock: HandClock) -> None:
    reserve_request(live.ledger, live.wave(), LiveConf(mode="migrate"), live.ctx())
    clock.sleep(24 * 3600)
    live.admit("r2")
    assert set(live.states().values()) == {"expired"}


def test_the_switchover_is_asked_for_only_while_hcx_moves_something(live: Live, clock: HandClock) -> None:
    start, end = clock.now() + 10 * HOUR, clock.now() + 12 * HOUR
    live.spec = {"approve_switchover": True, "window": {"start": start.isoformat(), "end": end.isoformat()}}
    live.admit()
    assert switchover_question(live.ledger, live.ctx()).mode == "none"
    live.approve(live.plan())
    order = live.reserve()
    assert isinstance(order, LiveOrder)
    record(live.ledger, live.started(order), live.ctx())
    asked = switchover_question(live.ledger, live.ctx())
    assert (asked.mode, asked.hours, asked.action) == ("required", 9.75, Action.MIGRATE)
    assert asked.not_after == end
    clock.sleep(11 * 3600)
    assert 0 < switchover_question(live.ledger, live.ctx()).hours < 0.001


def test_with_four_eyes_the_switchover_needs_another_person_too(live: Live, clock: HandClock) -> None:
    start, end = clock.now() + 10 * HOUR, clock.now() + 12 * HOUR
    given = {"start": start.isoformat(), "end": end.isoformat()}
    live.spec = {"approve": "four_eyes", "approve_switchover": True, "window": given}
    live.moving()
    assert switchover_question(live.ledger, live.ctx()).mode == "four_eyes"


def test_what_can_no_longer_be_approved_in_time_starts_nothing(live: Live, clock: HandClock) -> None:
    """The plan was approved late, or the slots came late: HCX would have to be told to end what it just began."""
    start, end = clock.now() + HOUR, clock.now() + 3 * HOUR
    live.spec = {"approve_switchover": True, "window": {"start": start.isoformat(), "end": end.isoformat()}}
    live.admit()
    live.approve(live.plan())
    clock.sleep(46 * 60)
    for step in (live.reserve, lambda: wait_for_window(live.ledger, live.ctx())):
        with pytest.raises(PermanentError, match="had to be approved by"):
            step()
    assert not slots_of(live)


def test_a_type_without_window_starts_only_after_a_yes_if_its_switchover_needs_one(live: Live) -> None:
    live.spec = {"type": "vmotion", "approve": "none", "approve_switchover": True}
    live.admit()
    live.plan()
    assert plan_question(live.ledger, live.ctx()).mode == "required"
    with pytest.raises(NotApprovedError):
        live.reserve()
