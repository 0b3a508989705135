"""A person's yes before what cannot simply be taken back: what is asked, and what an answer is worth. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from wavelift.base.domain import Instant, Message
from wavelift.base.run import Requester
from wavelift.rules.authority import Denial, Link
from wavelift.rules.problem import quoted

DAY_MINUTES: Final = 24 * 60
WEEK_MINUTES: Final = 7 * DAY_MINUTES
Minutes = Annotated[int, Field(ge=1, le=52 * WEEK_MINUTES)]


class ApprovalMode(StrEnum):
    REQUIRED = "required"
    """Somebody who may cut over says yes; it may be the requester."""
    FOUR_EYES = "four_eyes"
    """Somebody else than the requester."""
    NONE = "none"
    """Nobody is asked."""


class Question(Message):
    """What a person is asked to approve.

    :param kind: of the object in the ledger, such as ``cutover``. :param id: of that object.
    :param digest: of the plan. The answer is about this plan only: another one must be approved anew.
    :param environment: whose ``may: cut_over`` lists who can answer.
    """

    kind: str
    id: str
    digest: str
    environment: str
    mode: ApprovalMode = ApprovalMode.REQUIRED
    wait_minutes: Minutes = DAY_MINUTES
    """How long an answer is waited for, from the first question on."""
    valid_minutes: Minutes = WEEK_MINUTES
    """How long an approval counts."""
    not_after: Instant | None = None
    """An approval never counts longer than this, such as the end of the window."""

    def valid_until(self, at: datetime) -> datetime:
        """When an approval that is given ``at`` ends."""
        end = at + timedelta(minutes=self.valid_minutes)
        return end if self.not_after is None else min(end, self.not_after)


class Given(Message):
    """What a person answered.

    :param user: as Airflow's auth manager names the person; empty: nobody is known.
    """

    user: str
    approves: bool
    at: Instant


def own_request(mode: ApprovalMode, requester: Requester, given: Given) -> Denial | None:
    """None: the answer is not about the person's own request, or need not be another's.

    A requester may reject: that only gives up what the requester asked for.
    """
    if mode is not ApprovalMode.FOUR_EYES or not given.approves or given.user != requester.name:
        return None
    return Denial(
        Link.REQUESTER,
        f"{quoted(given.user)} asked for this, and 'approval: four_eyes' wants the yes of another person",
        "Another user who may cut over in the environment answers",
    )
