"""The slot of an account: held past the conversion, given back on every way out, told before it is full (SMS-10)."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from tests.contexts import Alive, HandClock, run_context
from tests.ledgers import fresh_ledger, within
from tests.unit.services.test_frozen import targeted
from tests.unit.services.test_refused import Story

from wavelift.base.run import DagRun
from wavelift.ledger import Ledger, migrations
from wavelift.ledger.events import list_events
from wavelift.ledger.slots import standing
from wavelift.rules.flows import EXPORT, FLOWS, LIVE, TEST, SlotKind, tasks_holding
from wavelift.rules.queue import Priority
from wavelift.services.common.line import ANOTHER, lines
from wavelift.services.common.slots import (
    Granted,
    InQueue,
    Queued,
    SlotRequest,
    give_back,
    look,
    prefer,
    request_slots,
    win_slots,
)
from wavelift.services.common.wanted import Terms, account_use, for_account, for_import
from wavelift.services.dataplane.messages import AccountUse
from wavelift.services.migration.report import Ended, finish
from wavelift.services.migration.reserve import after_cancel, release, reserve

pytestmark = pytest.mark.unit

ONE = Terms(per_account=1)
A, B = DagRun("erp.migrate", "r1"), DagRun("crm.replicate", "r2")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return fresh_ledger(tmp_path / "wavelift.db")


@pytest.fixture
def story(ledger: Ledger) -> Story:
    return Story(ledger)


def _asks(story: Story, name: str, terms: Terms = ONE) -> str:
    """Empty: it has its slots. Else what it waits for."""
    found = reserve(story.ledger, story.task(name), story.ctx(name), limit=4, terms=terms)
    return found.words if isinstance(found, InQueue) else ""


def _holds(story: Story, name: str) -> set[SlotKind]:
    return {each.kind for each in within(story.ledger.read(), standing) if each.holder.endswith(f"/{name}")}


def test_sms_10_the_slot_is_held_past_the_transfer(story: Story) -> None:
    assert _asks(story, "web01") == ""
    account = story.task("web01").plan.target.account
    assert _asks(story, "win01") == f"1st in line for account {account}: 1 of 1 in use"
    assert story.row("win01").phase == f"1st in line for account {account}: 1 of 1 in use"
    release(story.ledger, story.ctx("web01"), removed=True, exported=True)
    assert _holds(story, "web01") == {SlotKind.ACCOUNT}
    assert _asks(story, "win01") != "", "AWS converts it: it is still on its way"
    assert request_slots(
        story.ledger,
        for_import(story.task("web01").plan.target, story.ctx("web01").run_key, 5, ONE),
        story.ctx("web01"),
    ) == Granted(story.clock.time)


def test_sms_10_admission_counts_what_is_on_its_way_for_pre_flight(story: Story) -> None:
    target = story.task("web01").plan.target
    assert account_use(story.ledger, target, ONE) == AccountUse(in_use=0, limit=1)
    _asks(story, "web01")
    release(story.ledger, story.ctx("web01"), removed=True, exported=True)
    assert account_use(story.ledger, target, ONE) == AccountUse(in_use=1, limit=1)
    raised = target.model_copy(update={"migrations_per_account": 70})
    assert account_use(story.ledger, raised, ONE) == AccountUse(in_use=1, limit=70)
    assert account_use(story.ledger, target.model_copy(update={"account": "444455556666"}), ONE).in_use == 0


@pytest.mark.parametrize("way", ["failed", "cancelled", "cancelled at its import", "reported"])
def test_sms_10_every_way_out_gives_it_back(story: Story, way: str) -> None:
    _asks(story, "web01")
    _asks(story, "win01")
    known = story.row("web01")
    if "cancelled" in way:
        with story.ledger.write() as tx:
            known = migrations.request_cancel(tx, known.id, by="ana", clock=story.clock)
    if way == "cancelled at its import":
        after_cancel(story.ledger, known, released=True, clock=story.clock)
    elif way == "reported":
        finish(story.ledger, Ended(None), story.ctx())
    else:
        release(story.ledger, story.ctx("web01"), removed=True, exported=way == "cancelled")
    assert _holds(story, "web01") == set()
    if way != "reported":
        assert _asks(story, "win01") == ""


@pytest.mark.parametrize("kind", list(SlotKind))
@pytest.mark.parametrize("dies", ["run", "task"])
def test_inv_8_what_a_deleted_run_or_an_ended_task_holds_is_free(ledger: Ledger, kind: SlotKind, dies: str) -> None:
    clock = HandClock()
    mine, other = f"{A.dag_id}/{A.dag_run_id}/web01", f"{B.dag_id}/{B.dag_run_id}/web02"
    scope = "111122223333/eu-west-1" if kind is SlotKind.IMPORT else "111122223333"
    assert isinstance(request_slots(ledger, [SlotRequest(kind, scope, mine, 1)], run_context(A, clock=clock)), Granted)
    alive = Alive(lambda run: run != A) if dies == "run" else Alive(holder=lambda holder: holder != mine)
    want = [SlotRequest(kind, scope, other, 1)]
    assert isinstance(win_slots(ledger, want, run_context(B, clock=clock)), Queued)
    clock.sleep(30)
    assert isinstance(win_slots(ledger, want, run_context(B, clock=clock, liveness=alive)), Granted)


def test_inv_8_every_kind_is_held_by_a_step_of_every_flow() -> None:
    """Or nobody could tell that its holder has ended."""
    of_hcx = {SlotKind.HCX_MANAGER, SlotKind.HCX_MESH, SlotKind.HCX_SERIAL}
    of_ec2 = set(SlotKind) - of_hcx - {SlotKind.EXPORT}
    for flow in (*FLOWS, EXPORT):
        if flow is TEST:  # it moves nothing
            continue
        for kind in of_hcx if flow is LIVE else {SlotKind.EXPORT} if flow is EXPORT else of_ec2:
            assert tasks_holding(kind) & {step.task_id for step in flow.steps}, (flow.name, kind)
        held = {step.task_id for step in flow.steps if step.per_server}
        assert flow is LIVE or held <= tasks_holding(SlotKind.ACCOUNT)


def test_sms_10_it_is_told_from_four_fifths_of_the_limit_on(ledger: Ledger) -> None:
    terms, ctx = Terms(per_account=5), run_context(A, clock=HandClock())
    target = Story(ledger).task("web01").plan.target
    for number in range(5):
        request_slots(ledger, [for_account(target, f"s{number}", terms)], ctx)
    told = [one for one in within(ledger.read(), list_events) if one.action == "account.nearly_full"]
    assert [(one.object_id, one.details["in_use"], one.details["limit"]) for one in told] == [
        (target.account, 4, 5),
        (target.account, 5, 5),
    ]


def test_two_connections_to_one_account_share_it_and_an_older_plan_counts_with_all(story: Story) -> None:
    task, ctx = story.task("web01"), run_context(A, clock=story.clock)
    targets = {
        "first": task.plan.target,
        "second": targeted(task, aws_conn_id="aws_two").plan.target,
        "older": targeted(task, aws_conn_id="aws_old", account="").plan.target,
        "elsewhere": targeted(task, account="999988887777").plan.target,
    }

    def asks(name: str, server: str) -> bool:
        return isinstance(request_slots(story.ledger, for_import(targets[name], server, 2, Terms()), ctx), Granted)

    assert [asks("first", "a"), asks("second", "b"), asks("second", "c")] == [True, True, False]
    assert asks("elsewhere", "d")
    assert not asks("older", "e")
    for server in "abc":
        give_back(story.ledger, server, clock=story.clock)
    assert asks("older", "e"), "one of another account, and room for one"
    assert [asks("first", "f"), asks("first", "g")] == [True, False]


def test_an_environment_says_another_limit(story: Story) -> None:
    target = targeted(story.task("web01"), migrations_per_account=7).plan.target
    assert for_account(target, "a", ONE).limit == 7


def test_priority_goes_before_the_order_of_asking_and_may_be_changed(story: Story) -> None:
    _asks(story, "web01")
    _asks(story, "db01")
    _asks(story, "win01", Terms(per_account=1, priority=Priority.NEXT))
    assert [one.moving.server for one in lines(story.ledger)] == ["win01", "db01"]
    key = story.ctx("db01").run_key
    prefer(story.ledger, key, Priority.NEXT, by="ana", clock=story.clock)
    assert [(one.moving.server, one.position) for one in lines(story.ledger)] == [("db01", 1), ("win01", 2)]
    _asks(story, "db01")
    assert lines(story.ledger)[0].priority is Priority.NEXT, "asking again keeps what a person said"
    moved = [one for one in within(story.ledger.read(), list_events) if one.action == "slot.moved"]
    assert {(one.actor, one.object_id, one.details["priority"]) for one in moved} == {("ana", key, 0)}
    release(story.ledger, story.ctx("web01"), removed=True, exported=False)
    assert look(story.ledger, [key])[key] is None
    assert _asks(story, "win01") != ""
    assert _asks(story, "db01") == ""


def test_the_queue_names_who_is_in_the_way_as_far_as_the_reader_may_see(story: Story) -> None:
    other = run_context(B, "web09", clock=story.clock)
    two = Terms(per_account=2)
    target = story.task("web01").plan.target
    request_slots(story.ledger, [for_account(target, other.run_key, two)], other)
    _asks(story, "web01", two)
    _asks(story, "win01", two)
    (line,) = lines(story.ledger)
    where = f"1st in line for account {target.account}: 2 of 2 in use"
    assert line.words(lambda _: True) == f"{where} by crm/web09, erp/web01"
    assert line.words(lambda dag: dag == "erp.migrate") == f"{where} by erp/web01, {ANOTHER}"
    assert (line.moving.id, line.moving.wave, line.limit) == (story.row("win01").id, "erp", 2)


def test_who_comes_back_for_other_places_keeps_only_what_is_listed_before(ledger: Ledger) -> None:
    """So that no two of them wait for each other: VMs that moved to each other's host while they were cleared."""
    clock = HandClock()
    ctx = run_context(A, clock=clock)

    def want(holder: str, *scopes: str) -> list[SlotRequest]:
        return [SlotRequest(SlotKind.DATASTORE, scope, holder, 1) for scope in scopes]

    assert isinstance(request_slots(ledger, want("x", "b"), ctx), Granted)
    assert isinstance(request_slots(ledger, want("y", "a"), ctx), Granted)
    assert isinstance(request_slots(ledger, want("x", "a", "b"), ctx), Queued)
    assert isinstance(request_slots(ledger, want("y", "a", "b"), ctx), Granted)
    give_back(ledger, "y", clock=clock)
    clock.sleep(timedelta(minutes=1).total_seconds())
    assert isinstance(request_slots(ledger, want("x", "a", "b"), ctx), Granted)
