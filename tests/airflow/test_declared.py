"""Operators that declare their arguments are Airflow operators like any other; the plane is visible in the class."""

from __future__ import annotations

import inspect
import pydoc
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
from airflow.sdk import DAG

import wavelift.operators
import wavelift.sensors
from wavelift.dag_factory import _makers
from wavelift.dag_factory.exports import export_dag
from wavelift.dag_factory.network import network_dag
from wavelift.operators._base import WaveliftOperator
from wavelift.operators.connector._plane import ConnectorOperator, EnvironmentOperator
from wavelift.operators.control._plane import ControlOperator
from wavelift.rules.export_shape import ExportShape
from wavelift.rules.flows import EVERY_FLOW, Flow, Plane
from wavelift.rules.network_plans import NetworkShape
from wavelift.rules.plans import WaveShape

pytestmark = pytest.mark.airflow

ROOT: Final = Path(__file__).parents[2]
SHAPE: Final = WaveShape(
    wave="erp", connector="hall-a", environment="prod", environment_queue="near-aws", replicates=True, cuts_over=True
)
HCX: Final = WaveShape(
    wave="erp", method="hcx", environment="vmc", hcx_queue="hall-a", connector="source", environment_queue="destination"
)
NET: Final = NetworkShape(
    network="erp",
    environment="vmc",
    hcx_queue="hall-a",
    source_queue="source",
    destination_queue="destination",
    probe_queue="probes",
)
EXPORTS: Final = ExportShape(environment="erp", queue="near-aws")
MADE: Final = [
    *(make(shape) for shape in (SHAPE, HCX) for make in _makers(shape)),
    network_dag(NET),
    export_dag(EXPORTS),
]
DAGS: Final = {dag.dag_id: dag for dag in MADE}
KINDS: Final[dict[Plane, type[WaveliftOperator]]] = {
    Plane.CONTROL: ControlOperator,
    Plane.CONNECTOR: ConnectorOperator,
    Plane.ENVIRONMENT: EnvironmentOperator,
    Plane.SOURCE: ConnectorOperator,
    Plane.DESTINATION: ConnectorOperator,
    Plane.PROBE: ConnectorOperator,
}
QUEUES: Final = {
    Plane.CONTROL: "default",
    Plane.CONNECTOR: "hall-a",
    Plane.ENVIRONMENT: "near-aws",
    Plane.SOURCE: "source",
    Plane.DESTINATION: "destination",
    Plane.PROBE: "probes",
}
PUBLIC: Final = [
    getattr(module, name) for module in (wavelift.operators, wavelift.sensors) for name in sorted(module.__all__)
]
OPENED: Final = ("VsphereHook(", "VmImportHook.of(", "Ledger.open(")


def test_every_flow_has_one_dag() -> None:
    assert [dag.dag_id for dag in MADE] == [flow.dag_id("erp") for flow in EVERY_FLOW]


@pytest.mark.parametrize("flow", EVERY_FLOW, ids=lambda flow: flow.name)
def test_each_step_has_an_operator_of_its_plane_and_its_queue(flow: Flow) -> None:
    dag = DAGS[flow.dag_id("erp")]
    assert set(dag.task_ids) == {step.task_id for step in flow.steps}
    for step in flow.steps:
        task: Any = dag.get_task(step.task_id)
        kind = getattr(task, "operator_class", type(task))
        assert issubclass(kind, KINDS[step.plane]), step.name
        assert task.queue == QUEUES[step.plane], step.name
        assert task.is_teardown is step.teardown, step.name


@pytest.mark.parametrize("flow", EVERY_FLOW, ids=lambda flow: flow.name)
def test_the_report_comes_after_every_removal_and_what_follows_a_step_runs_after_it(flow: Flow) -> None:
    dag = DAGS[flow.dag_id("erp")]
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


class WithRoleTemplated(wavelift.operators.ImportImageOperator):
    """As the Amazon provider's documents tell to render one more argument."""

    template_fields = (*wavelift.operators.ImportImageOperator.template_fields, "role_name")


class OfWithRoleTemplated(WithRoleTemplated):
    """One more level, which declares nothing."""


class WithOwnInit(wavelift.operators.ImportImageOperator):
    """A handwritten ``__init__``, and attributes of its own."""

    settings: ClassVar[dict[str, str]] = {"owner": "team"}
    inputs: ClassVar[list[str]] = ["a", "b"]

    def __init__(self, *, team: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.team = team


class WithMoreInputs(wavelift.operators.ImportImageOperator):
    """It declares arguments too."""

    template_inputs = ("note",)  # type: ignore[assignment]
    plain_inputs = ("level",)  # type: ignore[assignment]
    note: str
    level: int = 3


class WithInputsAndInit(wavelift.operators.ImportImageOperator):
    """It declares an argument for ``template_fields``, and sets it itself."""

    template_inputs = ("note",)  # type: ignore[assignment]

    def __init__(self, *, note: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.note = note.strip()


BASE_FIELDS: Final = wavelift.operators.ImportImageOperator.template_fields


@pytest.mark.parametrize("kind", [WithRoleTemplated, OfWithRoleTemplated])
def test_a_subclass_s_template_fields_are_rendered(kind: Any) -> None:
    task = kind(task_id="one", disks="{{ 1 + 1 }}", role_name="role-{{ ds }}", platform="{{ ds }}")
    assert kind.template_fields == (*BASE_FIELDS, "role_name")
    task.render_template_fields({"ds": "today"})
    assert (task.disks, task.role_name, task.platform) == ("2", "role-today", "{{ ds }}")


def test_a_subclass_s_own_init_and_attributes_stay() -> None:
    kind: Any = WithOwnInit
    task = kind(task_id="one", disks=[1], team="blue")
    assert (task.team, task.disks, task.role_name) == ("blue", [1], "vmimport")
    assert (task.settings, task.inputs) == ({"owner": "team"}, ["a", "b"])
    assert kind.template_fields == BASE_FIELDS
    with pytest.raises(TypeError, match="team"):
        kind(task_id="one", disks=[1])
    with DAG("own"):
        assert kind.partial(task_id="mapped", team="blue").expand(disks=[[1], [2]]).operator_class is kind


def test_a_subclass_may_declare_arguments_with_and_without_an_init() -> None:
    more: Any = WithMoreInputs
    task = more(task_id="one", disks=[], note="{{ ds }}")
    assert (task.note, task.level, task.role_name) == ("{{ ds }}", 3, "vmimport")
    own: Any = WithInputsAndInit
    assert own(task_id="one", disks=[], note=" x ").note == "x"
    assert more.template_fields == own.template_fields == (*BASE_FIELDS, "note")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (wavelift.operators.ImportImageOperator, {"disks": "Any", "role_name": "str", "verify": "bool | str | None"}),
        (OfWithRoleTemplated, {"disks": "Any", "role_name": "str"}),
        (WithOwnInit, {"team": "str"}),
        (WithMoreInputs, {"disks": "Any", "note": "str", "level": "int"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_tools_for_documents_and_editors_see_the_signature(kind: Any, told: dict[str, str]) -> None:
    for of in (kind, kind.__init__):
        seen = {name: argument.annotation for name, argument in inspect.signature(of).parameters.items()}
        assert told.items() <= seen.items()
    assert inspect.signature(wavelift.operators.ImportImageOperator).parameters["role_name"].default == "vmimport"
    page = pydoc.plain(pydoc.render_doc(kind))
    assert all(f"{name}: {annotation}" in page.replace("'", "") for name, annotation in told.items())
