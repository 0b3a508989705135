from __future__ import annotations

import pickle
from typing import Any, cast

import pytest
from pyVmomi import vim, vmodl

from wavelift.adapters.vsphere.devices import disks
from wavelift.adapters.vsphere.faults import QuiesceError, translate
from wavelift.adapters.vsphere.inventory import DEEPEST, VmSummary, choose, paths_of
from wavelift.adapters.vsphere.lease import LeaseBody, _match
from wavelift.adapters.vsphere.nfc import lease_address, target_of
from wavelift.adapters.vsphere.privileges import REQUIRED
from wavelift.adapters.vsphere.properties import Row, snapshot_nodes
from wavelift.adapters.vsphere.session import VsphereConfig
from wavelift.adapters.vsphere.soap import FALLBACK_VERSION, _newest
from wavelift.base.domain import DiskFacts
from wavelift.base.errors import (
    AmbiguousError,
    BusyError,
    GuardError,
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    SpecError,
    UnreachableError,
    WaveliftError,
)
from wavelift.rules.wave import Selector, decode_name

pytestmark = pytest.mark.unit


# --- configuration --------------------------------------------------------------------------------------------------


def test_inv_10_no_secret_in_the_configuration_s_text() -> None:
    config = VsphereConfig(host="vc", username="u", password="geheim", proxy="http://p:geheim@proxy:1")
    assert "geheim" not in repr(config)
    assert "geheim" not in str(config)


@pytest.mark.parametrize(
    "wrong",
    [{"certificate_mode": "thumbprint"}, {"esxi_mode": "pin"}, {"certificate_mode": "thumbprint", "thumbprint": "xx"}],
)
def test_a_half_configured_policy_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        VsphereConfig(host="vc", username="u", password="p", **wrong)


# --- faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (vim.fault.NotAuthenticated(privilegeId="System.View"), UnreachableError),
        (vim.fault.InvalidLogin(), LoginError),
        (vim.fault.NoPermission(privilegeId="VApp.Export"), MissingPrivilegeError),
        (vmodl.fault.ManagedObjectNotFound(), NotFoundError),
        (vim.fault.UserNotFound(principal="x", unresolved=True), NotFoundError),
        (vim.fault.TaskInProgress(), BusyError),
        (vim.fault.InvalidPowerState(), BusyError),
        (vim.fault.FileLocked(file="x"), BusyError),
        (vim.fault.NoDiskSpace(datastore="ds1"), GuardError),
        (vim.fault.ApplicationQuiesceFault(), QuiesceError),
        (vim.fault.FilesystemQuiesceFault(), QuiesceError),
        (vim.fault.HostConnectFault(), UnreachableError),
        (vim.fault.Timedout(), UnreachableError),
        (vmodl.fault.MethodNotFound(method="x"), PermanentError),
        (vmodl.fault.SystemError(reason=""), WaveliftError),
        (ConnectionResetError("reset"), UnreachableError),
    ],
)
def test_inv_13_every_fault_becomes_ours(fault: BaseException, kind: type[WaveliftError]) -> None:
    told = translate(fault, server="web01")
    assert type(told) is kind
    assert told.where["server"] == "web01"
    assert told.next_step
    assert str(pickle.loads(pickle.dumps(told))) == str(told)


def test_quiescing_is_known_by_key_not_by_text() -> None:
    fault = vim.fault.GenericVmConfigFault(reason="")
    fault.faultMessage = [
        vmodl.LocalizableMessage(key="msg.snapshot.error-QUIESCINGERROR", message="Fehler beim Stillegen")
    ]
    told = translate(fault)
    assert isinstance(told, QuiesceError)
    assert "Fehler beim Stillegen" in str(told)


def test_a_missing_privilege_is_named() -> None:
    told = translate(vim.fault.NoPermission(privilegeId="VApp.Export", object=vim.VirtualMachine("vm-12")))
    assert told.where["privilege"] == "VApp.Export"
    assert told.where["object"] == "vm-12"


def test_sms_12_required_privileges_come_from_the_calls() -> None:
    assert set(REQUIRED["vm"]) >= {
        "VApp.Export",
        "VirtualMachine.State.CreateSnapshot",
        "VirtualMachine.State.RemoveSnapshot",
    }
    assert set(REQUIRED["datastore"]) >= {"Datastore.Browse", "Datastore.FileManagement"}


# --- versions --------------------------------------------------------------------------------------------------


def test_the_newest_common_version_is_chosen() -> None:
    document = b"""<namespaces version="1.0"><namespace><name>urn:vim25</name><version>99.9.0.0</version><priorVersions>
        <version>8.0.3.0</version><version>7.0.3.0</version></priorVersions></namespace>
        <namespace><name>urn:other</name><version>9.1.0.0</version></namespace></namespaces>"""
    assert _newest(document) == "vim.version.v8_0_3_0"
    assert _newest(b"<html>") == FALLBACK_VERSION
    assert _newest(b"<namespaces/>") == FALLBACK_VERSION


# --- choosing --------------------------------------------------------------------------------------------------


def summary(moref: str, path: str, *, template: bool = False, managed_by: str = "") -> VmSummary:
    name = decode_name(path.rsplit("/", 1)[-1])
    return VmSummary(moref, name, path, "", "poweredOn", template, "connected", managed_by)


INVENTORY = [
    summary("vm-1", "/DC0/vm/prod/web01"),
    summary("vm-2", "/DC0/vm/test/web01"),
    summary("vm-3", "/DC0/vm/prod/sub/db01"),
    summary("vm-4", "/DC0/vm/prod/gold", template=True),
    summary("vm-5", "/DC0/vm/production/app01"),
    summary("vm-6", "/DC0/vm/odd/a%2fb%25"),
    summary("vm-7", "/DC0/vm/prod%2fweb02"),
    summary("vm-8", "/DC0/vm/odd/prod%2Fx/app02"),
    summary("vm-9", "/DC0/vm/odd/100%25"),
    summary("vm-10", "/DC0/vm/odd/100%2525"),
    summary("vm-11", "/DC0/vm/agents/agent01", managed_by="managed by com.vmware.vim.eam (cluster-agent)"),
]


TAGS = {"vm-1": ("env:prod", "wave:shop"), "vm-4": ("wave:shop",), "vm-5": ("wave:shop",)}


def chosen(kind: Any, value: str) -> list[str]:
    return [vm.moref for vm in choose(INVENTORY, Selector(kind=kind, value=value), TAGS).vms]


def test_selectors_name_path_and_folder() -> None:
    assert chosen("name", "db01") == ["vm-3"]
    assert chosen("path", "/DC0/vm/test/web01") == ["vm-2"]
    assert chosen("folder", "/DC0/vm/prod") == ["vm-1", "vm-3"]  # below it, without templates and 'production'
    assert chosen("folder", "/DC0/vm/prod/") == ["vm-1", "vm-3"]


def test_sms_02_a_tag_means_every_vm_that_has_it_but_templates() -> None:
    assert chosen("tag", "wave:shop") == ["vm-1", "vm-5"]
    assert chosen("tag", "env:prod") == ["vm-1"]
    with pytest.raises(NotFoundError, match="no VM fits tag 'env:pro'"):
        chosen("tag", "env:pro")


def test_names_with_slashes_are_found_as_people_write_them() -> None:
    assert chosen("name", "a/b%") == ["vm-6"]
    assert chosen("path", "/DC0/vm/odd/a%2fb%25") == ["vm-6"]


def test_a_folder_is_not_a_vm_whose_name_begins_like_it() -> None:
    """``prod%2fweb02`` is one name: a VM *prod/web02* beside the folder *prod* (issue 11, 18)."""
    assert "vm-7" not in chosen("folder", "/DC0/vm/prod")
    assert chosen("path", "/DC0/vm/prod%2fweb02") == chosen("path", "/DC0/vm/prod%2Fweb02") == ["vm-7"]
    assert chosen("name", "prod%2fweb02") == ["vm-7"]
    with pytest.raises(NotFoundError):
        chosen("path", "/DC0/vm/prod/web02")
    assert chosen("folder", "/DC0/vm/odd/prod%2fx") == ["vm-8"]


def test_a_name_that_can_be_read_in_two_ways_is_nobodys_guess() -> None:
    assert chosen("name", "100%") == ["vm-9"]
    assert chosen("path", "/DC0/vm/odd/100%2525") == ["vm-10"]
    for kind, value in (("name", "100%25"), ("path", "/DC0/vm/odd/100%25")):
        with pytest.raises(AmbiguousError, match="two ways: /DC0/vm/odd/100%25 and /DC0/vm/odd/100%2525"):
            chosen(kind, value)


def test_what_vsphere_manages_is_left_out_and_told_but_not_hidden() -> None:
    found = choose(INVENTORY, Selector(kind="folder", value="/DC0/vm"), {})
    assert [(one.path, one.why) for one in found.left_out] == [
        ("/DC0/vm/prod/gold", "a template"),
        ("/DC0/vm/agents/agent01", "managed by com.vmware.vim.eam (cluster-agent)"),
    ]
    assert not {"vm-4", "vm-11"} & {vm.moref for vm in found.vms}
    with pytest.raises(NotFoundError, match=r"left out: /DC0/vm/agents/agent01 \(managed by"):
        chosen("folder", "/DC0/vm/agents")
    assert chosen("name", "agent01") == ["vm-11"], "who names it means it"


def test_two_vms_of_one_name_are_listed_by_path() -> None:
    with pytest.raises(AmbiguousError) as refusal:
        chosen("name", "web01")
    assert "/DC0/vm/prod/web01 (vm-1)" in str(refusal.value)
    assert "/DC0/vm/test/web01 (vm-2)" in str(refusal.value)


def test_an_unknown_vm_names_what_is_near() -> None:
    with pytest.raises(NotFoundError, match="near: /DC0/vm/prod/sub/db01"):
        chosen("name", "DB01")
    with pytest.raises(NotFoundError):
        chosen("folder", "/DC0/vm/nothing")


# --- lease --------------------------------------------------------------------------------------------------


def test_lease_keys_are_addresses() -> None:
    assert lease_address("/vm-226/ParaVirtualSCSIController0:0") == ("SCSI", 0, 0)
    assert lease_address("/vm-226/VirtualLsiLogicSASController3:15") == ("SCSI", 3, 15)
    assert lease_address("/vm-226/VirtualBusLogicController0:1") == ("SCSI", 0, 1)
    assert lease_address("/vm-226/VirtualAHCIController1:29") == ("SATA", 1, 29)
    assert lease_address("/vm-226/VirtualSATAController1:29") == ("SATA", 1, 29)
    assert lease_address("/vm-226/VirtualNVMEController0:14") == ("NVMe", 0, 14)
    assert lease_address("/vm-226/VirtualIDEController1:0") == ("IDE", 1, 0)
    assert lease_address("/vm-226/VirtualFloppyController0:0") is None
    assert lease_address("/vm-226/nvram") is None


def test_the_star_means_the_host_we_talk_to() -> None:
    star = target_of("https://*/nfc/52ab/disk-0.vmdk", "vc.example", 8443)
    assert (star.host, star.port, star.path, star.local) == ("vc.example", 8443, "/nfc/52ab/disk-0.vmdk", True)
    host = target_of("https://10.1.1.1/nfc/52ab/disk-0.vmdk?x=1", "vc.example", 8443)
    assert (host.host, host.port, host.path, host.local) == ("10.1.1.1", 443, "/nfc/52ab/disk-0.vmdk?x=1", False)
    assert target_of("https://VC.example:8443/x", "vc.example", 8443).local


def scsi_disks(count: int) -> tuple[DiskFacts, ...]:
    device = vim.vm.device
    devices: list[Any] = [device.ParaVirtualSCSIController(key=1000, busNumber=0)]
    for unit in range(count):
        backing = device.VirtualDisk.FlatVer2BackingInfo(fileName="[d] v", diskMode="persistent")
        devices.append(
            device.VirtualDisk(key=2000 + unit, controllerKey=1000, unitNumber=unit, capacityInKB=1024, backing=backing)
        )
    return disks(devices, None)


def url(key: str, *, disk: bool | None = True) -> Any:
    return vim.HttpNfcLease.DeviceUrl(key=key, importKey="", url="https://*/x", sslThumbprint="", disk=disk)


def test_inv_11_disks_are_mapped_by_the_lease_s_key_not_by_order() -> None:
    first, second = scsi_disks(2)
    urls = [
        url("/vm-1/nvram", disk=False),
        url("/vm-1/ParaVirtualSCSIController0:1"),
        url("/vm-1/ParaVirtualSCSIController0:0"),
    ]
    found = _match(urls, (first, second), {})
    assert found[("SCSI", 0, 0)].key.endswith("0:0")
    assert found[("SCSI", 0, 1)].key.endswith("0:1")


def test_inv_11_other_files_of_a_lease_are_passed_over_whatever_they_say_of_themselves() -> None:
    others = [
        url("/vm-1/nvram", disk=None),
        url("/vm-1/VirtualIDEController1:0", disk=None),
        url("/vm-1/x", disk=False),
    ]
    found = _match([*others, url("/vm-1/ParaVirtualSCSIController0:0", disk=None)], scsi_disks(1), {})
    assert list(found) == [("SCSI", 0, 0)]
    with pytest.raises(GuardError, match="unexpected VirtualIDEController1:0"):
        _match([url("/vm-1/VirtualIDEController1:0"), url("/vm-1/ParaVirtualSCSIController0:0")], scsi_disks(1), {})


@pytest.mark.parametrize("keys", [["0:0"], ["0:0", "0:1", "0:2"], ["0:0", "1:1"]])
def test_inv_11_a_lease_with_other_disks_stops(keys: list[str]) -> None:
    with pytest.raises(GuardError, match="does not offer"):
        _match([url(f"/vm-1/ParaVirtualSCSIController{key}") for key in keys], scsi_disks(2), {"server": "web01"})


def test_inv_11_a_disk_that_is_offered_twice_stops() -> None:
    twice = [url("/vm-1/ParaVirtualSCSIController0:0"), url("/vm-1/ParaVirtualSCSIController0:0", disk=None)]
    with pytest.raises(GuardError, match="more than once"):
        _match(twice, scsi_disks(1), {"server": "web01"})


def test_what_a_cut_body_ends_in_is_not_its_end() -> None:
    """A body without a length that is cut off looks complete; the lease knows better."""

    class Lease:
        def check(self) -> None:
            raise UnreachableError("the export lease has ended")

    class Ended:
        received = 7

        def readinto(self, buffer: bytearray) -> int:
            return 0

    body = LeaseBody(cast(Any, Lease()), scsi_disks(1)[0], cast(Any, Ended()))
    with pytest.raises(UnreachableError, match="lease has ended"):
        body.readinto(bytearray(10))


# --- answers without an end ----------------------------------------------------------------------------------------


def test_folders_that_are_each_other_s_parents_end_as_a_path() -> None:
    one, two = vim.Folder("group-1", None), vim.Folder("group-2", None)
    rows = [
        Row("group-1", "Folder", {"name": "a", "parent": two}),
        Row("group-2", "Folder", {"name": "b", "parent": one}),
        Row("vm-1", "VirtualMachine", {"name": "web01", "parent": one}),
    ]
    path = paths_of(rows)["vm-1"]
    assert path.endswith("/a/web01")
    assert path.count("/") <= DEEPEST + 1


def test_a_deep_inventory_and_a_deep_tree_of_snapshots_are_read_without_recursion() -> None:
    rows = [Row("g0", "Folder", {"name": "f0"})]
    rows += [
        Row(f"g{at}", "Folder", {"name": f"f{at}", "parent": vim.Folder(f"g{at - 1}", None)}) for at in range(1, 150)
    ]
    assert paths_of(rows)["g149"] == "/" + "/".join(f"f{at}" for at in range(150))
    tree: list[Any] = []
    for at in range(5000):
        tree = [vim.vm.SnapshotTree(name=str(at), childSnapshotList=tree)]
    names = [node.name for node in snapshot_nodes(tree)]
    assert (names[0], names[-1], len(names)) == ("4999", "0", 5000)
