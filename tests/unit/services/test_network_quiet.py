"""When it is certain that HCX does nothing late of an end of an extension that it was asked for (HCX-07)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wavelift.base.rest import Answer, RestClient
from wavelift.services.dataplane.network_messages import NOTHING
from wavelift.services.dataplane.steps.network import QUIET, quiet

pytestmark = pytest.mark.unit
ASKED = datetime(2026, 12, 1, 7, 0, tzinfo=UTC)
SOON, LATER = ASKED + timedelta(minutes=1), ASKED + QUIET


class Manager:
    """HCX, which knows one job."""

    def __init__(self, **job: Any) -> None:
        self.job = job

    def send(self, ask: Any, **where: Any) -> Answer:
        return Answer(200, {}, json.dumps(self.job).encode())


def certain(job: str, now: datetime, asked: datetime | None = ASKED, **fields: Any) -> bool:
    client: RestClient = Manager(**fields)  # type: ignore[assignment]
    return quiet(client, asked, job, now) is None


def test_what_was_never_asked_or_surely_refused_does_not_come() -> None:
    assert certain("", SOON, asked=None)
    assert certain(NOTHING, SOON)


def test_without_a_job_only_time_tells() -> None:
    assert not certain("", SOON)
    assert certain("", LATER)


@pytest.mark.parametrize("end", [{}, {"didFail": True}, {"isCancelled": True}, {"isRolledBack": True}])
def test_a_job_that_is_done_is_over_however_it_ended(end: dict[str, Any]) -> None:
    assert certain("j-1", SOON, isDone=True, **end)


def test_a_job_that_runs_is_waited_for_however_long() -> None:
    assert not certain("j-1", LATER, isDone=False)


@pytest.mark.parametrize("end", ["didFail", "isCancelled", "isRolledBack"])
def test_a_job_that_went_wrong_and_is_not_done_may_still_be_rolled_back(end: str) -> None:
    job: dict[str, Any] = {"isDone": False, end: True}
    assert not certain("j-1", SOON, **job)
    assert certain("j-1", LATER, **job)
