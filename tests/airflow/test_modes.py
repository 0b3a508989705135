"""Which tasks of a wave's DAG a run has, by its mode: the others are skipped by ``admit``, without a process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import DownstreamTasksSkipped

from wavelift.dag_factory.migrate import migrate_dag
from wavelift.dag_factory.replicate import replicate_dag
from wavelift.operators.control.report import believed, ended_by, why_stopped, words_left
from wavelift.rules.plans import WaveShape
from wavelift.services.dataplane.messages import PreflightReport

pytestmark = pytest.mark.airflow

SHAPE = WaveShape(wave="erp", server_names=("web01",), replicates=True)
DAGS = {"migrate": migrate_dag(SHAPE), "replicate": replicate_dag(SHAPE)}


def kept(dag: str, first: str) -> set[str]:
    """Tasks beside ``admit`` that ``admit`` leaves to run."""
    admit: Any = DAGS[dag].get_task("admit")
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        admit.skip_all_but(first)
    return set(DAGS[dag].task_ids) - {"admit"} - {str(name) for name in skipped.value.tasks}


@pytest.mark.parametrize(
    ("dag", "first"),
    [
        ("migrate", "launch_imported"),
        ("migrate", "verify_imported"),
        ("replicate", "delete_replicas"),
        ("replicate", "verify_recorded"),
    ],
)
def test_a_mode_with_one_task_has_that_and_the_report(dag: str, first: str) -> None:
    assert kept(dag, first) == {first, "report"}


def test_a_run_of_servers_has_the_pre_flight_and_all_of_their_tasks() -> None:
    for name, dag in DAGS.items():
        servers = {task for task in dag.task_ids if task.startswith("server.")}
        assert len(servers) == {"migrate": 9, "replicate": 8}[name]
        assert kept(name, "preflight") == {"preflight", "report", *servers}


def test_a_run_in_which_no_server_may_go_has_the_report_alone() -> None:
    assert kept("replicate", "") == {"report"}


def test_air_05_the_form_is_made_of_the_conf_s_model() -> None:
    params: Any = DAGS["migrate"].params
    forms = {name: params.get_param(name).schema for name in params}
    servers = {"type": ["null", "array"], "items": {"type": "string"}, "examples": ["web01"], "title": "Servers"}
    assert forms["servers"] == servers
    assert forms["mode"]["enum"] == ["migrate", "plan", "preflight", "launch", "verify", "cleanup"]
    assert forms["launch"] == {
        "type": "string",
        "enum": ["spec", "none", "running"],
        "title": "Launch",
        "values_display": {"spec": "as set in the wave's file", "none": "image only", "running": "launch an instance"},
    }
    assert forms["note"] == {"type": ["null", "string"], "title": "Note", "format": "multiline"}
    assert forms["priority"]["enum"] == ["next", "normal", "later"]
    assert dict(params) == {"servers": None, "launch": "spec", "mode": "migrate", "priority": "normal", "note": None}
    assert list(DAGS["replicate"].params) == ["servers", "priority", "note"]


class Run:
    """The context of a report; no task of its run left any words."""

    def __getitem__(self, name: str) -> Any:
        return self

    def xcom_pull(self, **_: Any) -> None:
        return None


@pytest.mark.parametrize("first", ["preflight", "launch_imported", "verify_imported"])
@pytest.mark.parametrize("bad", ["failed", "skipped"])
def test_a_run_that_ended_before_its_first_task_was_stopped(first: str, bad: str) -> None:
    """Marked failed by a person, Airflow skips what has not begun; ``admit`` itself never skips the first task."""
    context: Any = Run()
    assert why_stopped(context, {"admit": "success", first: bad}, ended_by(first)) == f"{first}: it was stopped"


@pytest.mark.parametrize("first", ["preflight", "launch_imported", "verify_imported", ""])
def test_a_run_whose_other_modes_were_skipped_was_not_stopped(first: str) -> None:
    context: Any = Run()
    others = dict.fromkeys(("preflight", "launch_imported", "verify_imported"), "skipped")
    assert why_stopped(context, {**others, "admit": "success", first: "success"}, ended_by(first)) == ""


def test_a_run_that_was_not_admitted_was_stopped() -> None:
    context: Any = Run()
    assert why_stopped(context, {"admit": "failed"}, ended_by("")) == "admit: it was stopped"


def test_a_pre_flight_that_failed_after_its_report_is_not_believed() -> None:
    """Its servers have no tasks: their rows would tell a person to clear some."""
    report = PreflightReport(wave="w", findings=(), servers=()).dump()
    assert believed(report, "success") == PreflightReport.load(report)
    for state in ("failed", "skipped", "up_for_retry", None):
        assert believed(report, state) is None
    assert believed({"leftovers": []}, "success") is None, "a clean-up"
    others: list[Any] = [None, [], "servers", {**report, "servers": 3}, {**report, "findings": ["x"]}]
    for other in others:
        assert believed(other, "success") is None, "of another form"


@pytest.mark.parametrize(
    ("left", "told"),
    [
        (None, ("", "")),
        (["refused"], ("", "")),
        ("refused", ("", "")),
        ({"what": None, "next_step": 3}, ("", "3")),
        ({"what": "a\0b\nerp-db01 completed", "next_step": {"x": 1}}, (r"a\x00b\nerp-db01 completed", "{'x': 1}")),
    ],
)
def test_what_a_connector_left_never_stops_the_report(left: Any, told: tuple[str, str]) -> None:
    """A list was an error of Python in the report, and PostgreSQL refuses a NUL."""
    ti = SimpleNamespace(xcom_pull=lambda **_: left)
    assert words_left(ti, "server.export", map_index=3) == told
