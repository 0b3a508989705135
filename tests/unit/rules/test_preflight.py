"""Every pre-flight finding has a test case that produces it, and a healthy server has no finding that stops it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.base.domain import FileSystem, Finding, NicFacts, Severity
from wavelift.base.errors import TlsError, UnreachableError
from wavelift.base.units import GIB, TIB
from wavelift.rules.guests import FAMILIES, guests, stated_guest
from wavelift.rules.limits import limits
from wavelift.rules.preflight import check_environment, check_server, server_of, stopped
from wavelift.rules.preflight_source import ASK_CHANGES, TRACK_CHANGES
from wavelift.rules.vsphere_facts import GuestPort, SourceFacts
from wavelift.transfer.vmdk.encoder import worst_size
from wavelift.transfer.vmdk.format import MAX_SECTOR

pytestmark = pytest.mark.unit
E, W, N = Severity.ERROR, Severity.WARNING, Severity.INFO


def codes(findings: list[Finding], *severities: Severity) -> set[str]:
    return {finding.code for finding in findings if finding.severity in (severities or (E, W))}


def one(findings: list[Finding], code: str) -> Finding:
    (found,) = [finding for finding in findings if finding.code == code]
    assert found.what
    assert found.why
    assert found.next_action
    return found


def test_a_healthy_server_has_nothing_to_say_but_notes(facts: Any, plan: Any, source: Any, stubs: Any) -> None:
    findings = check_server(facts(), plan(), source=source, account=stubs.account())
    assert codes(findings) == set()
    assert codes(findings, N) == {"cbt.capable", "guest.versions", "guest.file_systems", "guest.by_hand"}
    assert all(finding.subject == "web01" for finding in findings)


def test_sms_05_tracking_that_is_off_is_offered(facts: Any, plan: Any, source: Any, stubs: Any) -> None:
    def offer(**settings: Any) -> str:
        snapshots = settings.pop("snapshots", ())
        server = facts(snapshots=snapshots)
        wish = plan(replication={}, **settings)
        return one(check_server(server, wish, source=source, account=stubs.account()), "cbt.off").next_action

    assert offer() == "Set 'change_tracking: enable' for this server"
    assert offer(change_tracking="enable") == "Nothing: the next replication run enables it"
    assert offer(snapshots=("patch",)) == f"Remove its snapshots (patch). {offer()}"
    assert offer(snapshots=("patch",), change_tracking="enable") == "Remove its snapshots (patch)"
    tracked = facts(cbt_enabled=True)
    assert "cbt.off" not in codes(check_server(tracked, plan(replication={}), source=source, account=stubs.account()))


SERVER = [
    ({"template": True}, {}, "vm.template", E),
    ({"managed_by": "managed by com.vmware.vim.eam (cluster-agent)"}, {}, "vm.managed", W),
    ({"fault_tolerant": True}, {}, "vm.fault_tolerant", W),
    ({"power": "suspended"}, {}, "power.suspended", E),
    ({"power": "poweredOn"}, {"source_power": "require_off"}, "power.require_off", E),
    ({"power": "poweredOn"}, {}, "lease.blocks_vmotion", N),
    ({"power": "poweredOn"}, {"launch": "running", "allow_twin": True}, "power.twin", W),
    ({"power": "poweredOn", "tools_running": False}, {"quiesce": "require"}, "tools.required", E),
    ({"power": "poweredOn", "tools_running": False}, {}, "tools.not_running", W),
    ({"cdrom_connected": ("CD/DVD drive 1: [ds1] iso/a.iso",)}, {}, "cdrom.connected", W),
    ({"nics": (NicFacts(key=4000), NicFacts(key=4001))}, {}, "nic.several", W),
    ({"encrypted": True}, {}, "vm.encrypted", E),
    ({"vtpm": True}, {}, "vm.vtpm", W),
    ({"passthrough_devices": 1}, {}, "vm.passthrough", W),
    ({"passthrough_devices": 1, "power": "poweredOn"}, {}, "vm.passthrough", E),
    ({"cbt_supported": False}, {}, "cbt.incapable", N),
    ({"hardware_version": "vmx-04"}, {}, "cbt.incapable", N),
    ({}, {"replication": {}}, "cbt.off", W),
    ({"disks": ()}, {}, "disk.none", E),
    ({"snapshots": ("before patch",)}, {}, "snapshot.existing", W),
    ({"snapshots": ("wavelift-0123456789ab",)}, {}, "snapshot.ours", W),
    ({"consolidation_needed": True}, {}, "snapshot.consolidation", E),
    ({"guest_id": "rhel5Guest"}, {}, "guest.unsupported", E),
    ({"guest_id": "freebsd64Guest"}, {}, "guest.unsupported", E),
    ({"guest_id": "centos6_64Guest", "guest_full_name": "CentOS 6.0"}, {}, "guest.missing_drivers", E),
    ({"guest_id": "centos6_64Guest"}, {}, "guest.versions", W),
    ({"guest_id": "other5xLinux64Guest"}, {}, "guest.unknown", W),
    ({"guest_id": "windows9_64Guest"}, {}, "guest.english_only", N),
    ({}, {"license_type": "aws"}, "guest.license", E),
    ({}, {"boot_mode": "uefi"}, "boot.differs", W),
    ({"guest_id": "windows11_64Guest"}, {}, "boot.guest", W),
    ({"firmware": "efi"}, {}, "boot.gpt", N),
    ({"firmware": "efi", "secure_boot": True}, {}, "boot.secure", W),
    ({}, {"instance_type": "m6g.large"}, "type.architecture", W),
    ({}, {"instance_type": "m6g.large", "launch": "running", "source_power": "require_off"}, "type.architecture", E),
    (
        {"firmware": "efi"},
        {"instance_type": "t2.small", "launch": "running", "source_power": "require_off"},
        "type.boot_mode",
        E,
    ),
    (
        {"guest_id": "winLonghornGuest"},
        {"launch": "running", "source_power": "require_off"},
        "type.bits",
        E,
    ),
    ({"guest_id": "winLonghorn64Guest"}, {}, "type.drivers", W),
    ({}, {"instance_type": "t2.nano"}, "type.not_offered", W),
    (
        {},
        {"instance_type": "t2.nano", "launch": "running", "source_power": "require_off"},
        "type.not_offered",
        E,
    ),
]


@pytest.mark.parametrize(("changes", "entry", "code", "severity"), SERVER)
def test_sms_11_each_trouble_of_a_server(
    facts: Any, plan: Any, source: Any, stubs: Any, changes: Any, entry: Any, code: str, severity: Severity
) -> None:
    findings = check_server(facts(**changes), plan(**entry), source=source, account=stubs.account())
    assert one(findings, code).severity is severity
    healthy = check_server(facts(), plan(), source=source, account=stubs.account())
    assert code not in codes(healthy, E, W)


DISK = [
    ({"rdm": "physicalMode"}, "disk.rdm", E),
    ({"backing": "VirtualDiskRawDiskMappingVer1BackingInfo"}, "disk.rdm", E),
    ({"mode": "independent_persistent"}, "disk.independent", E),
    ({"sharing": "sharingMultiWriter"}, "disk.shared", E),
    ({"sharing": "physicalSharing"}, "disk.shared", E),
    ({"encrypted": True}, "disk.encrypted", E),
    ({"backing": "VirtualDiskSeSparseBackingInfo"}, "disk.sesparse", W),
    ({"capacity": 16 * TIB + GIB}, "disk.too_large", E),
    ({"capacity": 8 * TIB + GIB}, "disk.needs_manifest", E),
    ({"capacity": 300 * GIB}, "disk.compressed_size", W),
    ({"capacity": 3 * TIB}, "disk.large_mbr_boot", W),
    ({"capacity": 3 * TIB}, "disk.stream_too_large", E),
    ({"capacity": 3 * TIB, "thin": True}, "disk.stream_too_large", E),
    ({"capacity": 3 * TIB, "thin": True, "allocated": 2031 * GIB}, "disk.stream_too_large", E),
    ({"capacity": 0}, "disk.empty", E),
    ({"capacity": GIB + 512}, "disk.rounded", N),
    ({"capacity": 3 * TIB + 512}, "disk.gpt_backup", W),
    ({"capacity": 3 * TIB + 512, "boot": False}, "disk.gpt_backup", W),
]


@pytest.mark.parametrize(("changes", "code", "severity"), DISK)
def test_sms_11_each_trouble_of_a_disk_names_the_disk(
    facts: Any, disk: Any, plan: Any, source: Any, changes: Any, code: str, severity: Severity
) -> None:
    findings = check_server(facts(disks=(disk(**{"bus": 1, "unit": 3, **changes}),)), plan(), source=source)
    found = one(findings, code)
    assert (found.severity, found.subject) == (severity, "web01/SCSI 1:3")
    assert server_of(found) == "web01"


def test_a_uefi_boot_disk_that_is_no_whole_gib(facts: Any, disk: Any, plan: Any, source: Any) -> None:
    server = facts(firmware="efi", disks=(disk(capacity=40 * GIB + 512), disk(key=2001, unit=1, boot=False)))
    found = one(check_server(server, plan(), source=source), "disk.gpt_backup")
    assert (found.severity, "its volume will have 41 GiB" in found.what) == (W, True)
    assert "sgdisk --move-second-header" in found.next_action


def test_deltas_that_no_snapshot_accounts_for(facts: Any, disk: Any, plan: Any, source: Any, stubs: Any) -> None:
    head = disk(file="[ds1] web01/web01-000001.vmdk", base="[ds1] web01/web01.vmdk")
    server = facts(disks=(head,))
    findings = check_server(server, plan(replication={}, change_tracking="enable"), source=source)
    assert "on [ds1] web01/web01-000001.vmdk" in one(findings, "snapshot.left_behind").what
    assert one(findings, "cbt.off").next_action == "Consolidate its disks in vCenter (Snapshots > Consolidate)"
    assert "snapshot.left_behind" not in codes(check_server(facts(), plan(), source=source))
    explained = facts(disks=(head,), snapshots=("before patch",))
    assert "snapshot.left_behind" not in codes(check_server(explained, plan(), source=source))


def test_amp_06_the_215_gb_threshold_can_be_set(facts: Any, disk: Any, plan: Any, source: Any) -> None:
    server = facts(disks=(disk(capacity=20 * GIB),))
    assert "disk.compressed_size" not in codes(check_server(server, plan(), source=source))
    tight = limits({"compressed_disk_bytes": 10 * 10**9})
    assert (
        "it may exceed 10 GB after compression"
        in one(check_server(server, plan(), source=source, limits=tight), "disk.compressed_size").what
    )


LINUX, WINDOWS = "debian12_64Guest", "windows2019srv_64Guest"
FILE_SYSTEMS = [
    (LINUX, {"/": "ext4", "/boot/efi": "vfat", "/data": "zfs"}, N, "root file system: checked: / is ext4"),
    (LINUX, {"/": "btrfs"}, N, "VMware Tools does not report Btrfs subvolumes"),
    (LINUX, {"/": "zfs"}, E, "root file system: failed: / is zfs"),
    (LINUX, {"/data": "ext4"}, N, "root file system: not checked, because VMware Tools does not report the type"),
    (LINUX, {"/": ""}, N, "not checked, because VMware Tools does not report the type"),
    (WINDOWS, {"C:\\": "NTFS", "D:\\": "NTFS"}, N, "volumes: checked: C:\\ is NTFS, D:\\ is NTFS"),
    (WINDOWS, {"C:\\": "NTFS", "D:\\": "FAT32"}, W, "volumes: failed: D:\\ is FAT32"),
    (WINDOWS, {"C:\\": "FAT32"}, E, "volumes: failed: C:\\ is FAT32"),
    (WINDOWS, {}, N, "volumes: not checked, because"),
]


@pytest.mark.parametrize(("guest_id", "told", "severity", "words"), FILE_SYSTEMS)
def test_sms_11_file_systems_are_checked_where_tools_tell_them(
    facts: Any, plan: Any, source: Any, guest_id: str, told: dict[str, str], severity: Severity, words: str
) -> None:
    server = facts(
        guest_id=guest_id,
        power="poweredOn",
        file_systems=[FileSystem(path=path, kind=kind) for path, kind in told.items()],
    )
    finding = one(check_server(server, plan(), source=source), "guest.file_systems")
    assert (finding.severity, finding.requirement) == (severity, "SMS-11")
    assert words in finding.what


def test_sms_11_what_is_not_checked_says_why(facts: Any, plan: Any, source: Any) -> None:
    off = check_server(facts(power="poweredOff"), plan(), source=source)
    assert "not checked, because the VM is off" in one(off, "guest.file_systems").what
    mute = check_server(facts(power="poweredOn", tools_running=False), plan(), source=source)
    assert "not checked, because VMware Tools is not running" in one(mute, "guest.file_systems").what
    assert one(off, "guest.by_hand").what.startswith("not checked, because neither vCenter nor VMware Tools reports it")
    assert "boot loader" in one(off, "guest.by_hand").what
    assert "guest.file_systems" not in codes(check_server(facts(guest_id="otherGuest64"), plan(), source=source), N)


@pytest.mark.parametrize(
    ("port", "severity", "words"),
    [
        (GuestPort(22, "10.0.0.5"), N, "remote access: checked: port 22 of 10.0.0.5 answers the connector"),
        (GuestPort(22, "10.0.0.5", failed="connection refused"), W, "failed: port 22 of 10.0.0.5 does not answer"),
        (GuestPort(22, not_asked="the VM is off"), N, "remote access: not checked, because the VM is off"),
    ],
)
def test_sms_11_remote_access_is_checked_by_a_connection(
    facts: Any, plan: Any, source: Any, port: GuestPort, severity: Severity, words: str
) -> None:
    finding = one(check_server(facts(), plan(), source=replace(source, port=port)), "guest.remote")
    assert finding.severity is severity
    assert words in finding.what
    assert "SSH" in finding.why


def test_a_thin_disk_counts_by_what_its_files_take(facts: Any, disk: Any, plan: Any, source: Any) -> None:
    thin = facts(disks=(disk(capacity=3 * TIB, thin=True, allocated=2000 * GIB, boot=False),))
    assert "disk.stream_too_large" not in codes(check_server(thin, plan(), source=source))
    full = facts(disks=(disk(capacity=3 * TIB, boot=False),))
    finding = one(check_server(full, plan(), source=source), "disk.stream_too_large")
    assert "replicate the server instead" in finding.next_action.lower()
    wide = limits({"stream_content_bytes": 4 * TIB})
    assert "disk.stream_too_large" not in codes(check_server(full, plan(), source=source, limits=wide))


def test_the_stream_s_limit_is_what_surely_fits() -> None:
    """The encoder's own arithmetic; the rules may not ask it."""
    content, end = limits()["stream_content_bytes"].value, (MAX_SECTOR + 1) * 512
    assert worst_size(content) <= end < worst_size(content + 2 * GIB)


REPLICATED = [
    ({"capacity": 3 * TIB}, False, "disk.stream_end", W),
    ({"capacity": 3 * TIB}, True, "", None),
    ({"capacity": 20 * TIB}, True, "disk.image_size", W),
    ({"capacity": 64 * TIB}, True, "disk.image_size", W),
    ({"capacity": 64 * TIB + GIB}, True, "disk.too_large", E),
    ({"capacity": 0}, True, "disk.empty", E),
    ({"capacity": 300 * GIB}, False, "", None),
]


@pytest.mark.parametrize(("changes", "vddk", "code", "severity"), REPLICATED)
def test_sms_05_a_replicated_disk_has_the_limits_of_an_ebs_snapshot(
    facts: Any, disk: Any, plan: Any, source: Any, changes: Any, vddk: bool, code: str, severity: Severity | None
) -> None:
    server = facts(disks=(disk(boot=False, **changes),))
    findings = check_server(server, plan(), source=replace(source, vddk=vddk), replicates=True)
    told = [finding for finding in findings if finding.code.startswith("disk.")]
    assert [(finding.code, finding.severity) for finding in told] == ([(code, severity)] if code else [])


def test_sms_11_the_second_header_of_a_gpt_is_told(facts: Any, disk: Any, plan: Any, source: Any) -> None:
    server = facts(firmware="efi", disks=(disk(capacity=20 * GIB + 512),))
    finding = one(check_server(server, plan(), source=source), "disk.gpt_backup")
    assert finding.severity is W
    assert "its volume will have 21 GiB" in finding.what
    assert "Grow the disk to 21 GiB" in finding.next_action
    even = facts(firmware="efi", disks=(disk(capacity=21 * GIB),))
    assert "disk.gpt_backup" not in codes(check_server(even, plan(), source=source))


@pytest.mark.parametrize(("count", "refused"), [(21, False), (22, True)])
def test_amp_06_more_than_21_disks(facts: Any, disk: Any, plan: Any, source: Any, count: int, refused: bool) -> None:
    disks = tuple(disk(key=2000 + n, bus=n // 15, unit=n % 15, boot=n == 0) for n in range(count))
    found = codes(check_server(facts(disks=disks), plan(), source=source), E)
    assert ("disk.too_many" in found) is refused


def test_a_large_data_disk_of_a_bios_vm_is_no_boot_trouble(facts: Any, disk: Any, plan: Any, source: Any) -> None:
    disks = (disk(), disk(key=2001, unit=1, capacity=3 * TIB, boot=False))
    assert "disk.large_mbr_boot" not in codes(check_server(facts(disks=disks), plan(), source=source))


def test_amp_11_host_out_of_reach_with_the_documents_words(facts: Any, plan: Any, source: Any, stubs: Any) -> None:
    reach = stubs.reach(host="esx1", reachable=False, certificate_valid=False, error=UnreachableError("no route"))
    found = one(check_server(facts(), plan(), source=replace(source, reach=reach)), "host.unreachable")
    assert found.what == "Connector is unable to reach ESX host esx1 to migrate virtual machine web01 (no route)"
    assert (found.severity, found.requirement) == (E, "AMP-11")
    assert "'esx1' is not fully qualified: add its DNS search suffix" in found.next_action
    qualified = replace(reach, host="esx1.lab")
    found = one(check_server(facts(), plan(), source=replace(source, reach=qualified)), "host.unreachable")
    assert "suffix" not in found.next_action


def test_sms_16_a_bad_certificate_is_no_reachability_problem(facts: Any, plan: Any, source: Any, stubs: Any) -> None:
    reach = stubs.reach(certificate_valid=False, error=TlsError("expired on 2020-01-01"))
    findings = check_server(facts(), plan(), source=replace(source, reach=reach))
    found = one(findings, "host.certificate")
    assert "expired on 2020-01-01" in found.what
    assert "esxi_mode" in found.next_action
    assert "host.unreachable" not in codes(findings)


SOURCE = [
    ({"vcenter_version": "5.1.0"}, "version.vcenter", E),
    ({"host": {"version": "5.0.0"}}, "version.esxi", E),
    ({"host": {"version": ""}}, "version.esxi_unknown", W),
    ({"host": {"connection_state": "notResponding"}}, "host.state", E),
    ({"host": {"in_maintenance": True}}, "host.maintenance", W),
    ({"store": {"free": 9 * GIB}}, "datastore.full", E),
    ({"store": {"free": 12 * GIB}}, "datastore.close", W),
    ({"store": {"accessible": False, "free": 0}}, "datastore.inaccessible", E),
]


@pytest.mark.parametrize(("changes", "code", "severity"), SOURCE)
def test_what_stands_around_a_vm(
    facts: Any, plan: Any, source: SourceFacts, stubs: Any, changes: Any, code: str, severity: Severity
) -> None:
    around = replace(
        source,
        vcenter_version=changes.get("vcenter_version", "8.0.3"),
        host=stubs.host(**changes.get("host", {})),
        datastores=(stubs.store(**changes.get("store", {})),),
    )
    assert one(check_server(facts(), plan(), source=around), code).severity is severity


@pytest.mark.parametrize("version", ["5.5", "5.5.0", "6.7.0", "8.0.3", "10.0"])
def test_sms_11_versions_that_are_new_enough(facts: Any, plan: Any, source: Any, stubs: Any, version: str) -> None:
    around = replace(source, vcenter_version=version, host=stubs.host(version=version))
    assert codes(check_server(facts(), plan(), source=around)) == set()


def test_sms_12_missing_privileges_by_name_and_place(facts: Any, plan: Any, source: Any, stubs: Any) -> None:
    lacking = (stubs.missing(), stubs.missing(name="ds1", privileges=("Datastore.Browse", "Datastore.FileManagement")))
    findings = check_server(facts(), plan(), source=replace(source, missing_privileges=lacking))
    words = {finding.subject: finding.what for finding in findings if finding.code == "privilege.missing"}
    assert words == {
        "web01": "LAB\\mover lacks VApp.Export on web01",
        "web01/ds1": "LAB\\mover lacks Datastore.Browse, Datastore.FileManagement on ds1",
    }
    assert len(stopped(findings, "web01")) == 2


@pytest.mark.parametrize(
    ("tracked", "wish", "expected"),
    [
        (False, "leave", {}),
        (True, "leave", {"privilege.missing": E}),
        (False, "enable", {"privilege.missing": E, "privilege.tracking": W}),
        (True, "enable", {"privilege.missing": E}),
    ],
)
def test_sms_12_the_rights_of_tracking_matter_where_it_is_used(
    facts: Any, plan: Any, source: Any, stubs: Any, tracked: bool, wish: str, expected: Any
) -> None:
    lacking = (stubs.missing(privileges=(ASK_CHANGES, TRACK_CHANGES)),)
    findings = check_server(
        facts(cbt_enabled=tracked),
        plan(replication={}, change_tracking=wish),
        source=replace(source, missing_privileges=lacking),
        replicates=True,
    )
    assert {one.code: one.severity for one in findings if one.code.startswith("privilege")} == expected


ROLE = [
    ({"exists": False}, "role.missing", E),
    ({"trust_problem": "vmie.amazonaws.com is not trusted"}, "role.trust", E),
    ({"missing_actions": ("s3:GetObject",)}, "role.policy", E),
    ({"unknown": "iam:GetRole is denied"}, "role.unknown", W),
]


@pytest.mark.parametrize(("changes", "code", "severity"), ROLE)
def test_amp_06_the_service_role_stops_the_wave(
    plan: Any, stubs: Any, changes: Any, code: str, severity: Severity
) -> None:
    findings = check_environment(plan().target, stubs.account(role=stubs.role(**changes)))
    found = one(findings, code)
    assert (found.severity, found.subject, found.requirement) == (severity, "*/role vmimport", "AMP-06")
    assert "wavelift iam show" in found.next_action
    assert bool(stopped(findings, "any server")) is (severity is E)


ENVIRONMENT = [
    ({"bucket": {"exists": False}}, "bucket.missing", E),
    ({"bucket": {"region": "us-east-1"}}, "bucket.region", E),
    ({"bucket": {"owned": False}}, "bucket.owner", E),
    ({"bucket": {"unknown": "denied"}}, "bucket.unknown", W),
    ({"bucket": {"versioned": False}}, "bucket.unversioned", N),
    ({"network": {"unknown": "denied"}}, "network.unknown", W),
    ({"default_encryption": True}, "encryption.default", N),
]


@pytest.mark.parametrize(("changes", "code", "severity"), ENVIRONMENT)
def test_the_account_of_the_environment(plan: Any, stubs: Any, changes: Any, code: str, severity: Severity) -> None:
    account = stubs.account(
        bucket=stubs.bucket(**changes.get("bucket", {})),
        network=stubs.network(**changes.get("network", {})),
        ebs_encrypted_by_default=changes.get("default_encryption"),
    )
    found = one(check_environment(plan().target, account), code)
    assert found.severity is severity
    assert found.subject.startswith("*/")
    assert check_environment(plan().target, stubs.account()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"problem": "does not exist in this region"}, "does not exist"),
        ({"problem": "is not usable (Disabled)"}, "is not usable (Disabled)"),
        ({"region": "us-east-1"}, "is in us-east-1"),
        ({}, ""),
    ],
)
def test_the_key(plan: Any, stubs: Any, changes: Any, words: str) -> None:
    target = plan(environment={"kms_key": "alias/x", "encrypt": True}).target
    findings = check_environment(target, stubs.account(key=stubs.key(**changes)))
    if words:
        assert words in one(findings, "key.unusable").what
    else:
        assert findings == []


def test_amp_11_multidisk_permissions_with_the_documents_words(
    facts: Any, disk: Any, plan: Any, source: Any, stubs: Any
) -> None:
    two = facts(disks=(disk(), disk(key=2001, unit=1, boot=False)))
    lacking = stubs.account(role=stubs.role(missing_actions=("s3:GetObject", "ec2:CopySnapshot")))
    found = one(check_server(two, plan(), source=source, account=lacking), "role.multidisk")
    assert found.what == (
        "Additional permissions are required to migrate multidisk virtual machines: "
        "the service role vmimport lacks s3:GetObject, ec2:CopySnapshot"
    )
    assert (found.severity, found.requirement) == (E, "AMP-11")
    for server, account in ((facts(), lacking), (two, stubs.account())):
        assert "role.multidisk" not in codes(check_server(server, plan(), source=source, account=account))


NETWORK = [
    ({"subnets": {}}, {}, "network.subnet"),
    ({"subnets": "elsewhere"}, {}, "network.subnet"),
    ({"security_groups": {}}, {}, "network.security_group"),
    ({"security_groups": {"sg-aaaa0001": "vpc-00000002"}}, {}, "network.security_group"),
    ({}, {"private_ip": "10.0.2.7"}, "network.address"),
    ({"subnets": "full"}, {}, "network.full"),
]


@pytest.mark.parametrize(("changes", "entry", "code"), NETWORK)
def test_amp_01_the_network_exists(
    facts: Any, plan: Any, source: Any, stubs: Any, changes: Any, entry: Any, code: str
) -> None:
    subnets = {"elsewhere": stubs.subnet(vpc_id="vpc-00000002"), "full": stubs.subnet(free_addresses=0)}
    if isinstance(changes.get("subnets"), str):
        changes = {"subnets": {"subnet-aaaa0001": subnets[changes["subnets"]]}}
    launching = plan(launch="running", source_power="require_off", **entry)
    findings = check_server(facts(), launching, source=source, account=stubs.account(network=stubs.network(**changes)))
    assert one(findings, code).severity is E


@pytest.mark.parametrize(
    ("stated", "guest_id", "code"),
    [
        (None, "windows9_64Guest", ""),
        ("linux", "debian12_64Guest", ""),
        ("windows", "windows9_64Guest", ""),
        ("windows", "windows2019srv_64Guest", ""),
        ("windows-client", "windows2019srv_64Guest", "guest.differs"),
        ("windows", "debian12_64Guest", "guest.differs"),
        ("debian12_64Guest", "windows9_64Guest", "guest.differs"),
        ("debian12_64Guest", "debian12_64Guest", ""),
        ("debian12_64Guest", "debian11_64Guest", "guest.release_differs"),
        ("linux", "otherGuest64", "guest.not_compared"),
        ("linux", "", "guest.not_compared"),
        ("otherGuest64", "otherGuest64", ""),
    ],
)
def test_amp_01_the_stated_guest_is_held_against_vcenter_s(
    facts: Any, plan: Any, source: Any, stated: str | None, guest_id: str, code: str
) -> None:
    given = {"guest_os": stated} if stated else {}
    findings = check_server(facts(guest_id=guest_id, guest_full_name=""), plan(**given), source=source)
    about = [one for one in findings if one.code in ("guest.differs", "guest.release_differs", "guest.not_compared")]
    assert [one.code for one in about] == ([code] if code else [])
    for each in about:
        assert each.severity is (E if code == "guest.differs" else W)
        assert "guest_os" in each.what


@given(text=st.one_of(st.text(max_size=30), st.sampled_from(sorted(guests())), st.sampled_from(sorted(FAMILIES))))
def test_amp_01_a_stated_guest_has_one_spelling_or_is_refused(text: str) -> None:
    spellings = {name.casefold() for row in guests().values() for name in (row.id, row.name)} | FAMILIES.keys()
    if " ".join(text.split()).casefold() not in spellings:
        with pytest.raises(ValueError, match="linux, windows, windows-server, windows-client"):
            stated_guest(text)
        return
    known = stated_guest(text)
    assert known in guests() or known in FAMILIES
    assert stated_guest(known) == stated_guest(f" {known.upper()} ") == known


@given(
    guest=st.text(max_size=12),
    firmware=st.sampled_from(["bios", "efi", ""]),
    power=st.sampled_from(["poweredOn", "poweredOff", "suspended", ""]),
    version=st.text("0123456789.x-", max_size=8),
    capacity=st.integers(0, 20 * TIB),
)
def test_no_facts_break_preflight(guest: str, firmware: str, power: str, version: str, capacity: int) -> None:
    """Whatever a vCenter says: findings, never an exception."""
    from wavelift.base.domain import DiskFacts, ServerFacts
    from wavelift.rules.plans import Guards, ServerPlan, Target
    from wavelift.rules.wave import Selector

    disk = DiskFacts(
        key=1,
        label="d",
        capacity=capacity,
        controller="IDE",
        controller_class="VirtualIDEController",
        bus=0,
        unit=0,
        backing="x",
    )
    server = ServerFacts(
        name="s", moref="vm-1", instance_uuid="", path="/s", power=power, guest_id=guest, firmware=firmware,
        hardware_version=version, host_version=version, disks=(disk,),
    )  # fmt: skip
    plan = ServerPlan(
        server="s", selector=Selector(kind="name", value="s"), wave="w", connection="c", connector="q",
        target=Target(environment="e", aws_conn_id="a", queue="q", region="r", bucket="b", prefix="", role="vmimport",
                      kms_key=None, encrypt=False, vpc="v"),
        guards=Guards(min_free_pct=10, max_snapshot_hours=1, max_mbit_s=None),
        instance_type="m6i.large", subnet=None,
    )  # fmt: skip
    findings = check_server(server, plan, source=SourceFacts(vcenter_version=version))
    assert [finding.severity for finding in findings] == sorted(
        (finding.severity for finding in findings), key=[E, W, N].index
    )
    assert all(finding.what and finding.why and finding.next_action for finding in findings)
