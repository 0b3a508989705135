"""The way back over both simulators: killed between any two steps, it ends where the cutover began; and the next delta
is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import Alive, run_context
from tests.ledgers import within

from wavelift.adapters.aws.addresses import Addresses
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.instances import Instances
from wavelift.adapters.vsphere import switch as power
from wavelift.base.run import CancelFlag, DagRun, MemoryCheckpoints, RunContext, SystemClock
from wavelift.base.units import BLOCK
from wavelift.ledger import cutovers, jobs, lineage, replication_runs
from wavelift.rules.cutover import CutoverState, SourceBefore, StepState
from wavelift.rules.wave_cutover import NetworkStep, SecurityGroupsStep
from wavelift.services.common.grant_keys import KeyFiles, keygen
from wavelift.services.cutover import back, steps
from wavelift.services.cutover.back import Undone, Waiting
from wavelift.services.cutover.switch import Switched, switch
from wavelift.services.dataplane import source_switch
from wavelift.services.dataplane.cutover_messages import StartedSource
from wavelift.services.dataplane.source_return import start_source

from .journey import Stage
from .replica import Killed
from .servers import noise
from .test_cutover_move import SERVER, Cut, passed

pytestmark = pytest.mark.wire

REVERT = DagRun("lab.cutover", "revert__1")
BOUNDARIES = (
    (steps, "undo_step"),
    (Addresses, "set_groups"),
    (Instances, "stop"),
    (power, "unfence"),
    (power, "power_on"),
    (cutovers, "change_step"),
    (cutovers, "note_time"),
)
"""Everything that a revert writes, outside and into the ledger."""


@pytest.fixture
def group(stage: Stage) -> Iterator[str]:
    """A security group that the instance has only while it serves."""
    ec2 = stage.access().client("ec2")
    vpc = ec2.describe_subnets(SubnetIds=[stage.journey(SERVER).preflight()[0].plan.subnet])["Subnets"][0]["VpcId"]
    made = ec2.create_security_group(GroupName="serving", Description="serving", VpcId=vpc)["GroupId"]
    stage.looked.clear()
    yield made
    ec2.delete_security_group(GroupId=made)


@pytest.fixture
def cut(stage: Stage, tmp_path: Path, group: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cut]:
    monkeypatch.setattr(source_switch, "OFF_SECONDS", 0.1)
    monkeypatch.setattr(source_switch, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(power, "POLL_S", 0.05)
    keygen(KeyFiles(tmp_path / "private" / "key", tmp_path / "public"))
    made = Cut(stage, tmp_path, steps=(NetworkStep(security_groups=SecurityGroupsStep(groups=(group,))),))
    yield made
    made.put_back()


def ctx(checkpoints: MemoryCheckpoints) -> RunContext:
    return run_context(REVERT, SERVER, checkpoints=checkpoints, liveness=Alive(run=lambda run: run == REVERT))


def go_back(cut: Cut, folder: Path, checkpoints: MemoryCheckpoints) -> None:
    """One try of the three tasks."""
    access: Any = lambda place: cut.stage.access()  # noqa: E731
    give_up = time.monotonic() + 60
    while True:
        key = folder / "private" / "key"
        found = back.undo(cut.ledger, access, [cut.known.id], ctx(checkpoints), key_file=key)
        if isinstance(found, Undone):
            break
        assert isinstance(found, Waiting)
        assert time.monotonic() < give_up, found.words
        time.sleep(0.05)  # the simulator's instance stops in its own time
    assert not found.failed
    started: list[StartedSource] = []
    for source in found.sources:
        assert all(state == "stopped" for state in states(cut)), "it is seen stopped before its source starts"
        with cut.stage.connect() as session:
            started.append(start_source(session, source, CancelFlag()))
    ended = back.reverted(cut.ledger, access, [cut.known.id], found, started, ctx(checkpoints))
    back.raise_when_failed(ended)


def states(cut: Cut) -> list[str]:
    ec2 = Ec2(cut.stage.access())
    return [one.state for one in ec2.describe_instances(cut.instances()).values()]


def switched(cut: Cut) -> None:
    launched = cut.launch(cut.imaged())
    for _ in range(100):
        found = switch(cut.ledger, cut.stage.access(), cut.task, passed(launched), cut.ctx())
        if isinstance(found, Switched):
            return
    raise AssertionError("it does not settle")


def groups(cut: Cut) -> tuple[str, ...]:
    return Addresses(cut.stage.access()).primary_of(cut.known.instance_id).security_groups


class Reaper:
    """Kills the process before and after each thing that it writes, each once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.died: set[str] = set()
        for place, name in BOUNDARIES:
            monkeypatch.setattr(place, name, self._deadly(name, getattr(place, name)))

    def _deadly(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            # Which row comes to which state, too: each is a boundary of its own.
            about = f"{name} {kwargs.get('to', '')}{args[2] if name == 'note_time' else ''}".rstrip()
            self._die(f"before {about}")
            done = real(*args, **kwargs)
            self._die(f"after {about}")
            return done

        return call

    def _die(self, moment: str) -> None:
        if moment not in self.died:
            self.died.add(moment)
            raise Killed(moment)


def test_a_way_back_that_is_killed_between_any_two_steps_ends_where_it_began(
    cut: Cut, stage: Stage, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switched(cut)
    assert groups(cut) == (group,)
    known = cut.known
    before = SourceBefore.load(known.source)
    reaper, checkpoints = Reaper(monkeypatch), MemoryCheckpoints()
    for _tries in range(100):
        try:
            go_back(cut, tmp_path, checkpoints)
            break
        except Killed:
            assert stage.vc.state()  # nothing is left locked
    known = cut.known
    assert known.state is CutoverState.REVERTED
    assert {name for _, name in BOUNDARIES} <= {moment.split()[1] for moment in reaper.died}
    assert len(reaper.died) >= 2 * len(BOUNDARIES)
    assert groups(cut) == cut.task.plan.security_groups
    assert states(cut) == ["stopped"], "stopped, never terminated"
    shown = next(vm for vm in stage.vc.state()["vms"] if vm["name"] == SERVER)
    assert shown["power"] == "poweredOn"
    with stage.connect() as session:
        cards = power.read_cards(session, before.vm)
    assert [card.connection for card in cards] == [card.connection for card in before.cards]
    (row,) = within(cut.ledger.read(), cutovers.steps_of, cutovers.CUTOVER_KIND, known.id)
    assert (row.state, row.before) == (StepState.UNDONE, sorted(cut.task.plan.security_groups))
    assert f"{known.instance_id}, stopped, keeps what was written since" in known.phase


@pytest.mark.parametrize("far", ["reserved", "stopped", "sent"])
def test_a_cutover_that_was_killed_early_goes_back_too(cut: Cut, stage: Stage, tmp_path: Path, far: str) -> None:
    reserved = cut.reserve()
    if far != "reserved":
        stopped = cut.stop(reserved)
    if far == "sent":
        cut.recorded(stopped, cut.send(reserved))
    target = {"aws_conn_id": "aws_lab", "region": stage.aws.region}  # else the frozen wave, which this run has not
    with cut.ledger.write(jobs.lock_name("lab")) as tx:
        cutovers.apply(tx, cut.known, "test", at=SystemClock().now(), by="test", target=target)
    go_back(cut, tmp_path, MemoryCheckpoints())
    assert cut.known.state is CutoverState.REVERTED
    assert cut.instances() == []
    shown = next(vm for vm in stage.vc.state()["vms"] if vm["name"] == SERVER)
    assert shown["power"] == "poweredOn"
    assert any(nic["connected"] for nic in shown["nics"])


def test_the_next_delta_after_a_revert_holds_what_the_source_wrote_since(
    cut: Cut, stage: Stage, tmp_path: Path
) -> None:
    """The last run stays a base: its snapshot froze a source that was off, and change tracking goes on."""
    switched(cut)
    go_back(cut, tmp_path, MemoryCheckpoints())
    run = within(cut.ledger.read(), replication_runs.get, cut.known.run_id)
    assert within(cut.ledger.read(), lineage.read_lineage, run.job_id), "the lineage stands"
    assert not run.quarantine
    stage.vc.guest_write(SERVER, 0, 3 * BLOCK + 5, noise(3, 1000))
    result = cut.replica.run(check=True)
    assert {disk.kind for disk in result.disks} == {"delta"}
    assert sum(disk.blocks_sent for disk in result.disks) >= 1
