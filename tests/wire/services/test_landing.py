"""Where instances land: addresses that somebody has, subnets that are full, and guests that are none of the stated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.contexts import context_of

from wavelift.adapters.vsphere.tasks import wait_for_task
from wavelift.base.domain import Finding, Severity
from wavelift.base.run import CancelFlag
from wavelift.services.dataplane.messages import Admitted, PreflightReport
from wavelift.services.dataplane.preflight import Sides, run_preflight

from .journey import Stage
from .servers import LIMITED, MOVER

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


# --- where the account may not look -----------------------------------------------------------------------------------


def test_sms_12_an_account_with_no_access_elsewhere_migrates_and_gets_nothing_of_there(stage: Stage) -> None:
    """By doing: the role on the data centre, *No access* on one of its folders."""
    stage.session_options.update(username=MOVER.name, password=MOVER.password)
    done = stage.journey("mute01").run()
    assert done.error is None, done.error
    assert done.launched is not None
    hidden = look(stage, {"name": "copy01"}, {"path": "/dc1/vm/copies/walk01"}, {"folder": "/dc1/vm/copies"})
    assert hidden.servers == ()
    assert {one.code for one in errors(hidden).values()} == {"server.not_found"}
    assert not [one for one in hidden.findings if "elsewhere" in one.code]


def test_sms_12_rights_in_another_data_centre_are_told(stage: Stage) -> None:
    with stage.connect() as session:
        made = session.change(lambda: session.content.rootFolder.CreateDatacenter("dc-far"))
        try:
            report, as_limited = look(stage, {"name": "mute01"}), _as_limited(stage)
        finally:
            wait_for_task(session, made.Destroy_Task(), timeout=60, cancel=CancelFlag(), what="removing it")
    (found,) = [one for one in report.findings if one.code == "privilege.elsewhere"]
    assert (found.severity, found.subject) == (Severity.WARNING, "*/connection vsphere_lab")
    assert "/dc-far" in found.what
    assert "No access" in found.next_action
    assert [task.name for task in report.passed] == ["mute01"], "it stops nothing"
    (seen,) = [one for one in as_limited.findings if one.code == "privilege.sees_elsewhere"]
    assert seen.severity is Severity.INFO


def _as_limited(stage: Stage) -> PreflightReport:
    stage.session_options.update(username=LIMITED.name, password=LIMITED.password)
    try:
        return look(stage, {"name": "mute01"})
    finally:
        stage.session_options.clear()
