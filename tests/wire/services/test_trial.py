"""Test instances over the simulator and a ledger: made once, only ours are ended, and no launch is forgotten."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import HandClock, run_context
from tests.ledgers import fresh_ledger, within
from tests.rights import OPEN
from tests.unit.rules.conftest import facts
from tests.unit.services.test_replication import Desk
from tests.wire.aws.proving import bare_image

from wavelift.adapters.aws.ec2 import Ec2, Instance
from wavelift.adapters.aws.launch import LaunchRequest
from wavelift.base.domain import ServerFacts
from wavelift.base.errors import PermanentError
from wavelift.base.names import TAG_RUN, run_hash
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import SourceServer, jobs, servers, trials
from wavelift.ledger.cutover_records import TestInstance
from wavelift.rules.cutover import TrialState
from wavelift.services.common.admit import RunRequest
from wavelift.services.cutover import trial
from wavelift.services.dataplane.checks import CheckOrder
from wavelift.services.replication.jobs import remember_server

from .journey import Stage
from .replica import Killed

__all__ = ["facts"]

pytestmark = pytest.mark.wire

RUN = DagRun("erp.test", "manual__1")


class Tried:
    """One replicated server, whose image is tried."""

    def __init__(self, stage: Stage, folder: Path, seen: ServerFacts) -> None:
        self.stage, self.clock = stage, HandClock()
        self.ledger = fresh_ledger(folder / "trial.db")
        account = stage.account
        isolated = {"subnets": account.subnet_ids[1:2], "security_groups": [account.isolated_group_id]}
        stage.environment_changes["isolation"] = isolated
        self.image = bare_image(stage.access())
        self.key = f"{RUN.dag_id}/{folder.name}/{seen.name}"
        self.run = DagRun(RUN.dag_id, folder.name)
        desk, source = Desk(self.ledger, self.clock), SourceServer.of("vsphere_lab", seen)
        job = desk.create(seen.name)
        with self.ledger.write(servers.LOCK) as tx:
            servers.remember(tx, source, at=self.clock.now())
        remember_server(self.ledger, job.id, source, by="test", clock=self.clock)
        desk.complete(desk.begin(), ami=self.image)
        wave = stage.wave(seen.name, wave="erp", replication={}, cutover={"test_hours": 3})
        request = RunRequest("erp", {})
        admitted = trial.admit(self.ledger, request, lambda _: wave, self.ctx(seen.name), rights=OPEN)
        assert (admitted.servers, admitted.refused) == ((seen.name,), ())
        self.server = seen.name

    def ctx(self, server: str = "") -> RunContext:
        return run_context(self.run, server or self.server, clock=self.clock)

    def aws(self, _: Any = None) -> Any:
        return self.stage.access()

    @property
    def row(self) -> TestInstance:
        return within(self.ledger.read(), trials.get, trials.trial_id(self.key))

    def launch(self) -> CheckOrder:
        found = trial.launch(self.ledger, self.aws, self.ctx(), hours=None)
        assert isinstance(found, CheckOrder)
        return found

    def end(self) -> tuple[str, ...]:
        return trial.end(self.ledger, [self.row.id], self.aws, by="ana", clock=self.clock)

    def end_all(self) -> None:
        for _ in range(100):
            if not self.end():
                return
        raise AssertionError("it does not terminate")

    def standing(self) -> list[Instance]:
        found = Ec2(self.aws()).instances_of([self.image])
        return [one for one in found if one.state in ("pending", "running")]

    def put_back(self) -> None:
        ec2 = Ec2(self.aws())
        ec2.terminate([one.instance_id for one in ec2.instances_of([self.image])])
        ec2.deregister(self.image, delete_snapshots=True)
        self.ledger.close()


@pytest.fixture
def tried(stage: Stage, tmp_path: Path, facts: Callable[..., ServerFacts]) -> Iterator[Tried]:
    made = Tried(stage, tmp_path, facts(name="web01", path="/DC0/vm/web01"))
    yield made
    made.put_back()


def dies_after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    real = getattr(owner, name)

    def killed(*args: Any, **more: Any) -> Any:
        real(*args, **more)
        raise Killed

    monkeypatch.setattr(owner, name, killed)


def test_it_is_launched_where_the_environment_isolates_and_recorded(tried: Tried, stage: Stage) -> None:
    order = tried.launch()
    (one,) = tried.standing()
    assert one.tags[TAG_RUN] == run_hash(tried.key)
    row = tried.row
    assert (row.state, row.instance_id) == (TrialState.CHECKING, one.instance_id)
    assert order.instance.instance_id == one.instance_id
    assert row.ends_at is not None
    assert (row.ends_at - tried.clock.now()).total_seconds() == 3 * 3600
    shown = stage.aws.client("ec2").describe_instances(InstanceIds=[one.instance_id])["Reservations"][0]["Instances"][0]
    assert shown["SubnetId"] == stage.account.subnet_ids[1]
    assert [group["GroupId"] for group in shown["SecurityGroups"]] == [stage.account.isolated_group_id]


def test_a_launch_that_dies_before_the_ledger_knows_makes_no_second_instance(
    tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        dies_after(patch, Ec2, "launch")
        with pytest.raises(Killed):
            tried.launch()
    (first,) = tried.standing()
    assert tried.row.instance_id == ""
    assert tried.launch().instance.instance_id == first.instance_id
    assert [one.instance_id for one in tried.standing()] == [first.instance_id]


def test_an_instance_that_the_ledger_never_knew_is_ended_too(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        dies_after(patch, Ec2, "launch")
        with pytest.raises(Killed):
            tried.launch()
    assert tried.end() == (tried.row.id,), "it terminates"
    assert tried.row.state is TrialState.ENDING
    tried.end_all()
    assert (tried.row.state, tried.standing()) == (TrialState.ENDED, [])


def test_one_that_is_launched_while_somebody_ends_it_is_gone(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends it looked before the instance was there."""
    real = Ec2.launch

    def meanwhile(ec2: Ec2, request: LaunchRequest) -> Instance:
        tried.end_all()
        return real(ec2, request)

    with monkeypatch.context() as patch:
        patch.setattr(Ec2, "launch", meanwhile)
        with pytest.raises(PermanentError, match="is ended"):
            tried.launch()
    assert (tried.row.state, tried.standing()) == (TrialState.ENDED, [])


def test_one_that_dies_in_that_moment_is_ended_by_its_next_try(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Ec2.launch

    def meanwhile(ec2: Ec2, request: LaunchRequest) -> Instance:
        tried.end_all()
        real(ec2, request)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Ec2, "launch", meanwhile)
        with pytest.raises(Killed):
            tried.launch()
    assert len(tried.standing()) == 1
    with pytest.raises(PermanentError, match="is ended"):
        tried.launch()
    assert tried.standing() == []


def test_what_is_not_of_this_test_is_never_ended(tried: Tried, stage: Stage) -> None:
    """Not even by a row that names it: an id alone is no proof of what stands there."""
    tried.launch()
    request = LaunchRequest(tried.image, "t3.small", stage.account.subnet_ids[0], uuid.uuid4().hex)
    foreign = Ec2(tried.aws()).launch(request).instance_id
    with tried.ledger.write(jobs.lock_name("erp")) as tx:
        row = trials.get(tx, tried.row.id)
        trials.apply(tx, row, "edited", at=tried.clock.now(), by="test", instance_id=foreign)
    tried.end_all()
    assert [one.instance_id for one in tried.standing()] == [foreign]
    assert tried.row.state is TrialState.ENDED


def test_an_end_that_dies_is_repeated(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    tried.launch()
    with monkeypatch.context() as patch:
        dies_after(patch, Ec2, "terminate")
        with pytest.raises(Killed):
            tried.end()
    tried.end_all()
    assert (tried.row.state, tried.standing()) == (TrialState.ENDED, [])
    assert tried.end() == ()
