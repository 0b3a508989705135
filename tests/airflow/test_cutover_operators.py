"""The run before a cutover, and the waits of a cutover run, without a running Airflow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType, TaskDeferred
from airflow.sdk.execution_time.comms import ErrorResponse

from wavelift.airflow import runs
from wavelift.airflow.triggers import instant, wait
from wavelift.airflow.triggers.instant import DagRunTrigger, InstantTrigger
from wavelift.airflow.triggers.replication_runs import ReplicationRunTrigger
from wavelift.base.errors import PermanentError
from wavelift.base.run import DagRun
from wavelift.operators.control.cutover_plan import PresyncOperator, is_asleep
from wavelift.services.cutover import presync
from wavelift.services.cutover.presync import Presync

pytestmark = pytest.mark.airflow

RUN = DagRun("erp.replicate", "cutover__r1_101500_1")
ASKED = Presync(RUN, ("a", "b"), {"servers": ["a", "b"], "note": "before"})


class Airflow:
    """What a task asks Airflow."""

    def __init__(self) -> None:
        self.state: str | None = None
        self.is_paused = False
        self.started: list[tuple[DagRun, Any]] = []

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        assert DagRun(dag_id, run_id) == RUN
        if self.state is None:
            answer = ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 404})
            raise AirflowRuntimeError(answer)
        return self.state

    def get_dag(self, dag_id: str) -> Any:
        return self

    def start(self, run: DagRun, conf: Any, *, note: str = "") -> bool:
        self.started.append((run, conf))
        return True


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    made = Airflow()
    monkeypatch.setattr(runs, "start_run", made.start)
    monkeypatch.setattr(presync, "settle", lambda *_: {"a": "sent 3 bytes"})
    monkeypatch.setattr(PresyncOperator, "server_context", lambda *_: None)

    @contextmanager
    def ledger(_: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(PresyncOperator, "ledger", ledger)
    return made


def _work(airflow: Airflow, monkeypatch: pytest.MonkeyPatch, asked: Presync = ASKED) -> Any:
    monkeypatch.setattr(presync, "begin", lambda *_: asked)
    context: Any = {"ti": airflow}
    return PresyncOperator(task_id="presync_1", number=1).work(context)


def test_it_triggers_the_run_that_the_ledger_knows_and_waits_deferred(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        _work(airflow, monkeypatch)
    assert airflow.started == [(RUN, ASKED.conf)]
    assert isinstance(deferred.value.trigger, DagRunTrigger)
    assert deferred.value.trigger.fields()["run_id"] == RUN.dag_run_id


def test_killed_after_it_triggered_it_waits_for_the_same_run(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    airflow.state = "running"
    with pytest.raises(TaskDeferred):
        _work(airflow, monkeypatch)
    assert airflow.started == []


@pytest.mark.parametrize("state", ["success", "failed"])
def test_a_run_that_ended_is_told_also_if_it_failed(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    airflow.state = state
    assert _work(airflow, monkeypatch) == {"run": RUN.dag_run_id, "servers": {"a": "sent 3 bytes"}}


@pytest.mark.parametrize("state", [None, "queued", "running"])
def test_a_paused_dag_fails_it_in_words(airflow: Airflow, monkeypatch: pytest.MonkeyPatch, state: str | None) -> None:
    airflow.is_paused, airflow.state = True, state
    with pytest.raises(PermanentError, match=r"The DAG erp\.replicate is paused.*Unpause erp\.replicate"):
        _work(airflow, monkeypatch)
    assert airflow.started == []


def test_a_dag_that_airflow_does_not_have_is_asleep() -> None:
    class Gone:
        is_paused = False

        def get_dag(self, dag_id: str) -> Any:
            if dag_id == "gone":
                raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 404}))
            return self

    context: Any = {"ti": Gone()}
    assert (is_asleep(context, "gone"), is_asleep(context, "cutover_upkeep")) == (True, False)
    Gone.is_paused = True
    assert is_asleep(context, "cutover_upkeep")


def test_it_waits_for_a_run_of_before(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        _work(airflow, monkeypatch, Presync(RUN, busy="run-1"))
    assert isinstance(deferred.value.trigger, ReplicationRunTrigger)
    assert airflow.started == []


def test_nothing_is_triggered_when_the_forecast_fits(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _work(airflow, monkeypatch, Presync(RUN, fits={"a": "fits"}))
    assert found == {"run": "", "servers": {"a": "fits"}}
    assert airflow.started == []


def test_an_airflow_that_does_not_answer_is_no_missing_run(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(dag_id: str, run_id: str) -> str:
        raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 503}))

    monkeypatch.setattr(airflow, "get_dagrun_state", away)
    with pytest.raises(AirflowRuntimeError):
        _work(airflow, monkeypatch)
    assert airflow.started == []


def _event(trigger: Any) -> Any:
    async def first() -> Any:
        return (await anext(trigger.run())).payload

    return asyncio.run(asyncio.wait_for(first(), 60))


def test_an_instant_is_waited_for_and_one_that_passed_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "settle_seconds", lambda: 0.0)
    at = datetime.now(UTC) + timedelta(seconds=0.3)
    assert _event(InstantTrigger(at=at.isoformat())) == {"at": at.isoformat()}
    assert datetime.now(UTC) >= at
    assert _event(InstantTrigger(at="2020-01-01T00:00:00+00:00"))["at"].startswith("2020")


@pytest.mark.parametrize(("states", "seen"), [(["running", "success"], "success"), (["queued"] * 9, "queued")])
def test_the_end_of_a_dag_run_is_waited_for_and_looked_at_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch, states: list[str], seen: str
) -> None:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    monkeypatch.setattr(wait, "settle_seconds", lambda: 0.0)
    monkeypatch.setattr(instant, "LOOK_AGAIN_S", 0.03)
    left = list(states)
    monkeypatch.setattr(
        RuntimeTaskInstance, "get_dagrun_state", staticmethod(lambda *_: SimpleNamespace(value=left.pop(0)))
    )
    assert _event(DagRunTrigger(dag_id="erp.replicate", run_id="x", poll_seconds=0.01)) == {"state": seen}
