"""The DAG of an environment's exports, run in this process: modes and methods, and what a clear means (AMP-10)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
import yaml
from tests.airflow.inprocess import Done, Lab, before
from tests.contexts import HandClock, run_context
from tests.ledgers import within
from tests.wire.aws.exporting import launched
from tests.wire.aws.proving import bare_image

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.base.run import DagRun, SystemClock
from wavelift.ledger import exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.operators.control.export import RecordExportOperator
from wavelift.rules.conf import ExportConf
from wavelift.rules.instance_export import ExportState
from wavelift.services.instance_export import requests
from wavelift.services.instance_export.opening import TOO_LATE
from wavelift.specs import exporting_environment

pytestmark = pytest.mark.airflow

ENVIRONMENT: Final = "wayout"
DAG: Final = f"instance_export.{ENVIRONMENT}"
FILE: Final = "exports.py"


@dataclass
class WayOut:
    """An environment with exports, in the folder that Airflow parses."""

    lab: Lab
    access: AwsAccess
    images: dict[int, str]
    instances: list[str] = field(default_factory=list)

    @property
    def bucket(self) -> str:
        return f"export-to-s3-wayout-{self.lab.aws.region}"

    def instance(self, disks: int = 1) -> str:
        made = launched(self.access, self.images[disks], self.lab.stage.network.subnet_ids[0])
        self.instances.append(made)
        return made

    def run(self, **conf: Any) -> Done:
        return self.lab.run(DAG, conf, file=FILE)

    def known(self, done: Done) -> InstanceExport:
        found = within(self.lab.ledger.read(), exports.of_dag_run, DagRun(DAG, done.run_id))
        assert found is not None
        return found

    def objects(self) -> list[str]:
        found: list[str] = self.lab.aws.state()["buckets"][self.bucket]["objects"]
        return found


@pytest.fixture
def wayout(lab: Lab) -> Iterator[WayOut]:
    from wavelift.airflow.hooks.vm_import import VmImportHook

    folder = lab.dags / "environments"
    spec = yaml.safe_load((folder / "lab.yaml").read_text())
    path = folder / f"{ENVIRONMENT}.yaml"
    path.write_text(yaml.safe_dump({**spec, "environment": ENVIRONMENT, "exports": {"name": "wayout"}}))
    with lab.environment():
        access = VmImportHook.of(spec["aws_conn_id"], spec["region"]).access()
    ec2, state = Ec2(access), lab.aws.state()
    images = {disks: bare_image(access, disks) for disks in (1, 2)}
    snapshots = [id for image in images.values() for id in ec2.images([image])[image].snapshot_ids]
    made = WayOut(lab, access, images)
    yield made
    path.unlink()
    lab.aws.clear_rules()
    ec2.terminate(made.instances)
    for image in images.values():
        ec2.deregister(image, delete_snapshots=False)
    for id in snapshots:
        ec2.delete_snapshot(id)
    s3 = lab.aws.client("s3")
    if made.bucket in lab.aws.state()["buckets"]:
        for key in made.objects():
            s3.delete_object(Bucket=made.bucket, Key=key)
        s3.delete_bucket(Bucket=made.bucket)
    assert lab.aws.state() == state


def test_amp_10_set_up_then_two_disks_are_exported_as_one_ova(wayout: WayOut) -> None:
    told = wayout.run(mode="setup").ends("success").report()
    assert (told["mode"], told["bucket"]) == ("setup", wayout.bucket)
    assert told["changed"]
    assert wayout.run(mode="setup").ends("success").report()["changed"] == [], "it is right already"
    two = wayout.instance(2)
    done = wayout.run(instance=two, verify="full").ends("success")
    known, told = wayout.known(done), done.report()
    assert (told["state"], told["method"], told["level"]) == ("completed", "direct", "full")
    assert known.object_key in wayout.objects()
    assert known.object_key.endswith(f"{known.id}.ova")
    assert len(told["removed"]) == 2
    states = done.states()
    assert states["setup"] == "skipped"
    assert states["read"] == "success"
    again = wayout.lab.clear(done, "admit").ends("success")
    assert again.report()["state"] == "completed"
    assert again.states()["begin"] == "skipped", "nothing is left to do"


def test_vie_01_aws_exports_one_disk_and_read_is_skipped(wayout: WayOut) -> None:
    wayout.lab.aws.export_bucket(wayout.bucket)
    one = wayout.instance()
    checked = wayout.run(instance=one, mode="check", may_reboot=True).ends("success")
    assert (checked.report()["method"], checked.states()["begin"]) == ("instance", "skipped")
    refused = wayout.run(instance=one, mode="check", method="instance").ends("failed")
    assert "export.reboot" in [one["code"] for one in refused.report()["findings"]]
    done = wayout.run(instance=one, may_reboot=True).ends("success")
    known = wayout.known(done)
    assert (known.state, known.method) == (ExportState.COMPLETED, "instance")
    assert wayout.objects() == [known.object_key]
    states = done.states()
    assert (states["read"], states["verify"], states["record"]) == ("skipped", "success", "success")


def test_vie_06_cancelled_before_its_object_is_recorded_nothing_is_left(wayout: WayOut) -> None:
    wayout.lab.aws.export_bucket(wayout.bucket)
    two = wayout.instance(2)
    asked: list[InstanceExport] = []

    def cancel() -> None:
        [known] = within(wayout.lab.ledger.read(), exports.everything_open)
        if not asked:
            asked.append(requests.cancel(wayout.lab.ledger, known.id, by="ben", clock=SystemClock(), over=False))

    with before(RecordExportOperator, cancel):
        done = wayout.run(instance=two).ends("failed")
    known, told = wayout.known(done), done.report()
    assert (known.state, told["error"]) == (ExportState.CANCELLED, "cancelled on request")
    assert wayout.objects() == []
    assert told["removed"]
    again = wayout.lab.clear(done, "admit").ends("success")
    assert again.report()["state"] == "completed"
    assert wayout.known(done).made["attempt"] == 2  # type: ignore[index]


def test_what_is_no_instance_and_what_nobody_knows_is_refused_in_words(wayout: WayOut) -> None:
    done = wayout.run(instance="web01").ends("failed")
    assert "web01" in done.words("admit")
    assert "web01" in done.report()["stopped"]
    done = wayout.run(instance="i-0123456789abcdef0").ends("failed")
    assert "i-0123456789abcdef0" in done.words("check")
    assert wayout.known(done).state is ExportState.FAILED


def test_vie_06_the_upkeep_ends_an_export_whose_run_never_came(wayout: WayOut) -> None:
    clock = HandClock()  # long ago
    run = DagRun(DAG, "nobody_made_it")
    ctx = run_context(run, requester="admin", clock=clock)
    where = exporting_environment(ENVIRONMENT, wayout.lab.dags / "environments")
    conf = ExportConf(instance="i-0123456789abcdef7")
    known = requests.reserve(wayout.lab.ledger, where, conf, ctx)
    assert known is not None
    done = wayout.lab.run("cutover_upkeep", file="catalog.py").ends("success")
    [line] = done.xcom("exports")["ended"]
    assert known.id in line
    ended = within(wayout.lab.ledger.read(), exports.get, known.id)
    assert (ended.state, ended.error) == (ExportState.FAILED, TOO_LATE)
