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
    "remote": Lan(33, ("remote-a",), wave={**UNASKED, "environment": "far"}),
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
    places.hcx.rule(kind="migration", key="group-b", operation="base_sync", message=BROKEN)
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
