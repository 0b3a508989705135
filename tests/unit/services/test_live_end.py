"""A live run from the moment that HCX moves its servers: followed, cancelled, verified, told."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import HandClock
from tests.ledgers import fresh_ledger, within
from tests.unit.services.live import HOUR, Live, error

from wavelift.base.errors import PermanentError, SpecError, TamperedError
from wavelift.ledger import WaveRunState, waves
from wavelift.ledger.slots import standing
from wavelift.rules.flows import SlotKind
from wavelift.services.dataplane.live_messages import (
    Cancelled,
    CancelledOne,
    Followed,
    FollowedOne,
    FoundThere,
    LiveOrder,
)
from wavelift.services.live_migration import cancelling
from wavelift.services.live_migration.follow import followed, following, free, note
from wavelift.services.live_migration.moved import moved, verified
from wavelift.services.live_migration.report import raise_when_failed
from wavelift.services.live_migration.requests import cancel

pytestmark = pytest.mark.unit


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def live(tmp_path: Path, clock: HandClock) -> Live:
    return Live(fresh_ledger(tmp_path / "ledger.db"), clock)


def held(live: Live) -> set[str]:
    """Servers that have HCX's slots."""
    return {each.holder.rpartition("/")[2] for each in within(live.ledger.read(), standing)}


def progress(**changes: Any) -> dict[str, Any]:
    return {"phase": "replicating", "over": False, "percent": 40, "words": "replicating, 40 %", **changes}


# Following


def test_progress_is_for_people_and_who_is_over_gives_its_slots_back(live: Live, clock: HandClock) -> None:
    live.moving()
    before = live.rows()["a"].version
    now = {"m-a": progress(bytes_done=4, bytes_total=10), "m-b": progress(phase="complete", over=True, percent=None)}
    note(live.ledger, now, clock=clock)
    free(live.ledger, now, clock=clock)
    row = live.rows()["a"]
    assert (row.percent, row.phase, row.bytes_done, row.bytes_total) == (40, "replicating, 40 %", 4, 10)
    assert row.version == before
    assert live.states() == {"a": "moving", "b": "moving"}, "nothing is decided by it"
    assert (live.rows()["b"].percent, held(live)) == (100, {"a"})
    note(live.ledger, {"m-a": progress(percent=None), "m-x": progress()}, clock=clock)
    assert live.rows()["a"].percent == 40


def test_what_is_followed_and_how_long(live: Live, clock: HandClock) -> None:
    live.spec = {"max_hours": 3}
    live.moving()
    to = following(live.ledger, live.ctx())
    assert (to.migrations, to.until, to.near) == ({"a": "m-a", "b": "m-b"}, clock.now() + 3 * HOUR, False)
    told = followed(to, {"m-a": progress(errors=["one", "two"])}, clock.now())
    assert [(one.server, one.phase, one.error, one.words) for one in told.servers] == [
        ("a", "replicating", "one; two", "replicating, 40 %"),
        ("b", "", "", "HCX does not list it"),
    ]


def test_a_window_far_ahead_is_followed_to(live: Live, clock: HandClock) -> None:
    start = clock.now() + 100 * HOUR
    live.moving(window_start=start.isoformat(), window_end=(start + 4 * HOUR).isoformat())
    assert following(live.ledger, live.ctx()).until == start + 48 * HOUR


# How HCX ended


def test_one_of_several_that_fails_stops_no_other(live: Live) -> None:
    live.moving()
    assert live.ended(a="complete", b="failed") == ["a"]
    assert live.states() == {"a": "verifying", "b": "failed"}
    assert live.verify("a") == ()
    report = live.report()
    assert live.states() == {"a": "moved", "b": "failed"}
    with pytest.raises(PermanentError, match=r"(?s)1 of 2 servers did not get through.*b failed: failed") as raised:
        raise_when_failed(report)
    assert 'as conf: {"mode": "migrate", "servers": ["b"]}' in raised.value.next_step
    assert not held(live)
    assert live.admit("r2", servers=["b"]).migrations, "a retry is a new run for the chosen servers"


@pytest.mark.parametrize(
    ("phase", "state", "words"),
    [
        ("complete", "verifying", ""),
        ("failed", "failed", "failed"),
        ("cancelled", "cancelled", "HCX ended it before its switchover"),
        ("ended, outcome unknown", "failed", "look in both vCenters"),
        ("switching over", "moving", "The time of 'max_hours' is over, and HCX has not ended"),
        ("", "moving", "The time of 'max_hours' is over"),
        ("some new word", "moving", "HCX has not ended"),
    ],
)
def test_only_a_positive_sign_is_an_end(live: Live, phase: str, state: str, words: str) -> None:
    live.moving(servers=["a"])
    live.ended(a=phase)
    row = live.rows()["a"]
    assert str(row.state) == state
    assert words in row.error


def test_what_hcx_may_still_move_stays_open_and_can_be_followed_again(live: Live) -> None:
    live.moving(servers=["a"])
    live.ended(a="replicating")
    report = live.report(stopped="follow: it was stopped")
    assert (live.states(), report.succeeded) == ({"a": "moving"}, False)
    with pytest.raises(PermanentError) as raised:
        raise_when_failed(report)
    assert "clear the task follow, with downstream" in raised.value.next_step
    assert following(live.ledger, live.ctx()).migrations == {"a": "m-a"}
    assert live.ended(a="complete") == ["a"]


def test_a_migration_that_is_not_this_run_s_is_refused(live: Live, clock: HandClock) -> None:
    live.moving(servers=["a"])
    for one in (("a", "m-x"), ("b", "m-b")):
        came = Followed(servers=(FollowedOne(server=one[0], migration_id=one[1], phase="complete"),), at=clock.now())
        with pytest.raises(TamperedError, match="not a migration of this run"):
            moved(live.ledger, came, live.ctx())
    assert live.states() == {"a": "moving"}


# Verification


@pytest.mark.parametrize(
    ("changes", "accepts", "wrong"),
    [
        ({}, False, ()),
        ({"wrong": ["its MAC is another one"], "passed": False}, True, ("its MAC is another one",) * 2),
        ({"unverified": ["its addresses"]}, False, ("not verified: its addresses",) * 2),
        ({"unverified": ["its addresses"]}, True, ()),
        ({"passed": False}, True, ("what was found in the destination's vCenter did not pass",)),
    ],
)
def test_what_is_not_as_it_should_be_is_told(
    live: Live, changes: dict[str, Any], accepts: bool, wrong: tuple[str, ...]
) -> None:
    live.spec = {"accept_no_tools": accepts}
    live.moving(servers=["a"])
    live.ended(a="complete")
    assert live.verify("a", **changes)[: len(wrong)] == wrong
    row = live.rows()["a"]
    assert (str(row.state), bool(row.error)) == (("unverified", True) if wrong else ("moved", False))
    assert row.found is not None
    assert set(row.found) == {"destination", "source"}
    assert live.verify("a") == (), "its tasks alone were cleared"
    assert live.states() == {"a": "moved"}


def test_both_sides_must_speak_of_this_server(live: Live, clock: HandClock) -> None:
    live.moving()
    live.ended(a="complete", b="complete")
    one = FoundThere(server="a", side="destination", passed=True, at=clock.now())
    other = FoundThere(server="b", side="source", passed=True, at=clock.now())
    for came in ([one], [one, one], [one, other]):
        with pytest.raises(TamperedError):
            verified(live.ledger, came, live.ctx(server="a"))
    assert live.states() == {"a": "verifying", "b": "verifying"}


def test_a_server_that_could_not_be_verified_says_so(live: Live) -> None:
    live.moving(servers=["a"])
    live.ended(a="complete")
    report = live.report(words={"a": "the vCenter did not answer"})
    assert (live.states(), live.rows()["a"].error) == (
        {"a": "unverified"},
        "it could not be verified: the vCenter did not answer",
    )
    with pytest.raises(PermanentError) as raised:
        raise_when_failed(report)
    assert "server.verify_destination" in raised.value.next_step
    assert live.ended(a="complete") == ["a"], "cleared from where it was recorded"


# The report


def test_what_hcx_was_never_asked_for_ends_and_what_nobody_knows_stays_open(live: Live) -> None:
    order = live.ordered()
    report = live.report(asked_hcx=True, stopped="start: the line was cut")
    assert live.states() == {"a": "starting", "b": "starting"}
    assert f"mobility group {order.group_name}" in live.rows()["a"].error
    with pytest.raises(PermanentError) as raised:
        raise_when_failed(report)
    assert "clear the task reserve, with downstream" in raised.value.next_step
    assert not held(live)
    report = live.report(asked_hcx=False, stopped="validate: HCX refused it")
    assert live.states() == {"a": "ended", "b": "ended"}
    assert "validate: HCX refused it" in report.outcomes[0].error


def test_a_run_that_stopped_early_ends_what_it_opened(live: Live) -> None:
    live.admit()
    report = live.report(stopped="approve: ben rejected it")
    assert live.states() == {"a": "ended", "b": "ended"}
    assert "approve: ben rejected it" in report.outcomes[0].error
    assert within(live.ledger.read(), waves.get, live.run()).state is WaveRunState.FAILED


def test_a_plan_fails_if_a_server_can_t_go(live: Live) -> None:
    live.admit(mode="plan")
    planned = live.plan(live.found(findings=[error("b")]))
    with pytest.raises(PermanentError, match=r"(?s)1 of 2 servers can't be migrated.*b refused: it has a snapshot"):
        raise_when_failed(live.report(plan=planned))
    live.admit("p2", mode="plan")
    report = live.report("p2", plan=live.plan(id="p2"))
    assert report.succeeded
    raise_when_failed(report)


def test_a_report_of_a_run_that_was_never_admitted_tells_so(live: Live) -> None:
    report = live.report("x9", stopped="admit: no such server")
    assert (report.succeeded, report.stopped) == (False, "admit: no such server")


# Cancelling


def test_what_waits_ends_when_its_run_comes_to_it_or_at_once_without_one(live: Live, clock: HandClock) -> None:
    live.admit()
    rows = live.rows()
    assert str(cancel(live.ledger, rows["a"].id, by="ben", clock=clock, over=False).state) == "waiting"
    assert str(cancel(live.ledger, rows["b"].id, by="ben", clock=clock, over=True).state) == "ended"
    with pytest.raises(PermanentError, match="nothing to cancel"):
        cancel(live.ledger, rows["b"].id, by="ben", clock=clock, over=True)


def reach(live: Live, phase: str) -> None:
    """A run of server a, up to this phase."""
    match phase:
        case "admitted":
            live.admit(servers=["a"])
        case "planned" | "approved":
            live.admit(servers=["a"])
            planned = live.plan()
            if phase == "approved":
                live.approve(planned)
        case "ordered":
            live.ordered(servers=["a"])
        case _:
            live.moving(servers=["a"])
            if phase != "moving":
                live.ended(a="failed" if phase == "failed" else "complete")
            if phase == "moved":
                live.verify("a")


@pytest.mark.parametrize("phase", ["admitted", "planned", "approved"])
def test_cancelled_before_hcx_is_asked_it_never_is(live: Live, clock: HandClock, phase: str) -> None:
    reach(live, phase)
    cancel(live.ledger, live.rows()["a"].id, by="ben", clock=clock, over=False)
    if phase != "approved":
        live.approve(live.plan())
    with pytest.raises(PermanentError, match="No server of this run is left"):
        live.reserve()
    assert (live.states(), held(live)) == ({"a": "ended"}, set())
    assert "cancelled" in live.rows()["a"].error
    assert live.admit("r2", servers=["a"]).migrations


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("ordered", "being told to start"),
        ("moving", ""),
        ("verifying", "is verifying: there is nothing to cancel"),
        ("moved", "is moved: there is nothing to cancel"),
        ("failed", "is failed: there is nothing to cancel"),
    ],
)
def test_cancelled_later_only_what_hcx_moves_can_be(live: Live, clock: HandClock, phase: str, words: str) -> None:
    reach(live, phase)
    before = live.rows()["a"]
    if words:
        with pytest.raises(PermanentError, match=words):
            cancel(live.ledger, before.id, by="ben", clock=clock, over=False)
        assert live.rows()["a"] == before
        return
    assert cancel(live.ledger, before.id, by="ben", clock=clock, over=False).state == "moving"
    order = cancelling.order_of(live.ledger, [before.id], live.ctx(), clear_number=0)
    assert [(one.server, one.migration_id) for one in order.servers] == [("a", "m-a")]
    assert live.ended(a="cancelled") == []
    assert (live.states(), held(live)) == ({"a": "cancelled"}, {"a"})
    live.report()
    assert not held(live)


def test_while_hcx_is_told_to_start_nobody_knows_what_to_cancel(live: Live, clock: HandClock) -> None:
    live.ordered(servers=["a"])
    id = live.rows()["a"].id
    with pytest.raises(PermanentError, match="being told to start"):
        cancel(live.ledger, id, by="ben", clock=clock, over=False)
    assert cancel(live.ledger, id, by="ben", clock=clock, over=True).cancel_requested


@pytest.mark.parametrize(
    ("outcome", "alive", "state"),
    [
        ("cancelled", True, "moving"),  # the run that follows it records how HCX ended
        ("cancelled", False, "cancelled"),
        ("asked", False, "moving"),  # it may switch over all the same
        ("absent", False, "failed"),
        ("too_late", False, "moving"),
        ("over", False, "failed"),  # nobody follows it any more: it would keep its VM from every other run
    ],
)
def test_a_run_that_cancels_ends_migrations_of_other_runs(
    live: Live, clock: HandClock, outcome: Any, alive: bool, state: str
) -> None:
    live.moving(servers=["a"])
    ids = [live.rows()["a"].id]
    live.dead = set() if alive else {"r1"}
    admitted = live.admit("c1", mode="cancel", migrations=ids)
    order = cancelling.order_of(live.ledger, ids, live.ctx("c1"), clear_number=0)
    assert admitted.migrations == {"a": ids[0]}
    assert [(one.server, one.migration_id, one.group_id, one.entity_id) for one in order.servers] == [
        ("a", "m-a", "g-1", "vm-a")
    ]
    came = Cancelled(servers=(CancelledOne(server="a", outcome=outcome, words="so it is"),), at=clock.now())
    told = cancelling.record(live.ledger, came, ids, live.ctx("c1"))
    assert told["a"].endswith("so it is")
    assert (live.states(), live.rows()["a"].cancel_requested) == ({"a": state}, True)
    report = live.report("c1", cancelled=told)
    assert report.succeeded is (outcome not in ("asked", "too_late")), "a run that cancelled nothing is no success"
    assert live.states() == {"a": state}, "the report of another run closes nothing here"


def test_a_group_that_hcx_never_had_started_nothing(live: Live, clock: HandClock) -> None:
    live.ordered(servers=["a"])
    live.dead = {"r1"}
    ids = [live.rows()["a"].id]
    live.admit("c1", mode="cancel", migrations=ids)
    (one,) = cancelling.order_of(live.ledger, ids, live.ctx("c1"), clear_number=0).servers
    assert (one.group_name, one.migration_id) == (live.rows()["a"].group_name, "")
    came = Cancelled(servers=(CancelledOne(server="a", outcome="absent"),), at=clock.now())
    cancelling.record(live.ledger, came, ids, live.ctx("c1"))
    assert live.states() == {"a": "ended"}
    live.admit("r2", servers=["a"])


def test_what_can_t_be_cancelled_is_refused_at_admission(live: Live, clock: HandClock) -> None:
    live.moving()
    ids = [row.id for row in live.rows().values()]
    live.ended(a="failed", b="replicating")
    with pytest.raises(PermanentError, match="is failed"):
        live.admit("c1", mode="cancel", migrations=ids)
    with pytest.raises(SpecError, match="mode cancel needs migrations"):
        live.admit("c1", mode="cancel")
    came = Cancelled(servers=(CancelledOne(server="z", outcome="cancelled"),), at=clock.now())
    with pytest.raises(TamperedError):
        cancelling.record(live.ledger, came, ids, live.ctx("c1"))


def test_without_a_yes_the_run_s_own_are_cancelled(live: Live, clock: HandClock) -> None:
    start, end = clock.now() + 10 * HOUR, clock.now() + 12 * HOUR
    live.spec = {"approve_switchover": True, "window": {"start": start.isoformat(), "end": end.isoformat()}}
    live.moving()
    order = cancelling.order_of_run(live.ledger, live.ctx(), clear_number=2)
    assert ([one.server for one in order.servers], order.clear_number) == (["a", "b"], 2)
    assert live.ended(a="cancelled", b="complete") == ["b"], "it had begun to switch over"
    live.verify("b")
    live.report()
    assert live.states() == {"a": "cancelled", "b": "moved"}
    assert cancelling.order_of_run(live.ledger, live.ctx(), clear_number=2).servers == ()


def test_a_run_of_one_vm_after_the_other_keeps_its_slot_to_the_end(live: Live, clock: HandClock) -> None:
    live.spec = {"type": "vmotion"}
    live.moving()
    free(live.ledger, {"m-a": progress(over=True)}, clock=clock)
    assert [str(each.kind) for each in within(live.ledger.read(), standing)] == [SlotKind.HCX_SERIAL]
    clock.sleep(timedelta(hours=1).total_seconds())
    live.ended(a="complete", b="complete")
    live.report()
    assert not within(live.ledger.read(), standing)


def test_an_order_names_who_hcx_s_group_may_hold_and_is_not_to_be_moved_any_more(live: Live, clock: HandClock) -> None:
    """The start died once it had made the group; then one server was cancelled, and the run cleared."""
    assert live.ordered().dropped == ()
    live.dead = {"r1"}
    ids = [live.rows()["b"].id]
    live.admit("c1", mode="cancel", migrations=ids)
    came = Cancelled(servers=(CancelledOne(server="b", outcome="absent"),), at=clock.now())
    cancelling.record(live.ledger, came, ids, live.ctx("c1"))
    live.dead = set()
    again = live.reserve(clears=1)
    assert isinstance(again, LiveOrder)
    assert ([task.name for task in again.tasks], again.dropped) == (["a"], ("b",))
