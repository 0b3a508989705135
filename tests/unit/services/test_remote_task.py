"""A remote task over retries and clears, whatever the remote is: one at a time, and never of another instant."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from tests.contexts import context_of

from wavelift.base.errors import RemoteJobError, WaveliftError
from wavelift.services.dataplane.remote_task import MAX_RESUBMITS, MAX_UNSEEN, RemoteTask, Verdict

pytestmark = pytest.mark.unit


@dataclass
class Service:
    """A remote that starts one task per client token."""

    kind: str = "export"
    tasks: dict[str, str] = field(default_factory=dict)
    """Client token → task id."""
    states: dict[str, Verdict] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)

    def find(self, task_id: str) -> Verdict | None:
        return self.states.get(task_id)

    def cancel(self, task_id: str, reason: str) -> None:
        self.cancelled.append(task_id)

    def judge(self, status: Verdict) -> Verdict:
        return status

    def failure(self, status: Verdict) -> WaveliftError:
        return RemoteJobError("the export failed")

    def start(self, token: str) -> str:
        id = self.tasks.setdefault(token, f"task-{len(self.tasks) + 1}")
        self.states.setdefault(id, Verdict.ALIVE)
        return id


class Work:
    """One server's task of a service, looked at by one process after another."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.ctx = context_of("erp.migrate/run-1/web01")

    def task(self, instant: str = "one") -> RemoteTask[Verdict]:
        return RemoteTask(self.service, self.ctx, instant=instant)

    def submit(self, instant: str = "one") -> str:
        return self.task(instant).submit(self.service.start)


@pytest.fixture
def work() -> Work:
    return Work(Service())


def test_inv_5_what_runs_is_found_again_and_not_submitted_twice(work: Work) -> None:
    assert work.task().look() is None
    id = work.submit()
    found = work.task()
    assert (found.look(), found.task_id) == (Verdict.ALIVE, id)
    assert list(work.service.tasks.values()) == [id]


def test_inv_5_a_task_of_another_instant_is_cancelled_and_its_token_is_not_used(work: Work) -> None:
    old = work.submit("one")
    assert work.task("two").look() is None
    assert work.service.cancelled == [old]
    assert work.submit("two") != old
    assert len(work.service.tasks) == 2
    assert all(instant in token for instant, token in zip(("one", "two"), work.service.tasks, strict=True))


def test_inv_5_one_that_was_cancelled_by_others_is_submitted_again_a_few_times(work: Work) -> None:
    for _ in range(MAX_RESUBMITS):
        work.service.states[work.submit()] = Verdict.CANCELLED
        assert work.task().look() is None
    assert len(work.service.tasks) == MAX_RESUBMITS, "each under a new token"
    work.service.states[work.submit()] = Verdict.CANCELLED
    with pytest.raises(WaveliftError, match="The export was cancelled again and again"):
        work.task().look()


def test_a_failed_one_raises_the_service_s_words_once_and_may_be_submitted_again(work: Work) -> None:
    failed = work.submit()
    work.service.states[failed] = Verdict.FAILED
    with pytest.raises(RemoteJobError, match="the export failed"):
        work.task().look()
    assert work.task().look() is None
    assert work.submit() != failed


def test_inv_5_one_that_is_not_visible_yet_is_asked_for_by_its_token(work: Work) -> None:
    id = work.submit()
    for _ in range(MAX_UNSEEN):
        del work.service.states[id]
        assert work.task().look() is None
        assert work.submit() == id, "the same token: the remote answers with the task that it knows"
    del work.service.states[id]
    assert work.task().look() is None
    assert work.submit() != id, "the remote has forgotten it"


def test_a_cancellation_reaches_the_task_and_the_one_of_the_older_instant(work: Work) -> None:
    old = work.submit("one")
    work.task("two").cancel("a person asked")
    assert work.service.cancelled == [old]
    new = work.submit("one")
    work.task("one").cancel("a person asked")
    assert work.service.cancelled == [old, new]
