"""Backups of migrated instances over the simulator and a ledger (AMP-09)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import HandClock, run_context
from tests.ledgers import fresh_ledger, within
from tests.rights import OPEN, open_to
from tests.wire.aws.proving import bare_image, until

from wavelift.adapters.aws.backups import Backups
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.launch import LaunchRequest
from wavelift.base.domain import LaunchResult
from wavelift.base.errors import DeniedError, NotFoundError, PermanentError
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import SourceServer, backups, cutovers, jobs, migrations, waves
from wavelift.ledger.cutover_records import Backup
from wavelift.ledger.waves import NewWaveRun
from wavelift.rules.cutover import BackupState, CutoverState
from wavelift.services.cutover import backup
from wavelift.services.cutover.steps import Waits
from wavelift.services.dataplane.steps.poll import instance_is
from wavelift.services.migration.begin import NewMigration, begin_migration

from .journey import Stage
from .replica import Killed

pytestmark = pytest.mark.wire

KINDS = ("cutover", "migration")


class Bench:
    """An instance that a cutover or a one-shot migration made."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage, self.clock = stage, HandClock()
        self.ledger = fresh_ledger(folder / "backup.db")
        self.name = folder.name
        self.image = bare_image(stage.access())
        self.ec2, self.client = Ec2(stage.access()), stage.aws.client("ec2")
        request = LaunchRequest(self.image, "t3.small", stage.account.subnet_ids[0], uuid.uuid4().hex)
        self.instance = self.ec2.launch(request).instance_id
        until(stage.access(), instance_is(self.instance, "running"))
        self.subject = ""

    def _frozen(self, run: DagRun, mode: str) -> None:
        wave = self.stage.wave("web01")
        asked = NewWaveRun(run=run, wave="lab", mode=mode, requested_by="ana", source="api", spec=wave.dump())
        within(self.ledger.write(waves.LOCK), waves.freeze_wave_run, asked, clock=self.clock)

    def cutover(self) -> str:
        run = DagRun("lab.cutover", self.name)
        self._frozen(run, "cutover")
        place = {"aws_conn_id": "aws_lab", "region": self.stage.aws.region, "account": "123456789012"}
        columns: dict[str, Any] = {
            "wave": "lab",
            "server": "web01",
            "environment": "lab",
            "requested_by": "ana",
            "state": CutoverState.WAITING,
            "instance_id": self.instance,
            "target": place,
        }
        with self.ledger.write(jobs.lock_name("lab")) as tx:
            key = f"{run.dag_id}/{run.dag_run_id}/web01"
            return cutovers.insert(tx, at=self.clock.now(), by="ana", run=run, run_key=key, **columns).id

    def migration(self) -> str:
        run = DagRun("lab.migrate", self.name)
        self._frozen(run, "migrate")
        ctx = run_context(run, "web01", clock=self.clock)
        seen = SourceServer(source="vsphere_lab", name="web01", moref="vm-1", instance_uuid="uuid-1")
        wanted = NewMigration("lab", seen, connector="hall-a", region=self.stage.aws.region)
        begun = begin_migration(self.ledger, wanted, ctx)
        launched = LaunchResult(server="web01", instance_id=self.instance, private_ip="10.20.1.4")
        within(self.ledger.write(), migrations.record_launch, begun.id, launched, clock=self.clock)
        return begun.id

    def ctx(self, run: str) -> RunContext:
        return run_context(DagRun("instance_backup", f"{self.name}-{run}"), self.subject, clock=self.clock)

    def advance(self, run: str = "1", *, reboot: bool = False) -> Backup | Waits:
        ctx = self.ctx(run)
        known = backup.order(self.ledger, self.subject, ctx, reboot=reboot, rights=OPEN)
        assert backup.place_of(known).region == self.stage.aws.region
        return backup.advance(self.ledger, self.stage.access(), known.id, ctx)

    def made(self, run: str = "1", *, reboot: bool = False) -> Backup:
        """As the operator does: wait for what it says, and ask again."""
        found = self.advance(run, reboot=reboot)
        while isinstance(found, Waits):
            for wait in found.waits:
                until(self.stage.access(), wait)
            found = self.advance(run, reboot=reboot)
        return found

    def row(self, run: str = "1") -> Backup:
        return within(self.ledger.read(), backups.get, backups.backup_id(self.ctx(run).run, self.subject))

    def images(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.describe_images(Owners=["self"])["Images"]
        return [one for one in found if one["ImageId"] != self.image and one["Name"].startswith("wavelift-lab-web01-")]

    def put_back(self) -> None:
        self.stage.aws.clear_rules()
        self.ec2.terminate([self.instance])
        for one in self.images():
            self.ec2.deregister(one["ImageId"], delete_snapshots=True)
        self.ec2.deregister(self.image, delete_snapshots=True)
        named = [{"Name": "launch-template-name", "Values": [f"wavelift-lab-{self.instance}"]}]
        for one in self.client.describe_launch_templates(Filters=named)["LaunchTemplates"]:
            self.client.delete_launch_template(LaunchTemplateId=one["LaunchTemplateId"])
        self.ledger.close()


@pytest.fixture(params=KINDS)
def bench(stage: Stage, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(stage, tmp_path)
    try:
        made.subject = made.cutover() if request.param == "cutover" else made.migration()
        yield made
    finally:
        made.put_back()


def test_amp_09_a_repeated_backup_is_another_image_and_a_new_version(bench: Bench) -> None:
    first = bench.made()
    assert (first.state, first.template_version, first.error) == (BackupState.COMPLETED, 1, "")
    assert bench.made() == first, "cleared and repeated, it makes nothing"
    second = bench.made("2")
    assert second.image_id != first.image_id
    assert (second.template_id, second.template_version) == (first.template_id, 2)
    assert {one["ImageId"] for one in bench.images()} == {first.image_id, second.image_id}
    shown = bench.client.describe_launch_templates(LaunchTemplateIds=[first.template_id])["LaunchTemplates"]
    assert [one["DefaultVersionNumber"] for one in shown] == [2]
    assert bench.stage.aws.state()["instance_states"][bench.instance]["reboots"] == 0


@pytest.mark.parametrize("bench", ["cutover"], indirect=True)
def test_it_is_pending_first_and_reboots_only_on_request(bench: Bench) -> None:
    usual = bench.stage.aws.settings()["image_seconds"]
    bench.stage.aws.settings(image_seconds=60)
    try:
        found = bench.advance(reboot=True)
        assert isinstance(found, Waits)
        assert bench.row().state is BackupState.MAKING
        (image,) = bench.images()
        assert (image["State"], bench.row().image_id) == ("pending", image["ImageId"])
        assert isinstance(bench.advance(reboot=True), Waits)
        bench.stage.aws.advance(61)
        assert bench.made(reboot=True).state is BackupState.COMPLETED
    finally:
        bench.stage.aws.settings(image_seconds=usual)
    assert bench.stage.aws.state()["instance_states"][bench.instance]["reboots"] == 1


@pytest.mark.parametrize("bench", ["cutover"], indirect=True)
@pytest.mark.parametrize("after", ["create_image", "save_template"])
def test_one_that_dies_makes_no_second_image_and_no_second_version(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    real = getattr(Backups, after)

    def killed(*args: Any, **more: Any) -> Any:
        real(*args, **more)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Backups, after, killed)
        with pytest.raises(Killed):
            bench.made()
    assert bench.row().state is BackupState.MAKING
    done = bench.made()
    assert [one["ImageId"] for one in bench.images()] == [done.image_id]
    assert done.template_version == 1
    found = bench.client.describe_launch_template_versions(LaunchTemplateId=done.template_id)["LaunchTemplateVersions"]
    assert len(found) == 1


def test_an_image_that_aws_could_not_make_fails_the_backup(bench: Bench) -> None:
    bench.stage.aws.rule(kind="failed_image", key=bench.instance, count=1)
    with pytest.raises(PermanentError, match="AWS could not make the image"):
        bench.made()
    row = bench.row()
    assert row.state is BackupState.FAILED
    assert "could not make the image" in row.error
    assert (row.template_id, row.template_version) in (("", 0), ("", None))
    assert bench.made("2").state is BackupState.COMPLETED, "another backup is not in its way"


@pytest.mark.parametrize("bench", ["migration"], indirect=True)
def test_who_may_only_migrate_backs_nothing_up(bench: Bench) -> None:
    with pytest.raises(DeniedError, match="may not cut over"):
        backup.order(bench.ledger, bench.subject, bench.ctx("1"), reboot=False, rights=open_to("bo"))
    with pytest.raises(NotFoundError, match="no id of a migration or a cutover"):
        backup.order(bench.ledger, "job-1", bench.ctx("1"), reboot=False, rights=OPEN)
    assert bench.images() == []
