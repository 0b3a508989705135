from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
from pyVmomi import vim
from tests.vcenters import Take

from wavelift.adapters.vsphere import properties
from wavelift.adapters.vsphere.catalog import pages
from wavelift.adapters.vsphere.inventory import Resolution, facts, list_summaries, resolve
from wavelift.adapters.vsphere.properties import collect
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.base.domain import ServerFacts
from wavelift.base.errors import AmbiguousError, NotFoundError
from wavelift.base.units import MIB
from wavelift.rules.wave import Selector
from wavelift.simulators.vcenter import SimVm, VCenterSimulator

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]


def name(value: str) -> Selector:
    return Selector(kind="name", value=value)


def one(session: VsphereSession, server: str) -> ServerFacts:
    (resolution,) = resolve(session, [name(server)])
    assert resolution.errors == ()
    (found,) = resolution.servers
    return found


def test_every_vm_is_listed_with_its_path(session: VsphereSession) -> None:
    paths = {vm.path: vm for vm in list_summaries(session)}
    assert paths["/dc1/vm/prod/web01"].power == "poweredOn"
    assert paths["/dc1/vm/prod/sub/off01"].power == "poweredOff"
    assert paths["/dc1/vm/prod/gold"].template
    assert {"/dc1/vm/prod/twin", "/dc1/vm/test/twin"} <= paths.keys()


def test_facts_of_a_plain_server(session: VsphereSession) -> None:
    server = one(session, "web01")
    assert (server.name, server.path, server.power) == ("web01", "/dc1/vm/prod/web01", "poweredOn")
    assert (server.guest_id, server.firmware, server.secure_boot) == ("ubuntu64Guest", "bios", False)
    assert (server.tools_status, server.tools_running, server.ip_addresses) == ("toolsOk", True, ("10.0.0.5",))
    assert [(each.path, each.kind) for each in server.file_systems] == [("/", "ext4"), ("/boot/efi", "vfat")]
    assert server.hardware_version == "vmx-19"
    assert (server.cpus, server.memory_mib) == (2, 2048)
    assert server.host
    assert server.host_version == "8.0.3"
    assert server.instance_uuid
    assert [(d.address, d.capacity, d.boot) for d in server.disks] == [
        ("SCSI 0:0", 2 * MIB, True),
        ("SCSI 0:1", 3 * MIB, False),
    ]
    assert [disk.thin and 0 < (disk.allocated or 0) <= disk.capacity for disk in server.disks] == [True, True]
    assert server.disks[0].file.startswith("[datastore1] web01/")
    assert server.disks[0].datastore == "datastore1"
    assert server.cbt_supported
    (nic,) = server.nics
    assert (nic.key, nic.kind, nic.label, nic.network, nic.network_kind) == (
        4000,
        "vmxnet3",
        "Network adapter 1",
        "VM Network",
        "standard",
    )
    assert (nic.connection, nic.addresses) == ((True, True, True), ("10.0.0.5",))
    assert nic.mac.startswith("00:50:56:")
    assert nic.network_moref.startswith("network-")


def test_facts_that_preflight_stumbles_over(session: VsphereSession) -> None:
    server = one(session, "hard01")
    assert server.snapshots == ("before the update",)
    assert len(server.cdrom_connected) == 1
    assert "tools.iso" in server.cdrom_connected[0]
    assert [disk.mode for disk in server.disks] == ["persistent", "independent_persistent", "persistent"]
    assert server.disks[2].sharing == "sharingMultiWriter"
    assert one(session, "consolidate01").consolidation_needed
    assert not one(session, "mute01").tools_running


def test_inv_11_ten_controllers_in_true_order(session: VsphereSession) -> None:
    server = one(session, "many01")
    assert [disk.address for disk in server.disks] == [
        *("IDE 0:0", "IDE 1:0", "SATA 0:0", "SATA 1:0"),
        *("SCSI 0:0", "SCSI 1:0", "SCSI 2:0", "SCSI 3:0", "NVMe 0:0", "NVMe 1:0"),
    ]
    keys = [disk.key for disk in server.disks]
    assert keys != sorted(keys), "the simulator must not make sorting by key right by chance"
    assert (server.firmware, server.secure_boot) == ("efi", True)
    assert [disk.boot for disk in server.disks].index(True) == 0


def test_trouble_bad_selectors_stop_only_themselves(session: VsphereSession) -> None:
    wanted = [
        name("nobody"),
        name("web01"),
        name("twin"),
        Selector(kind="path", value="/dc1/vm/test/twin"),
        Selector(kind="folder", value="/dc1/vm/prod"),
        Selector(kind="folder", value="/dc1/vm/nowhere"),
    ]
    nobody, web, twin, path, folder, nowhere = resolve(session, wanted)
    assert [type(error) for error in nobody.errors] == [NotFoundError]
    assert [server.name for server in web.servers] == ["web01"]
    (ambiguous,) = twin.errors
    assert isinstance(ambiguous, AmbiguousError)
    assert "/dc1/vm/prod/twin" in str(ambiguous)
    assert "/dc1/vm/test/twin" in str(ambiguous)
    assert [server.path for server in path.servers] == ["/dc1/vm/test/twin"]
    assert sorted(server.name for server in folder.servers) == ["mute01", "off01", "twin", "web01"]
    assert isinstance(nowhere.errors[0], NotFoundError)


def test_facts_of_known_vms_keep_their_order_and_cost_little(sim: VCenterSimulator, session: VsphereSession) -> None:
    listed = {vm.path: vm for vm in list_summaries(session) if vm.name in ("web01", "off01")}
    refs = [vm.moref for vm in listed.values()]
    before = total(sim)
    found = facts(session, refs[::-1])
    assert total(sim) - before <= 8
    assert [server.moref for server in found] == refs[::-1]
    assert {server.path for server in found} == set(listed)
    with pytest.raises(NotFoundError):
        facts(session, ["vm-4711"])


def test_a_vm_that_vanished_does_not_stop_the_others(session: VsphereSession) -> None:
    refs = [vm.moref for vm in list_summaries(session)]
    found = collect(session, vim.VirtualMachine, [refs[0], "vm-4711", refs[1]], ["name"])
    assert set(found) == set(refs[:2])


# --- a thousand ---------------------------------------------------------------------------------------------------


def total(sim: VCenterSimulator) -> int:
    return sum(int(count) for count in sim.counters()["methods"].values())


@pytest.mark.parametrize(("count", "page"), [(200, 100), pytest.param(1000, 500, marks=pytest.mark.proof)])
def test_calls_for_many_vms_are_bounded(
    start_vc: Take, config_of: Configure, monkeypatch: pytest.MonkeyPatch, count: int, page: int
) -> None:
    monkeypatch.setattr(properties, "PAGE", page)
    sim = start_vc([], extra_vms=count)
    with connect(config_of(sim)) as session:
        (everything,) = resolve(session, [Selector(kind="folder", value="/dc1/vm/bulk")])
    assert len(everything.servers) == count
    assert all(server.disks and server.path == f"/dc1/vm/bulk/{server.name}" for server in everything.servers)
    assert total(sim) <= math.ceil(count / page) + 10


def test_calls_for_one_of_a_thousand_read_the_devices_of_one(big_sim: VCenterSimulator, config_of: Configure) -> None:
    with connect(config_of(big_sim, timeout=60)) as session:
        before, sent = total(big_sim), big_sim.counters()["paths"]["/sdk"]["bytes"]
        (one_of_them,) = resolve(session, [name("bulk-0500")])
        assert len(one_of_them.servers) == 1
        assert total(big_sim) - before <= math.ceil(1000 / 500) + 3
        assert big_sim.counters()["paths"]["/sdk"]["bytes"] - sent < 1024 * 2000, "devices of all VMs were read"


# --- what is no server --------------------------------------------------------------------------------------------

VCLS_NOTE = "vSphere Cluster Service VM is deployed from an OVA with a minimal installed profile of PhotonOS."


@pytest.fixture
def crowd(start_vc: Take) -> VCenterSimulator:
    """A cluster as customers have it: servers among agents, appliances, a fault-tolerant pair and odd names."""
    return start_vc(
        [
            SimVm("web01", folder="shop"),
            SimVm("shop/web02"),  # beside the folder, though it does not look so
            SimVm("50% off", folder="sales%2femea"),
            SimVm("safe01", folder="shop", ft="primary", host="127.0.0.11"),
            SimVm("safe01", folder="shop", ft="secondary", host="127.0.0.12"),
            SimVm("vCLS-1", folder="shop", managed_by="com.vmware.vim.eam/cluster-agent"),
            SimVm("vCLS-2", folder="shop", guest_id="crxPod1Guest"),
            SimVm("vCLS-3", folder="shop", annotation=VCLS_NOTE),
            SimVm("vcsa", folder="shop", product="VMware vCenter Server Appliance"),
            SimVm("gold", folder="shop", template=True, power="poweredOff"),
        ]
    )


@pytest.fixture
def crowded(crowd: VCenterSimulator, config_of: Configure) -> Iterator[VsphereSession]:
    with connect(config_of(crowd)) as opened:
        yield opened


def folder(session: VsphereSession, value: str) -> Resolution:
    (found,) = resolve(session, [Selector(kind="folder", value=value)])
    assert found.errors == ()
    return found


def test_a_folder_does_not_take_a_vm_of_another_that_is_named_like_a_path(crowded: VsphereSession) -> None:
    found = folder(crowded, "/dc1/vm/shop")
    assert sorted(server.name for server in found.servers) == ["safe01", "web01"]
    (beside,) = resolve(crowded, [Selector(kind="path", value="/dc1/vm/shop%2Fweb02")])
    assert [(server.name, server.path) for server in beside.servers] == [("shop/web02", "/dc1/vm/shop%2fweb02")]
    for written in ("/dc1/vm/sales%2femea/50% off", "/dc1/vm/sales%2femea/50%25 off"):
        (off,) = resolve(crowded, [Selector(kind="path", value=written)])
        assert [server.name for server in off.servers] == ["50% off"], written
    assert [server.name for server in folder(crowded, "/dc1/vm/sales%2femea").servers] == ["50% off"]


def test_of_a_fault_tolerant_pair_only_the_primary_is_a_server(crowded: VsphereSession) -> None:
    twins = [vm for vm in list_summaries(crowded) if vm.name == "safe01"]
    assert len(twins) == 1, "one name, one path, one BIOS UUID, two VMs"
    server = one(crowded, "safe01")
    assert (server.moref, server.fault_tolerant, server.host) == (twins[0].moref, True, "127.0.0.11")
    assert not one(crowded, "web01").fault_tolerant


def test_a_folder_leaves_out_what_vsphere_manages_and_says_so(crowded: VsphereSession) -> None:
    why = {vm.path.rpartition("/")[2]: vm.why for vm in folder(crowded, "/dc1/vm/shop").left_out}
    assert why == {
        "vCLS-1": "managed by com.vmware.vim.eam (cluster-agent)",
        "vCLS-2": "an agent that runs inside ESXi (crx)",
        "vCLS-3": "an agent of vSphere Cluster Services",
        "vcsa": "an appliance of vSphere (VMware vCenter Server Appliance)",
        "gold": "a template",
    }
    assert one(crowded, "vcsa").managed_by == why["vcsa"], "who names it gets it, and a finding"


def test_the_catalogue_has_no_agents_and_no_secondary(crowded: VsphereSession) -> None:
    rows = [row for page in pages(crowded) for row in page]
    names = sorted(row.name for row in rows)
    assert names == ["50% off", "gold", "safe01", "shop/web02", "web01"]
