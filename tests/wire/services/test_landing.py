"""Where instances land: addresses that somebody has, subnets that are full, and guests that are none of the stated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.contexts import context_of

from wavelift.base.domain import Finding, Severity
from wavelift.services.dataplane.messages import Admitted, PreflightReport
from wavelift.services.dataplane.preflight import Sides, run_preflight

from .journey import Stage

pytestmark = pytest.mark.wire

ADDRESS = "10.20.1.60"


@pytest.fixture
def held(stage: Stage) -> Iterator[str]:
    """Somebody's interface, with :data:`ADDRESS`; its id."""
    ec2 = stage.aws.client("ec2")
    made = ec2.create_network_interface(SubnetId=stage.account.subnet_ids[0], PrivateIpAddress=ADDRESS)
    interface: str = made["NetworkInterface"]["NetworkInterfaceId"]
    yield interface
    ec2.delete_network_interface(NetworkInterfaceId=interface)


def look(stage: Stage, *servers: dict[str, Any], **changes: Any) -> PreflightReport:
    wave = stage.wave(*servers, **changes)
    admitted = Admitted(wave=wave, mode="preflight", dag_id="lab.migrate", run_id="r", requested_by="test")
    return run_preflight(Sides(stage.connect, stage.access), admitted, context_of("lab.migrate/r/*")).believed()


def errors(report: PreflightReport) -> dict[str, Finding]:
    return {one.code: one for one in report.findings if one.severity is Severity.ERROR}


def test_amp_01_an_address_in_use_is_refused_before_anything_moves(stage: Stage, held: str) -> None:
    servers = [{"name": "web01", "private_ip": ADDRESS}, {"name": "mute01", "private_ip": "10.20.1.61"}]
    stage.aws.reset_counters()
    report = look(stage, *servers)
    assert [task.name for task in report.passed] == ["mute01"]
    finding = errors(report)["network.address_taken"]
    assert finding.subject == "web01"
    assert ADDRESS in finding.what
    assert held in finding.what
    assert stage.aws.counters()["ec2.DescribeNetworkInterfaces"]["calls"] == 1, "one call for the wave"


def test_amp_01_a_stated_address_is_the_instance_s(stage: Stage) -> None:
    done = stage.journey({"name": "mute01", "private_ip": ADDRESS, "guest_os": "linux"}).run()
    assert done.error is None, done.error
    assert done.launched is not None
    assert done.launched.private_ip == ADDRESS


def test_amp_01_a_subnet_that_has_too_few_addresses_refuses_the_wave(stage: Stage) -> None:
    ec2 = stage.aws.client("ec2")
    small = ec2.create_subnet(VpcId=stage.account.vpc_id, CidrBlock="10.20.201.0/28")["Subnet"]["SubnetId"]
    listed = [{"PrivateIpAddress": f"10.20.201.{last}", "Primary": last == 4} for last in range(4, 14)]
    interface = ec2.create_network_interface(SubnetId=small, PrivateIpAddresses=listed)["NetworkInterface"]
    stage.environment_changes["subnets"] = (small,)
    try:
        fits, two = look(stage, {"name": "web01"}), look(stage, {"name": "web01"}, {"name": "mute01"})
        image_only = look(stage, {"name": "web01"}, {"name": "mute01"}, defaults={"launch": "none"})
        one_refused = look(stage, {"name": "web01"}, {"name": "enc01"})
    finally:
        stage.environment_changes.clear()
        ec2.delete_network_interface(NetworkInterfaceId=interface["NetworkInterfaceId"])
        ec2.delete_subnet(SubnetId=small)
    assert [task.name for task in fits.passed] == ["web01"]
    assert two.passed == ()
    assert errors(two)["network.room"].subject == f"*/{small}"
    assert len(image_only.passed) == 2
    assert [task.name for task in one_refused.passed] == ["web01"], "who does not go needs no address"


def test_amp_01_another_guest_than_the_stated_one_does_not_go(stage: Stage) -> None:
    report = look(stage, {"name": "web01", "guest_os": "windows-server"}, {"name": "mute01", "guest_os": "Linux"})
    assert [task.name for task in report.passed] == ["mute01"]
    finding = errors(report)["guest.differs"]
    assert finding.subject == "web01"
    assert "windows-server" in finding.what
