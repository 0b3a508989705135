"""Servers of a cutover, moved in this process: from the slot to the network, and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.airflow.inprocess import Done, Lab
from tests.ledgers import within

from wavelift.base.run import DagRun, SystemClock
from wavelift.ledger import cutovers, events, replication_runs
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.cutover import CutoverState
from wavelift.rules.replication import RunState, RunType
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = pytest.mark.airflow

DAG_ID = "switched.cutover"
SERVERS = ("switched-a", "switched-b", "switched-c")
FENCED = (False, False, False)
BLOCK = 512 * 1024


@pytest.fixture(scope="module")
def replicated(lab: Lab) -> Done:
    seed = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    orders = [JobOrder(server=name, plan=ReplicationPlan(seed_time=seed)) for name in SERVERS]
    create_jobs(lab.ledger, "switched", orders, by="op", clock=SystemClock())
    return lab.run("switched.replicate").ends("success")


@pytest.fixture(scope="module")
def moved(lab: Lab, replicated: Done) -> Done:
    lab.vcenter.guest_write("switched-a", 0, 5 * BLOCK + 7, b"written last" * 100)
    return lab.run(DAG_ID, {"mode": "cutover", "servers": ["switched-a"]})


def known(lab: Lab, run: Done, server: str) -> Cutover:
    found = within(lab.ledger.read(), cutovers.of_dag_run, DagRun(run.dag_id, run.run_id))
    return next(one for one in found if one.server == server)


def source(lab: Lab, name: str) -> dict[str, Any]:
    return next(vm for vm in lab.vcenter.state()["vms"] if vm["name"] == name)


def connections(lab: Lab, name: str) -> set[tuple[bool, bool, bool]]:
    return {(nic["start_connected"], nic["connected"], nic["allow_guest_control"]) for nic in source(lab, name)["nics"]}


def test_a_server_is_switched_to_its_instance(lab: Lab, moved: Done) -> None:
    moved.ends("success")
    found = known(lab, moved, "switched-a")
    assert found.state is CutoverState.SWITCHED
    moments = ("going", "stopping", "down", "recorded", "image", "launched", "checked", "switched")
    times = [found.moment(name) for name in moments]
    assert all(times), dict(zip(moments, times, strict=True))
    assert (source(lab, "switched-a")["power"], connections(lab, "switched-a")) == ("poweredOff", {FENCED})
    assert not source(lab, "switched-a")["snapshots"]
    run = within(lab.ledger.read(), replication_runs.get, found.run_id)
    assert (run.type, run.state, run.ami_id) == (RunType.CUTOVER, RunState.COMPLETED, found.image_id)
    assert 0 < (run.blocks_sent or 0) < 8, "only what was written last"
    (reservation,) = lab.aws.client("ec2").describe_instances(InstanceIds=[found.instance_id])["Reservations"]
    (instance,) = reservation["Instances"]
    assert (instance["ImageId"], instance["State"]["Name"]) == (found.image_id, "running")
    assert [one["kind"] for one in found.checks or ()] == ["status"]


def test_a_cleared_task_of_a_switched_server_changes_nothing(lab: Lab, moved: Done) -> None:
    before = known(lab, moved, "switched-a")
    again = lab.clear(moved, ("server.launch", 0)).ends("success")
    after = known(lab, again, "switched-a")
    assert (after.state, after.instance_id, after.times) == (before.state, before.instance_id, before.times)


def test_and_back(lab: Lab, moved: Done) -> None:
    found = known(lab, moved, "switched-a")
    lab.run(DAG_ID, {"mode": "revert", "cutovers": [found.id]}).ends("success")
    assert known(lab, moved, "switched-a").state is CutoverState.REVERTED
    assert source(lab, "switched-a")["power"] == "poweredOn"
    assert FENCED not in connections(lab, "switched-a")
    (reservation,) = lab.aws.client("ec2").describe_instances(InstanceIds=[found.instance_id])["Reservations"]
    assert reservation["Instances"][0]["State"]["Name"] == "stopped"


@pytest.fixture(scope="module")
def failed(lab: Lab, replicated: Done) -> Done:
    """One guest ignores the shutdown, and one server's instance may not be launched."""
    lab.vcenter.set_vm("switched-b", shutdown={"how": "ignore"})
    rule = lab.aws.rule(service="ec2", operation="RunInstances", code="UnauthorizedOperation", status=403)
    try:
        return lab.run(DAG_ID, {"mode": "cutover", "servers": ["switched-b", "switched-c"]}).ends("failed")
    finally:
        lab.aws.clear_rules(rule)  # other waves of this AWS have their own


def test_a_guest_that_does_not_shut_down_keeps_its_server(lab: Lab, failed: Done) -> None:
    assert "its guest did not shut down" in failed.words("stop_source", index=0)
    found = known(lab, failed, "switched-b")
    assert (found.state, found.instance_id) == (CutoverState.FAILED, "")
    assert (source(lab, "switched-b")["power"], FENCED in connections(lab, "switched-b")) == ("poweredOn", False)
    assert not source(lab, "switched-b")["snapshots"]


def test_a_task_that_fails_for_good_says_so_in_the_ledger(lab: Lab, failed: Done) -> None:
    """At once, not only by the report: servers of later tiers must not be stopped any more."""
    found = known(lab, failed, "switched-c")
    assert found.state is CutoverState.FAILED
    actions = [
        (each.action, each.actor)
        for each in within(lab.ledger.read(), events.list_events, object_id=found.id, limit=100)
    ]
    assert [action for action, _ in actions].count("cutover.failed") == 1
    assert found.error.startswith("server.launch: ")
    assert connections(lab, "switched-c") == {FENCED}


def test_servers_that_failed_come_back(lab: Lab, failed: Done) -> None:
    ids = [known(lab, failed, name).id for name in ("switched-b", "switched-c")]
    lab.run(DAG_ID, {"mode": "revert", "cutovers": ids}).ends("success")
    for name in ("switched-b", "switched-c"):
        assert known(lab, failed, name).state is CutoverState.REVERTED
        assert source(lab, name)["power"] == "poweredOn"
        assert FENCED not in connections(lab, name)


@pytest.mark.proof
def test_a_stop_that_is_cleared_alone_after_the_revert_touches_nothing(lab: Lab, failed: Done) -> None:
    """Its order is some minutes old, and it was never carried out: only the ledger knows that the cutover is over."""
    if known(lab, failed, "switched-b").state is not CutoverState.REVERTED:  # this test runs alone
        test_servers_that_failed_come_back(lab, failed)
    lab.vcenter.set_vm("switched-b", shutdown={"how": "off"})
    again = lab.clear(failed, ("server.stop_source", 0))
    assert again.row("stop_source", 0)["state"] == "failed"
    assert "it was reverted" in again.words("stop_source", index=0)
    assert source(lab, "switched-b")["power"] == "poweredOn"
    assert FENCED not in connections(lab, "switched-b")
