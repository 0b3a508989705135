"""A source is touched only after the ledger has just said so; without a running Airflow."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk._shared.module_loading import import_string
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from airflow.serialization.serialized_objects import BaseSerialization

from wavelift.airflow import config
from wavelift.airflow.triggers import orders, wait
from wavelift.airflow.triggers.orders import StopOrderTrigger
from wavelift.base.errors import BusyError, PermanentError, WaveliftError
from wavelift.ledger import Ledger
from wavelift.operators.connector import cutover as connector
from wavelift.operators.connector.cutover import MOST_ASKED, StopSourceOperator
from wavelift.services.cutover import orders as asked
from wavelift.services.dataplane import source_switch
from wavelift.services.dataplane.source_switch import Stopping

pytestmark = pytest.mark.airflow

CONTEXT: Any = {"ti": SimpleNamespace(dag_id="erp.cutover", run_id="r1", xcom_push=lambda **_: None)}
TASK: Any = SimpleNamespace(
    name="web01",
    plan=SimpleNamespace(connection="vc", selector=SimpleNamespace(value="/web01")),
    facts=SimpleNamespace(moref="vm-1"),
)


class Stop(StopSourceOperator):
    """Without Airflow's XComs, grant and vCenter."""

    looks = 0

    def work(self, context: Any) -> Any:
        return self.work_on(TASK, context)

    def leave_words(self, context: Any, error: WaveliftError) -> None:
        return None


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    made = Stop(task_id="stop_source", server={}, reserved={"server": "web01", "run": "run-1"})

    class Session:
        def __enter__(self) -> None:
            made._grant = SimpleNamespace()  # type: ignore[assignment]

        def __exit__(self, *_: object) -> None:
            return None

    def looked(*_: object) -> Stopping:
        made.looks += 1
        return Stopping("its guest has 4 minutes left")

    monkeypatch.setattr(made, "vcenter", lambda _: Session(), raising=False)
    monkeypatch.setattr(made, "server_context", lambda *_: None, raising=False)
    monkeypatch.setattr("wavelift.services.dataplane.grants.verify_source", lambda *_: None)
    monkeypatch.setattr(source_switch, "stop_source", looked)
    return made


def _event(age: timedelta = timedelta(), **more: str) -> dict[str, Any]:
    return {"asked_at": (datetime.now(UTC) - age).isoformat(), "refused": "", "next_step": "", **more}


def test_each_look_is_asked_for(stop: Stop) -> None:
    with pytest.raises(TaskDeferred) as first:
        stop.execute(CONTEXT)
    classpath, arguments = first.value.trigger.serialize()
    assert import_string(classpath) is StopOrderTrigger
    assert arguments == {"dag_id": "erp.cutover", "run_id": "r1", "server": "web01", "wait_s": 0.0}
    assert (stop.looks, first.value.method_name) == (0, "execute_complete")
    with pytest.raises(TaskDeferred) as second:
        stop.execute_complete(CONTEXT, _event(), **(first.value.kwargs or {}))
    assert stop.looks == 1
    assert second.value.trigger.serialize()[1]["wait_s"] == connector.LOOK_SECONDS


def test_a_no_is_final_and_touches_nothing(stop: Stop) -> None:
    with pytest.raises(AirflowFailException, match=r"it was reverted. Trigger a new cutover"):
        stop.execute_complete(CONTEXT, _event(refused="it was reverted", next_step="Trigger a new cutover"))
    assert stop.looks == 0


def test_a_ledger_that_cannot_be_asked_is_no_yes(stop: Stop) -> None:
    with pytest.raises(WaveliftError, match="could not be asked") as caught:
        stop.execute_complete(CONTEXT, {"error": "no connection"})
    assert (caught.value.retryable, stop.looks) == (True, 0)


@pytest.mark.parametrize("age", [timedelta(seconds=21), timedelta(seconds=-21)])
def test_an_answer_that_comes_late_is_asked_for_again(stop: Stop, age: timedelta) -> None:
    kwargs: dict[str, Any] = {"asked": 1}
    for number in range(2, MOST_ASKED + 1):
        with pytest.raises(TaskDeferred) as deferred:
            stop.execute_complete(CONTEXT, _event(age), **kwargs)
        kwargs = deferred.value.kwargs or {}
        assert kwargs == {"asked": number}
    with pytest.raises(BusyError, match="older than 20 seconds"):
        stop.execute_complete(CONTEXT, _event(age), **kwargs)
    assert stop.looks == 0


@pytest.mark.parametrize("error", [None, PermanentError("it was reverted", next_step="Trigger a new one")])
def test_the_trigger_asks_when_it_has_waited(monkeypatch: pytest.MonkeyPatch, error: PermanentError | None) -> None:
    monkeypatch.setattr(orders, "settle_seconds", lambda: 0.05)
    monkeypatch.setattr(wait, "settle_seconds", lambda: 0.0)
    monkeypatch.setattr(config, "ledger_url", lambda: "sqlite://")
    monkeypatch.setattr(Ledger, "open", lambda _: _Opened())
    monkeypatch.setattr(asked, "why_not", lambda *_: error)
    arguments: dict[str, Any] = {"dag_id": "erp.cutover", "run_id": "r1", "server": "web01", "wait_s": 0.1}
    _, fields = StopOrderTrigger(**arguments).serialize()
    stored = BaseSerialization.deserialize(BaseSerialization.serialize(fields))
    assert stored == arguments

    async def main() -> Any:
        return await anext(aiter(StopOrderTrigger(**stored).run()))

    began = datetime.now(UTC)
    event = asyncio.run(main()).payload
    assert datetime.fromisoformat(event["asked_at"]) >= began + timedelta(seconds=0.1)
    assert (event["refused"], event["next_step"]) == ((error.what, error.next_step) if error else ("", ""))


class _Opened:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None
