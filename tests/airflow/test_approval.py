"""The operator that asks a person, with Airflow's own rows of questions and answers, in this process.

What a person answers is written as Airflow's route does it, and wakes the task in the same way.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest
from airflow.sdk.exceptions import AirflowFailException
from tests.airflow.inprocess import Done, Lab
from tests.ledgers import within

from wavelift.ledger import Event, cutovers, events
from wavelift.ledger.cutover_records import Approval
from wavelift.operators import ApproveOperator

pytestmark = pytest.mark.airflow

FILE: Final = "lab_approval.py"
ASKER: Final = "dag_test"
"""The user of runs in this process; may cut over in ``lab``, like ``op`` and ``admin``."""


@pytest.fixture(scope="module", autouse=True)
def dag_file(lab: Lab) -> None:
    shutil.copy(Path(__file__).parent / FILE, lab.dags)


class Persons:
    """Airflow's ``dag.test()`` sleeps while a task is parked: then somebody answers.

    :ivar waits: how long each question was asked for.
    """

    def __init__(self, given: list[tuple[str, str]]) -> None:
        self.given = given
        self.waits: list[timedelta] = []
        self._sleep = time.sleep

    def sleep(self, seconds: float) -> None:
        if sys._getframe(1).f_globals["__name__"] != "airflow.sdk.definitions.dag":
            self._sleep(seconds)
            return
        from airflow import settings
        from airflow.models.hitl import HITLDetail
        from airflow.models.taskinstance import TaskInstance
        from airflow.models.trigger import handle_event_submit
        from airflow.triggers.base import TriggerEvent

        make: Any = settings.Session
        with make() as session:
            ti = session.query(TaskInstance).filter_by(state="awaiting_input").one_or_none()
            if ti is None:  # it waits for its next try
                self._sleep(seconds)
                return
            assert self.given, "asked once more than there are answers"
            user, option = self.given.pop(0)
            row = session.query(HITLDetail).filter_by(ti_id=ti.id).one()
            assert not row.assigned_users
            assert row.defaults is None
            assert row.responded_at is None, "the earlier answer is gone"
            self.waits.append(ti.trigger_timeout - datetime.now(UTC))
            row.responded_by, row.responded_at = {"id": "17", "name": user}, datetime.now(UTC)
            row.chosen_options, row.params_input = [option], {}
            session.flush()
            handle_event_submit(TriggerEvent(row.as_resume_event_payload()), task_instance=ti, session=session)
            session.commit()


@contextmanager
def answers(*given: tuple[str, str]) -> Iterator[list[timedelta]]:
    """Persons who answer the questions in turn; gives how long each question was asked for."""
    persons = Persons(list(given))
    with patch("time.sleep", persons.sleep):
        yield persons.waits
    assert not persons.given, "somebody was not asked"


def told(lab: Lab, run: Done) -> list[Event]:
    with lab.ledger.read() as tx:
        return [one for one in events.list_events(tx) if (one.object_kind, one.object_id) == ("lab", run.run_id)]


def kept(lab: Lab, run: Done) -> Approval | None:
    return within(lab.ledger.read(), cutovers.newest_approval, "lab", run.run_id, "d1")


def test_an_approval_goes_on_and_is_in_the_ledger(lab: Lab) -> None:
    with answers(("op", "Approve")) as waits:
        run = lab.run("lab_approval_required", file=FILE).ends("success")
    row = kept(lab, run)
    assert row is not None
    assert (row.answer, row.answered_by, row.requested_by) == ("approve", "op", ASKER)
    assert run.xcom("approve")["approved_by"] == "op"
    assert [round(wait / timedelta(hours=1)) for wait in waits] == [24]


def test_a_stranger_is_told_in_the_audit_trail_and_the_question_stands_for_the_rest_of_the_time(lab: Lab) -> None:
    with answers(("eve", "Reject"), ("eve", "Approve"), ("admin", "Approve")) as waits:
        run = lab.run("lab_approval_required", file=FILE).ends("success")
    assert [(one.action, one.actor) for one in told(lab, run)] == [
        ("authority.refused", "eve"),
        ("authority.refused", "eve"),
        ("approval.approve", "admin"),
    ]
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > waits[-1]
    assert run.row("approve")["try_number"] == 1, "no retry was used"


@pytest.mark.proof
def test_with_four_eyes_the_requester_s_own_yes_does_not_count(lab: Lab) -> None:
    with answers((ASKER, "Approve"), ("op", "Approve")):
        run = lab.run("lab_approval_four_eyes", file=FILE).ends("success")
    row = kept(lab, run)
    assert row is not None
    assert row.answered_by == "op"


def test_a_rejection_ends_the_run_and_is_not_tried_again(lab: Lab) -> None:
    with answers(("op", "Reject")):
        run = lab.run("lab_approval_required", file=FILE).ends("failed")
    assert run.states() == {"approve": "failed", "go": "upstream_failed"}
    assert run.row("approve")["try_number"] == 1
    assert "op rejected it" in run.words("approve")
    row = kept(lab, run)
    assert row is not None
    assert row.answer == "reject"


@pytest.mark.proof
def test_nobody_is_asked_without_approval(lab: Lab) -> None:
    with answers():
        run = lab.run("lab_approval_none", file=FILE).ends("success")
    assert kept(lab, run) is None


@pytest.mark.proof
def test_an_answer_that_the_ledger_could_not_take_is_taken_by_the_next_try(lab: Lab) -> None:
    """The person answers once: a retry does not ask again."""
    from wavelift.base.errors import UnreachableError
    from wavelift.services.common import approval

    real: Any = approval.take
    failed: list[int] = []

    def away(*given: Any, **more: Any) -> Any:
        if not failed:
            failed.append(1)
            raise UnreachableError("the ledger is away")
        return real(*given, **more)

    with answers(("op", "Approve")), patch.object(approval, "take", away):
        run = lab.run("lab_approval_required", file=FILE).ends("success")
    assert run.row("approve")["try_number"] == 2
    row = kept(lab, run)
    assert row is not None
    assert row.answered_by == "op"


@pytest.mark.proof
def test_a_try_that_could_not_report_its_answer_is_not_asked_again(lab: Lab) -> None:
    """Airflow takes a task that is woken within seconds for a dead one: it answers 404, and tries again."""
    real: Any = ApproveOperator._approved
    failed: list[int] = []

    def lost(self: Any, taken: Any) -> Any:
        if not failed:
            failed.append(1)
            raise RuntimeError("Airflow does not know this try")
        return real(self, taken)

    with answers(("op", "Approve")), patch.object(ApproveOperator, "_approved", lost):
        run = lab.run("lab_approval_required", file=FILE).ends("success")
    assert run.row("approve")["try_number"] == 2
    assert [one.action for one in told(lab, run)] == ["approval.approve"]


def test_an_answer_to_a_plan_that_was_made_anew_meanwhile_is_asked_again(lab: Lab) -> None:
    """Somebody cleared the plan task alone, while the question stood: the person was shown the older plan."""
    real: Any = ApproveOperator.asked
    digests = iter(["d0", "d1"])
    last: list[str] = []

    def asked(self: Any, context: Any) -> Any:
        last[:] = [next(digests, *last)]
        return real(self, context).model_copy(update={"digest": last[0]})

    with answers(("op", "Approve"), ("admin", "Approve")), patch.object(ApproveOperator, "asked", asked):
        run = lab.run("lab_approval_required", file=FILE).ends("success")
    assert [(one.action, one.actor) for one in told(lab, run)] == [("approval.approve", "admin")]
    assert within(lab.ledger.read(), cutovers.newest_approval, "lab", run.run_id, "d0") is None


def test_after_a_clear_it_is_asked_anew(lab: Lab) -> None:
    with answers(("op", "Reject")):
        run = lab.run("lab_approval_required", file=FILE).ends("failed")
    with answers(("admin", "Approve")):
        lab.clear(run, "approve").ends("success")
    row = kept(lab, run)
    assert row is not None
    assert (row.answer, row.answered_by) == ("approve", "admin")


def test_no_answer_in_time_fails_without_another_try(lab: Lab) -> None:
    from airflow.providers.standard.operators import hitl

    def nobody(_self: Any, context: Any) -> None:
        """What Airflow's scheduler hands over once the time is over."""
        context["task"].execute_complete(context, {"error": "no response", "error_type": "timeout"})

    with patch.object(hitl.ApprovalOperator, "execute", nobody):
        run = lab.run("lab_approval_required", file=FILE).ends("failed")
    assert run.row("approve")["try_number"] == 1
    assert "Nobody who may approve it answered within 24 h" in run.words("approve")
    assert [one.action for one in told(lab, run)] == ["approval.unanswered"]


@pytest.mark.parametrize("argument", ["assigned_users", "defaults"])
def test_nobody_is_chosen_at_parse_and_silence_is_no_yes(argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        ApproveOperator(task_id="approve", question={}, subject="Do it?", **{argument: "Approve"})


def test_a_failure_of_the_question_is_no_retry() -> None:
    operator = ApproveOperator(task_id="approve", question={"kind": "lab"}, subject="Do it?")
    with patch.object(operator, "leave_words"), pytest.raises(AirflowFailException, match="Question"):
        operator.execute({})
