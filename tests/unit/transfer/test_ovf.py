"""The descriptor: what it says, in which order, and whatever names a customer gives."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.base.units import GIB, TIB
from wavelift.transfer.ovf import DESCRIPTOR_SIZE, DiskFile, Machine, descriptor, guest_of

pytestmark = pytest.mark.unit

OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"
VSSD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData}"
VMW = "{http://www.vmware.com/schema/ovf}"


def machine(**more: Any) -> Machine:
    return Machine(**{"name": "web01", "cpus": 2, "memory_mib": 4096, **more})


def disks(count: int) -> list[DiskFile]:
    return [DiskFile(f"x-disk{n}.vmdk", 1000 + n, n * GIB, 10 * n) for n in range(1, count + 1)]


def parsed(one: Machine, of: list[DiskFile]) -> ElementTree.Element:
    text = descriptor(one, of)
    assert len(text) == DESCRIPTOR_SIZE
    return ElementTree.fromstring(text)


def items(root: ElementTree.Element, kind: int) -> list[dict[str, str]]:
    found = [{each.tag.removeprefix(RASD): each.text or "" for each in item} for item in root.iter(f"{OVF}Item")]
    return [item for item in found if item["ResourceType"] == str(kind)]


def test_cpus_memory_and_system() -> None:
    root = parsed(machine(cpus=48, memory_mib=196_608), disks(1))
    assert [(item["VirtualQuantity"], item["AllocationUnits"]) for item in items(root, 3)] == [("48", "hertz * 10^6")]
    assert [(item["VirtualQuantity"], item["AllocationUnits"]) for item in items(root, 4)] == [
        ("196608", "byte * 2^20")
    ]
    assert [one.text for one in root.iter(f"{VSSD}VirtualSystemType")] == ["vmx-13"]
    assert len({item["InstanceID"] for kind in (3, 4, 6, 10, 17) for item in items(root, kind)}) == 4


def test_files_and_disks_stand_in_their_order() -> None:
    root = parsed(machine(), disks(3))
    files = [each.attrib for each in root.iter(f"{OVF}File")]
    assert [(each[f"{OVF}href"], each[f"{OVF}size"]) for each in files] == [
        (f"x-disk{n}.vmdk", str(1000 + n)) for n in (1, 2, 3)
    ]
    found = [each.attrib for each in root.iter(f"{OVF}Disk")]
    assert [each[f"{OVF}fileRef"] for each in found] == [each[f"{OVF}id"] for each in files]
    assert [(int(each[f"{OVF}capacity"]), int(each[f"{OVF}populatedSize"])) for each in found] == [
        (n * GIB, 10 * n) for n in (1, 2, 3)
    ]
    assert {each[f"{OVF}capacityAllocationUnits"] for each in found} == {"byte"}
    assert [item["HostResource"] for item in items(root, 17)] == [f"ovf:/disk/vmdisk{n}" for n in (1, 2, 3)]
    assert [item["AddressOnParent"] for item in items(root, 17)] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("controller", "kind", "subtype", "per_controller"),
    [("lsilogic", 6, "lsilogic", 15), ("pvscsi", 6, "VirtualSCSI", 15), ("sata", 20, "vmware.sata.ahci", 30)],
)
def test_controllers_take_as_many_disks_as_they_have_addresses(
    controller: str, kind: int, subtype: str, per_controller: int
) -> None:
    root = parsed(machine(controller=controller), disks(31))
    controllers = items(root, kind)
    assert [(item["ResourceSubType"], item["Address"]) for item in controllers] == [
        (subtype, str(n)) for n in range(-(-31 // per_controller))
    ]
    places = [(item["Parent"], int(item["AddressOnParent"])) for item in items(root, 17)]
    assert len(set(places)) == 31
    assert [places.index(place) for place in sorted(places, key=lambda place: (int(place[0]), place[1]))] == list(
        range(31)
    )
    assert kind == 20 or not any(unit == 7 for _, unit in places), "7 is the controller's own address"
    assert {place[0] for place in places} == {item["InstanceID"] for item in controllers}


@pytest.mark.parametrize(("firmware", "secure"), [("bios", None), ("efi", "false")])
def test_firmware_is_vmware_s_own_word(firmware: str, secure: str | None) -> None:
    root = parsed(machine(firmware=firmware), disks(1))
    config = {each.attrib[f"{VMW}key"]: each.attrib for each in root.iter(f"{VMW}Config")}
    assert config["firmware"][f"{VMW}value"] == firmware
    assert config["firmware"][f"{OVF}required"] == "false"
    told = config.get("bootOptions.efiSecureBootEnabled")
    assert (told and told[f"{VMW}value"]) == secure


def test_each_card_has_a_network_of_its_own() -> None:
    root = parsed(machine(networks=("net", "net", "net (2)", "", "net")), disks(1))
    names = [each.attrib[f"{OVF}name"] for each in root.iter(f"{OVF}Network")]
    assert names == ["net", "net (2)", "net (2) (3)", "Network 4", "net (5)"]
    cards = items(root, 10)
    assert [card["Connection"] for card in cards] == names
    assert {card["ResourceSubType"] for card in cards} == {"VmxNet3"}
    windows = parsed(machine(networks=("net",), guest="windows9Server64Guest"), disks(1))
    assert [card["ResourceSubType"] for card in items(windows, 10)] == ["E1000e"]


@examples(50, 500)
@given(name=st.text(max_size=300), note=st.text(max_size=300), networks=st.lists(st.text(max_size=100), max_size=4))
def test_any_text_makes_a_descriptor(name: str, note: str, networks: list[str]) -> None:
    root = parsed(machine(name=name, note=note, networks=tuple(networks)), disks(2))
    told = [each.text for each in root.iter(f"{OVF}Name")]
    assert len(told) == 1
    assert told[0]
    assert len(told[0]) <= 80
    networks_told = [each.attrib[f"{OVF}name"] for each in root.iter(f"{OVF}Network")]
    assert len(set(networks_told)) == len(networks)
    assert all(networks_told)


def test_names_stay_as_they_are_where_xml_allows_it() -> None:
    root = parsed(machine(name='Büro & "web" <1>', note="a\nb"), disks(1))
    assert [each.text for each in root.iter(f"{OVF}Name")] == ['Büro & "web" <1>']
    assert [each.attrib[f"{OVF}id"] for each in root.iter(f"{OVF}VirtualSystem")] == ['Büro & "web" <1>']
    assert [each.text for each in root.iter(f"{OVF}Annotation")] == ["a\nb"]


@pytest.mark.parametrize(
    ("details", "architecture", "guest", "number"),
    [
        ("Linux/UNIX", "x86_64", "otherLinux64Guest", "36"),
        ("Linux/UNIX", "i386", "otherLinuxGuest", "36"),
        ("Red Hat Enterprise Linux", "x86_64", "rhel7_64Guest", "80"),
        ("SUSE Linux", "x86_64", "sles12_64Guest", "85"),
        ("Ubuntu Pro", "x86_64", "ubuntu64Guest", "94"),
        ("Windows BYOL", "x86_64", "windows9Server64Guest", "1"),
        ("", "x86_64", "otherLinux64Guest", "36"),
    ],
)
def test_the_guest_is_a_hint_of_what_ec2_says(details: str, architecture: str, guest: str, number: str) -> None:
    assert guest_of(details, architecture) == guest
    root = parsed(machine(guest=guest), disks(1))
    (section,) = root.iter(f"{OVF}OperatingSystemSection")
    assert (section.attrib[f"{VMW}osType"], section.attrib[f"{OVF}id"]) == (guest, number)


def test_equal_machines_give_equal_descriptors() -> None:
    assert descriptor(machine(), disks(2)) == descriptor(machine(), disks(2))
    assert descriptor(machine(), disks(2)) != descriptor(machine(cpus=4), disks(2))
    assert descriptor(machine(), [DiskFile("x", 2 * TIB, 2 * TIB, 0)]).endswith(b" ")
