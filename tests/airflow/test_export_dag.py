"""The DAG of an environment's exports: its tasks are the flow's, on their queues; what a mode and a method mean."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import DownstreamTasksSkipped

from wavelift.dag_factory import exports as factory
from wavelift.dag_factory.upkeep import upkeep_dag
from wavelift.dag_factory.wave import TEARDOWN_RETRIES
from wavelift.operators.connector._plane import EnvironmentOperator
from wavelift.operators.control._plane import ControlOperator
from wavelift.operators.control.export import soon
from wavelift.rules.export_shape import ExportShape
from wavelift.rules.flow import Plane
from wavelift.rules.flows import EXPORT

pytestmark = pytest.mark.airflow

DAG = factory.export_dag(ExportShape(environment="lab", queue="near"))
WORK = {"check", "reserve", "begin", "read", "verify", "record", "remove", "release"}


def test_each_step_has_an_operator_of_its_plane_and_its_queue() -> None:
    assert DAG.dag_id == "instance_export.lab"
    assert set(DAG.task_ids) == {step.task_id for step in EXPORT.steps}
    for step in EXPORT.steps:
        task: Any = DAG.get_task(step.task_id)
        near = step.plane is Plane.ENVIRONMENT
        assert issubclass(type(task), EnvironmentOperator if near else ControlOperator), step.name
        assert task.queue == ("near" if near else "default"), step.name
        assert task.is_teardown is step.teardown, step.name
        assert set(step.after) <= task.upstream_task_ids, step.name
        assert task.retries >= 2, step.name


def test_the_removal_is_tried_for_as_long_as_that_of_a_snapshot() -> None:
    assert DAG.get_task("remove").retries == TEARDOWN_RETRIES


def test_the_form_has_what_a_person_chooses_and_grant_is_for_setup_alone() -> None:
    assert {"instance", "mode", "method", "target", "format", "prefix", "may_reboot", "note"} <= set(DAG.params)
    assert "grant" not in DAG.params
    assert (DAG.params["mode"], DAG.params["method"], DAG.params["may_reboot"]) == ("export", "auto", False)


@pytest.mark.parametrize(("mode", "skipped"), [("export", {"setup"}), ("check", {"setup"}), ("setup", WORK)])
def test_a_mode_skips_what_is_of_the_others(mode: str, skipped: set[str]) -> None:
    admit: Any = DAG.get_task("admit")
    with pytest.raises(DownstreamTasksSkipped) as found:
        admit.skip_all_but(EXPORT.first_step(mode))
    assert set(found.value.tasks) == skipped


def test_after_a_check_and_after_a_completed_export_only_the_report_is_left() -> None:
    check: Any = DAG.get_task("check")
    with pytest.raises(DownstreamTasksSkipped) as found:
        check.skip_all_but("")
    assert set(found.value.tasks) == WORK - {"check"}


def test_the_object_is_verified_also_where_aws_made_it_and_read_was_skipped() -> None:
    assert DAG.get_task("verify").trigger_rule == "none_failed"
    assert DAG.get_task("record").trigger_rule == "none_failed"


def test_a_task_process_builds_the_dag_that_it_needs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def usable(*, only: str | None) -> Any:
        asked.append(only)
        names = [only] if only else ["lab", "prod"]
        return SimpleNamespace(shapes={name: ExportShape(name) for name in names})

    monkeypatch.setattr(factory, "usable", usable)
    cases: list[tuple[str | None, set[str]]] = [
        (None, {"instance_export.lab", "instance_export.prod"}),
        ("instance_export.lab", {"instance_export.lab"}),
        ("erp.migrate", set()),
    ]
    for wanted, names in cases:
        found: dict[str, Any] = {}
        monkeypatch.setattr(factory, "get_parsing_context", lambda wanted=wanted: SimpleNamespace(dag_id=wanted))
        factory.register_exports(found)
        assert set(found) == names
    assert asked == [None, "lab"]


def test_an_environment_whose_dag_can_t_be_built_keeps_no_other_from_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made = factory.export_dag

    def broken(shape: ExportShape) -> Any:
        if shape.environment == "bad":
            raise RuntimeError("Airflow refuses it")
        return made(shape)

    monkeypatch.setattr(
        factory, "usable", lambda *, only: SimpleNamespace(shapes={n: ExportShape(n) for n in ("bad", "lab")})
    )
    monkeypatch.setattr(factory, "export_dag", broken)
    monkeypatch.setattr(factory, "get_parsing_context", lambda: SimpleNamespace(dag_id=None))
    found: dict[str, Any] = {}
    factory.register_exports(found)
    assert set(found) == {"instance_export.lab"}


def test_the_upkeep_of_exports_waits_for_no_alert() -> None:
    dag = upkeep_dag()
    assert set(dag.task_ids) == {"upkeep", "exports"}
    assert not dag.get_task("exports").upstream_task_ids


def test_a_look_after_a_while_is_a_wait_until_an_instant() -> None:
    kind, _, at = soon(5).partition("|")
    assert kind == "time"
    assert "T" in at
