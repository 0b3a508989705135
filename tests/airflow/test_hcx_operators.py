"""Operators and sensor of HCX without a running Airflow: grants before any contact, deferral and its ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, TaskDeferred
from tests.contexts import context_of
from tests.live_journey import a_wave

import wavelift.operators as all_operators
import wavelift.sensors as all_sensors
from wavelift.adapters.hcx import mobility
from wavelift.adapters.hcx.phases import Phase, Progress
from wavelift.airflow import config
from wavelift.airflow.hooks.hcx import HcxHook
from wavelift.airflow.triggers.hcx import HcxFollowTrigger
from wavelift.base.run import DagRun, SystemClock
from wavelift.operators.hcx import HcxMigrateOperator, HcxValidateOperator
from wavelift.sensors.hcx import HcxMigrationSensor
from wavelift.services.common.grant_keys import KeyFiles, keygen
from wavelift.services.dataplane import hcx_migrate
from wavelift.services.dataplane.live_messages import AdmittedLive, LiveOrder, Started, StartedOne, Validated
from wavelift.services.live_migration import orders

pytestmark = pytest.mark.airflow

NOW = datetime.now(UTC)


class Store(dict[str, Any]):
    """Airflow's task state store."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value

    def delete(self, key: str) -> None:
        self.pop(key, None)


class Ti(SimpleNamespace):
    dag_id, run_id, task_id, map_index = "first.live", "r", "start", -1
    try_number, max_tries, queue = 1, 2, "default"

    def xcom_pull(self, *, task_ids: str, key: str = "return_value", map_indexes: int = -1) -> Any:
        return self.left.get((task_ids, key))

    def xcom_push(self, *, key: str, value: Any) -> None:
        self.left[self.task_id, key] = value


def context(left: dict[Any, Any] | None = None, *, clears: int = 0) -> Any:
    run = SimpleNamespace(clear_number=clears, triggering_user_name="ana", run_type="manual", logical_date=NOW, conf={})
    return {"ti": Ti(left=left or {}), "dag_run": run, "task_state_store": Store(), "params": {}}


# --- what starts a migration needs its grant ------------------------------------------------------------------------


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[LiveOrder, dict[Any, Any]]:
    """As the control plane granted it, and what the admission left."""
    files = KeyFiles(tmp_path / "keys" / "grant.pem", tmp_path / "public")
    keygen(files)
    monkeypatch.setattr(config, "grant_keys_folder", lambda: files.public)
    monkeypatch.setattr(config, "connector_names", frozenset)
    wave = a_wave("app01")
    made = LiveOrder(wave="first", manager="hcx1", group_name="wavelift-x", tasks=(), clear_number=1)
    ctx = context_of("first.live/r/*", clock=SystemClock(), requester="ana")
    assert ctx.run == DagRun("first.live", "r")
    made = orders.to_start(files.private, made, wave, ctx)
    admitted = AdmittedLive(wave=wave, mode="migrate", requested_by="ana")
    return made, {("admit", "return_value"): admitted.dump()}


@pytest.fixture
def contacted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The connections that were opened, and what was asked there."""
    seen: list[str] = []

    @contextmanager
    def client(self: Any, **_: Any) -> Iterator[None]:
        seen.append(self.hcx_conn_id)
        yield None

    def said(name: str, answer: Callable[[LiveOrder], Any]) -> Callable[..., Any]:
        def do(order: LiveOrder, **_: Any) -> Any:
            seen.append(f"{name} {order.group_name}")
            return answer(order)

        return do

    monkeypatch.setattr(HcxHook, "access", lambda self: SimpleNamespace(client=lambda **_: client(self)))
    monkeypatch.setattr(hcx_migrate, "validate", said("validate", lambda one: Validated(group_name=one.group_name)))
    began = said("start", lambda one: Started(group_name=one.group_name, group_id="g-1", servers=(), at=NOW))
    monkeypatch.setattr(hcx_migrate, "start", began)
    return seen


ACTING = pytest.mark.parametrize(("kind", "name"), [(HcxValidateOperator, "validate"), (HcxMigrateOperator, "start")])


@ACTING
def test_a_granted_order_is_carried_out(order: Any, contacted: list[str], kind: Any, name: str) -> None:
    given, left = order
    found = kind(task_id=name, order=given.dump()).execute(context(left, clears=1))
    assert contacted == ["hcx1", f"{name} wavelift-x"]
    assert found["group_name"] == "wavelift-x"


@ACTING
@pytest.mark.parametrize(
    ("changes", "clears", "word"),
    [
        ({"token": ""}, 1, "field=token"),
        ({"group_name": "wavelift-y"}, 1, "field=plan"),
        ({"accept_warnings": True}, 1, "field=plan"),
        ({"manager": "hcx2"}, 1, "field="),
        ({}, 2, "clear"),
    ],
)
def test_hcx_is_not_met_for_what_was_not_granted(
    order: Any, contacted: list[str], kind: Any, name: str, changes: dict[str, Any], clears: int, word: str
) -> None:
    given, left = order
    task = kind(task_id=name, order=given.model_copy(update=changes).dump())
    with pytest.raises(AirflowFailException, match=word):
        task.execute(context(left, clears=clears))
    assert not contacted


def test_they_are_public() -> None:
    assert all_operators.HcxValidateOperator is HcxValidateOperator
    assert all_operators.HcxMigrateOperator is HcxMigrateOperator
    assert all_sensors.HcxMigrationSensor is HcxMigrationSensor


# --- the sensor -----------------------------------------------------------------------------------------------------


def started(**ids: str) -> dict[str, Any]:
    servers = tuple(StartedOne(server=name, migration_id=id) for name, id in ids.items())
    return Started(group_name="x", group_id="g-1", servers=servers, at=NOW).dump()


def sensor(migrations: Any, **more: Any) -> HcxMigrationSensor:
    return HcxMigrationSensor(task_id="wait", migrations=migrations, hcx_conn_id="hcx1", **more)


def event(**phases: Phase) -> dict[str, Any]:
    rows = {id.replace("_", "-"): Progress(migration_id=id, phase=phase) for id, phase in phases.items()}
    over = sorted(id for id, row in rows.items() if row.phase.over)
    return {"over": over, "progress": {id: row.told() for id, row in rows.items()}}


@pytest.mark.parametrize(
    "migrations", [started(app01="m-1", app02="m-2"), {"app01": "m-1", "app02": "m-2"}, ["m-1", "m-2"]]
)
def test_hcx_03_it_waits_deferred_over_one_trigger_for_all(migrations: Any) -> None:
    with pytest.raises(TaskDeferred) as caught:
        sensor(migrations, poll_seconds=20.0).execute(context())
    trigger = caught.value.trigger
    assert isinstance(trigger, HcxFollowTrigger)
    assert (trigger.hcx_conn_id, trigger.migration_ids, trigger.poll_seconds) == ("hcx1", ["m-1", "m-2"], 20.0)


def test_hcx_03_it_goes_on_until_all_are_over_and_returns_what_each_is() -> None:
    task, ctx = sensor({"app01": "m-1", "app02": "m-2"}, poll_seconds=20.0), context()
    with pytest.raises(TaskDeferred):
        task.execute_complete(ctx, event(m_1=Phase.COMPLETE, m_2=Phase.REPLICATING))
    found = task.execute_complete(ctx, event(m_1=Phase.COMPLETE, m_2=Phase.COMPLETE))
    assert {name: each["phase"] for name, each in found.items()} == {"app01": "complete", "app02": "complete"}


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.CANCELLED, Phase.ENDED])
def test_hcx_03_whatever_is_not_complete_fails_by_name(phase: Phase) -> None:
    with pytest.raises(AirflowFailException, match=f"app02: {phase}") as caught:
        sensor({"app01": "m-1", "app02": "m-2"}).execute_complete(context(), event(m_1=Phase.COMPLETE, m_2=phase))
    assert "app01" not in str(caught.value)


def test_hcx_03_its_time_ends_and_what_hcx_does_not_list_is_no_outcome() -> None:
    task, ctx = sensor({"app01": "m-1", "app02": "m-2"}, max_hours=2.0), context()
    with pytest.raises(TaskDeferred):
        task.execute(ctx)
    (key,) = ctx["task_state_store"]
    ctx["task_state_store"][key] = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    with pytest.raises(AirflowFailException, match=r"2 hours are over, and HCX goes on: .*app02: HCX does not list it"):
        task.execute_complete(ctx, event(m_1=Phase.COMPLETE))
    ctx["dag_run"].clear_number = 1
    with pytest.raises(TaskDeferred):
        task.execute(ctx)


def test_an_error_of_the_trigger_is_tried_again() -> None:
    with pytest.raises(RuntimeError, match="no route"):
        sensor({"app01": "m-1"}).execute_complete(context(), {"error": "no route"})


def test_without_the_triggerer_it_looks_and_reschedules(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    rows = {"m-1": Progress(migration_id="m-1", phase=Phase.COMPLETE)}

    @contextmanager
    def client(self: Any) -> Iterator[None]:
        yield None

    def query_many(_: Any, ids: Any) -> dict[str, Progress]:
        asked.append(list(ids))
        return rows

    monkeypatch.setattr(HcxHook, "get_conn", client)
    monkeypatch.setattr(mobility, "query_many", query_many)
    task, ctx = sensor({"app01": "m-1", "app02": "m-2"}, deferrable=False), context()
    with pytest.raises(AirflowRescheduleException) as caught:
        task.execute(ctx)
    assert caught.value.reschedule_date > datetime.now(UTC) + timedelta(seconds=50)
    rows["m-2"] = Progress(migration_id="m-2", phase=Phase.COMPLETE)
    assert set(task.execute(ctx)) == {"app01", "app02"}
    assert asked == [["m-1", "m-2"]] * 2, "one query for all"


def test_nothing_to_wait_for_is_told() -> None:
    with pytest.raises(AirflowFailException, match="no migration"):
        sensor(started()).execute(context())
