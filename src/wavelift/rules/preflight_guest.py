"""Pre-flight of the guest: system, licence, firmware and the chosen instance type (SMS-11, AMP-06)."""

from __future__ import annotations

from wavelift.base.domain import FileSystem, ServerFacts
from wavelift.rules.findings import Findings
from wavelift.rules.guests import FAMILIES, Guest, guest, lacks_drivers, minor_matters, sources
from wavelift.rules.instance_types import TypeFacts, type_facts
from wavelift.rules.plans import ServerPlan
from wavelift.rules.vsphere_facts import GuestPort

BY_HAND_ALL = ("antivirus and intrusion detection are off during the import",)
BY_HAND_LINUX = (
    "the boot loader is GRUB or GRUB 2",
    "the kernel is the distribution's own and fstab names disks by UUID or label",
)
BY_HAND_WINDOWS = (
    "the RealTimeIsUniversal and (2008, 7, 2008 R2) daylight-saving hotfixes are installed",
    "6 GiB are free on the system volume and the page file has a fixed size",
)
"""Conditions that neither vCenter nor VMware Tools reports (SMS-11 and VM Import/Export limitations)."""
ROOTS = frozenset({"ext2", "ext3", "ext4", "btrfs", "jfs", "xfs"})
"""File systems of a Linux root that VM Import supports."""


def boot_mode(facts: ServerFacts, plan: ServerPlan) -> str:
    """The boot mode of the image: the plan's, or the one that matches the VM's firmware."""
    if plan.boot_mode != "auto":
        return plan.boot_mode
    return "uefi" if facts.firmware == "efi" else "legacy-bios"


def check_guest(facts: ServerFacts, plan: ServerPlan, found: Findings, *, port: GuestPort | None = None) -> None:
    """Check system, licence, firmware, file systems and remote access, and list what a person must check.

    :param port: None: remote access was not tested, so there is no finding about it.
    """
    row = guest(facts.guest_id)
    _stated(facts, plan, row, found)
    _system(facts, row, found)
    _license(plan, row, found)
    _firmware(facts, plan, row, found)
    if plan.instance_type:
        _instance_type(type_facts(plan.instance_type), facts, plan, row, found)
    _file_systems(facts, row, found)
    if port is not None:
        _remote(port, row, found)
    _by_hand(row, found)


def _stated(facts: ServerFacts, plan: ServerPlan, row: Guest, found: Findings) -> None:
    """Compare the wave's ``guest_os`` with what vCenter says.

    Another family is an error: most likely the entry selects another VM than its author meant, or the guest type is
    wrong in vCenter, which VM Import and the licence go by. Either takes a minute to correct now, and costs a transfer
    later. Another release of the family is a warning: vCenter's type is often that of the release before an upgrade.
    """
    stated = plan.guest_os
    if not stated:
        return
    told = facts.guest_full_name or row.name
    families = FAMILIES.get(stated) or (guest(stated).family,)
    said = stated if stated in FAMILIES else f"{guest(stated).name} ({stated})"
    if row.family == "other" and "other" not in families:
        found.warning(
            "guest.not_compared",
            f"the wave says guest_os {said}; vCenter does not tell the system ({told})",
            why="which system is in the VM can't be checked",
            do="Set the VM's guest type in vCenter, or check it yourself",
            row="AMP-01",
        )
    elif row.family not in families:
        found.error(
            "guest.differs",
            f"the wave says guest_os {said}, but vCenter says {told}",
            why="either the entry selects another VM than you mean, or one of the two is wrong; licence, drivers and "
            "the import depend on it",
            do="Check the entry; then correct guest_os in the wave, or the VM's guest type in vCenter",
            row="AMP-01",
        )
    elif stated not in FAMILIES and stated != facts.guest_id:
        found.warning(
            "guest.release_differs",
            f"the wave says guest_os {said}, but vCenter says {told}",
            why="vCenter's type may be that of an earlier release; what VM Import supports depends on the release",
            do="Check the release in the guest; then correct guest_os in the wave, or the VM's guest type in vCenter",
            row="AMP-01",
        )


def _system(facts: ServerFacts, row: Guest, found: Findings) -> None:
    # Some hosts give the guest id as the full name, too.
    given = facts.guest_full_name if facts.guest_full_name != facts.guest_id else ""
    name = given or row.name
    source = sources().get(row.source)
    listed = f"{source.title}, {source.date}" if source else "our table of guests"
    if row.status == "unsupported":
        found.error(
            "guest.unsupported",
            f"{name} is not supported by VM Import: {row.notes}",
            why=f"the import would fail after the whole transfer ({listed})",
            do="Remove the VM from the wave, or correct its guest type in vCenter if it is wrong",
            row="SMS-11",
        )
    elif lacks_drivers(facts.guest_id, facts.guest_full_name):
        found.error(
            "guest.missing_drivers",
            f"{name}: release 6.0 lacks the drivers that EC2 needs",
            why="SMS and VM Import support RHEL and CentOS 6 only from release 6.1",
            do="Update the guest to 6.1 or later before the wave",
            row="SMS-11",
        )
    elif row.status == "unknown":
        found.warning(
            "guest.unknown",
            f"{name}: {row.notes}",
            why=f"VM Import may refuse it after the transfer ({listed})",
            do="Check the release in the VM Import/Export user guide, and test one such VM before the wave",
            row="SMS-11",
        )
    elif row.versions:
        note = found.warning if minor_matters(facts.guest_id) else found.info
        note(
            "guest.versions",
            f"{name}: supported versions: {row.versions}",
            why=f"vCenter reports the family, not the exact release ({listed})",
            do="Check the release inside the guest",
            row="SMS-11",
        )
    if row.english_only and row.status != "unsupported":
        found.info(
            "guest.english_only",
            f"{row.name} can be imported in US English only",
            why="VM Import requires this for client Windows",
            do="Set the guest's language to US English for the import",
            row="SMS-11",
        )


def _license(plan: ServerPlan, row: Guest, found: Findings) -> None:
    if plan.license_type in row.license_types or row.family == "other":
        return
    found.error(
        "guest.license",
        f"license_type '{plan.license_type}' is not possible for {row.name}",
        why="Linux and client Windows must bring their own licence",
        do=f"Set license_type to one of: {', '.join(row.license_types)}",
        row="SMS-03",
    )


def _firmware(facts: ServerFacts, plan: ServerPlan, row: Guest, found: Findings) -> None:
    natural = "uefi" if facts.firmware == "efi" else "legacy-bios"
    mode = boot_mode(facts, plan)
    if mode != natural:
        found.warning(
            "boot.differs",
            f"boot_mode '{mode}' is set, but the VM boots with {natural}",
            why="the image starts only if its boot disk supports both modes",
            do="Set boot_mode to 'auto', unless you know that the disk supports both modes",
        )
    if row.status == "supported" and mode not in row.boot_modes:
        found.warning(
            "boot.guest",
            f"{row.name} is not known to boot with {mode} in EC2",
            why="VM Import may refuse it or the instance may not start",
            do=f"Prepare the guest for {' or '.join(row.boot_modes)}, or test one such VM first",
        )
    if mode == "uefi":
        found.info(
            "boot.gpt",
            "the VM boots with UEFI, so its boot disk has a GPT",
            why="the old service refused GPT boot volumes; VM Import now supports GPT and MBR",
            do="On Linux, check that EFI/BOOT/BOOTX64.EFI is on the EFI system partition: EC2 starts that file",
            row="SMS-11",
        )
        if plan.target.encrypt:
            found.warning(
                "boot.encrypt",
                "the VM boots with UEFI and the environment has 'encrypt: true'",
                why="VM Import refused encryption for UEFI images (limitations page of 2022; AWS has since relaxed "
                "this)",
                do="If the import fails for this reason, use 'EBS encryption by default' instead of 'encrypt: true'",
            )
    if facts.secure_boot:
        found.warning(
            "boot.secure",
            "secure boot is on",
            why="its keys are in the VM's NVRAM, which is not migrated: the instance starts without secure boot",
            do="Accept this, or register the image with a UEFI variable store afterwards",
        )


def _instance_type(kind: TypeFacts, facts: ServerFacts, plan: ServerPlan, row: Guest, found: Findings) -> None:
    # If there is no launch, only the image is made. Another type can still be chosen for it, so this is a warning.
    note = found.error if plan.launch == "running" else found.warning
    if kind.architecture != "x86_64":
        note(
            "type.architecture",
            f"{kind.name} has {kind.architecture} processors",
            why="vSphere VMs are x86, and VM Import supports x86 only",
            do="Choose an x86 type such as 'm6i.large'",
            row="AMP-06",
        )
        return
    mode = boot_mode(facts, plan)
    if mode not in kind.boot_modes:
        note(
            "type.boot_mode",
            f"{kind.name} does not boot with {mode}",
            why="instance types on the Xen hypervisor boot with BIOS only",
            do="Choose a Nitro type such as 'm6i.large'",
            row="AMP-06",
        )
    if row.bits == 32 and not kind.runs_32_bit:
        note(
            "type.bits",
            f"{kind.name} doesn't run 32-bit guests such as {row.name}",
            why="current instance types are 64-bit only",
            do="Choose t2.small or t2.medium if the region offers them",
            row="AMP-06",
        )
    elif kind.nitro and not row.nitro and row.status != "unsupported":
        found.warning(
            "type.drivers",
            f"{row.name} does not include the drivers (ENA, NVMe) that {kind.name} needs",
            why="a Nitro type presents its disks as NVMe devices; the import adds drivers if it can",
            do="Choose a Xen type such as 't2.medium', or install the drivers before the wave",
            row="AMP-06",
        )


def _file_systems(facts: ServerFacts, row: Guest, found: Findings) -> None:
    """Windows needs NTFS, Linux a root file system that VM Import supports. VMware Tools reports the types."""
    if row.family == "linux":
        wanted, names, mine = ROOTS, "ext2, ext3, ext4, Btrfs without subvolumes, JFS or XFS", _is_root
    elif row.windows:
        wanted, names, mine = frozenset({"ntfs"}), "NTFS", _is_volume
    else:
        return
    asked = [each for each in facts.file_systems if mine(each) and each.kind]
    subject = "root file system" if row.family == "linux" else "volumes"
    if not asked:
        found.info(
            "guest.file_systems",
            f"{subject}: not checked, because {_why_untold(facts)}",
            why=f"VM Import supports {names}",
            do="Check this in the guest, once for each image family",
            row="SMS-11",
        )
        return
    told = ", ".join(f"{each.path} is {each.kind}" for each in asked)
    wrong = [each for each in asked if each.kind.lower() not in wanted]
    if not wrong:
        untold = " (VMware Tools does not report Btrfs subvolumes)" if asked[0].kind.lower() == "btrfs" else ""
        found.info(
            "guest.file_systems",
            f"{subject}: checked: {told}{untold}",
            why=f"VM Import supports {names}",
            do="Check in the guest that the file system has no subvolumes" if untold else "Nothing",
            row="SMS-11",
        )
        return
    # VM Import must start from the system volume. The content of any other volume is migrated in any case.
    fatal = row.family == "linux" or any(_is_system(each) for each in wrong)
    note = found.error if fatal else found.warning
    note(
        "guest.file_systems",
        f"{subject}: failed: {', '.join(f'{each.path} is {each.kind}' for each in wrong)}",
        why=f"VM Import supports {names}",
        do="Move the system to such a file system, or remove the VM from the wave"
        if fatal
        else "Convert the volume to NTFS; otherwise the import may refuse it",
        row="SMS-11",
    )


def _is_root(each: FileSystem) -> bool:
    return each.path == "/"


def _is_volume(each: FileSystem) -> bool:
    """A volume with a drive letter. Mounted folders and the EFI partition have other names, or are not reported."""
    return each.path[1:2] == ":"


def _is_system(each: FileSystem) -> bool:
    return each.path[:2].upper() == "C:"


def _why_untold(facts: ServerFacts) -> str:
    if facts.power != "poweredOn":
        return "the VM is off"
    if not facts.tools_running:
        return "VMware Tools is not running"
    return "VMware Tools does not report the type (newer releases do, from vSphere 7)"


def _remote(port: GuestPort, row: Guest, found: Findings) -> None:
    name = "RDP" if row.windows else "SSH"
    why = f"the instance is reachable only if {name} is enabled and the guest's firewall allows it"
    if port.not_asked:
        found.info(
            "guest.remote",
            f"remote access: not checked, because {port.not_asked}",
            why=why,
            do=f"Check in the guest that {name} is enabled and that its firewall allows it",
            row="SMS-11",
        )
    elif port.failed:
        found.warning(
            "guest.remote",
            f"remote access: failed: port {port.port} of {port.address} does not answer the connector ({port.failed})",
            why=f"{why}; a firewall between connector and guest has the same symptom",
            do=f"Enable {name} in the guest and allow it in the guest's firewall, or confirm that only the network "
            "between connector and guest blocks it",
            row="SMS-11",
        )
    else:
        found.info(
            "guest.remote",
            f"remote access: checked: port {port.port} of {port.address} answers the connector",
            why=why,
            do="Nothing; the instance's security group must allow this port too",
            row="SMS-11",
        )


def _by_hand(row: Guest, found: Findings) -> None:
    items = list(BY_HAND_ALL)
    if row.family == "linux":
        items += BY_HAND_LINUX
    elif row.windows:
        items += BY_HAND_WINDOWS
    found.info(
        "guest.by_hand",
        f"not checked, because neither vCenter nor VMware Tools reports it: {'; '.join(items)}",
        why="if one of these conditions is not met, the import fails or the instance does not start",
        do="Check them in the guest, once for each image family",
        row="SMS-11",
    )
