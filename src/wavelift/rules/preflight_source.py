"""Pre-flight of what stands around a VM: state, tools, vCenter, host, datastores, privileges."""

from __future__ import annotations

import re

from wavelift.base.domain import ServerFacts
from wavelift.base.units import human_bytes
from wavelift.rules.findings import Findings
from wavelift.rules.plans import ServerPlan
from wavelift.rules.vsphere_facts import Datastore, MissingOnEntity, SourceFacts

OLDEST_VCENTER = (5, 5)
OLDEST_ESXI = (5, 1)
"""SMS-11."""
OLDEST_CBT_HARDWARE = 7
"""Change tracking came with virtual hardware version 7."""
ASK_CHANGES = "VirtualMachine.Provisioning.DiskRandomRead"
TRACK_CHANGES = "VirtualMachine.Config.ChangeTracking"
CLOSE_TO_GUARD_PCT = 5.0
"""Warn when free space is less than this above the guard: our snapshot grows during the transfer."""


def version(text: str) -> tuple[int, ...]:
    """``"8.0.3"`` → ``(8, 0, 3)``; empty when there is no number."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def check_machine(facts: ServerFacts, plan: ServerPlan, found: Findings) -> None:
    """The VM itself, apart from guest and disks."""
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
        else f"changed block tracking is not possible ({facts.hardware_version or 'hardware version not told'})",
        why="a one-shot import reads the whole disk either way; replication sends only what changed with it",
        do="Nothing" if tracking else "Upgrade the virtual hardware before the VM is replicated",
    )
    if tracking and plan.replication is not None and not facts.cbt_enabled:
        _tracking_off(facts, plan, found)


def _owner(facts: ServerFacts, found: Findings) -> None:
    if facts.managed_by:
        found.warning(
            "vm.managed",
            f"it is {facts.managed_by}",
            why="what vSphere or an extension manages is made, changed and removed by its owner",
            do="Take it out of the wave unless you know that it is a server of its own",
        )
    if facts.fault_tolerant:
        found.warning(
            "vm.fault_tolerant",
            "it is the primary of a fault-tolerant pair",
            why="the pair is one server and only the primary is read; after a fail-over the other half has the name, "
            "with disks of its own, which are read whole again",
            do="Nothing, or turn Fault Tolerance off for the migration",
        )


def _tracking_off(facts: ServerFacts, plan: ServerPlan, found: Findings) -> None:
    """What to do so that replication need not read whole disks."""
    set_it = plan.change_tracking != "enable"
    steps = ["Set 'change_tracking: enable' for this server"] if set_it else []
    if facts.snapshots:
        steps.insert(0, f"Remove its snapshots ({', '.join(facts.snapshots)})")
    if facts.left_behind:
        steps.insert(0, "Consolidate its disks in vCenter (Snapshots > Consolidate)")
    found.warning(
        "cbt.off",
        "changed block tracking is off: every replication run reads the whole disks, though it sends only what changed",
        why="vSphere begins to track at the next snapshot, and is believed only after that one is gone: the run that "
        "turns it on and the one after it still read everything. Under a standing snapshot it would lose changes",
        do=". ".join(steps) or "Nothing: the next replication run turns it on",
        row="SMS-05",
    )


def _power(facts: ServerFacts, plan: ServerPlan, found: Findings) -> None:
    if facts.template:
        found.error(
            "vm.template",
            "it is a template",
            why="a template has no snapshots",
            do="Convert it to a virtual machine first",
        )
    if facts.power == "suspended":
        found.error(
            "power.suspended",
            "the VM is suspended",
            why="part of its state is in memory that doesn't travel: the disks alone are not consistent",
            do="Resume it, or shut it down",
        )
    elif plan.source_power == "require_off" and facts.power != "poweredOff":
        found.error(
            "power.require_off",
            f"the VM is {facts.power} and the wave says 'source_power: require_off'",
            why="source and instance must not run side by side (invariant 12)",
            do="Shut the VM down, or set 'source_power: leave_running'",
        )
    if facts.power == "poweredOn":
        if plan.launch == "running" and plan.source_power != "require_off":
            found.warning(
                "power.twin",
                "the instance will run beside its running source ('allow_twin: true')",
                why="two machines with one name and identity (invariant 12)",
                do="Make sure that the subnet can't reach the source's network",
            )
        found.info(
            "lease.blocks_vmotion",
            "while its disks are exported the VM can't be moved by vMotion, powered on again or deleted",
            why="a held lease blocks power-on and vMotion; DRS will skip the VM for that time",
            do="Don't put its host into maintenance during the wave",
        )


def _tools(facts: ServerFacts, plan: ServerPlan, found: Findings) -> None:
    if facts.power != "poweredOn" or facts.tools_running or plan.quiesce == "never":
        return
    what = f"VMware Tools is not running ({facts.tools_status or 'state not told'})"
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
            why="the snapshot will be crash-consistent: as after a power cut",
            do="Start VMware Tools or open-vm-tools in the guest for a quiesced snapshot",
        )


def _devices(facts: ServerFacts, found: Findings) -> None:
    for medium in facts.cdrom_connected:
        found.warning(
            "cdrom.connected",
            f"{medium} is connected",
            why="the requirements ask for disconnected CD-ROM drives; the medium doesn't travel",
            do="Disconnect it in vCenter",
            row="SMS-11",
        )
    if facts.nics > 1:
        found.warning(
            "nic.several",
            f"the VM has {facts.nics} network cards",
            why="an imported image starts with one, by DHCP, IPv4 only",
            do="Add network interfaces to the instance afterwards if it needs them",
        )
    if facts.encrypted:
        found.error(
            "vm.encrypted",
            "the VM is encrypted by vSphere",
            why="vCenter doesn't export encrypted VMs",
            do="Decrypt it with a storage policy without encryption" + (" and remove its vTPM" if facts.vtpm else ""),
        )
    if facts.vtpm:
        found.warning(
            "vm.vtpm",
            "the VM has a virtual TPM",
            why="its secrets don't travel: BitLocker will ask for the recovery key, Windows 11 wants a TPM",
            do="Suspend BitLocker and keep the recovery key at hand",
        )
    if facts.passthrough_devices:
        note = found.error if facts.power == "poweredOn" else found.warning
        note(
            "vm.passthrough",
            f"the VM has {facts.passthrough_devices} passthrough device(s)",
            why="a running VM with passthrough devices can't be snapshotted, and the devices don't travel",
            do="Remove the devices, or power the VM off for the migration",
        )


def check_source(facts: ServerFacts, plan: ServerPlan, source: SourceFacts, found: Findings) -> None:
    """vCenter, host, datastores and privileges."""
    _versions(facts, source, found)
    _host(facts, source, found)
    for store in source.datastores:
        _datastore(store, plan, found)
    for missing in source.missing_privileges:
        _privileges(facts, plan, missing, found)


def _privileges(facts: ServerFacts, plan: ServerPlan, missing: MissingOnEntity, found: Findings) -> None:
    """What is missing and needed: tracking's two are asked for in the flow that replicates, and used by few servers."""
    turned_on = plan.change_tracking == "enable" and not facts.cbt_enabled
    spare = set() if facts.cbt_enabled or turned_on else {ASK_CHANGES}
    needed = [name for name in missing.privileges if name != TRACK_CHANGES and name not in spare]
    part = missing.name if missing.name != facts.name else ""
    role = "Give the account the role that 'wavelift vsphere role' prints, on the data centre, with propagation"
    if needed:
        found.error(
            "privilege.missing",
            f"{missing.principal} lacks {', '.join(needed)} on {missing.name}",
            why="the calls that take the VM's disks are refused without",
            do=role,
            row="SMS-12",
            part=part,
        )
    if turned_on and TRACK_CHANGES in missing.privileges:
        found.warning(
            "privilege.tracking",
            f"{missing.principal} lacks {TRACK_CHANGES} on {missing.name}",
            why="'change_tracking: enable' can't turn it on: every run goes on reading whole disks",
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
            why="exporting a snapshot came with 5.5",
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
            f"the version of ESXi on {facts.host or 'its host'} is not known",
            why="5.1 or later is needed",
            do="Give the account System.Read on the host",
            row="SMS-11",
        )


def _host(facts: ServerFacts, source: SourceFacts, found: Findings) -> None:
    host, reach = source.host, source.reach
    if host is not None and host.connection_state not in ("", "connected"):
        found.error(
            "host.state",
            f"ESXi host {host.name} is {host.connection_state}",
            why="vCenter can't snapshot or export VMs of a host that it doesn't reach",
            do="Reconnect the host in vCenter",
            row="AMP-11",
        )
    if host is not None and host.in_maintenance:
        found.warning(
            "host.maintenance",
            f"ESXi host {host.name} is in maintenance mode",
            why="the VM may be moved or the host restarted during the transfer",
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
            why="the disks come from the host itself, by HTTPS",
            do=f"{suffix}let the connector through to the host on port 443; where it has another address from there "
            "(NAT, no DNS), map its name to that in the connection: esxi_addresses",
            row="AMP-11",
        )
    elif not reach.certificate_valid:
        found.error(
            "host.certificate",
            f"Connector can't validate the certificates of the host {reach.host}{reason}",
            why="without validation anybody in between could read or change the disks",
            do="Renew the host's certificate or fix its name; or choose another esxi_mode in the connection "
            "(vcenter, ca, pin; 'ignore' is loudly logged)",
            row="AMP-11",
        )


def _datastore(store: Datastore, plan: ServerPlan, found: Findings) -> None:
    guard = plan.guards.min_free_pct
    if not store.accessible:
        found.error(
            "datastore.inaccessible",
            f"datastore {store.name} is not accessible",
            why="disks on it can't be read",
            do="Bring the datastore back in vCenter",
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
            do="Free space, move VMs away, or lower min_free_pct if you know the write rate",
            part=store.name,
        )
    elif free < guard + CLOSE_TO_GUARD_PCT:
        found.warning(
            "datastore.close",
            f"{room}, close to min_free_pct {guard:g}",
            why="the transfer stops when the snapshot grows past the guard",
            do="Free space before the wave",
            part=store.name,
        )
