"""The guest table: complete, sourced, and right where the documents are explicit (SMS-11)."""

from __future__ import annotations

import pytest
from pyVmomi import vim

from wavelift.rules.guests import guest, guests, lacks_drivers, minor_matters, sources
from wavelift.rules.instance_types import type_facts

pytestmark = pytest.mark.unit


def test_every_guest_id_of_vsphere_has_a_row_with_its_source() -> None:
    assert set(guests()) == set(vim.vm.GuestOsDescriptor.GuestOsIdentifier.values)
    for row in guests().values():
        assert row.source in sources(), row.id
        assert row.status in ("supported", "unknown", "unsupported")
        assert row.boot_modes
        assert row.status == "supported" or row.notes, row.id
    assert all(source.date and source.title for source in sources().values())


@pytest.mark.parametrize(
    ("guest_id", "status", "bits"),
    [
        ("rhel6_64Guest", "supported", 64),
        ("rhel6Guest", "unsupported", 32),
        ("centos7_64Guest", "supported", 64),
        ("ubuntuGuest", "unsupported", 32),
        ("winNetEnterpriseGuest", "supported", 32),
        ("windows7Server64Guest", "supported", 64),
        ("windows2019srv_64Guest", "supported", 64),
        ("windows9Guest", "unsupported", 32),
        ("freebsd64Guest", "unsupported", 64),
        ("darwin23_64Guest", "unsupported", 64),
        ("other5xLinux64Guest", "unknown", 64),
        ("somethingNew_64Guest", "unknown", 0),
        ("", "unknown", 0),
    ],
)
def test_sms_11_supported_systems(guest_id: str, status: str, bits: int) -> None:
    row = guest(guest_id)
    assert (row.status, row.bits) == (status, bits)


def test_sms_11_every_32_bit_linux_is_refused() -> None:
    linux = [row for row in guests().values() if row.family == "linux" and row.bits == 32]
    assert len(linux) > 40
    assert {row.status for row in linux} == {"unsupported"}


def test_sms_11_client_windows_is_english_only_and_brings_its_own_licence() -> None:
    clients = [row for row in guests().values() if row.family == "windows-client"]
    assert clients
    assert all(row.english_only for row in clients)
    assert {row.license_types for row in clients} == {("auto", "byol")}
    assert guest("windows9Server64Guest").license_types == ("auto", "aws", "byol")
    assert guest("rhel8_64Guest").license_types == ("auto", "byol")


@pytest.mark.parametrize(
    ("guest_id", "full_name", "lacks"),
    [
        ("rhel6_64Guest", "Red Hat Enterprise Linux 6.0 (64-bit)", True),
        ("centos6_64Guest", "CentOS release 6.0 (Final)", True),
        ("centos6_64Guest", "CentOS 6.10", False),
        ("rhel6_64Guest", "Red Hat Enterprise Linux 6 (64-bit)", False),
        ("rhel7_64Guest", "Red Hat Enterprise Linux 7.6.0", False),
        ("newRhelGuest", "RHEL 6.0", True),
    ],
)
def test_sms_11_release_6_0_lacks_drivers(guest_id: str, full_name: str, lacks: bool) -> None:
    assert lacks_drivers(guest_id, full_name) is lacks


def test_minor_releases_matter_for_6_only() -> None:
    assert minor_matters("centos6_64Guest")
    assert not minor_matters("centos7_64Guest")


@pytest.mark.parametrize(
    ("name", "architecture", "nitro"),
    [
        ("m6i.large", "x86_64", True),
        ("t2.micro", "x86_64", False),
        ("m6g.large", "arm64", True),
        ("c7gn.16xlarge", "arm64", True),
        ("a1.medium", "arm64", True),
        ("is4gen.large", "arm64", True),
        ("g4dn.xlarge", "x86_64", True),
        ("g5g.xlarge", "arm64", True),
        ("i3.large", "x86_64", False),
        ("i3.metal", "x86_64", True),
        ("m7i-flex.large", "x86_64", True),
        ("u-6tb1.112xlarge", "x86_64", True),
        ("mac2.metal", "mac", True),
    ],
)
def test_what_a_type_name_says(name: str, architecture: str, nitro: bool) -> None:
    found = type_facts(name)
    assert (found.architecture, found.nitro) == (architecture, nitro)
    assert ("uefi" in found.boot_modes) is nitro
