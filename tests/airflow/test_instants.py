"""A server that is cleared after its import finished, through the real DAGs: its image is of what was read last.

Cleared as the web UI does it, from wherever a person may begin. What the image holds is compared with what the vSphere
snapshot froze at the last instant, and nothing of wavelift is asked (invariants 5 and 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.airflow.inprocess import Done, Lab
from tests.airflow.waves import BLOCK
from tests.ledgers import within

from wavelift.base.run import SystemClock
from wavelift.ledger.lineage import read_lineage
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = [pytest.mark.airflow, pytest.mark.proof]


@pytest.fixture(autouse=True)
def nothing_converted(lab: Lab) -> Iterator[None]:
    """So that an image can be compared with its source byte for byte."""
    lab.aws.settings(change_boot_disk=False)
    yield
    lab.aws.settings(change_boot_disk=True)


@contextmanager
def tags_refused(lab: Lab) -> Iterator[None]:
    """An administrator forgot ec2:CreateTags for images: imports are completed, and their tasks fail."""
    rule = lab.aws.rule(service="ec2", operation="CreateTags", code="UnauthorizedOperation", status=403)
    yield
    lab.aws.control("DELETE", "rules", {"id": rule})


def _written(lab: Lab, server: str, number: int) -> None:
    lab.vcenter.guest_write(server, 0, 3 * BLOCK + number, b"written before it was cleared" * 40)


def _markers(from_task: str, servers: int) -> list[Any]:
    return [("server.reserve", index) for index in range(servers)] if from_task == "reserve" else [from_task]


@pytest.mark.parametrize("cleared", ["reserve", "preflight", "admit"])
def test_inv_6_a_migration_cleared_after_its_import(lab: Lab, cleared: str) -> None:
    with tags_refused(lab):
        first = lab.run("anew.migrate").ends("failed")
    older = set(lab.aws.state()["images"])
    for number, server in enumerate(("anew-a", "anew-b")):
        assert "CreateTags" in first.outcome(server)["error"]
        _written(lab, server, number)
    done = lab.clear(first, *_markers(cleared, 2)).ends("success")
    _assert_of_last_instant(lab, done)
    assert not older & {done.outcome(server)["image_id"] for server in ("anew-a", "anew-b")}


def _assert_of_last_instant(lab: Lab, done: Done) -> None:
    for server in ("anew-a", "anew-b"):
        outcome, row = done.outcome(server), done.migration(server)
        assert (outcome["state"], outcome["error"]) == ("completed", "")
        lab.assert_held(server, outcome["image_id"])
        lab.assert_proven(server, outcome["image_id"])
        assert tuple(outcome["content"]) == tuple(disk["content_digest"] for disk in (row.export_result or {})["disks"])
    instance = done.outcome("anew-a")["instance_id"]
    found = lab.aws.client("ec2").describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert found["ImageId"] == done.outcome("anew-a")["image_id"]


def test_inv_6_a_completed_migration_cleared_beside_its_instance(lab: Lab) -> None:
    """The instance of the older image is nobody's but the customer's: the new image is made, and no twin is started."""
    first = lab.run("anew.migrate", {"servers": ["anew-a"]}).ends("success")
    before = first.outcome("anew-a")
    _written(lab, "anew-a", 7)
    stopped = lab.clear(first, ("server.reserve", 0)).ends("failed")
    told = stopped.outcome("anew-a")
    assert before["instance_id"] in told["error"]
    lab.assert_held("anew-a", told["image_id"])
    lab.aws.client("ec2").terminate_instances(InstanceIds=[before["instance_id"]])
    done = lab.clear(stopped, ("server.launch", 0)).ends("success")
    after = done.outcome("anew-a")
    assert (after["state"], after["error"], after["image_id"]) == ("completed", "", told["image_id"])
    assert after["instance_id"] not in ("", before["instance_id"])
    assert before["image_id"] not in lab.aws.state()["images"]


@pytest.mark.parametrize("cleared", ["reserve", "preflight", "admit"])
def test_inv_6_a_replica_cleared_after_its_import(lab: Lab, cleared: str) -> None:
    server = f"resent-{cleared}"
    seed = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    order = JobOrder(server=server, plan=ReplicationPlan(seed_time=seed))
    create_jobs(lab.ledger, "resent", [order], by="op", clock=SystemClock())
    before = set(lab.aws.state()["images"])
    with tags_refused(lab):
        first = lab.run("resent.replicate", {"servers": [server]}).ends("failed")
    (older,) = set(lab.aws.state()["images"]) - before
    _written(lab, server, 3)
    done = lab.clear(first, *_markers(cleared, 1)).ends("success")
    outcome = done.outcome(server)
    assert (outcome["state"], outcome["error"]) == ("completed", "")
    assert outcome["ami_id"] != older
    assert set(lab.aws.state()["images"]) - before == {outcome["ami_id"]}
    lab.assert_held(server, outcome["ami_id"])
    (known,) = [one for one in lab.copies() if one.server == server]
    (disk,) = within(lab.ledger.read(), read_lineage, known.job_id)
    frozen = lab.snapshots_taken(server)[-1]["disks"][0]["file"]
    lab.assert_snapshot_holds(disk.snapshot_id, Path(frozen))
