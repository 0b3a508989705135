"""A person's yes before what cannot simply be taken back: what is asked, and what an answer is worth. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Final

from pydantic import Field

from wavelift.base.domain import Instant, Message
from wavelift.base.run import Requester
from wavelift.rules.authority import Action, Denial, Link
from wavelift.rules.problem import quoted
from wavelift.rules.wave_cutover import ApprovalChoice

MOST_HOURS: Final = 720
"""As in a wave's file."""
Hours = Annotated[float, Field(gt=0, le=MOST_HOURS)]


class Question(Message):
    """What a person is asked to approve.

    :param kind: of the object in the ledger, such as ``cutover_run``. :param id: of that object.
    :param digest: of the plan. The answer is about this plan only: another one must be approved anew.
    :param environment: whose ``may`` lists who can answer.
    """

    kind: str
    id: str
    digest: str
    environment: str
    action: Action = Action.CUT_OVER
    """Who may do this in the environment may answer."""
    mode: ApprovalChoice = "required"
    hours: Hours = 24
    """How long an answer is waited for, from the first question on, and how long an approval counts."""
    not_after: Instant | None = None
    """An approval never counts longer than this, such as the end of the window."""

    def valid_until(self, at: datetime) -> datetime:
        """When an approval that is given ``at`` ends."""
        end = at + timedelta(hours=self.hours)
        return end if self.not_after is None else min(end, self.not_after)


class Given(Message):
    """What a person answered.

    :param user: as Airflow's auth manager names the person; empty: nobody is known.
    """

    user: str
    approves: bool
    at: Instant


def own_request(mode: ApprovalChoice, requester: Requester, given: Given) -> Denial | None:
    """None: the answer is not about the person's own request, or need not be another's.

    A requester may reject: that only gives up what the requester asked for.
    """
    if mode != "four_eyes" or not given.approves or given.user != requester.name:
        return None
    return Denial(
        Link.REQUESTER,
        f"{quoted(given.user)} asked for this, and 'approval: four_eyes' wants the yes of another person",
        "Another user who may do it in the environment answers",
    )
