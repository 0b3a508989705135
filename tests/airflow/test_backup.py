"""The DAG ``instance_backup``, run in this process: a backup waits, deferred, and is made once (AMP-09)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.airflow.inprocess import Lab
from tests.ledgers import within
from tests.wire.aws.proving import bare_image, until

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.launch import LaunchRequest
from wavelift.base.run import DagRun, SystemClock
from wavelift.ledger import backups, cutovers, jobs, waves
from wavelift.ledger.waves import NewWaveRun
from wavelift.rules.cutover import BackupState, CutoverState
from wavelift.rules.environment import BACKUP_DAG, BACKUP_TASK
from wavelift.services.dataplane.steps.poll import instance_is
from wavelift.specs import resolved_wave

pytestmark = pytest.mark.airflow

RUN = DagRun("tried.cutover", "backed_up")
SERVER = "tried-a"


@dataclass
class Served:
    lab: Lab
    access: AwsAccess
    cutover: str
    instance: str

    def images(self) -> list[dict[str, Any]]:
        chosen = [{"Name": "name", "Values": [f"wavelift-tried-{SERVER}-*"]}]
        found: list[dict[str, Any]] = self.lab.aws.client("ec2").describe_images(Filters=chosen)["Images"]
        return found


@pytest.fixture
def served(lab: Lab) -> Iterator[Served]:
    """A server that was cut over: an instance, and its row."""
    from wavelift.airflow.hooks.vm_import import VmImportHook

    wave = resolved_wave("tried", lab.dags / "waves", lab.dags / "environments")
    place = {"aws_conn_id": wave.environment.aws_conn_id, "region": lab.aws.region, "account": ""}
    with lab.environment():
        access = VmImportHook.of(place["aws_conn_id"], place["region"]).access()
    image = bare_image(access)
    request = LaunchRequest(image, "t3.small", lab.stage.network.subnet_ids[0], uuid.uuid4().hex)
    instance = Ec2(access).launch(request).instance_id
    until(access, instance_is(instance, "running"))
    asked = NewWaveRun(run=RUN, wave="tried", mode="cutover", requested_by="admin", source="api", spec=wave.dump())
    within(lab.ledger.write(waves.LOCK), waves.freeze_wave_run, asked, clock=SystemClock())
    columns: dict[str, Any] = {
        "wave": "tried",
        "server": SERVER,
        "environment": wave.environment.environment,
        "requested_by": "admin",
        "state": CutoverState.WAITING,
        "instance_id": instance,
        "target": place,
    }
    with lab.ledger.write(jobs.lock_name("tried")) as tx:
        key = f"{RUN.dag_id}/{RUN.dag_run_id}/{SERVER}"
        known = cutovers.insert(tx, at=SystemClock().now(), by="admin", run=RUN, run_key=key, **columns)
    made = Served(lab, access, known.id, instance)
    yield made
    with lab.ledger.write(jobs.lock_name("tried")) as tx:
        now = cutovers.get(tx, known.id)
        gone: dict[str, Any] = {"state": CutoverState.ENDED, "instance_id": ""}
        cutovers.apply(tx, now, "test", at=SystemClock().now(), by="test", **gone)
    ec2, client = Ec2(access), lab.aws.client("ec2")
    ec2.terminate([instance])
    for one in (*(found["ImageId"] for found in made.images()), image):
        ec2.deregister(one, delete_snapshots=True)
    for template in client.describe_launch_templates()["LaunchTemplates"]:
        client.delete_launch_template(LaunchTemplateId=template["LaunchTemplateId"])


def test_amp_09_a_backup_waits_deferred_and_is_made_once(lab: Lab, served: Served) -> None:
    done = lab.run(BACKUP_DAG, {"subject": served.cutover}, file="catalog.py").ends("success")
    told = done.xcom(BACKUP_TASK)
    (image,) = served.images()
    assert (told["image_id"], told["template_version"], image["State"]) == (image["ImageId"], 1, "available")
    row = within(lab.ledger.read(), backups.get, told["backup"])
    assert (row.state, row.instance_id) == (BackupState.COMPLETED, served.instance)
    again = lab.clear(done, BACKUP_TASK).ends("success")
    assert again.xcom(BACKUP_TASK) == told
    assert len(served.images()) == 1


def test_a_backup_of_nothing_says_so(lab: Lab) -> None:
    done = lab.run(BACKUP_DAG, {"subject": "cut-0123456789ab"}, file="catalog.py").ends("failed")
    assert "cut-0123456789ab" in done.words(BACKUP_TASK)
