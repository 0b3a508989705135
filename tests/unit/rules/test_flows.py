"""The single description of the flows: its readers, and that no other code repeats a part of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from wavelift.rules.flows import (
    CONTINUE_FROM,
    CUTOVER,
    EVERY_FLOW,
    EXPORT,
    FLOWS,
    LIVE,
    MIGRATE,
    NETWORK,
    REPLICATE,
    TEST,
    Flow,
    Plane,
    SlotKind,
    Step,
    described,
    flow_of,
    server_step,
    tasks_holding,
)

pytestmark = pytest.mark.unit
ROOT: Final = Path(__file__).parents[3]
HOMES: Final = [ROOT / "src" / "wavelift" / "rules" / name for name in ("flows.py", "hcx_flows.py", "export_flows.py")]
STEPS: Final = {step.name for flow in FLOWS for step in flow.steps}
PREFIXES: Final = {flow.prefix for flow in (*FLOWS, EXPORT)}
SUFFIX: Final = re.compile(rf"({'|'.join(re.escape(flow.suffix) for flow in FLOWS)})\b")
TASK: Final = re.compile(
    rf"\bserver\.({'|'.join(step.name for flow in FLOWS for step in flow.steps if step.per_server)})\b"
)
MODULES: Final = ("connector.cutover", "connector.live")
"""Modules that are called as a DAG's suffix."""
OF_HCX: Final = {SlotKind.HCX_MANAGER, SlotKind.HCX_MESH, SlotKind.HCX_SERIAL}
OF_EC2: Final = set(SlotKind) - OF_HCX - {SlotKind.EXPORT}
HELD: Final[dict[Flow, set[SlotKind]]] = {TEST: set(), LIVE: OF_HCX, NETWORK: set()}
"""Slots of the flows that move no disks themselves. A run of LIVE wins those of all its servers at once."""
MOST_STEPS: Final = 2
"""Names of steps in one literal; three in a row are a list of steps."""


def sources() -> list[Path]:
    """The product's own files; the simulators know no flow."""
    folders = [ROOT / "operators", ROOT / "sensors", ROOT / "dags", ROOT / "plugins", ROOT / "src"]
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*.py")
        if path not in HOMES and "simulators" not in path.relative_to(ROOT).parts
    )


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string of a module, docstrings and other bare strings left out."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.lineno, node.value


def named_steps(node: ast.AST) -> set[str]:
    """The steps that a literal collection names; modes and steps share some names."""
    if isinstance(node, ast.Dict):
        items: list[ast.expr] = [key for key in node.keys if key is not None]
    elif isinstance(node, ast.List | ast.Tuple | ast.Set):
        items = node.elts
    else:
        return set()
    modes = {mode.name for flow in FLOWS for mode in flow.modes}
    found = {item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)}
    return (found & STEPS) - modes


def test_nobody_else_spells_a_suffix_a_task_id_or_a_list_of_steps() -> None:
    wrong = []
    for path in sources():
        tree = ast.parse(path.read_text())
        where = str(path.relative_to(ROOT))
        for line, text in texts(tree):
            if text in MODULES:
                continue
            if SUFFIX.search(text) or TASK.search(text) or text == "server." or text in PREFIXES | {EXPORT.lead}:
                wrong.append(f"{where}:{line}: {text!r}")
        for node in ast.walk(tree):
            if len(named := named_steps(node)) > MOST_STEPS:
                wrong.append(f"{where}:{getattr(node, 'lineno', 0)}: {sorted(named)}")
    assert not wrong, "\n".join(wrong)


def test_the_check_finds_what_it_looks_for() -> None:
    assert SUFFIX.search("demo.migrate")
    assert SUFFIX.search(".replicate")
    assert TASK.search("clear its server.reserve task")
    assert {text for _, text in texts(ast.parse("a = f'mig-{hash}' + 'run-'"))} == {MIGRATE.prefix, REPLICATE.prefix}
    assert named_steps(ast.parse("('reserve', 'snapshot', 'export')", mode="eval").body) == {
        "reserve",
        "snapshot",
        "export",
    }


def test_what_leads_to_a_step_and_to_the_servers() -> None:
    assert CUTOVER.path_to("presync_1") == (
        *("admit", "preflight", "plan", "approve", "window", "go"),
        "presync_1",
    )
    assert CUTOVER.path_to("reverted") == ("admit", "undo", "start_sources", "reverted")
    assert CUTOVER.before_servers == ("presync_2",)
    assert MIGRATE.before_servers == REPLICATE.before_servers == ("preflight",)
    with pytest.raises(KeyError):
        CUTOVER.path_to("nowhere")


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_flow_holds_together(flow: Flow) -> None:
    names = [step.name for step in flow.steps]
    assert len(set(names)) == len(names)
    for place, step in enumerate(flow.steps):
        earlier = set(names[:place])
        assert earlier.issuperset(step.after), f"{step.name} follows a step that comes later"
        assert step.per_server != (flow is LIVE) or not step.holds
    assert {kind for step in flow.steps for kind in step.holds} == HELD.get(flow, OF_EC2)
    assert all(mode.first in names for mode in flow.modes)
    assert flow.first_step("no such mode") == flow.modes[0].first
    assert flow.steps[-2 if flow is CUTOVER else -1].name == "report"
    # A task costs about 0.25 s. A wave has up to 150 servers, a run of a cutover up to 50.
    assert len([step for step in flow.steps if step.per_server]) <= (12 if flow is CUTOVER else 9)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_dag_ids_lead_to_the_flow_and_the_wave(flow: Flow) -> None:
    for wave in ("erp", "big.one", "erp.migrate"):
        assert flow_of(flow.dag_id(wave)) is flow
        assert flow.wave_of(flow.dag_id(wave)) == wave
    assert flow.wave_of("server_catalog.hall-a") == ""
    with pytest.raises(KeyError):
        flow_of("server_catalog")


@pytest.mark.parametrize("environment", ["prod", "migrate", "network_cutover", "live", "instance_export"])
def test_the_dag_of_an_environment_s_exports_is_no_wave_s_and_no_network_s(environment: str) -> None:
    dag_id = EXPORT.dag_id(environment)
    assert dag_id == f"instance_export.{environment}"
    assert [flow.wave_of(dag_id) for flow in EVERY_FLOW if flow.wave_of(dag_id)] == [environment]
    assert EXPORT.wave_of(dag_id) == environment
    with pytest.raises(KeyError):
        flow_of(dag_id)


def test_an_export_s_flow_has_no_other_dag() -> None:
    for dag_id in ("erp.migrate", "instance_export", "instance_exports.prod", "net.network_cutover"):
        assert EXPORT.wave_of(dag_id) == ""


def test_an_export_holds_its_slot_from_reserve_until_all_is_removed() -> None:
    names = [step.name for step in EXPORT.steps]
    assert len(set(names)) == len(names)
    holding = [step.name for step in EXPORT.steps if step.holds]
    assert holding == names[names.index("reserve") : names.index("release")]
    assert all(step.holds == (SlotKind.EXPORT,) for step in EXPORT.steps if step.holds)
    assert tasks_holding(SlotKind.EXPORT) == set(holding)
    for place, step in enumerate(EXPORT.steps):
        assert set(names[:place]).issuperset(step.after), f"{step.name} follows a step that comes later"
        assert not step.per_server
    assert all(mode.first in names for mode in EXPORT.modes)
    assert [EXPORT.step(name).teardown for name in ("remove", "release", "report")] == [True] * 3


def test_only_what_waits_on_the_control_plane_says_what_for() -> None:
    assert {step.name for step in EXPORT.steps if step.waits} == {"reserve", "begin"}
    assert {step.name for step in EXPORT.steps if step.plane is Plane.ENVIRONMENT} == {"read", "verify"}


def test_task_ids_lead_to_the_step() -> None:
    assert MIGRATE.task_id("reserve") == REPLICATE.task_id("reserve") == CONTINUE_FROM
    assert server_step(CONTINUE_FROM) == "reserve"
    assert server_step(MIGRATE.task_id("admit")) == ""
    with pytest.raises(KeyError):
        MIGRATE.task_id("transfer")


@pytest.mark.parametrize("flow", EVERY_FLOW, ids=lambda flow: flow.name)
def test_the_documents_show_the_flow_as_it_is(flow: Flow) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert described(flow) in page, f"docs/architecture.md lacks this text:\n{described(flow)}"


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_what_comes_before_a_step_is_the_chain_up_to_it(flow: Flow) -> None:
    for place, step in enumerate(flow.chain):
        assert flow.before(step.name) == tuple(each.name for each in flow.chain[:place])
    with pytest.raises(ValueError, match="not in tuple"):
        flow.before("report")


@pytest.mark.parametrize(
    ("state", "optional", "passed"),
    [
        ("success", False, True),
        ("skipped", True, True),
        ("skipped", False, False),
        ("running", True, False),
        (None, True, False),
    ],
)
def test_a_skipped_step_is_passed_only_if_it_may_be_left_out(state: str | None, optional: bool, passed: bool) -> None:
    step = Step(name="compare", plane=Plane.ENVIRONMENT, words="", optional=optional)
    assert step.is_passed(state) is passed
