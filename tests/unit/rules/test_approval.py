"""How long an approval counts, and whose answer is about a request of one's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wavelift.base.run import Requester
from wavelift.rules.approval import Given, Question, own_request

pytestmark = pytest.mark.unit

AT = datetime(2026, 12, 1, 9, 0, tzinfo=UTC)


def question(**more: Any) -> Question:
    return Question(kind="cutover_run", id="erp.cutover/1", digest="d1", environment="prod", **more)


def test_an_approval_counts_for_its_hours_and_never_longer_than_the_end_of_the_window() -> None:
    assert question().valid_until(AT) == AT + timedelta(hours=24)
    assert question(hours=0.5).valid_until(AT) == AT + timedelta(minutes=30)
    assert question(not_after=AT + timedelta(hours=2)).valid_until(AT) == AT + timedelta(hours=2)
    assert question(hours=1, not_after=AT + timedelta(hours=2)).valid_until(AT) == AT + timedelta(hours=1)


@pytest.mark.parametrize(
    ("mode", "user", "approves", "counts"),
    [
        ("required", "ana", True, True),
        ("four_eyes", "ana", True, False),
        ("four_eyes", "ana", False, True),  # giving one's own request up needs nobody else
        ("four_eyes", "bob", True, True),
        ("four_eyes", "Ana", True, True),  # names are compared exactly, as everywhere
    ],
)
def test_four_eyes_are_two_persons(mode: Any, user: str, approves: bool, counts: bool) -> None:
    denial = own_request(mode, Requester("ana"), Given(user=user, approves=approves, at=AT))
    assert (denial is None) is counts


def test_a_question_survives_the_way_through_xcom() -> None:
    asked = question(not_after=AT, mode="four_eyes")
    assert Question.load(asked.dump()) == asked
