"""When an instance's addresses were up; beside a vCenter, the alarm rings when both sides hold one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.addresses import AddressAlarm

from wavelift.simulators import vcenter
from wavelift.simulators.aws import AwsSimulator, Bootstrap
from wavelift.simulators.vcenter import SimVm

pytestmark = pytest.mark.wire

Launch = Callable[..., str]
ADDRESS = "10.20.1.77"


def told(sim: AwsSimulator, instance: str) -> list[tuple[str, bool]]:
    return [(row["address"], row["up"]) for row in sim.address_log() if row["instance"] == instance]


def test_an_address_is_up_from_the_start_of_the_boot_to_the_end_of_the_stop(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch
) -> None:
    sim.settings(instance_stopping_seconds=60, instance_pending_seconds=60)
    one = launch(SubnetId=base.subnet_ids[0], PrivateIpAddress=ADDRESS)
    ec2.stop_instances(InstanceIds=[one])
    assert told(sim, one) == [(ADDRESS, True)]
    sim.advance(61)
    assert told(sim, one) == [(ADDRESS, True), (ADDRESS, False)]
    ec2.start_instances(InstanceIds=[one])
    assert told(sim, one)[2:] == [(ADDRESS, True)]
    sim.advance(61)
    ec2.terminate_instances(InstanceIds=[one])
    assert told(sim, one)[2:] == [(ADDRESS, True), (ADDRESS, False)]
    rows = [row for row in sim.address_log() if row["instance"] == one]
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    assert {row["subnet"] for row in rows} == {base.subnet_ids[0]}


def test_the_alarm_rings_when_a_source_and_its_target_hold_one_address(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch, tmp_path: Path
) -> None:
    with vcenter.start(tmp_path / "vcenter", [SimVm("web01", ip=ADDRESS)], task_seconds=0.01) as vc:
        alarm = AddressAlarm(vc, sim)
        vc.set_vm("web01", power="poweredOff")
        one = launch(SubnetId=base.subnet_ids[0], PrivateIpAddress=ADDRESS)
        alarm.check()
        vc.set_vm("web01", start_by="ha")
        vc.set_vm("web01", power="poweredOff")
        ec2.terminate_instances(InstanceIds=[one])
        (clash,) = alarm.clashes()
        assert (clash.source.owner, clash.target.owner) == ("web01", one)
        AddressAlarm(vc, sim).check()
