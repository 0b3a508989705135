"""Pre-flight of the VM's state and surroundings: power, tools, vCenter, host, datastores, privileges."""

from __future__ import annotations

import re

from wavelift.base.domain import ServerFacts
from wavelift.base.units import counted, human_bytes
from wavelift.rules.findings import Findings
from wavelift.rules.plans import ServerPlan
from wavelift.rules.preflight_requester import check_requester
from wavelift.rules.vsphere_facts import Datastore, MissingOnEntity, SourceFacts

OLDEST_VCENTER = (5, 5)
OLDEST_ESXI = (5, 1)
"""Oldest versions that are supported (SMS-11)."""
OLDEST_CBT_HARDWARE = 7
"""Change tracking needs virtual hardware version 7 or later."""
ASK_CHANGES = "VirtualMachine.Provisioning.DiskRandomRead"
TRACK_CHANGES = "VirtualMachine.Config.ChangeTracking"
CLOSE_TO_GUARD_PCT = 5.0
"""Warn if free space is less than this above the guard: our snapshot grows during the transfer."""


def version(text: str) -> tuple[int, ...]:
    """``"8.0.3"`` → ``(8, 0, 3)``; empty when there is no number."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def check_machine(facts: ServerFacts, plan: ServerPlan, found: Findings) -> None:
    """Check the VM itself, without guest and disks."""
    _owner(facts, found)
    _power(facts, plan, found)
    _tools(facts, plan, found)
    _devices(facts, found)
    hardware = version(facts.hardware_version)
    tracking = facts.cbt_supported and not (hardware and hardware[0] < OLDEST_CBT_HARDWARE)
    found.info(
        "cbt.capable" if tracking else "cbt.incapable",
        "changed block tracking is possible" + (" and enabled" if facts.cbt_enabled else "")
        if tracking
        else f"changed block tracking is not possible ({facts.hardware_version or 'hardware version unknown'})",
        why="a migration reads the whole disk in any case; replication needs change tracking to read only changed "
        "blocks",
        do="Nothing" if tracking else "Upgrade the virtual hardware before the VM is replicated",
    )
    if tracking and plan.replication is not None and not facts.cbt_enabled:
        _tracking_off(facts, plan, found)


def _owner(facts: ServerFacts, found: Findings) -> None:
    if facts.managed_by:
        found.warning(
            "vm.managed",
            f"the VM is {facts.managed_by}",
            why="vSphere or an extension creates, changes and removes the VMs that it manages",
            do="Remove it from the wave, unless you know that it is an independent server",
        )
    if facts.fault_tolerant:
        found.warning(
            "vm.fault_tolerant",
            "the VM is the primary of a fault-tolerant pair",
            why="the pair is one server and only the primary is read; after a fail-over, the secondary has the name "
            "and its own disks, which must be read completely again",
            do="Nothing, or disable Fault Tolerance during the migration",
        )


def _tracking_off(facts: ServerFacts, plan: ServerPlan, found: Findings) -> None:
    """What the user must do so that replication does not read whole disks."""
    set_it = plan.change_tracking != "enable"
    steps = ["Set 'change_tracking: enable' for this server"] if set_it else []
    if facts.snapshots:
        steps.insert(0, f"Remove its snapshots ({', '.join(facts.snapshots)})")
    if facts.left_behind:
        steps.insert(0, "Consolidate its disks in vCenter (Snapshots > Consolidate)")
    found.warning(
        "cbt.off",
        "changed block tracking is off: every replication run reads the whole disks, but sends only changed blocks",
        why="vSphere starts to track changes at the next snapshot, and wavelift relies on them only after that "
        "snapshot is removed: the run that enables tracking and the next run still read everything. If tracking is "
        "enabled while a snapshot exists, changes are lost",
        do=". ".join(steps) or "Nothing: the next replication run enables it",
        row="SMS-05",
    )


def _power(facts: ServerFacts, plan: ServerPlan, found: Findings) -> None:
    if facts.template:
        found.error(
            "vm.template",
            "the VM is a template",
            why="vSphere can't take a snapshot of a template",
            do="Convert it to a virtual machine first",
        )
    if facts.power == "suspended":
        found.error(
            "power.suspended",
            "the VM is suspended",
            why="part of its state is in memory, which is not migrated: the disks alone are not consistent",
            do="Resume it, or shut it down",
        )
    elif plan.source_power == "require_off" and facts.power != "poweredOff":
        found.error(
            "power.require_off",
            f"the VM is {facts.power} and the wave has 'source_power: require_off'",
            why="source and instance must not run at the same time",
            do="Shut the VM down, or set 'source_power: leave_running'",
        )
    if facts.power == "poweredOn":
        if plan.launch == "running" and plan.source_power != "require_off" and plan.allow_twin:
            found.warning(
                "power.twin",
                "the instance will run at the same time as its source ('allow_twin: true')",
                why="two running machines will have the same name and identity",
                do="Make sure that the subnet can't reach the source's network",
            )
        found.info(
            "lease.blocks_vmotion",
            "while its disks are exported, the VM can't be moved by vMotion, powered on again or deleted",
            why="an open export lease blocks power-on and vMotion; DRS skips the VM during that time",
            do="Don't put its host into maintenance mode during the wave",
        )


def _tools(facts: ServerFacts, plan: ServerPlan, found: Findings) -> None:
    if facts.power != "poweredOn" or facts.tools_running or plan.quiesce == "never":
        return
    what = f"VMware Tools is not running ({facts.tools_status or 'state unknown'})"
    if plan.quiesce == "require":
        found.error(
            "tools.required",
            what,
            why="'quiesce: require' needs it to freeze the guest's file systems",
            do="Start VMware Tools or open-vm-tools in the guest, or set 'quiesce: prefer'",
        )
    else:
        found.warning(
            "tools.not_running",
            what,
            why="the snapshot will be crash-consistent, like a disk after a power failure",
            do="For a quiesced snapshot, start VMware Tools or open-vm-tools in the guest",
        )


def _devices(facts: ServerFacts, found: Findings) -> None:
    for medium in facts.cdrom_connected:
        found.warning(
            "cdrom.connected",
            f"{medium} is connected",
            why="CD-ROM drives must be disconnected for the import; the medium is not migrated",
            do="Disconnect it in vCenter",
            row="SMS-11",
        )
    if len(facts.nics) > 1:
        found.warning(
            "nic.several",
            f"the VM has {len(facts.nics)} network cards",
            why="an imported image starts with one network interface, with DHCP and IPv4 only",
            do="Add network interfaces to the instance afterwards if it needs them",
        )
    if facts.encrypted:
        found.error(
            "vm.encrypted",
            "the VM is encrypted by vSphere",
            why="vCenter doesn't export encrypted VMs",
            do="Decrypt it: assign a storage policy without encryption"
            + (", and remove its vTPM" if facts.vtpm else ""),
        )
    if facts.vtpm:
        found.warning(
            "vm.vtpm",
            "the VM has a virtual TPM",
            why="its secrets are not migrated: BitLocker will ask for the recovery key, and Windows 11 requires a TPM",
            do="Suspend BitLocker and keep the recovery key available",
        )
    if facts.passthrough_devices:
        note = found.error if facts.power == "poweredOn" else found.warning
        note(
            "vm.passthrough",
            f"the VM has {counted(facts.passthrough_devices, 'passthrough device')}",
            why="vSphere can't take a snapshot of a running VM with passthrough devices, and the devices are not "
            "migrated",
            do="Remove the devices, or power the VM off for the migration",
        )


def check_source(facts: ServerFacts, plan: ServerPlan, source: SourceFacts, found: Findings) -> None:
    """Check vCenter, host, datastores and privileges."""
    _versions(facts, source, found)
    _host(facts, source, found)
    for store in source.datastores:
        _datastore(store, plan, found)
    for missing in source.missing_privileges:
        _privileges(facts, plan, missing, found)
    if source.requester is not None:
        check_requester(source.requester, found)


def _privileges(facts: ServerFacts, plan: ServerPlan, missing: MissingOnEntity, found: Findings) -> None:
    """Privileges that are missing and that this server needs.

    The replication flow asks for the two privileges of change tracking, but only some servers use them.
    """
    turned_on = plan.change_tracking == "enable" and not facts.cbt_enabled
    spare = set() if facts.cbt_enabled or turned_on else {ASK_CHANGES}
    needed = [name for name in missing.privileges if name != TRACK_CHANGES and name not in spare]
    part = missing.name if missing.name != facts.name else ""
    role = "Give the account the role that 'wavelift vsphere role' prints, on the data centre, with propagation"
    if needed:
        found.error(
            "privilege.missing",
            f"{missing.principal} lacks {', '.join(needed)} on {missing.name}",
            why="without them, vCenter refuses the calls that read the VM's disks",
            do=role,
            row="SMS-12",
            part=part,
        )
    if turned_on and TRACK_CHANGES in missing.privileges:
        found.warning(
            "privilege.tracking",
            f"{missing.principal} lacks {TRACK_CHANGES} on {missing.name}",
            why="'change_tracking: enable' has no effect without it: every run reads the whole disks",
            do=role,
            row="SMS-12",
            part=part,
        )


def _versions(facts: ServerFacts, source: SourceFacts, found: Findings) -> None:
    vcenter = version(source.vcenter_version)
    if vcenter and vcenter < OLDEST_VCENTER:
        found.error(
            "version.vcenter",
            f"vCenter is {source.vcenter_version}; 5.5 or later is needed",
            why="earlier versions can't export a snapshot",
            do="Upgrade vCenter",
            row="SMS-11",
        )
    host = version(source.host.version if source.host else facts.host_version)
    if host and host < OLDEST_ESXI:
        found.error(
            "version.esxi",
            f"ESXi on {facts.host} is {'.'.join(map(str, host))}; 5.1 or later is needed",
            why="older hosts are not supported as sources, and their certificates can't be validated",
            do="Move the VM to a newer host",
            row="SMS-11",
        )
    elif not host:
        found.warning(
            "version.esxi_unknown",
            f"the version of ESXi on {facts.host or 'its host'} is unknown",
            why="5.1 or later is needed",
            do="Grant the account System.Read on the host",
            row="SMS-11",
        )


def _host(facts: ServerFacts, source: SourceFacts, found: Findings) -> None:
    host, reach = source.host, source.reach
    if host is not None and host.connection_state not in ("", "connected"):
        found.error(
            "host.state",
            f"ESXi host {host.name} is {host.connection_state}",
            why="vCenter can't snapshot or export VMs of a host that it can't reach",
            do="Reconnect the host in vCenter",
            row="AMP-11",
        )
    if host is not None and host.in_maintenance:
        found.warning(
            "host.maintenance",
            f"ESXi host {host.name} is in maintenance mode",
            why="during the transfer, the VM may be moved or the host may be restarted",
            do="Finish the maintenance first",
        )
    if reach is None:
        return
    reason = f" ({reach.error})" if reach.error else ""
    if not reach.reachable:
        suffix = (
            ""
            if reach.fully_qualified
            else f"'{reach.host}' is not fully qualified: add its DNS search suffix to the connection; "
        )
        found.error(
            "host.unreachable",
            f"Connector is unable to reach ESX host {reach.host} to migrate virtual machine {facts.name}{reason}",
            why="the connector reads the disks from the host itself, over HTTPS",
            do=f"{suffix}allow the connector to reach the host on port 443; if the connector must use another address "
            "for the host (NAT, no DNS), map the host's name to that address in the connection: esxi_addresses",
            row="AMP-11",
        )
    elif not reach.certificate_valid:
        found.error(
            "host.certificate",
            f"Connector can't validate the certificates of the host {reach.host}{reason}",
            why="without validation, an attacker on the network could read or change the disks",
            do="Renew the host's certificate or correct its name; or choose another esxi_mode in the connection "
            "(vcenter, ca, pin; 'ignore' logs a warning)",
            row="AMP-11",
        )


def _datastore(store: Datastore, plan: ServerPlan, found: Findings) -> None:
    guard = plan.guards.min_free_pct
    if not store.accessible:
        found.error(
            "datastore.inaccessible",
            f"datastore {store.name} is not accessible",
            why="disks on it can't be read",
            do="Make the datastore accessible in vCenter",
            part=store.name,
        )
        return
    free = 100 * store.free / store.capacity if store.capacity else 0.0
    room = f"datastore {store.name} has {free:.1f} % free ({human_bytes(store.free)})"
    if free < guard:
        found.error(
            "datastore.full",
            f"{room}; min_free_pct is {guard:g}",
            why="our snapshot grows while the guest writes; a full datastore stops every VM on it",
            do="Free space, move VMs to another datastore, or lower min_free_pct if you know the write rate",
            part=store.name,
        )
    elif free < guard + CLOSE_TO_GUARD_PCT:
        found.warning(
            "datastore.close",
            f"{room}, close to min_free_pct {guard:g}",
            why="the transfer stops if the snapshot grows and free space falls below the guard",
            do="Free space before the wave",
            part=store.name,
        )
