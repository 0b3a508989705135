"""The address of a server's instance over both simulators: prepared, launched on, and asked for once more after a
revert, when the stopped instance of before still holds what it had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wavelift.adapters.aws.addresses import Addresses
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.vsphere import switch as power
from wavelift.base.errors import PermanentError
from wavelift.base.run import DagRun, MemoryCheckpoints
from wavelift.rules.cutover import CutoverState
from wavelift.rules.wave_cutover import CutoverPlan
from wavelift.services.common.grant_keys import KeyFiles, keygen
from wavelift.services.cutover.prepare import interface_of, prepare_server
from wavelift.services.dataplane import source_switch
from wavelift.services.dataplane.messages import ServerTask

from .journey import Refused, Stage
from .test_cutover_move import SERVER, Cut
from .test_cutover_revert import go_back, states, switched

pytestmark = pytest.mark.wire

ADDRESS, OTHER = "10.20.1.77", "10.20.1.78"
SETTINGS = CutoverPlan(ami="register")


@pytest.fixture
def cut(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cut]:
    monkeypatch.setattr(source_switch, "OFF_SECONDS", 0.1)
    monkeypatch.setattr(source_switch, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(power, "POLL_S", 0.05)
    keygen(KeyFiles(tmp_path / "private" / "key", tmp_path / "public"))
    made = Cut(stage, tmp_path)
    yield made
    made.put_back()
    free(stage, ADDRESS, OTHER)


def free(stage: Stage, *addresses: str) -> None:
    """Whoever has them now: what a person does who needs no data of the instance any more."""
    access, subnet = stage.access(), stage.account.subnet_ids[0]
    found = [one for address in addresses for one in Addresses(access).interfaces_at(subnet, address)]
    Ec2(access).terminate([one.instance_id for one in found if one.instance_id])
    for one in found:
        Addresses(access).delete(one.interface_id)


def looked_at(cut: Cut, address: str = "") -> ServerTask:
    """What the pre-flight of a cutover lets pass, for this address."""
    entry = {"name": SERVER} | ({"private_ip": address} if address else {})
    journey = cut.stage.journey(entry)
    wave = journey.admitted.wave
    plans = tuple(plan.model_copy(update={"cutover": SETTINGS}).cutting_over() for plan in wave.servers)
    journey.admitted = journey.admitted.model_copy(update={"wave": wave.model_copy(update={"servers": plans})})
    (task,) = journey.preflight()
    return task.model_copy(update={"final": True})


def prepared(cut: Cut, task: ServerTask) -> str:
    address = task.plan.private_ip or ""
    assert prepare_server(cut.ledger, cut.stage.access(), task.plan, address, cut.ctx()) is None
    found = interface_of(cut.ledger, cut.stage.access(), task.plan, address)
    assert found is not None
    assert found.address == address
    return found.interface_id


def test_a_cutover_launches_on_the_interface_that_was_prepared_for_it(cut: Cut, stage: Stage) -> None:
    card = prepared(cut, looked_at(cut, ADDRESS))
    cut.task = looked_at(cut, ADDRESS)
    assert prepared(cut, cut.task) == card, "repeated, it is the same"
    launched = cut.launch(cut.imaged())
    assert launched.private_ip == ADDRESS
    assert Addresses(stage.access()).primary_of(launched.instance_id).interface_id == card


def test_somebody_else_s_interface_is_in_the_way(cut: Cut, stage: Stage) -> None:
    stage.access().client("ec2").create_network_interface(
        SubnetId=stage.account.subnet_ids[0], PrivateIpAddress=ADDRESS, Description="printer"
    )
    with pytest.raises(Refused, match="printer"):
        looked_at(cut, ADDRESS)


def test_a_second_cutover_after_a_revert_is_told_of_its_address_before_anything_stops(
    cut: Cut, stage: Stage, tmp_path: Path
) -> None:
    """The stopped instance keeps its address. Any other is free to take, also if one had been prepared."""
    cut.task = looked_at(cut, ADDRESS)
    card = prepared(cut, cut.task)
    switched(cut)
    go_back(cut, tmp_path, MemoryCheckpoints())
    assert states(cut) == ["stopped"]
    first = cut.known.instance_id
    with pytest.raises(Refused, match=f"instance {first}.*Terminate it once nobody needs its data"):
        looked_at(cut, ADDRESS)

    cut.run = DagRun("lab.cutover", "again")
    cut.open()
    cut.task = looked_at(cut)
    switched(cut)
    second = cut.known
    assert (second.state, second.private_ip != ADDRESS) == (CutoverState.SWITCHED, True)
    assert second.instance_id != first
    assert Addresses(stage.access()).primary_of(first).interface_id == card, "the first one keeps what it has"


def test_an_address_whose_instance_was_terminated_is_launched_on_again(cut: Cut, stage: Stage, tmp_path: Path) -> None:
    cut.task = looked_at(cut, ADDRESS)
    card = prepared(cut, cut.task)
    switched(cut)
    go_back(cut, tmp_path, MemoryCheckpoints())
    Ec2(stage.access()).terminate([cut.known.instance_id])
    cut.task = looked_at(cut, ADDRESS)
    assert prepared(cut, cut.task) == card
    free(stage, ADDRESS)
    other = prepared(cut, cut.task)
    assert other != card, "also the interface may be removed"
    moved = looked_at(cut, OTHER)
    free(stage, ADDRESS)
    prepared(cut, moved)
    cut.run = DagRun("lab.cutover", "again")
    cut.open()
    cut.task = moved
    switched(cut)
    assert cut.known.private_ip == OTHER, "what was prepared for another address is of no interest"


@pytest.mark.proof
def test_an_interface_that_was_prepared_and_is_gone_is_refused_at_the_launch(cut: Cut, stage: Stage) -> None:
    cut.task = looked_at(cut, ADDRESS)
    prepared(cut, cut.task)
    free(stage, ADDRESS)
    with pytest.raises(PermanentError, match="was prepared is gone"):
        cut.launch(cut.imaged())
