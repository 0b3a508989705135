"""Mode setup of an export over the AWS simulator: the bucket is made once, and nobody else's is changed (VIE-02)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.export_world import ExportChain, environment
from tests.ledgers import fresh_ledger, within

from wavelift.adapters.aws.access import AwsAccess
from wavelift.base.errors import DeniedError, NotFoundError, PermanentError
from wavelift.ledger import events
from wavelift.services.instance_export import setup
from wavelift.services.instance_export.messages import ExportReport, MadeBucket
from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

NAME: Final = "setup"


class Desk(ExportChain):
    sim: AwsSimulator

    @property
    def bucket(self) -> str:
        return f"export-to-s3-{NAME}-{self.sim.region}"

    def set_up(self, run: str = "r1", **conf: Any) -> MadeBucket:
        self.admit(run, mode="setup", **conf)
        return setup.set_up(self.ledger, self.access, self.place, self.ctx(run), rights=self.rights)

    def told(self, made: MadeBucket, run: str = "r1") -> ExportReport:
        words = ""
        try:
            setup.refuse_wrong(made)
        except PermanentError as error:
            words = f"setup: {error}"
        return self.report(run, bucket=made, words=words)

    def access_of_bucket(self) -> Any:
        return self.sim.state()["buckets"][self.bucket]["access"]


@pytest.fixture
def desk(aws_simulator: AwsSimulator, account: Bootstrap, shared_access: AwsAccess, tmp_path: Path) -> Iterator[Desk]:
    with fresh_ledger(tmp_path / "ledger.db") as ledger:
        where = environment(region=aws_simulator.region, exports={"name": NAME})
        made = Desk(ledger, environment=where, access=shared_access)
        made.sim = aws_simulator
        yield made
    aws_simulator.drop_bucket(made.bucket)


def test_vie_02_the_bucket_is_made_once_and_right_afterwards(desk: Desk) -> None:
    made = desk.set_up()
    told = desk.told(made)
    assert (told.mode, told.succeeded, told.bucket) == ("setup", True, desk.bucket)
    assert any("made the bucket" in line for line in told.changed)
    assert made.findings == ()
    again = desk.set_up("r2")
    assert (again.ours, again.changed, desk.told(again, "r2").succeeded) == (True, (), True)
    happened = [one for one in within(desk.ledger.read(), events.list_events) if one.object_kind == setup.SUBJECT]
    assert [one.details["done"] for one in happened] == list(made.changed)
    assert {one.actor for one in happened} == {"alice"}


def test_vie_02_a_bucket_of_somebody_else_s_making_is_never_changed(desk: Desk) -> None:
    place = {"LocationConstraint": desk.sim.region}
    desk.sim.client("s3").create_bucket(Bucket=desk.bucket, CreateBucketConfiguration=place)
    before = desk.access_of_bucket()
    made = desk.set_up()
    told = desk.told(made)
    assert (made.ours, made.changed, told.succeeded) == (False, (), False)
    assert "ACLs are disabled" in told.error
    assert desk.access_of_bucket() == before


def test_vie_02_grant_adds_the_two_grants_to_it_and_nothing_else(desk: Desk) -> None:
    place = {"LocationConstraint": desk.sim.region}
    s3 = desk.sim.client("s3")
    s3.create_bucket(Bucket=desk.bucket, CreateBucketConfiguration=place, ObjectOwnership="BucketOwnerPreferred")
    before = desk.access_of_bucket()
    made = desk.set_up(grant=True)
    assert [line.split()[1] for line in made.changed] == ["READ_ACP", "WRITE"]
    assert desk.told(made).succeeded
    after = desk.access_of_bucket()
    assert set(before["grants"]) < set(after["grants"])
    assert (before["ownership"], before["public_access_block"]) == (after["ownership"], after["public_access_block"])


def test_grant_makes_no_bucket(desk: Desk) -> None:
    with pytest.raises(NotFoundError):
        desk.set_up(grant=True)
    assert desk.bucket not in desk.sim.state()["buckets"]


def test_a_connection_of_another_account_makes_nothing_there(desk: Desk) -> None:
    desk.environment = environment(account="210987654321", region=desk.sim.region, exports={"name": NAME})
    with pytest.raises(PermanentError, match="is of account 123456789012, the environment of 210987654321"):
        desk.set_up()
    assert desk.bucket not in desk.sim.state()["buckets"]


def test_a_right_that_was_taken_away_after_the_admission_makes_nothing(desk: Desk) -> None:
    desk.admit(mode="setup")
    may = {"administer": ("user:carol",)}
    desk.environment = environment(may=may, region=desk.sim.region, exports={"name": NAME})
    with pytest.raises(DeniedError):
        setup.set_up(desk.ledger, desk.access, desk.place, desk.ctx(), rights=desk.rights)
    assert desk.bucket not in desk.sim.state()["buckets"]
