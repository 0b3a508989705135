"""A connector in maintenance: nothing new begins, queued servers wait, running ones finish (AMP-05)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.contexts import HandClock
from tests.ledgers import within
from tests.unit.services.test_nfc_slots import Hall, _task
from tests.unit.services.test_replication import START, WAVE, Desk, clock, desk, made_once

from wavelift.base.errors import RefusedError
from wavelift.base.run import DagRun
from wavelift.ledger import connectors, jobs, replication_runs
from wavelift.rules.replication import JobState, RunState
from wavelift.services.common.line import lines
from wavelift.services.common.slots import InQueue, look
from wavelift.services.replication.admission import reserve_runs
from wavelift.services.replication.outcome import fail_run
from wavelift.services.replication.reserve import reserve

__all__ = ["clock", "desk", "made_once"]

pytestmark = pytest.mark.unit

CONNECTOR = "hall-a"
REASON = "the connector is in maintenance: patching"


def _switch(desk: Desk, clock: HandClock, *, on: bool) -> None:
    with desk.ledger.write(connectors.lock_name(CONNECTOR)) as tx:
        connectors.register(
            tx,
            CONNECTOR,
            connectors.Registration(connection="vc-1", aws_conn_id="aws", region=""),
            by="ana",
            clock=clock,
        )
        connectors.set_maintenance(tx, CONNECTOR, on=on, reason="patching", by="ana", clock=clock)


def test_scheduled_instants_are_skipped_and_pause_no_job(desk: Desk, clock: HandClock) -> None:
    job = desk.create(seed_time=START.isoformat(), frequency_hours=12, pause_after_failures=3)
    _switch(desk, clock, on=True)
    for number in range(5):
        at = START + timedelta(hours=12 * number)
        clock.time = at
        (skipped,) = desk.admit(f"s{number}", scheduled_for=at, connector=CONNECTOR).skipped
        assert (skipped.rule, skipped.reason) == ("maintenance", REASON)
        assert desk.admit(f"s{number}", scheduled_for=at, connector=CONNECTOR).skipped == (skipped,), "a retry"
    known = within(desk.ledger.read(), jobs.get, job.id)
    assert (known.state, known.failures) == (JobState.ACTIVE, 0)
    _switch(desk, clock, on=False)
    clock.time = START + timedelta(hours=60)
    (run,) = desk.admit("s5", scheduled_for=clock.time, connector=CONNECTOR).granted
    assert run.state is RunState.ACTIVE


def test_a_new_request_is_refused_at_once_and_counts_nothing(desk: Desk, clock: HandClock) -> None:
    desk.create()
    _switch(desk, clock, on=True)
    for number in range(3):
        with pytest.raises(RefusedError, match=REASON) as refused:
            reserve_runs(
                desk.ledger, WAVE, ["web01"], desk.ctx(DagRun("erp.replicate", f"r{number}")), connector=CONNECTOR
            )
        assert refused.value.where["rule"] == "maintenance"
    assert desk.rules(desk.admit("by Airflow's form", connector=CONNECTOR)) == ["maintenance"]
    _switch(desk, clock, on=False)
    assert desk.admit(connector=CONNECTOR).granted


def test_what_was_reserved_before_is_taken_up_and_waits(desk: Desk, clock: HandClock) -> None:
    desk.create()
    desk.reserve(id="r1")
    _switch(desk, clock, on=True)
    (run,) = desk.admit("r1", connector=CONNECTOR).granted
    assert run.state is RunState.ACTIVE


def test_queued_runs_wait_and_go_in_their_order_while_those_that_move_finish(desk: Desk, clock: HandClock) -> None:
    hall = Hall(desk, clock, "web01", "web02", "web03")
    moves, first, second = (_task(name, f"host-{name}") for name in ("web01", "web02", "web03"))
    hall.ask(moves, limit=1)
    _switch(desk, clock, on=True)
    for task in (first, second, first):
        waiting = hall.ask(task, limit=1)
        assert isinstance(waiting, InQueue)
    assert isinstance(waiting, InQueue)
    assert waiting.words == "1st in line for connector hall-a, which is in maintenance: patching"
    assert [one.maintenance for one in lines(desk.ledger)] == ["patching", "patching"]
    assert not isinstance(hall.ask(moves, limit=1), InQueue), "it has begun; a cleared task of it goes on"
    hall.end(moves)
    keys = [hall.context(task).run_key for task in (first, second)]
    assert None not in look(desk.ledger, keys).values(), "a slot is free, and nobody gets it"
    assert isinstance(hall.ask(first, limit=1), InQueue)
    assert hall.held() == [], "who waits for the end of a maintenance is in nobody's way"
    _switch(desk, clock, on=False)
    assert isinstance(hall.ask(second, limit=1), InQueue), "in their order"
    assert not isinstance(hall.ask(first, limit=1), InQueue)


def test_a_run_that_failed_in_its_transfer_goes_on_when_it_is_cleared(desk: Desk, clock: HandClock) -> None:
    hall = Hall(desk, clock, "web01")
    hall.ask(_task("web01"))
    hall.end(_task("web01"))
    fail_run(desk.ledger, replication_runs.run_id(hall.context(_task("web01")).run_key), "no", clock=clock)
    _switch(desk, clock, on=True)
    found = reserve(desk.ledger, _task("web01"), hall.context(_task("web01")), limit=1)
    assert not isinstance(found, InQueue)
