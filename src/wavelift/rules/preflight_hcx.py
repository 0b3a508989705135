"""Pre-flight of a server that VMware HCX shall migrate: what its type of migration needs of the VM. Pure.

The numbers are those of VMware's guides; HCX's own validation comes after, and knows more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from wavelift.base.domain import Finding, ServerFacts
from wavelift.base.units import counted
from wavelift.rules.findings import WHOLE_WAVE, Findings
from wavelift.rules.hcx_wave import LiveOptions, MigrationType
from wavelift.rules.preflight_source import version

OLDEST_HARDWARE: Final[Mapping[MigrationType, int]] = {"rav": 9, "bulk": 7, "vmotion": 9, "cold": 9}
SHARE_NO_DISK: Final[frozenset[MigrationType]] = frozenset({"rav", "vmotion", "cold"})
"""Types that move no VMDK which another VM may write. Bulk refuses the sharing of a bus, too."""
PHYSICAL: Final = "physicalMode"
NOT_SHARED: Final = "sharingNone"
MULTI_WRITER: Final = "sharingMultiWriter"
NAMES: Final[Mapping[MigrationType, str]] = {
    "rav": "Replication Assisted vMotion",
    "bulk": "bulk migration",
    "vmotion": "vMotion",
    "cold": "cold migration",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFacts:
    """What is known of one VM.

    :param isos: images in its drives, connected or not: a restart connects them.
    :param moving: what HCX says of a migration of this VM that has not ended; empty: there is none.
    :param drafts: HCX lists that many migrations of it that have not begun, of groups that nobody started.
    """

    facts: ServerFacts
    isos: Collection[str] = ()
    moving: str = ""
    drafts: int = 0


def check_options(options: LiveOptions) -> list[Finding]:
    """What is to be said of the options of the whole wave."""
    found = Findings(WHOLE_WAVE)
    if not options.retain_mac:
        found.warning(
            "hcx.mac_not_kept",
            "the servers may get new MAC addresses: 'retain_mac' is false",
            why="licences, DHCP reservations and firewalls may be bound to a MAC address. Only bulk migrations change "
            "it; then the verification can't compare it",
            do="Remove 'retain_mac: false', unless new addresses are wanted",
            row="HCX-05",
            part="options",
        )
    return found.all


def check_vm(server: str, known: LiveFacts, kind: MigrationType, options: LiveOptions) -> list[Finding]:
    """Whether a VM can go by this type of migration."""
    found, facts = Findings(server), known.facts
    if facts.template:
        found.error(
            "hcx.template",
            "it is a template",
            why="HCX migrates virtual machines only",
            do="Remove it from the wave",
            row="HCX-01",
        )
    if not facts.instance_uuid:
        found.error(
            "hcx.no_instance_uuid",
            "vCenter tells no instance UUID of it",
            why="it could not be found again at the destination",
            do="Find out why: every VM of a vCenter has one",
            row="HCX-05",
        )
    if known.moving:
        found.error(
            "hcx.moves_already",
            f"HCX migrates it already: {known.moving}",
            why="HCX takes no second migration of the same VM",
            do="Wait for its end, or cancel it in HCX",
            row="HCX-01",
        )
    elif known.drafts:
        found.warning(
            "hcx.draft",
            "HCX lists a migration of it that has not begun",
            why="it may be a draft that somebody starts meanwhile",
            do="Look for it in HCX's mobility groups, and delete it there if nobody needs it",
            row="HCX-01",
        )
    _power(facts, kind, found)
    _hardware(facts, kind, found)
    _attached(known, options, found)
    _disks(facts, kind, found)
    return found.all


def _power(facts: ServerFacts, kind: MigrationType, found: Findings) -> None:
    if facts.power == "poweredOn" and kind == "cold":
        found.error(
            "hcx.powered_on",
            "it is powered on, and a cold migration moves VMs that are off",
            why="HCX refuses it",
            do="Shut it down, or choose another 'type'",
            row="HCX-01",
        )
    elif facts.power != "poweredOn" and not (kind == "cold" and facts.power == "poweredOff"):
        found.error(
            "hcx.not_powered_on",
            f"it is {facts.power or 'in an unknown power state'}",
            why=f"{NAMES[kind]} is for VMs that are {'off' if kind == 'cold' else 'on'}",
            do="Shut it down" if kind == "cold" else "Start it, or move it in a wave of 'type: cold' while it is off",
            row="HCX-01",
        )
    if kind == "bulk" and not facts.tools_running:
        found.error(
            "hcx.no_tools",
            f"VMware Tools don't run in it ({facts.tools_status or 'unknown'})",
            why="a bulk migration shuts the guest down by them",
            do="Install or start VMware Tools, or choose another 'type'",
            row="HCX-01",
        )


def _hardware(facts: ServerFacts, kind: MigrationType, found: Findings) -> None:
    number, oldest = version(facts.hardware_version)[:1], OLDEST_HARDWARE[kind]
    if number and number[0] < oldest:
        other = ", or choose 'type: bulk'" if OLDEST_HARDWARE["bulk"] <= number[0] else ""
        found.error(
            "hcx.hardware",
            f"its hardware version is {number[0]}",
            why=f"{NAMES[kind]} needs version {oldest} or later",
            do=f"Upgrade the virtual hardware{other}",
            row="HCX-01",
        )
    if facts.fault_tolerant:
        found.error(
            "hcx.fault_tolerant",
            "it is fault tolerant",
            why="HCX migrates no VM with a secondary one",
            do="Turn fault tolerance off",
            row="HCX-01",
        )


def _attached(known: LiveFacts, options: LiveOptions, found: Findings) -> None:
    if known.facts.snapshots and not options.remove_snapshots:
        found.error(
            "hcx.snapshots",
            f"it has {counted(len(known.facts.snapshots), 'snapshot')}",
            why="HCX removes them, or refuses the VM; they are lost",
            do="Remove them, or set 'options: remove_snapshots: true'",
            row="HCX-01",
        )
    if known.isos and not options.remove_isos:
        found.error(
            "hcx.iso",
            f"an ISO image is in its drive: {', '.join(sorted(known.isos))}",
            why="HCX refuses a VM with one",
            do="Remove it, or set 'options: remove_isos: true'",
            row="HCX-01",
        )


def _disks(facts: ServerFacts, kind: MigrationType, found: Findings) -> None:
    for disk in facts.disks:
        if disk.rdm == PHYSICAL:
            found.error(
                "hcx.rdm",
                f"{disk.label} is a raw device mapping in physical mode",
                why="no type of HCX migration moves one",
                do="Convert it to a virtual disk, or detach it",
                row="HCX-01",
                part=disk.label,
            )
        multi_writer = disk.sharing == MULTI_WRITER
        if disk.sharing != NOT_SHARED and (kind in SHARE_NO_DISK or not multi_writer):
            found.error(
                "hcx.shared_disk",
                f"{disk.label} is shared with other VMs ({disk.sharing})",
                why=f"{NAMES[kind]} moves no disk that another VM may write",
                do="Set its sharing to 'none', or detach it",
                row="HCX-01",
                part=disk.label,
            )
