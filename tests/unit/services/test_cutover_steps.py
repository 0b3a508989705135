"""The engine of a cutover's network steps over the ledger: forward, back, killed anywhere (invariant 12)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contexts import HandClock, run_context
from tests.ledgers import fresh_ledger, within

from wavelift.base.errors import NotFoundError, PermanentError, UnreachableError
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, cutovers, jobs
from wavelift.ledger.cutover_records import Cutover, StepRow
from wavelift.ledger.events import list_events
from wavelift.rules.cutover import CutoverState, StepState
from wavelift.services.common.persons import answered_in
from wavelift.services.cutover import back, prepare, step_kinds
from wavelift.services.cutover.persons import asked
from wavelift.services.cutover.step_kinds import Facts
from wavelift.services.cutover.steps import (
    Done,
    Planned,
    Waits,
    advance,
    confirm,
    cutover_subject,
    go_back,
    prepared_subject,
    write_plan,
)
from wavelift.services.dataplane.steps.step import ChangedElsewhere, Outcome, Settled, State, Step, Waiting

pytestmark = pytest.mark.unit

RUN = DagRun("erp.cutover", "manual__1")
FACTS = Facts(instance_id="i-1", private_ip="10.0.0.5", interface="eni-1")
NOBODY: Any = None
"""The access: the steps here are in memory."""


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Outside:
    """Places that steps write to, by name."""

    values: dict[str, str] = field(default_factory=dict)
    writes: list[tuple[str, str]] = field(default_factory=list)
    settles_after: int = 0
    receipts: list[str] = field(default_factory=list)
    """With which settling was asked for."""
    die: Callable[[str], None] = lambda moment: None


@dataclass
class Memory(Step):
    kind = "memory"
    outside: Outside
    place: str
    goal: str

    @property
    def name(self) -> str:
        return f"memory:{self.place}"

    @property
    def words(self) -> str:
        return f"Write {self.goal}"

    @property
    def undo_words(self) -> str:
        return "Write the old value"

    def read(self) -> State:
        self.outside.die(f"before reading {self.place}")
        if self.place not in self.outside.values:
            raise NotFoundError("there is no such place")
        return self.outside.values[self.place]

    def wanted(self, before: State) -> State:
        return self.goal

    def change(self, now: State, to: State) -> str:
        self.outside.die(f"before writing {self.place}")
        self.outside.values[self.place] = to
        self.outside.writes.append((self.place, to))
        self.outside.die(f"after writing {self.place}")
        return "r1"

    def renew(self, to: State) -> str:
        return "renewed"

    def settled(self, to: State, receipt: str = "") -> Outcome:
        self.outside.receipts.append(receipt)
        if self.outside.settles_after:
            self.outside.settles_after -= 1
            return Waiting(f"until {self.place} has settled", f"in sync|{self.place}", receipt)
        return Settled()


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Outside:
    found = Outside()

    def build(aws: Any, name: str, spec: Any, facts: Facts) -> Step:
        return Memory(found, spec["place"], spec["goal"])

    monkeypatch.setitem(step_kinds._BUILDERS, "memory", build)
    return found


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with fresh_ledger(tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture
def ctx() -> RunContext:
    return run_context(RUN, "web01", clock=HandClock())


def opened(ledger: Ledger, state: CutoverState = CutoverState.MOVING, **columns: Any) -> Cutover:
    with ledger.write(jobs.lock_name("erp")) as tx:
        return cutovers.insert(
            tx,
            at=HandClock().now(),
            by="ann",
            run=RUN,
            run_key=f"{RUN.dag_id}/{RUN.dag_run_id}/web01",
            wave="erp",
            server="web01",
            environment="prod",
            state=state,
            **columns,
        )


def turn(ledger: Ledger, known: Cutover, state: CutoverState) -> None:
    with ledger.write(jobs.lock_name("erp")) as tx:
        cutovers.apply(tx, cutovers.get(tx, known.id), "turned", at=HandClock().now(), by="test", state=state)


def planned(*places: str) -> list[Planned]:
    return [Planned(place, "memory", f"Write {place}", "Back", {"place": place, "goal": "new"}) for place in places]


def begun(ledger: Ledger, outside: Outside, ctx: RunContext, *places: str) -> Cutover:
    """A cutover that moves, with steps over places that hold ``old``."""
    known = opened(ledger)
    outside.values |= dict.fromkeys(places, "old")
    write_plan(ledger, cutover_subject(known), planned(*places), clock=ctx.clock)
    return known


def rows(ledger: Ledger, known: Cutover) -> dict[str, StepRow]:
    return {row.name: row for row in within(ledger.read(), cutovers.steps_of, cutovers.CUTOVER_KIND, known.id)}


def states(ledger: Ledger, known: Cutover) -> list[StepState]:
    return [row.state for row in rows(ledger, known).values()]


def test_steps_go_forward_in_order_and_back_in_reverse(ledger: Ledger, outside: Outside, ctx: RunContext) -> None:
    known = begun(ledger, outside, ctx, "a", "b")
    subject = cutover_subject(known)
    assert advance(ledger, NOBODY, subject, ctx, facts=FACTS) == Done()
    assert states(ledger, known) == [StepState.SETTLED] * 2
    assert {row.before for row in rows(ledger, known).values()} == {"old"}
    turn(ledger, known, CutoverState.REVERTING)
    assert go_back(ledger, NOBODY, subject, ctx) == Done()
    assert outside.writes == [("a", "new"), ("b", "new"), ("b", "old"), ("a", "old")]
    assert states(ledger, known) == [StepState.UNDONE] * 2


def test_what_was_before_is_committed_before_the_first_write(ledger: Ledger, outside: Outside, ctx: RunContext) -> None:
    known = begun(ledger, outside, ctx, "a")
    seen = []

    def die(moment: str) -> None:
        if moment == "before writing a":
            seen.append(rows(ledger, known)["a"])

    outside.die = die
    advance(ledger, NOBODY, cutover_subject(known), ctx, facts=FACTS)
    assert [(row.state, row.before, row.wanted) for row in seen] == [(StepState.INTENDED, "old", "new")]


def test_a_change_of_somebody_else_stops_and_shows_all_three(ledger: Ledger, outside: Outside, ctx: RunContext) -> None:
    known = begun(ledger, outside, ctx, "a", "b")
    outside.settles_after = 1
    subject = cutover_subject(known)
    assert isinstance(advance(ledger, NOBODY, subject, ctx, facts=FACTS), Waits)
    outside.values["a"] = "theirs"
    with pytest.raises(ChangedElsewhere):
        advance(ledger, NOBODY, subject, ctx, facts=FACTS)
    kept = rows(ledger, known)["a"]
    assert all(word in kept.error for word in ("before=old", "wanted=new", "now=theirs"))
    assert outside.writes == [("a", "new")], "neither theirs nor a later step was written"
    turn(ledger, known, CutoverState.REVERTING)
    with pytest.raises(ChangedElsewhere):
        go_back(ledger, NOBODY, subject, ctx)
    assert outside.values == {"a": "theirs", "b": "old"}
    outside.values["a"] = "new"
    assert go_back(ledger, NOBODY, subject, ctx) == Done()
    assert outside.values == {"a": "old", "b": "old"}
    assert rows(ledger, known)["a"].error == ""


def test_a_settled_step_that_somebody_changed_stops_the_next(ledger: Ledger, outside: Outside, ctx: RunContext) -> None:
    known = begun(ledger, outside, ctx, "a")
    advance(ledger, NOBODY, cutover_subject(known), ctx, facts=FACTS)
    write_plan(ledger, cutover_subject(known), planned("a", "b"), clock=ctx.clock)
    outside.values |= {"a": "theirs", "b": "old"}
    with pytest.raises(ChangedElsewhere):
        advance(ledger, NOBODY, cutover_subject(known), ctx, facts=FACTS)
    assert outside.values["b"] == "old"
    assert rows(ledger, known)["a"].state is StepState.SETTLED
    outside.values["a"] = "old"
    outside.settles_after = 1
    assert isinstance(advance(ledger, NOBODY, cutover_subject(known), ctx, facts=FACTS), Waits)
    assert states(ledger, known) == [StepState.APPLIED, StepState.PLANNED], "set back, it is made again, and waited for"
    assert advance(ledger, NOBODY, cutover_subject(known), ctx, facts=FACTS) == Done()
    assert outside.values == {"a": "new", "b": "new"}
    assert (rows(ledger, known)["a"].before, rows(ledger, known)["a"].error) == ("old", "")


def test_a_settled_step_that_was_set_back_is_not_made_again_by_one_that_goes_back(
    ledger: Ledger, outside: Outside, ctx: RunContext
) -> None:
    known = begun(ledger, outside, ctx, "a")
    advance(ledger, NOBODY, cutover_subject(known), ctx, facts=FACTS)
    outside.values["a"] = "old"
    turn(ledger, known, CutoverState.REVERTING)
    with pytest.raises(PermanentError, match="is reverting"):
        advance(ledger, NOBODY, cutover_subject(known), ctx, facts=FACTS)
    assert outside.values["a"] == "old"
    assert go_back(ledger, NOBODY, cutover_subject(known), ctx) == Done()
    assert outside.writes == [("a", "new")]


def test_a_receipt_survives_the_task(ledger: Ledger, outside: Outside, ctx: RunContext) -> None:
    known = begun(ledger, outside, ctx, "a")
    outside.settles_after = 1
    found = advance(ledger, NOBODY, cutover_subject(known), ctx, facts=FACTS)
    assert found == Waits(("in sync|a",), "a: until a has settled")
    assert rows(ledger, known)["a"].state is StepState.APPLIED
    assert advance(ledger, NOBODY, cutover_subject(known), ctx, facts=FACTS) == Done()
    assert outside.receipts == ["r1", "r1"]
    assert outside.writes == [("a", "new")]


MOMENTS = [f"{when} {place}" for place in "ab" for when in ("before reading", "before writing", "after writing")]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("way", ["forward", "back"])
@pytest.mark.parametrize("lost", [Killed, UnreachableError])
def test_a_kill_and_a_lost_answer_at_any_point_are_harmless(
    ledger: Ledger, outside: Outside, ctx: RunContext, moment: str, way: str, lost: type[BaseException]
) -> None:
    known = begun(ledger, outside, ctx, "a", "b")
    subject = cutover_subject(known)
    if way == "back":
        advance(ledger, NOBODY, subject, ctx, facts=FACTS)
        turn(ledger, known, CutoverState.REVERTING)
    left = [moment]

    def die(now: str) -> None:
        if now in left:
            left.remove(now)
            raise lost("killed")

    outside.die = die
    for _ in range(3):
        try:
            found = (
                advance(ledger, NOBODY, subject, ctx, facts=FACTS)
                if way == "forward"
                else go_back(ledger, NOBODY, subject, ctx)
            )
        except (Killed, UnreachableError):
            continue
        break
    assert found == Done()
    assert not left
    assert outside.values == dict.fromkeys("ab", "new" if way == "forward" else "old")
    assert {row.before for row in rows(ledger, known).values()} == {"old"}
    assert len(outside.writes) == (2 if way == "forward" else 4), "nothing was written twice"


def test_a_cutover_that_is_reverted_goes_no_further(ledger: Ledger, outside: Outside, ctx: RunContext) -> None:
    """A task that outlived its try must not write after the revert began."""
    known = begun(ledger, outside, ctx, "a")
    turn(ledger, known, CutoverState.REVERTING)
    with pytest.raises(PermanentError, match="reverting"):
        advance(ledger, NOBODY, cutover_subject(known), ctx, facts=FACTS)
    assert outside.writes == []


def test_a_write_that_came_after_the_undo_is_undone(ledger: Ledger, outside: Outside, ctx: RunContext) -> None:
    known = begun(ledger, outside, ctx, "a")
    advance(ledger, NOBODY, cutover_subject(known), ctx, facts=FACTS)
    turn(ledger, known, CutoverState.REVERTING)
    go_back(ledger, NOBODY, cutover_subject(known), ctx)
    outside.values["a"] = "new"  # by a call that was under way
    assert go_back(ledger, NOBODY, cutover_subject(known), ctx) == Done()
    assert outside.values["a"] == "old"
    outside.values["a"] = "theirs"  # after we had restored it: it is none of ours
    assert go_back(ledger, NOBODY, cutover_subject(known), ctx) == Done()
    assert outside.values["a"] == "theirs"


def test_steps_that_began_for_one_instance_go_on_for_no_other(
    ledger: Ledger, outside: Outside, ctx: RunContext
) -> None:
    known = begun(ledger, outside, ctx, "a")
    advance(ledger, NOBODY, cutover_subject(known), ctx, facts=FACTS)
    with pytest.raises(PermanentError, match="i-1"):
        advance(ledger, NOBODY, cutover_subject(known), ctx, facts=Facts(instance_id="i-2"))


def test_a_step_that_takes_too_long_fails_and_waits_anew_once_cleared(
    ledger: Ledger, outside: Outside, ctx: RunContext
) -> None:
    known = begun(ledger, outside, ctx, "a")
    outside.settles_after = 100
    subject = cutover_subject(known)
    assert isinstance(advance(ledger, NOBODY, subject, ctx, facts=FACTS), Waits)
    ctx.clock.sleep(timedelta(hours=2).total_seconds())
    with pytest.raises(PermanentError, match="longer than 120 minutes"):
        advance(ledger, NOBODY, subject, ctx, facts=FACTS)
    assert isinstance(advance(ledger, NOBODY, subject, ctx, facts=FACTS), Waits)


def test_people_are_asked_forward_and_back_and_have_time(ledger: Ledger, outside: Outside, ctx: RunContext) -> None:
    known = opened(ledger)
    subject = cutover_subject(known)
    asks = Planned("person router", "person", "Move the route", "Move it back", {"ask": "Move it", "undo": "Back"})
    write_plan(ledger, subject, [asks], clock=ctx.clock)

    def say() -> StepRow:
        return confirm(ledger, known.id, "person router", "ann", clock=ctx.clock)

    with pytest.raises(PermanentError, match="Nothing is asked"):
        say()
    found = advance(ledger, NOBODY, subject, ctx, facts=FACTS)
    assert isinstance(found, Waits)
    assert found.waits == (f"person|cutover|{known.id}|person router",)
    ctx.clock.sleep(timedelta(days=3).total_seconds())
    assert isinstance(advance(ledger, NOBODY, subject, ctx, facts=FACTS), Waits)
    assert not answered_in(ledger, found.waits[0])
    (told,) = asked(ledger, ["time|2026-12-01T00:00:00+00:00", *found.waits])
    assert told.words.startswith("web01: Move it. Until then its cutover does not go on")
    assert f"wavelift cutover confirm {known.id} 'person router'" in told.words
    assert asked(ledger, found.waits) == (told,), "as the same"
    assert say().spec == say().spec
    assert answered_in(ledger, found.waits[0])
    assert advance(ledger, NOBODY, subject, ctx, facts=FACTS) == Done()
    turn(ledger, known, CutoverState.REVERTING)
    assert asked(ledger, found.waits) == ()
    assert isinstance(go_back(ledger, NOBODY, subject, ctx), Waits), "the undo needs an answer of its own"
    (back,) = asked(ledger, found.waits)
    assert back.words.startswith("web01: Back. Until then its source does not come back")
    assert (back.about, told.about) == ("person router back", "person router forward")
    say()
    assert go_back(ledger, NOBODY, subject, ctx) == Done()
    said = within(ledger.read(), list_events, object_id=f"{known.id}/person router")
    assert [(each.actor, each.details["answer"]) for each in said if each.action == "step.confirmed"] == [
        ("ann", "done"),
        ("ann", "undone"),
    ]
    with pytest.raises(NotFoundError, match="person router"):
        confirm(ledger, known.id, "other", "ann", clock=ctx.clock)


def test_a_person_who_was_never_answered_need_not_undo(ledger: Ledger, outside: Outside, ctx: RunContext) -> None:
    known = opened(ledger)
    subject = cutover_subject(known)
    write_plan(ledger, subject, [Planned("p", "person", "x", "y", {"ask": "x", "undo": "y"})], clock=ctx.clock)
    advance(ledger, NOBODY, subject, ctx, facts=FACTS)
    turn(ledger, known, CutoverState.REVERTING)
    assert go_back(ledger, NOBODY, subject, ctx) == Done()


def test_a_place_that_went_with_the_instance_needs_no_undo(
    ledger: Ledger, outside: Outside, ctx: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(step_kinds._BUILDERS, "security_groups", step_kinds._BUILDERS["memory"])
    known = opened(ledger)
    subject = cutover_subject(known)
    outside.values |= {"groups": "old", "other": "old"}
    groups, other = planned("groups", "other")
    one = Planned("groups", "security_groups", groups.words, groups.undo_words, groups.spec)
    write_plan(ledger, subject, [other, one], clock=ctx.clock)
    advance(ledger, NOBODY, subject, ctx, facts=FACTS)
    turn(ledger, known, CutoverState.REVERTING)
    del outside.values["groups"]
    found = go_back(ledger, NOBODY, subject, ctx)
    assert isinstance(found, Done)
    assert "nothing to restore" in found.notes[0]
    outside.values["other"] = "new"
    del outside.values["other"]


def test_what_was_prepared_is_taken_back_and_prepared_again(
    ledger: Ledger, outside: Outside, ctx: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = SimpleNamespace(wave="erp", server="web01", target=SimpleNamespace(aws_conn_id="aws", region="eu-1"))
    task: Any = SimpleNamespace(name="web01", plan=plan)
    monkeypatch.setattr(prepare, "fixed_address", lambda task: "")
    monkeypatch.setattr(prepare, "prepared_of", lambda plan, address: planned("a", "b"))
    outside.values |= {"a": "old", "b": "old"}

    def run(*, undo: bool = False) -> Any:
        return prepare.prepare(ledger, lambda place: NOBODY, [task], ctx, undo=undo)

    for _ in range(2):
        assert run().servers[0].undone is False
        assert outside.values == {"a": "new", "b": "new"}
        outside.settles_after = 1
        assert isinstance(run(undo=True), back.Waiting)
        (told,) = run(undo=True).servers
        assert (told.undone, told.error) == (True, "")
        assert outside.values == {"a": "old", "b": "old"}
        assert run(undo=True).servers == (told,), "repeated"
    first = prepare.planned_back(task)[0]
    assert (first.words, first.undo_words) == ("Back: b", "Write b")


def test_only_chosen_kinds_go_back_and_prepared_steps_have_no_state_to_respect(
    ledger: Ledger, outside: Outside, ctx: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(step_kinds._BUILDERS, "ttl", step_kinds._BUILDERS["memory"])
    subject = prepared_subject("erp", "web01")
    outside.values |= {"a": "old", "b": "old"}
    a, b = planned("a", "b")
    write_plan(ledger, subject, [Planned("a", "ttl", a.words, a.undo_words, a.spec), b], clock=ctx.clock)
    assert advance(ledger, NOBODY, subject, ctx) == Done()
    assert go_back(ledger, NOBODY, subject, ctx, kinds=("ttl",)) == Done()
    assert outside.values == {"a": "old", "b": "new"}
