"""The DAG of a network's cutover: its tasks are those of the flow, on their queues; what a clear and a mode mean."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import DownstreamTasksSkipped
from tests.network_world import World

from wavelift.base.errors import GrantError
from wavelift.dag_factory import network as factory
from wavelift.operators.connector._plane import ConnectorOperator
from wavelift.operators.connector.network import ActNetworkOperator
from wavelift.operators.control._plane import ControlOperator
from wavelift.rules.flow import Plane
from wavelift.rules.flows import NETWORK
from wavelift.rules.network_plans import NetworkShape

pytestmark = pytest.mark.airflow

SHAPE = NetworkShape(network="web", environment="cloud", hcx_queue="dc1", probe_queue="office", deadline_minutes=60)
DAG = factory.network_dag(SHAPE)
QUEUES = {Plane.CONTROL: "default", Plane.CONNECTOR: "dc1", Plane.PROBE: "office"}
FORWARD = {"look", "record", "approve", "order_disconnect", "disconnect", "order_unextend", "unextend"} | {
    *("order_connect", "connect", "probe", "settle")
}
BACK = {"order_isolate", "isolate", "order_extend", "extend", "order_reconnect", "reconnect", "reverted"}
FINISH = {"look_again", "approve_finish", "order_finish", "finish", "finished"}


def test_each_step_has_an_operator_of_its_plane_and_its_queue() -> None:
    assert set(DAG.task_ids) == {step.task_id for step in NETWORK.steps}
    for step in NETWORK.steps:
        task: Any = DAG.get_task(step.task_id)
        assert issubclass(type(task), ControlOperator if step.plane is Plane.CONTROL else ConnectorOperator), step.name
        assert task.queue == QUEUES[step.plane], step.name
        assert task.is_teardown is step.teardown, step.name
        assert {NETWORK.task_id(name) for name in step.after} <= task.upstream_task_ids, step.name


def test_the_deadline_and_the_form_are_there() -> None:
    told: Any = DAG.deadline
    assert len(told) == 2
    assert {"mode", "cutover", "note"} == set(DAG.params)
    assert DAG.params["mode"] == "plan"


@pytest.mark.parametrize(
    ("mode", "kept"), [("plan", FORWARD), ("cutover", FORWARD), ("revert", BACK), ("finish", FINISH)]
)
def test_a_mode_skips_what_is_of_the_others(mode: str, kept: set[str]) -> None:
    admit: Any = DAG.get_task("admit")
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        admit.skip_all_but(NETWORK.first_step(mode))
    assert set(skipped.value.tasks) == (FORWARD | BACK | FINISH) - kept


def test_every_task_that_acts_has_its_own_order_before_it() -> None:
    acting = [task for task in DAG.tasks if isinstance(task, ActNetworkOperator)]
    assert len(acting) == 6
    for task in acting:
        assert task.upstream_task_ids == {task.ordered_by} == {f"order_{task.task_id}"}
        order: Any = DAG.get_task(task.ordered_by)
        assert (order.step, order.direction) == (task.step, task.direction)
        assert order.retry_delay == task.retry_delay == factory.ACTING_DELAY, "nobody routes meanwhile"


def test_a_task_process_builds_the_dag_that_it_needs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def usable(*, only: str | None) -> Any:
        asked.append(only)
        return SimpleNamespace(shapes={"web": SHAPE})

    monkeypatch.setattr(factory, "usable", usable)
    for wanted, names in ((None, {"web.network_cutover"}), ("web.network_cutover", {"web.network_cutover"})):
        found: dict[str, Any] = {}
        monkeypatch.setattr(factory, "get_parsing_context", lambda wanted=wanted: SimpleNamespace(dag_id=wanted))
        factory.register_networks(found)
        assert set(found) == names
    found = {}
    monkeypatch.setattr(factory, "get_parsing_context", lambda: SimpleNamespace(dag_id="erp.migrate"))
    factory.register_networks(found)
    assert (found, asked) == ({}, [None, "web"])


def test_an_order_of_before_a_clear_is_refused_before_any_contact(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.ledgers import fresh_ledger

    from wavelift.airflow import config

    with fresh_ledger(tmp_path / "ledger.db") as ledger:
        world = World(ledger, tmp_path)
        world.admit()
        world.record()
        order = world.order("source")
    monkeypatch.setattr(config, "grant_keys_folder", lambda: world.keys.public)
    monkeypatch.setattr(config, "connector_names", frozenset)
    from datetime import timedelta

    from wavelift.base.run import SystemClock

    monkeypatch.setattr(SystemClock, "now", lambda self: world.clock.now() + timedelta(seconds=1))
    task = ActNetworkOperator(
        task_id="disconnect", order=order.dump(), step="source", direction="forward", ordered_by="order_disconnect"
    )
    monkeypatch.setattr(task, "sites", lambda place: pytest.fail("it must not reach anything"))

    def context(clears: int) -> Any:
        ti = SimpleNamespace(dag_id="web.network_cutover", run_id="r1", queue="dc1", map_index=-1)
        run = SimpleNamespace(clear_number=clears, triggering_user_name="alice", run_type="manual")
        return {"ti": ti, "dag_run": run, "task_state_store": {}}

    with pytest.raises(GrantError, match="cleared after the order") as refused:
        task.work(context(1))
    assert "order_disconnect" in refused.value.next_step
    forged = ActNetworkOperator(
        task_id="disconnect",
        order={**order.dump(), "wanted": {"connectivity": "ON"}},
        step="source",
        direction="forward",
        ordered_by="order_disconnect",
    )
    with pytest.raises(GrantError, match="another plan"):
        forged.work(context(0))
