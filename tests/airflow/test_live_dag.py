"""The live DAG, run in this process: its shape, and servers that HCX moves between two simulated sites."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest
import yaml
from tests.airflow import sites
from tests.airflow.inprocess import Done, Lab
from tests.airflow.sites import Lan, Sites
from tests.airflow.waves import PRINCIPALS, ROOT
from tests.ledgers import within

from wavelift.base.run import DagRun
from wavelift.dag_factory.live import live_dag
from wavelift.ledger import live_migrations
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.operators.connector import live as near
from wavelift.operators.connector._plane import ConnectorOperator
from wavelift.operators.control._plane import ControlOperator
from wavelift.rules.flow import Plane
from wavelift.rules.flows import LIVE
from wavelift.rules.plans import WaveShape

pytestmark = pytest.mark.airflow

UNASKED: Final[dict[str, Any]] = {"approve": "none"}
GROUP: Final = ("group-a", "group-b", "group-c")
LANS: Final = {
    "group": Lan(31, GROUP, wave=UNASKED),
    "wrong": Lan(32, ("wrong-a", "wrong-b"), wave=UNASKED),
    "near": Lan(33, ("near-a",), wave={**UNASKED, "environment": "far"}),
    "stuck": Lan(34, ("stuck-a",), wave={**UNASKED, "max_hours": 0.001}),
}
DAG_ID: Final = "group.live"
BROKEN: Final = "the disk of group-b broke"


# Its shape


def test_each_step_has_an_operator_of_its_plane_and_its_queue() -> None:
    shape = WaveShape("one", connector="here", environment_queue="there", hcx_queue="near", deadline_minutes=60)
    dag = live_dag(shape)
    queues = {Plane.CONTROL: "default", Plane.CONNECTOR: "near", Plane.SOURCE: "here", Plane.DESTINATION: "there"}
    assert set(dag.task_ids) == {step.task_id for step in LIVE.steps}
    for step in LIVE.steps:
        task: Any = dag.get_task(step.task_id)
        assert issubclass(type(task), ControlOperator if step.plane is Plane.CONTROL else ConnectorOperator), step.name
        assert task.queue == queues[step.plane], step.name
        assert task.is_teardown is step.teardown, step.name
        assert {LIVE.task_id(name) for name in step.after} <= task.upstream_task_ids, step.name
    told: Any = dag.deadline
    assert len(told) == 2
    assert dag.params["mode"] == "plan"


# Its runs


@pytest.fixture(scope="module")
def crossing(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Sites]]:
    """Two sites, and a DAGs folder of their own."""
    folder = tmp_path_factory.mktemp("live")
    dags = folder / "dags"
    shutil.copytree(ROOT / "dags", dags, ignore=shutil.ignore_patterns("__pycache__", "*.yaml"))
    for name in ("waves", "environments"):
        (dags / name).mkdir(exist_ok=True)
    (dags / "environments" / "principals.yaml").write_text(yaml.safe_dump({"vcenter": {"users": PRINCIPALS}}))
    with ExitStack() as stack:
        made = sites.start(stack, folder, LANS, base_sync_seconds=1.0, switchover_seconds=0.5)
        made.lay_out(dags)
        settings = {**lab.settings, **made.connections(), "AIRFLOW__CORE__DAGS_FOLDER": str(dags)}
        here = dataclasses.replace(lab, dags=dags, settings=settings)
        stack.callback(here.ledger.close)
        yield here, made


@pytest.fixture(scope="module")
def moved(crossing: tuple[Lab, Sites]) -> Done:
    """Three servers, and HCX fails with the second."""
    lab, places = crossing
    places.hcx.rule(kind="migration", key="group-b", operation="base_sync", message=BROKEN, count=1)
    return lab.run(DAG_ID, {"mode": "migrate", "note": "Saturday"})


def rows(lab: Lab, run: Done) -> dict[str, LiveMigration]:
    found = within(lab.ledger.read(), live_migrations.of_dag_run, DagRun(run.dag_id, run.run_id))
    return {row.server: row for row in found}


def test_hcx_05_one_of_several_fails_and_the_others_are_moved_and_verified(
    crossing: tuple[Lab, Sites], moved: Done
) -> None:
    lab, places = crossing
    moved.ends("failed")
    found = rows(lab, moved)
    assert {name: str(row.state) for name, row in found.items()} == {
        "group-a": "moved",
        "group-b": "failed",
        "group-c": "moved",
    }, moved.describe()
    assert BROKEN in found["group-b"].error
    assert len({row.group_name for row in found.values()}) == 1
    here, there = places.vms("source"), places.vms("destination")
    for server, row in found.items():
        stayed = server == "group-b"
        assert ((server in here), (server in there)) == (stayed, not stayed)
        if not stayed:
            assert [nic["network"] for nic in places.destination.get_vm(server)["nics"]] == [LANS["group"].there]
            assert set(row.found or {}) == {"source", "destination"}
            assert list(row.times or {})[-4:] == ["starting", "moving", "verifying", "moved"]
    states = moved.states()
    assert {states[name] for name in ("approve_switchover", "cancel", "follow_near")} == {"skipped"}
    assert moved.outcome("group-b")["error"] == found["group-b"].error
    assert '"servers": ["group-b"]' in str(moved.xcom("report", key="wavelift_failure"))


def begun(places: Sites, *servers: str) -> list[tuple[str, str]]:
    """Every migration that HCX ever had of them, and how it ended."""
    return sorted((one["vm"], one["phase"]) for one in places.hcx.migrations() if one["vm"] in servers)


@pytest.mark.proof
@pytest.mark.parametrize("task", ["reserve", "record", "follow", "moved"])
def test_hcx_01_a_cleared_run_starts_nothing_twice(crossing: tuple[Lab, Sites], moved: Done, task: str) -> None:
    lab, places = crossing
    before, started = rows(lab, moved), begun(places, *GROUP)
    again = lab.clear(moved, task).ends("failed")
    after = rows(lab, again)
    assert {name: (row.state, row.migration_id) for name, row in after.items()} == {
        name: (row.state, row.migration_id) for name, row in before.items()
    }, again.describe()
    assert begun(places, *GROUP) == started
    assert BROKEN in after["group-b"].error


@pytest.mark.proof
def test_hcx_05_what_failed_is_tried_again_as_a_new_group(crossing: tuple[Lab, Sites], moved: Done) -> None:
    lab, places = crossing
    again = lab.run(DAG_ID, {"mode": "migrate", "servers": ["group-b"]}).ends("success")
    (row,) = rows(lab, again).values()
    assert (str(row.state), row.server) == ("moved", "group-b")
    assert row.group_name != rows(lab, moved)["group-b"].group_name
    assert begun(places, "group-b") == [("group-b", "COMPLETE"), ("group-b", "FAILED")]
    refused = lab.run(DAG_ID, {"mode": "migrate", "servers": ["nobody"]}).ends("failed")
    assert "no server 'nobody'" in refused.words("admit")


@pytest.mark.proof
def test_hcx_02_an_error_of_one_server_starts_none(crossing: tuple[Lab, Sites]) -> None:
    lab, places = crossing
    places.hcx.rule(kind="error", key="wrong-b", message="no licence for it")
    run = lab.run("wrong.live", {"mode": "migrate"}).ends("failed")
    assert "no licence for it" in run.words("validate")
    found = rows(lab, run)
    assert {name: str(row.state) for name, row in found.items()} == {"wrong-a": "ended", "wrong-b": "ended"}
    assert all(row.error.startswith("HCX was not asked to start it") for row in found.values())
    assert begun(places, *found) == []
    assert {run.states()[name] for name in ("start", "record", "follow")} == {"upstream_failed"}


@pytest.mark.proof
def test_a_plan_starts_nothing(crossing: tuple[Lab, Sites]) -> None:
    lab, places = crossing
    run = lab.run("near.live").ends("success")
    assert LANS["near"].there in run.xcom("plan", key="words")
    assert (rows(lab, run), begun(places, "near-a")) == ({}, [])
    states = run.states()
    rest = set(states) - {"admit", "preflight", "plan", "report"}
    assert {states[name] for name in rest} == {"skipped"}, run.describe()


@pytest.mark.proof
def test_hcx_03_near_hcx_it_is_followed_by_looks_of_the_queue(
    crossing: tuple[Lab, Sites], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, places = crossing
    monkeypatch.setattr(near, "FOLLOW_SECONDS", 0.2)
    run = lab.run("near.live", {"mode": "migrate"}).ends("success")
    assert run.states()["follow"] == "skipped"
    assert str(rows(lab, run)["near-a"].state) == "moved"
    assert begun(places, "near-a") == [("near-a", "COMPLETE")]


@pytest.mark.proof
def test_hcx_05_what_hcx_never_ends_is_cancelled_by_a_run_and_tried_again(crossing: tuple[Lab, Sites]) -> None:
    lab, places = crossing
    places.hcx.rule(kind="migration", key="stuck-a", operation="base_sync", outcome="stuck", count=1)
    run = lab.run("stuck.live", {"mode": "migrate"}).ends("failed")
    (row,) = rows(lab, run).values()
    assert (str(row.state), "The time of 'max_hours' is over" in row.error) == ("moving", True)
    refused = lab.run("stuck.live", {"mode": "migrate"}).ends("failed")
    assert f"HCX may still move it: migration {row.id}" in refused.words("admit")

    ended = lab.run("stuck.live", {"mode": "cancel", "migrations": [row.id]}).ends("success")
    assert {ended.states()[name] for name in ("preflight", "start", "follow", "moved")} == {"skipped"}
    assert str(rows(lab, run)["stuck-a"].state) == "cancelled"
    assert [one["server"] for one in ended.report()["outcomes"]] == ["stuck-a"]
    again = lab.run("stuck.live", {"mode": "migrate"}).ends("success")
    assert str(rows(lab, again)["stuck-a"].state) == "moved"
    assert "stuck-a" in places.vms("destination")
    refused = lab.run("stuck.live", {"mode": "cancel", "migrations": [row.id]}).ends("failed")
    assert "HCX does not move it" in refused.words("admit")
