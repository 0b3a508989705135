"""The role on one data centre and *No access* elsewhere (SMS-12): what lies there can't be seen, read or changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from pyVmomi import vim
from tests.vcenters import Take

from wavelift.adapters.vsphere import inventory, snapshots
from wavelift.adapters.vsphere.privileges import REQUIRED, data_centres_beside, missing_privileges
from wavelift.adapters.vsphere.properties import all_refs, collect
from wavelift.adapters.vsphere.ranges import RangeRefusedError, Ranges, RemoteFile
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.base.errors import MissingPrivilegeError, NotFoundError
from wavelift.base.run import CancelFlag
from wavelift.base.units import MIB
from wavelift.rules.wave import Selector
from wavelift.simulators.vcenter import ADMIN, SimDisk, SimUser, SimVm, VCenterSimulator

from .conftest import raw_disk

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]
MOVER: Final = SimUser("mover", "mover-pw", no_access=("/dc1/vm/secret", "/dc2"))
VIEWER: Final = SimUser("viewer", "viewer-pw", without=("VApp.Export", "Datastore.Browse"))


@pytest.fixture
def site(start_vc: Take, config_of: Configure, tmp_path: Path) -> VCenterSimulator:
    """Two data centres; in the first one a folder that is nobody's business."""
    vms = [
        SimVm("web01", [SimDisk(raw_disk(tmp_path, 1))], folder="shop"),
        SimVm("payroll", [SimDisk(raw_disk(tmp_path, 2))], folder="secret/deep"),
    ]
    sim = start_vc(vms, users=(ADMIN, MOVER, VIEWER))
    with connect(config_of(sim)) as admin:
        admin.change(lambda: admin.content.rootFolder.CreateDatacenter("dc2"))
    return sim


def as_user(sim: VCenterSimulator, config_of: Configure, user: SimUser) -> VsphereSession:
    return connect(config_of(sim, username=user.name, password=user.password))


def moref_of(sim: VCenterSimulator, name: str) -> str:
    return next(str(vm["moref"]) for vm in sim.state()["vms"] if vm["name"] == name)


def test_sms_12_what_is_elsewhere_is_not_found(site: VCenterSimulator, config_of: Configure) -> None:
    payroll = moref_of(site, "payroll")
    with as_user(site, config_of, MOVER) as session:
        assert [vm.path for vm in inventory.list_summaries(session)] == ["/dc1/vm/shop/web01"]
        selectors = [
            Selector(kind="name", value="payroll"),
            Selector(kind="path", value="/dc1/vm/secret/deep/payroll"),
            Selector(kind="folder", value="/dc1/vm/secret"),
            Selector(kind="name", value="web01"),
        ]
        *hidden, seen = inventory.resolve(session, selectors)
        assert [one.name for one in seen.servers] == ["web01"]
        for one in hidden:
            assert one.servers == ()
            assert [type(error) for error in one.errors] == [NotFoundError]
        assert all_refs(session, vim.VirtualMachine) == [moref_of(site, "web01")]
        assert "/dc1/vm/secret" not in inventory.folder_paths(session).values()
        assert collect(session, vim.VirtualMachine, [payroll], ["name", "config.uuid"]) == {payroll: {}}


def test_sms_12_who_knows_the_id_gets_nothing_either(site: VCenterSimulator, config_of: Configure) -> None:
    """Not by its id, which a log or another account may tell: no snapshot, no export, no right."""
    payroll, web = moref_of(site, "payroll"), moref_of(site, "web01")
    with as_user(site, config_of, MOVER) as session:
        found = missing_privileges(session, [payroll, web])
        assert set(found[payroll][0].privileges) == set(REQUIRED["vm"])
        assert found[web] == []
        machine = session.managed(vim.VirtualMachine, payroll)
        for call in (
            lambda: machine.CreateSnapshot_Task("x", "", False, False),
            machine.ExportVm,
            lambda: machine.name,
            lambda: machine.PowerOffVM_Task(),
        ):
            with pytest.raises(MissingPrivilegeError):
                session.change(call)
    assert site.state()["leases"] == []
    with connect(config_of(site)) as admin:
        assert snapshots.find_ours(admin) == []


@pytest.mark.parametrize(
    ("user", "beside"), [(ADMIN, [("/dc2", True)]), (VIEWER, [("/dc2", False)]), (MOVER, [])], ids=lambda one: str(one)
)
def test_sms_12_data_centres_that_the_account_sees_though_no_server_is_there(
    site: VCenterSimulator, config_of: Configure, user: SimUser, beside: list[tuple[str, bool]]
) -> None:
    with as_user(site, config_of, user) as session:
        site.reset_counters()
        found = data_centres_beside(session, ["/dc1/vm/shop/web01"])
        assert [(one.path, one.exports) for one in found] == beside
        assert sum(site.counters()["methods"].values()) <= 2
        assert data_centres_beside(session, ["/dc1/vm/shop/web01", "/dc2/vm/x"]) == []


def test_sms_12_a_datastore_s_files_need_the_right_to_browse(site: VCenterSimulator, config_of: Configure) -> None:
    with as_user(site, config_of, VIEWER) as session:
        file = RemoteFile(
            host=session.config.host,
            port=session.config.port,
            path="/folder/payroll/payroll-flat.vmdk?dcPath=dc1&dsName=datastore1",
            size=2 * MIB,
            via="vcenter",
        )
        ranges = Ranges(session, file, session.context, cancel=CancelFlag())
        try:
            with pytest.raises(RangeRefusedError) as caught:
                ranges.read_into(0, memoryview(bytearray(512)), patience_s=0.1)
        finally:
            ranges.close()
    assert caught.value.status == 401
