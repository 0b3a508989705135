"""Whose answer counts, and what the ledger keeps of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import HandClock, run_context
from tests.ledgers import fresh_ledger, within
from tests.rights import open_to

from wavelift.base.errors import TamperedError
from wavelift.base.run import DagRun, Requester
from wavelift.ledger import Event, Ledger, cutovers, events, waves
from wavelift.ledger.cutover_records import Approval
from wavelift.rules.approval import Given, Question
from wavelift.services.common import approval
from wavelift.services.common.approval import Taken, Verdict, standing, take, unanswered
from wavelift.services.common.authority import REFUSED

pytestmark = pytest.mark.unit

RUN = DagRun("erp.cutover", "manual__1")
ABOUT = ("cutover_run", "erp.cutover/manual__1")


class Desk:
    """A question of ``ana``, who may cut over like ``bob``; nobody else may."""

    def __init__(self, ledger: Ledger, **question: Any) -> None:
        self.ledger = ledger
        self.clock = HandClock()
        self.ctx = run_context(RUN, asked_by=Requester("ana"), clock=self.clock)
        kind, id = ABOUT
        self.question = Question(kind=kind, id=id, digest="d1", environment="prod", **question)

    def answer(self, user: str, *, approves: bool = True, at: datetime | None = None) -> Taken:
        given = Given(user=user, approves=approves, at=at or self.clock.now())
        return take(self.ledger, self.question, given, self.ctx, rights=open_to("ana", "bob"))

    def kept(self, digest: str = "d1") -> Approval | None:
        return within(self.ledger.read(), cutovers.newest_approval, *ABOUT, digest)

    def events(self) -> list[Event]:
        with self.ledger.read() as tx:
            return [one for one in events.list_events(tx) if (one.object_kind, one.object_id) == ABOUT]


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with fresh_ledger(tmp_path / "ledger.db") as made:
        yield made


def test_an_approval_is_a_row_of_the_ledger_about_one_plan(ledger: Ledger) -> None:
    desk = Desk(ledger)
    assert desk.answer("bob").verdict is Verdict.APPROVED
    kept = desk.kept()
    assert kept is not None
    assert (kept.answer, kept.answered_by, kept.requested_by) == ("approve", "bob", "ana")
    assert kept.valid_until == desk.clock.now() + timedelta(hours=24)
    assert desk.kept("d2") is None
    assert [one.action for one in desk.events()] == ["approval.approve"]


@pytest.mark.parametrize("approves", [True, False])
@pytest.mark.parametrize("user", ["eve", ""])
def test_a_stranger_neither_approves_nor_rejects_and_is_in_the_audit_trail(
    ledger: Ledger, user: str, approves: bool
) -> None:
    desk = Desk(ledger)
    assert desk.answer(user, approves=approves).verdict is Verdict.NOT_COUNTED
    assert desk.kept() is None
    (told,) = desk.events()
    assert told.action == REFUSED
    assert told.details["answer"] == ("approve" if approves else "reject")
    assert told.details["action"] == "cut_over"


def test_with_four_eyes_the_requester_may_reject_and_not_approve(ledger: Ledger) -> None:
    desk = Desk(ledger, mode="four_eyes")
    taken = desk.answer("ana")
    assert taken.verdict is Verdict.NOT_COUNTED
    assert "another person" in taken.why
    assert desk.kept() is None
    assert desk.answer("bob").verdict is Verdict.APPROVED
    assert desk.answer("ana", approves=False).verdict is Verdict.REJECTED


def test_a_rejection_replaces_an_approval_of_the_same_plan(ledger: Ledger) -> None:
    desk = Desk(ledger)
    desk.answer("ana")
    assert desk.answer("bob", approves=False).verdict is Verdict.REJECTED
    kept = desk.kept()
    assert kept is not None
    assert kept.answer == "reject"


def test_an_approval_that_ended_before_it_was_taken_is_late(ledger: Ledger) -> None:
    desk = Desk(ledger, not_after=HandClock().now() + timedelta(minutes=5))
    answered = desk.clock.now()
    desk.clock.sleep(301)
    taken = desk.answer("bob", at=answered)
    assert taken.verdict is Verdict.LATE
    assert desk.kept() is None
    assert [one.action for one in desk.events()] == [approval.LATE]


def test_no_answer_is_an_event(ledger: Ledger) -> None:
    desk = Desk(ledger)
    unanswered(ledger, desk.question, desk.ctx)
    assert [one.action for one in desk.events()] == [approval.UNANSWERED]
    assert desk.kept() is None


def test_a_question_of_another_environment_than_the_run_s_is_edited(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever edits the XCom of the plan would choose the list of those who may approve it."""
    monkeypatch.setattr(waves, "find", lambda _tx, _run: object())
    monkeypatch.setattr(approval, "frozen_environment", lambda _run: "lab")
    with pytest.raises(TamperedError, match="another environment"):
        Desk(ledger).answer("bob")


@pytest.mark.parametrize(("approves", "verdict"), [(True, Verdict.APPROVED), (False, Verdict.REJECTED)])
def test_a_retry_finds_the_answer_that_the_ledger_has_and_a_later_question_does_not(
    ledger: Ledger, approves: bool, verdict: Verdict
) -> None:
    desk = Desk(ledger)
    asked = desk.clock.now()
    assert standing(ledger, desk.question, since=asked) is None
    desk.clock.sleep(60)
    desk.answer("bob", approves=approves)
    found = standing(ledger, desk.question, since=asked)
    assert found is not None
    assert found.verdict is verdict
    assert standing(ledger, desk.question, since=desk.clock.now() + timedelta(seconds=1)) is None
    other = desk.question.model_copy(update={"digest": "d2"})
    assert standing(ledger, other, since=asked) is None
