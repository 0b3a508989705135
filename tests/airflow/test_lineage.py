"""The lineage of replicas through the real DAG: what is cleared, lost, moved or re-keyed, and what AWS holds after it.

Cleared as the web UI does it. What the EBS snapshots of the lineage, and the AMI, hold is compared with what the last
vSphere snapshot froze; nothing of wavelift is asked (invariants 4 and 6).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.airflow.inprocess import Done, Lab
from tests.airflow.waves import BLOCK
from tests.ledgers import within

from wavelift.base.run import SystemClock
from wavelift.ledger import jobs
from wavelift.ledger.lineage import read_lineage
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = [pytest.mark.airflow, pytest.mark.proof]


@dataclasses.dataclass
class Copied:
    """One server's job."""

    lab: Lab
    wave: str
    server: str
    written: int = 0

    def run(self, expected: str = "success") -> Done:
        return self.lab.run(f"{self.wave}.replicate", {"servers": [self.server]}).ends(expected)

    def write(self, disk: int = 0) -> None:
        self.written += 1
        text = f"written by the guest, {self.written} ".encode()
        self.lab.vcenter.guest_write(self.server, disk, 3 * BLOCK + self.written, text * 40)

    def lineage(self) -> dict[str, str]:
        """uuid → EBS snapshot."""
        (job,) = [one for one in within(self.lab.ledger.read(), jobs.standing, self.wave) if one.server == self.server]
        return {disk.uuid: disk.snapshot_id for disk in within(self.lab.ledger.read(), read_lineage, job.id)}

    def disks(self, run: Done) -> list[dict[str, Any]]:
        found = run.xcom("transfer", index=run.index(self.server))
        disks: list[dict[str, Any]] = found["disks"]
        return disks

    def assert_held(self, run: Done) -> None:
        """By the lineage and by the AMI, both of the last instant; nothing else of the server is left in AWS."""
        outcome = run.outcome(self.server)
        assert (outcome["state"], outcome["error"]) == ("completed", "")
        self.lab.assert_held(self.server, outcome["ami_id"])
        frozen = {disk["key"]: Path(disk["file"]) for disk in self.lab.snapshots_taken(self.server)[-1]["disks"]}
        disks = self.disks(run)
        assert len(disks) == len(frozen)
        for disk in disks:
            named = disk["lineage"]
            assert self.lineage()[named["uuid"]] == named["snapshot_id"]
            self.lab.assert_snapshot_holds(named["snapshot_id"], frozen[named["key"]])


@pytest.fixture(autouse=True)
def nothing_converted(lab: Lab) -> Iterator[None]:
    """So that an image can be compared with its source byte for byte."""
    lab.aws.settings(change_boot_disk=False)
    yield
    lab.aws.clear_rules()
    lab.aws.settings(change_boot_disk=True)


def _job(lab: Lab, wave: str, server: str) -> Copied:
    seed = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    create_jobs(
        lab.ledger,
        wave,
        [JobOrder(server=server, plan=ReplicationPlan(seed_time=seed))],
        by="op",
        clock=SystemClock(),
    )
    return Copied(lab, wave, server)


def _refuse(lab: Lab, operation: str, code: str, *, service: str = "ebs", **rule: Any) -> None:
    lab.aws.rule(service=service, operation=operation, code=code, status=400, **rule)


def _clear(lab: Lab, run: Done, task: str, server: str) -> Done:
    return lab.clear(run, (f"server.{task}", run.index(server)))


@pytest.mark.parametrize("cleared", ["reserve", "snapshot"])
def test_inv_4_a_recorded_run_that_is_cleared_keeps_its_replica(lab: Lab, cleared: str) -> None:
    """Number 2: recorded, its image refused; cleared, the next transfer fails; cleared again, it goes through."""
    copy = _job(lab, "kept", "kept-record") if cleared == "reserve" else Copied(lab, "kept", "kept-record", 10)
    _refuse(lab, "ImportImage", "UnauthorizedOperation", service="ec2")
    first = copy.run("failed")
    recorded = copy.lineage()
    copy.write()
    _refuse(lab, "PutSnapshotBlock", "AccessDeniedException")
    second = _clear(lab, first, cleared, copy.server).ends("failed")
    assert copy.lineage() == recorded
    assert set(recorded.values()) <= {one["id"] for one in lab.aws.state()["snapshots"]}, "the only replica"
    lab.aws.clear_rules()
    done = _clear(lab, second, cleared, copy.server).ends("success")
    (disk,) = copy.disks(done)
    if cleared == "reserve":
        assert (disk["kind"], [disk["parent_snapshot_id"]]) == ("delta", list(recorded.values()))
    copy.assert_held(done)


def test_inv_6_tokens_are_of_one_instant(lab: Lab) -> None:
    """Number 3: a transfer that fails in the middle is cleared from its snapshot on, more than once."""
    copy = _job(lab, "kept", "kept-token")
    _refuse(lab, "PutSnapshotBlock", "AccessDeniedException")
    run = copy.run("failed")
    for _ in range(2):
        copy.write()
        run = _clear(lab, run, "reserve", copy.server).ends("failed")
    lab.aws.clear_rules()
    copy.write()
    copy.assert_held(_clear(lab, run, "reserve", copy.server).ends("success"))


def test_inv_4_disks_that_move_and_swap_places_are_recorded(lab: Lab) -> None:
    """Number 5."""
    copy = _job(lab, "placed", "placed-a")
    copy.assert_held(copy.run())
    before = copy.lineage()
    lab.vcenter.set_vm("placed-a", place={"disk": 0, "unit": 1})
    lab.vcenter.set_vm("placed-a", place={"disk": 1, "unit": 4})
    copy.write(0)
    copy.write(1)
    done = copy.run()
    kinds = {disk["lineage"]["uuid"]: (disk["kind"], disk["parent_snapshot_id"]) for disk in copy.disks(done)}
    assert kinds == {uuid: ("delta", snapshot) for uuid, snapshot in before.items()}
    copy.assert_held(done)


def test_inv_6_a_seed_after_a_refused_parent_is_gone_on_with(lab: Lab) -> None:
    """Number 6: the task's own retry, after an answer of AWS that it cures."""
    copy = _job(lab, "kept", "kept-seed")
    copy.run()
    copy.write()
    _refuse(lab, "StartSnapshot", "ValidationException", count=1)
    _refuse(lab, "PutSnapshotBlock", "ServiceQuotaExceededException", skip=1, count=1)
    lab.aws.control("DELETE", "counters")
    done = copy.run()
    assert done.row("transfer", done.index(copy.server))["try_number"] == 2
    assert lab.aws.counters()["ebs.StartSnapshot"]["calls"] == 2, "its retry went on with the seed"
    assert lab.aws.counters()["ebs.blocks"].get("repeated", 0) == 0
    (disk,) = copy.disks(done)
    assert disk["kind"] == "seed"
    copy.assert_held(done)


def test_another_key_makes_a_seed_under_that_key(lab: Lab) -> None:
    """Number 7."""
    copy = _job(lab, "kept", "kept-key")
    kms, ec2 = lab.aws.client("kms"), lab.aws.client("ec2")
    first, second = (str(kms.create_key()["KeyMetadata"]["Arn"]) for _ in range(2))
    file = lab.dags / "environments" / "lab.yaml"
    text = file.read_text()
    try:
        for key in (first, second):
            file.write_text(yaml.safe_dump({**yaml.safe_load(text), "encrypt": True, "kms_key": key}))
            copy.write()
            done = copy.run()
            (disk,) = copy.disks(done)
            assert disk["kind"] == "seed"
            (held,) = ec2.describe_snapshots(SnapshotIds=[disk["lineage"]["snapshot_id"]])["Snapshots"]
            assert held["KmsKeyId"] == key
            copy.assert_held(done)
        assert f"the KMS key was changed from {first} to {second}" in disk["kind_reason"]
    finally:
        file.write_text(text)
