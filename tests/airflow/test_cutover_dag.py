"""The cutover DAG: its shape, and its plan from the first task to the report, run in this process."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.airflow.inprocess import Done, Lab
from tests.ledgers import within

from wavelift.base.run import DagRun, SystemClock
from wavelift.ledger import cutovers
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.cutover import CutoverState
from wavelift.rules.flows import CUTOVER, Plane
from wavelift.rules.plans import WaveShape
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = pytest.mark.airflow

DAG_ID = "moved.cutover"
TEARDOWNS = {"server.remove_snapshot", "server.release", "report", "revert_failed"}


# The shape


@pytest.fixture(scope="module")
def dag() -> object:
    from wavelift.dag_factory.cutover import cutover_dag

    return cutover_dag(WaveShape("one", connector="hall", environment_queue="near", replicates=True, cuts_over=True))


def test_it_has_the_steps_of_its_flow_with_their_planes_and_edges(dag: object) -> None:
    tasks = {task.task_id: task for task in dag.tasks}  # type: ignore[attr-defined]
    assert set(tasks) == {step.task_id for step in CUTOVER.steps}
    queues = {Plane.CONTROL: "default", Plane.CONNECTOR: "hall", Plane.ENVIRONMENT: "near"}
    for step in CUTOVER.steps:
        task = tasks[step.task_id]
        assert task.queue == queues[step.plane]
        assert {CUTOVER.task_id(name) for name in step.after} <= task.upstream_task_ids
        assert task.is_teardown is step.teardown
        assert task.retries >= (8 if step.task_id in ("undo", "start_sources", "server.remove_snapshot") else 2)
        assert not task.params, "the form is not copied into every task"
    assert {name for name, task in tasks.items() if task.is_teardown} == TEARDOWNS
    assert sum(name.startswith("server.") for name in tasks) <= 12
    assert tasks["revert_failed"].on_failure_fail_dagrun


def test_tiers_are_no_edges_and_nobody_is_asked_by_id(dag: object) -> None:
    tasks = {task.task_id: task for task in dag.tasks}  # type: ignore[attr-defined]
    assert tasks["server.reserve"].upstream_task_ids == {"preflight", "presync_2"}
    for name in ("approve", "approve_finalize"):
        assert tasks[name].assigned_users is None
        assert tasks[name].defaults is None


def test_its_form_plans_unless_somebody_chooses_otherwise(dag: object) -> None:
    form = dag.params  # type: ignore[attr-defined]
    assert list(form) == ["servers", "mode", "window_start", "window_end", "priority", "note"]
    assert form["mode"] == "plan"
    assert {kind.value for kind in dag.allowed_run_types} == {"manual", "operator_triggered"}  # type: ignore[attr-defined]


# Its plan


@pytest.fixture(scope="module")
def replicated(lab: Lab) -> Done:
    """Both servers have a recorded run."""
    seed = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    orders = [JobOrder(server=name, plan=ReplicationPlan(seed_time=seed)) for name in ("moved-a", "moved-b")]
    create_jobs(lab.ledger, "moved", orders, by="op", clock=SystemClock())
    return lab.run("moved.replicate").ends("success")


def test_a_plan_tells_everything_and_changes_nothing(lab: Lab, replicated: Done) -> None:
    before = lab.aws.state(), lab.vcenter.state()["vms"]
    run = lab.run(DAG_ID).ends("success")
    assert (lab.aws.state(), lab.vcenter.state()["vms"]) == before
    plan = run.xcom("plan", key="report")
    assert [one["server"] for one in plan["servers"]] == ["moved-a", "moved-b"]
    (a, _) = plan["servers"]
    assert [step["name"] for step in a["steps"]][:4] == ["stop_source", "image", "launch", "check"]
    assert all(step["undo_words"] for step in a["steps"])
    assert a["forecast"]["reachable_p50_s"] <= a["forecast"]["full_speed_p90_s"]
    assert "cutover.untested" in [one["code"] for one in a["findings"]]
    assert a["goes"]
    states = run.states()
    skipped = ("prepare", "approve", "window", "go", "presync_1", "presync_2", "undo", "finalize", "server.reserve")
    assert {states[name] for name in skipped} == {"skipped"}, run.describe()
    assert within(lab.ledger.read(), cutovers.of_dag_run, DagRun(DAG_ID, run.run_id)) == ()


def test_a_plan_of_a_server_that_the_wave_has_not_fails_in_words(lab: Lab, replicated: Done) -> None:
    run = lab.run(DAG_ID, {"servers": ["nobody"]}).ends("failed")
    assert "The wave has no server 'nobody'" in run.words("admit")
    assert run.states()["report"] == "failed"


# There and back


@pytest.fixture(scope="module")
def switched(lab: Lab, replicated: Done) -> Done:
    return lab.run(DAG_ID, {"mode": "cutover", "servers": ["moved-b"]})


def _cutover(lab: Lab, run: Done) -> Cutover:
    (found,) = within(lab.ledger.read(), cutovers.of_dag_run, DagRun(DAG_ID, run.run_id))
    return found


@pytest.mark.proof
def test_a_server_is_cut_over_from_admission_to_report(lab: Lab, switched: Done) -> None:
    switched.ends("success")
    found = _cutover(lab, switched)
    assert found.state in (CutoverState.SWITCHED, CutoverState.REVERTED)
    moments = ("going", "stopping", "down", "recorded", "image", "launched", "checked", "switched")
    times = [found.moment(name) for name in moments]
    assert None not in times
    assert times == sorted(at for at in times if at is not None)
    assert switched.xcom("presync_1")["servers"]["moved-b"].startswith("its forecast fits")
    assert found.presync_runs == ()
    states = switched.states()
    assert {states[name] for name in ("prepare", "undo", "start_sources", "reverted", "finalize")} == {"skipped"}


@pytest.mark.proof
def test_meanwhile_nothing_else_replicates_it(lab: Lab, switched: Done) -> None:
    run = lab.run("moved.replicate", {"servers": ["moved-b"]}).ends("failed")
    assert [one["rule"] for one in run.report()["refused"]] == ["cutover"]


@pytest.mark.proof
def test_a_second_cutover_is_refused_in_words(lab: Lab, switched: Done) -> None:
    run = lab.run(DAG_ID, {"mode": "cutover", "servers": ["moved-b"]}).ends("failed")
    assert f"{_cutover(lab, switched).id} of {DAG_ID} {switched.run_id} is switched" in run.words("admit")


@pytest.mark.proof
def test_it_comes_back_and_the_schedule_goes_on(lab: Lab, switched: Done) -> None:
    run = lab.run(DAG_ID, {"mode": "revert"}).ends("success")
    found = _cutover(lab, switched)
    assert (found.state, found.revert_run) == (CutoverState.REVERTED, run.run_id)
    states = run.states()
    assert {states[name] for name in ("preflight", "plan", "go", "server.reserve", "finalize")} == {"skipped"}
    assert lab.run("moved.replicate", {"servers": ["moved-b"]}).ends("success")


def test_a_plan_is_a_list_on_the_page_and_names_format_nothing() -> None:
    """Airflow shows a code block in one line: seen."""
    from wavelift.operators.control.cutover_plan import page_of

    lines = ["web_01, tier *all*", "  1. Shut <it> down", "     back: Start it"]
    assert page_of(lines) == "web\\_01, tier \\*all\\*\n\n  1. Shut \\<it\\> down\n\n     back: Start it"
