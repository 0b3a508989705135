"""Operators that declare their arguments are Airflow operators like any other; the plane is visible in the class."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Final

import pytest
from airflow.sdk import DAG

import wavelift.operators
import wavelift.sensors
from wavelift.dag_factory import _makers
from wavelift.dag_factory.migrate import migrate_dag
from wavelift.dag_factory.replicate import replicate_dag
from wavelift.operators._base import WaveliftOperator
from wavelift.operators.connector._plane import ConnectorOperator, EnvironmentOperator
from wavelift.operators.control._plane import ControlOperator
from wavelift.rules.flows import FLOWS, Flow, Plane
from wavelift.rules.plans import WaveShape

pytestmark = pytest.mark.airflow

ROOT: Final = Path(__file__).parents[2]
SHAPE: Final = WaveShape(
    wave="erp", connector="hall-a", environment="prod", environment_queue="near-aws", replicates=True
)
DAGS: Final = {"migrate": migrate_dag(SHAPE), "replicate": replicate_dag(SHAPE)}
KINDS: Final[dict[Plane, type[WaveliftOperator]]] = {
    Plane.CONTROL: ControlOperator,
    Plane.CONNECTOR: ConnectorOperator,
    Plane.ENVIRONMENT: EnvironmentOperator,
}
QUEUES: Final = {Plane.CONTROL: "default", Plane.CONNECTOR: "hall-a", Plane.ENVIRONMENT: "near-aws"}
PUBLIC: Final = [
    getattr(module, name) for module in (wavelift.operators, wavelift.sensors) for name in sorted(module.__all__)
]
OPENED: Final = ("VsphereHook(", "VmImportHook.of(", "Ledger.open(")


def test_a_wave_has_a_dag_of_every_flow() -> None:
    assert [make(SHAPE).dag_id for make in _makers(SHAPE)] == [flow.dag_id("erp") for flow in FLOWS]


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_each_step_has_an_operator_of_its_plane_and_its_queue(flow: Flow) -> None:
    dag = DAGS[flow.name]
    assert set(dag.task_ids) == {step.task_id for step in flow.steps}
    for step in flow.steps:
        task: Any = dag.get_task(step.task_id)
        kind = getattr(task, "operator_class", type(task))
        assert issubclass(kind, KINDS[step.plane]), step.name
        assert task.queue == QUEUES[step.plane], step.name
        assert task.is_teardown is step.teardown, step.name


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_the_report_comes_after_every_removal_and_what_follows_a_step_runs_after_it(flow: Flow) -> None:
    dag = DAGS[flow.name]
    for step in flow.steps:
        assert {flow.task_id(name) for name in step.after} <= dag.get_task(step.task_id).upstream_task_ids, step.name


def test_only_the_control_plane_has_the_ledger_and_only_the_connector_s_the_vcenter() -> None:
    assert not hasattr(ControlOperator, "vcenter")
    assert not hasattr(ConnectorOperator, "ledger")
    assert not hasattr(EnvironmentOperator, "ledger")
    assert not hasattr(EnvironmentOperator, "vcenter")


@pytest.mark.parametrize("call", OPENED)
def test_what_lies_outside_is_opened_in_one_place(call: str) -> None:
    files = [path for folder in ("operators", "sensors") for path in (ROOT / folder).rglob("*.py")]
    assert sum(path.read_text().count(call) for path in files) == 1


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_a_public_operator_tells_its_arguments_and_sets_what_it_renders(kind: Any) -> None:
    told = {
        name: argument
        for name, argument in inspect.signature(kind).parameters.items()
        if argument.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert set(kind.template_fields) <= set(told)
    for name in told:
        documented = any(f":param {name}:" in (each.__doc__ or "") for each in kind.__mro__)
        assert documented or name in ("region_name", "verify", "botocore_config", *UNDOCUMENTED), f"{name} is explained"
    given = {name: "x" for name, argument in told.items() if argument.default is argument.empty}
    task = kind(task_id="one", **given)
    for name in kind.template_fields:
        getattr(task, name)
    for name, argument in told.items():
        expected = "x" if argument.default is argument.empty else argument.default
        assert getattr(task, name) == expected, name


UNDOCUMENTED: Final = ("description", "kms_key")
"""Explained with another argument, or by their name."""


def test_a_missing_or_unknown_argument_is_refused() -> None:
    kind: Any = wavelift.operators.VmExportOperator
    with pytest.raises(TypeError, match="snapshot"):
        kind(task_id="one", server={})
    with pytest.raises(TypeError, match="server"):
        kind(task_id="one", snapshot={})
    with pytest.raises(TypeError, match="snap_shot"):
        kind(task_id="one", server={}, snapshot={}, snap_shot={})


def test_declared_arguments_work_with_partial_expand_and_default_args() -> None:
    kind: Any = wavelift.operators.VmSnapshotOperator
    with DAG("declared", default_args={"replicates": True}):
        plain = kind(task_id="plain", server={})
        mapped = kind.partial(task_id="mapped", replicates=True).expand(server=[{"name": "a"}])
        with pytest.raises(TypeError, match="sever"):
            kind.partial(task_id="wrong").expand(sever=[1])
    assert plain.replicates is True
    assert mapped.operator_class is kind
    assert kind.template_fields == ("server",)
    assert wavelift.operators.CompareOperator.template_fields == ("server", "export", "image")


def test_what_an_earlier_task_returned_makes_an_edge() -> None:
    with DAG("edges"):
        first: Any = wavelift.operators.AdmitOperator(task_id="admit", wave="erp")
        second: Any = wavelift.operators.PreflightOperator(task_id="preflight", admitted=first.output)
    assert second.upstream_task_ids == {"admit"}
