"""The test DAG, run in this process: images are launched where they can reach nothing, checked, and ended."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.airflow.inprocess import Done, Lab
from tests.ledgers import within

from wavelift.base.run import SystemClock
from wavelift.ledger import trials
from wavelift.rules.cutover import TrialState
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.cutover import trial
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = pytest.mark.airflow

DAG_ID = "tried.test"
SERVERS = ("tried-a", "tried-b")


@pytest.fixture(scope="module")
def replicated(lab: Lab) -> Done:
    plan = ReplicationPlan(seed_time=(datetime.now(UTC) + timedelta(days=2)).isoformat())
    create_jobs(
        lab.ledger, "tried", [JobOrder(server=name, plan=plan) for name in SERVERS], by="op", clock=SystemClock()
    )
    return lab.run("tried.replicate").ends("success")


@pytest.fixture(scope="module")
def tried(lab: Lab, replicated: Done) -> Iterator[Done]:
    yield lab.run(DAG_ID, {"hours": 3.0})
    lab.run(DAG_ID, {"mode": "end"}).ends("success")


def rows(lab: Lab, run: Done) -> dict[str, Any]:
    from wavelift.base.run import DagRun

    found = within(lab.ledger.read(), trials.of_dag_run, DagRun(run.dag_id, run.run_id))
    return {row.server: row for row in found}


def test_images_are_launched_into_the_isolated_subnet(lab: Lab, replicated: Done, tried: Done) -> None:
    tried.ends("success")
    found = rows(lab, tried)
    assert {name: str(row.state) for name, row in found.items()} == dict.fromkeys(SERVERS, "passed")
    ec2 = lab.aws.client("ec2")
    for name, row in found.items():
        (reservation,) = ec2.describe_instances(InstanceIds=[row.instance_id])["Reservations"]
        (instance,) = reservation["Instances"]
        assert instance["ImageId"] == replicated.outcome(name)["ami_id"] == row.image_id
        assert instance["SubnetId"] == lab.stage.network.subnet_ids[1]
        (card,) = instance["NetworkInterfaces"]
        assert [one["GroupId"] for one in card["Groups"]] == [lab.stage.network.isolated_group_id]
        assert "PublicIpAddress" not in instance
        assert row.ends_at - row.launched_at == timedelta(hours=3)
        assert row.checks[0]["kind"] == "status"


def test_a_tier_begins_when_the_earlier_one_is_checked(lab: Lab, tried: Done) -> None:
    found = rows(lab, tried)
    (first,) = [
        one for one in _events(lab) if one.action == "test_instance.passed" and one.object_id == found["tried-a"].id
    ]
    (second,) = [
        one for one in _events(lab) if one.action == "test_instance.launched" and one.object_id == found["tried-b"].id
    ]
    assert first.id < second.id


@pytest.mark.proof
def test_a_cleared_launch_makes_no_second_instance(lab: Lab, tried: Done) -> None:
    before = rows(lab, tried)
    again = lab.clear(tried, ("server.launch", 0)).ends("success")
    assert {name: row.instance_id for name, row in rows(lab, again).items()} == {
        name: row.instance_id for name, row in before.items()
    }
    assert len([one for one in _instances(lab) if one["ImageId"] == before["tried-a"].image_id]) == 1


@pytest.mark.proof
def test_its_time_ends_it(lab: Lab, tried: Done) -> None:
    """What ``cutover_upkeep`` calls: nothing before the time, all after it, and the row stays."""
    more = lab.run(DAG_ID, {"servers": ["tried-a"], "hours": 1.0}).ends("success")
    (row,) = rows(lab, more).values()

    class Later(SystemClock):
        def now(self) -> datetime:
            return super().now() + timedelta(hours=2)

    def opened(place: Any) -> Any:
        from wavelift.airflow.hooks.vm_import import VmImportHook

        with lab.environment():
            return VmImportHook.of(place.aws_conn_id, place.region).access()

    assert trial.end_due(lab.ledger, opened, by="upkeep", clock=SystemClock()) == ()
    assert within(lab.ledger.read(), trials.get, row.id).state is TrialState.PASSED
    while trial.end_due(lab.ledger, opened, by="upkeep", clock=Later()):
        pass
    ended = within(lab.ledger.read(), trials.get, row.id)
    assert (ended.state, ended.passed) == (TrialState.ENDED, True)
    assert row.instance_id not in [one["InstanceId"] for one in _instances(lab)]
    others = rows(lab, tried).values()
    assert {each.state for each in others} == {TrialState.PASSED}, "their time is not over"


def test_a_server_without_an_image_and_an_unknown_one_are_refused(lab: Lab, tried: Done) -> None:
    refused = lab.run(DAG_ID, {"servers": ["nobody"]}).ends("failed")
    assert "no replicated server nobody" in refused.words("admit")
    refused = lab.run(DAG_ID, {"servr": ["tried-a"]}).ends("failed")
    assert "unknown key 'servr'" in refused.words("admit")


def _events(lab: Lab) -> list[Any]:
    from wavelift.ledger.events import list_events

    return list(within(lab.ledger.read(), list_events, limit=100_000))


def _instances(lab: Lab) -> list[dict[str, Any]]:
    pages = lab.aws.client("ec2").describe_instances()["Reservations"]
    return [one for page in pages for one in page["Instances"] if one["State"]["Name"] != "terminated"]
