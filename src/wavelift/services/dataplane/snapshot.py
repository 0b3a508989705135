"""Our vSphere snapshot, taken right before the transfer (invariant 4)."""

from __future__ import annotations

import logging
from typing import Final

from wavelift.adapters.vsphere import inventory, snapshots
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.adapters.vsphere.tracking import enable_tracking
from wavelift.base.domain import DiskFacts, ServerFacts
from wavelift.base.errors import BusyError, PermanentError, located
from wavelift.base.names import snapshot_name
from wavelift.base.run import RunContext
from wavelift.base.units import exact_bytes
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.rules.lineage import lineage_of
from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot

HTTPS_PORT: Final = 443
BEGINS: Final = "change tracking begins with this snapshot; the next run still compares digests, later ones ask vSphere"
TRACKING_KEY: Final = "tracking_begins"
"""Checkpoint: by a disk's key, the lineage of the change tracking that ran before this run's snapshot."""
ENABLED_KEY: Final = "tracking_enabled"
"""Checkpoint: before the snapshot of this name tracking was turned on, by us, and no snapshot stood."""

log = logging.getLogger(__name__)


def take_snapshot(
    session: VsphereSession, task: ServerTask, ctx: RunContext, *, replicates: bool = False
) -> TakenSnapshot:
    """Take, or find again, the snapshot of this run and read the disks that it froze.

    :param replicates: later runs build on it: where the plan wants so, change tracking is turned on before. A one-shot
        migration never does that: it reads everything anyway.
    :raises PermanentError: when the source must be off and is not, or its disks are not those of the pre-flight.
    :raises BusyError: while the VM consolidates or carries another snapshot of ours.
    """
    with located(server=task.name):
        return _take(session, task, ctx, replicates)


def _take(session: VsphereSession, task: ServerTask, ctx: RunContext, replicates: bool) -> TakenSnapshot:
    vm, name = task.facts.moref, snapshot_name(ctx.run_key)
    # Looked for before the VM is: a snapshot under way, of a try that was killed, changes what is seen of it.
    fresh = replicates and snapshots.find_snapshot(session, vm, name, cancel=ctx.cancel) is None
    (now,) = inventory.facts(session, [vm])
    check_power(task, now)
    _same_disks(task, now.disks, "now")
    ctx.cancel.check()
    refusal = _prepare_tracking(session, task, now, name, ctx) if fresh else ""
    ref = snapshots.ensure_snapshot(
        session, vm, name, f"wavelift: {ctx.run_key}", quiesce=task.plan.quiesce, cancel=ctx.cancel
    )
    frozen = snapshots.snapshot_disks(session, ref.moref, server=task.name)
    _same_disks(task, frozen, "in the snapshot")
    disks = _with_ids_to_build_on(frozen, ctx.checkpoints.get(TRACKING_KEY)) if replicates else frozen
    return TakenSnapshot(
        ref=ref,
        disks=disks,
        vcenter_link=vcenter_url(session, vm),
        tracking=refusal or (BEGINS if disks != frozen else ""),
        tracked_from_here=ctx.checkpoints.get(ENABLED_KEY) == name,
    )


def _prepare_tracking(session: VsphereSession, task: ServerTask, now: ServerFacts, name: str, ctx: RunContext) -> str:
    """Before the snapshot: note which tracking runs already, and turn it on where that is wanted.

    :returns: why it can't be turned on. That is no reason to fail the run, which compares digests then.
    """
    # Of a snapshot that was removed again: what happened to tracking since, nobody knows.
    ctx.checkpoints.delete(ENABLED_KEY)
    # A disk whose tracking was turned on, by whomever, but that saw no stun since has no change id yet.
    running = {str(disk.key): lineage_of(disk.change_id) for disk in now.disks if now.cbt_enabled and disk.change_id}
    ctx.checkpoints.set(TRACKING_KEY, running)
    if now.cbt_enabled or task.plan.change_tracking != "enable":
        return ""
    try:
        if enable_tracking(session, task.facts.moref, cancel=ctx.cancel, server=task.name):
            ctx.checkpoints.set(ENABLED_KEY, name)
    except (BusyError, PermanentError) as error:
        log.warning("%s: changes stay untracked: %s", task.name, error)
        return f"{error.what}. {error.next_step}"
    return ""


def _with_ids_to_build_on(disks: tuple[DiskFacts, ...], running: object) -> tuple[DiskFacts, ...]:
    """``disks`` without the change ids of a tracking that begins with this very snapshot: one that was not running
    before it, as far as anybody noted."""
    known = running if isinstance(running, dict) else {}
    return tuple(
        disk
        if disk.change_id and known.get(str(disk.key)) == lineage_of(disk.change_id)
        else disk.model_copy(update={"change_id": None})
        for disk in disks
    )


def check_power(task: ServerTask, now: ServerFacts) -> None:
    """:raises PermanentError: the source must be off and is not. What it writes from now on would be lost, and its
    instance may be started because it is off (invariant 12)."""
    if task.final and now.power != "poweredOff":
        raise PermanentError(
            "The source was stopped for its cutover, and runs again: what it writes now would be lost",
            server=task.name,
            power=now.power,
            next_step=f"Find out who powered it on (its events in vCenter). Clear the server's {CONTINUE_FROM} task: "
            "it is stopped again, and sent again; or revert the cutover",
        )
    if task.plan.source_power == "require_off" and now.power != "poweredOff":
        raise PermanentError(
            "The source must be powered off and is not",
            server=task.name,
            power=now.power,
            next_step="Shut it down, or set source_power: leave_running, then clear this server from its reserve task",
        )


def _same_disks(task: ServerTask, disks: tuple[DiskFacts, ...], when: str) -> None:
    """:raises PermanentError: a retry looks at the same pre-flight again, so it can't help."""
    seen, found = _identity(task.facts.disks), _identity(disks)
    if seen != found:
        raise PermanentError(
            f"The VM's disks changed since the pre-flight: then {_told(seen)}, {when} {_told(found)}",
            server=task.name,
            next_step="Trigger a new run of the wave for this server: it looks at the VM again",
        )


def vcenter_url(session: VsphereSession, vm: str) -> str:
    """Where the vSphere client shows the VM."""
    port = "" if session.config.port == HTTPS_PORT else f":{session.config.port}"
    place = f"urn:vmomi:VirtualMachine:{vm}:{session.about.instance_uuid}"
    return f"https://{session.config.host}{port}/ui/app/vm;nav=v/{place}/summary"


def _identity(disks: tuple[DiskFacts, ...]) -> list[tuple[int, str, int, bool]]:
    return [(disk.key, disk.address, disk.capacity, disk.boot) for disk in disks]


def _told(disks: list[tuple[int, str, int, bool]]) -> str:
    return (
        ", ".join(f"{address} {exact_bytes(size)}{' (boot)' if boot else ''}" for _, address, size, boot in disks)
        or "none"
    )
