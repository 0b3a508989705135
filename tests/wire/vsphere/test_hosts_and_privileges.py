from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.vcenters import Take

from wavelift.adapters.vsphere.hosts import datastore_facts, host_facts, probe_all
from wavelift.adapters.vsphere.inventory import list_summaries, resolve
from wavelift.adapters.vsphere.privileges import REQUIRED, missing_privileges
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.adapters.vsphere.switch import power_state
from wavelift.base.errors import NotFoundError
from wavelift.base.units import MIB
from wavelift.rules.policies import required_privileges
from wavelift.rules.wave import Selector
from wavelift.services.dataplane.preflight import PreflightOptions
from wavelift.simulators.vcenter import SimDisk, SimUser, SimVm, VCenterSimulator
from wavelift.simulators.vcenter.inventory import ADMIN

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]


def vm_of(session: VsphereSession, name: str) -> str:
    return next(vm.moref for vm in list_summaries(session) if vm.name == name)


def test_amp_12_hosts_are_known_with_the_thumbprint_that_vcenter_reports(session: VsphereSession) -> None:
    (web,) = resolve(session, [Selector(kind="name", value="web01")])[0].servers
    (host,) = host_facts(session, [web.host_moref]).values()
    assert host.name == web.host
    assert (host.version, host.connection_state, host.in_maintenance) == ("8.0.3", "connected", False)
    assert len(host.thumbprint.replace(":", "")) == 40


def test_amp_11_the_connector_reaches_every_host(
    sim: VCenterSimulator, session: VsphereSession, config_of: Configure
) -> None:
    refs = {
        server.host_moref for r in resolve(session, [Selector(kind="folder", value="/dc1/vm")]) for server in r.servers
    }
    hosts = host_facts(session, refs)
    assert len(hosts) == 2
    reaches = probe_all(config_of(sim), hosts)
    assert [(reach.reachable, reach.certificate_valid) for reach in reaches.values()] == [(True, True)] * 2
    assert all(reach.error is None for reach in reaches.values())


def test_datastores_with_their_free_space(session: VsphereSession) -> None:
    vm = vm_of(session, "web01")
    (store,) = datastore_facts(session, [vm])[vm]
    assert (store.name, store.kind, store.accessible) == ("datastore1", "VMFS", True)
    assert 0 < store.free <= store.capacity
    assert store.free_pct == pytest.approx(100 * store.free / store.capacity)


def test_free_space_is_what_is_free_now(sim: VCenterSimulator, session: VsphereSession) -> None:
    vm = vm_of(session, "web01")
    (before,) = datastore_facts(session, [vm])[vm]
    sim.set_datastore("datastore1", free=12345)
    try:
        assert datastore_facts(session, [vm])[vm][0].free == 12345
        sim.set_datastore("datastore1", free=54321)
        sim.rule(kind="fault", method="RefreshDatastore", fault="HostConfigFault", times=0)
        assert datastore_facts(session, [vm])[vm][0].free == 12345  # vCenter can't look: better old than nothing
    finally:
        sim.set_datastore("datastore1", free=before.free)


# --- privileges ---------------------------------------------------------------------------------------------------


def test_sms_12_nothing_is_missing_for_an_administrator(session: VsphereSession) -> None:
    vms = [vm_of(session, "web01"), vm_of(session, "off01")]
    assert missing_privileges(session, vms) == {vm: [] for vm in vms}


def test_sms_12_what_is_missing_is_named_by_object(sim: VCenterSimulator, config_of: Configure) -> None:
    with connect(config_of(sim, username="limited", password="limited-pw")) as session:
        vm = vm_of(session, "web01")
        found = missing_privileges(session, [vm])[vm]
    assert [(item.scope, item.name, item.privileges) for item in found] == [
        ("vm", "web01", ("VApp.Export",)),
        ("datastore", "datastore1", ("Datastore.Browse",)),
    ]
    assert {item.principal for item in found} == {"limited"}


def test_sms_12_another_user_can_be_asked_about(session: VsphereSession) -> None:
    vm = vm_of(session, "web01")
    found = missing_privileges(session, [vm], principal="limited")[vm]
    assert [(item.scope, item.privileges) for item in found] == [
        ("vm", ("VApp.Export",)),
        ("datastore", ("Datastore.Browse",)),
    ]


def test_sms_12_an_invented_privilege_is_granted_to_nobody(session: VsphereSession) -> None:
    vm = vm_of(session, "web01")
    required = {"vm": (*REQUIRED["vm"], "VirtualMachine.Teleport")}
    (found,) = missing_privileges(session, [vm], required=required)[vm]  # type: ignore[arg-type]
    assert found.privileges == ("VirtualMachine.Teleport",)


def test_sms_12_a_replication_needs_what_a_migration_does_not(start_vc: Take, config_of: Configure) -> None:
    two = ("VirtualMachine.Config.ChangeTracking", "VirtualMachine.Provisioning.DiskRandomRead")
    user = SimUser("mover", "mover-pw", without=two)
    sim = start_vc([SimVm("web01", [SimDisk(capacity=MIB)])], users=(ADMIN, user))
    with connect(config_of(sim, username=user.name, password=user.password)) as session:
        vm = vm_of(session, "web01")
        assert missing_privileges(session, [vm])[vm] == []
        (found,) = missing_privileges(session, [vm], required=required_privileges(("migrate", "replicate")))[vm]
    assert sorted(found.privileges) == sorted(two)


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (PreflightOptions(), ()),
        (PreflightOptions(replicates=True), ()),
        (
            PreflightOptions(cuts_over=True),
            (
                "VirtualMachine.Interact.PowerOff",
                "VirtualMachine.Interact.PowerOn",
                "VirtualMachine.Config.EditDevice",
                "VirtualMachine.Interact.DeviceConnection",
            ),
        ),
    ],
)
def test_only_a_cutover_asks_for_the_rights_to_stop_and_fence_a_source(
    start_vc: Take, config_of: Configure, options: PreflightOptions, missing: tuple[str, ...]
) -> None:
    without = PreflightOptions(cuts_over=True).features[-1:]
    reader = SimUser("reader", "reader-pw", without=required_privileges(without)["vm"][1:])
    vc = start_vc([SimVm("web01")], users=(ADMIN, reader))
    with connect(config_of(vc, username="reader", password="reader-pw")) as session:
        vm = vm_of(session, "web01")
        found = missing_privileges(session, [vm], required=required_privileges(options.features))[vm]
    assert tuple(name for one in found for name in one.privileges) == missing


def test_sms_12_where_we_may_not_look_we_hold_nothing(sim: VCenterSimulator, session: VsphereSession) -> None:
    web, off = vm_of(session, "web01"), vm_of(session, "off01")
    sim.rule(
        kind="fault",
        method="HasPrivilegeOnEntities",
        fault="NoPermission",
        args={"PrivilegeId": "System.View"},
        times=2,
    )
    found = missing_privileges(session, [web, off], required={"vm": REQUIRED["vm"]})
    assert [item.privileges for item in found[web]] == [REQUIRED["vm"]]
    assert found[off] == []


# --- power --------------------------------------------------------------------------------------------------------


def test_power_is_read(session: VsphereSession) -> None:
    assert power_state(session, vm_of(session, "mute01")).power == "poweredOn"
    with pytest.raises(NotFoundError):
        power_state(session, "vm-4711")
