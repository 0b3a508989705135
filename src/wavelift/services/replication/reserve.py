"""The transfer slot of one server's run: won, kept, given back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from wavelift.base.errors import PermanentError
from wavelift.base.names import snapshot_name
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, SlotKind, SnapshotState, SourceServer, connectors, jobs, lineage
from wavelift.ledger import replication_runs as runs
from wavelift.ledger.replication_records import ReplicationRun
from wavelift.ledger.slots import standing
from wavelift.rules.replication import RunState
from wavelift.services.common import slots as admission
from wavelift.services.common.slots import Granted, InQueue, SlotRequest
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.replication_messages import (
    ReservedRun,
)
from wavelift.services.replication.admission import continue_run
from wavelift.services.replication.jobs import remember_server
from wavelift.services.replication.outcome import mark_cancelled, quarantine_tracking

CANCELLED: Final = "cancelled on request"
PLACES: Final = {
    SlotKind.NFC_HOST: "ESXi host",
    SlotKind.NFC_VCENTER: "the NFC sessions of vCenter",
    SlotKind.TRANSFER: "connector",
}
"""Where a transfer needs slots, in words."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The run has completed: clearing it does nothing."""

    run: str


def reserve(ledger: Ledger, task: ServerTask, ctx: RunContext, *, limit: int) -> ReservedRun | InQueue | Finished:
    """Ask for a transfer slot, and write the snapshot's intent once it is won (AMP-04, invariant 4).

    A run that failed goes on here when its tasks were cleared.

    :raises RefusedError: when a rule forbids that by now.
    :raises PermanentError: cancelled on request, the connector is in maintenance, or the name stands for another server
        than the one that was replicated.
    """
    id = runs.run_id(ctx.run_key)
    with ledger.read() as tx:
        known = runs.get(tx, id)
    if known.state is RunState.COMPLETED:
        return Finished(id)
    known = continue_run(ledger, id, ctx)
    check_wanted(known)
    seen = SourceServer.of(task.plan.connection, task.facts)
    remember_server(ledger, known.job_id, seen, by=str(ctx.run), clock=ctx.clock)
    if known.snapshot_state is None:
        _check_maintenance(ledger, task.plan.connector, task.name)
    wanted = _wanted_slots(task, limit)
    _give_back(ledger, ctx, keep={(kind, scope) for kind, scope, _ in wanted})
    for kind, scope, count in wanted:
        admission.reclaim(ledger, ctx, kind=kind, scope=scope)
        request = SlotRequest(kind, scope, ctx.run_key, count)
        found = admission.request_slot(ledger, request, ctx)
        if not isinstance(found, Granted):
            words = f"place {found.position} in the queue of {PLACES[kind]} {scope}"
            tell(ledger, ctx, words)
            return InQueue(request, words)
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        runs.record_intent(tx, id, name=snapshot_name(ctx.run_key), vm=task.facts.moref, clock=ctx.clock)
    tell(ledger, ctx, "Uploading")
    with ledger.read() as tx:
        return ReservedRun(
            server=task.name,
            run=id,
            lineages=lineage.read_lineage(tx, known.job_id),
            unfinished=tuple(each.run_key for each in runs.unfinished_before(tx, known)),
        )


def release(
    ledger: Ledger,
    task: ServerTask,
    ctx: RunContext,
    *,
    removed: bool,
    distrusted: Mapping[int, str] = MappingProxyType({}),
) -> None:
    """Give the transfer slot back; a run that a person cancelled before it was recorded ends here.

    :param removed: the snapshot's removal succeeded.
    :param distrusted: key of a disk → why its change tracking is not believed any more, whatever became of the run.
    """
    with ledger.read() as tx:
        known = runs.find(tx, runs.run_id(ctx.run_key))
    if known is not None:
        for key, why in distrusted.items():
            quarantine_tracking(ledger, known.id, key, why, clock=ctx.clock)
        if removed and known.snapshot_state is SnapshotState.INTENDED:
            with ledger.write(jobs.lock_name(known.wave)) as tx:
                runs.record_snapshot_removed(tx, known.id, clock=ctx.clock)
        if known.cancel_requested and known.recorded_at is None:
            mark_cancelled(ledger, known.id, CANCELLED, clock=ctx.clock)
    _give_back(ledger, ctx)


def _wanted_slots(task: ServerTask, limit: int) -> list[tuple[SlotKind, str, int]]:
    """Everywhere that the transfer needs a slot, with the count there. All take them in this order, so that no two
    wait for each other; the connector's comes last, since it is the one that others wait for wherever they read.
    """
    wanted = [(SlotKind.TRANSFER, task.plan.connector, limit)]
    if (nfc := task.nfc) is not None:
        wanted = [
            (SlotKind.NFC_HOST, f"{nfc.vcenter}/{nfc.host}", nfc.per_host),
            (SlotKind.NFC_VCENTER, nfc.vcenter, nfc.per_vcenter),
            *wanted,
        ]
    return wanted


def _give_back(ledger: Ledger, ctx: RunContext, *, keep: Collection[tuple[SlotKind, str]] = ()) -> None:
    """The slots of this run's transfer; those of a host that the VM has left, too."""
    for kind in PLACES:
        with ledger.read() as tx:
            queue = standing(tx, kind)
        for slot in queue:
            if slot.holder == ctx.run_key and (slot.kind, slot.scope) not in keep:
                admission.release_slot(ledger, kind=slot.kind, scope=slot.scope, holder=slot.holder, clock=ctx.clock)


def tell(ledger: Ledger, ctx: RunContext, status: str, progress_pct: int = 0) -> None:
    """What the list shows of the run."""
    id = runs.run_id(ctx.run_key)
    with ledger.write() as tx:
        runs.record_progress(tx, id, status=status, progress_pct=progress_pct, clock=ctx.clock)


def check_wanted(known: ReplicationRun) -> None:
    """:raises PermanentError: a person cancelled the run."""
    if known.cancel_requested:
        raise PermanentError(
            "The replication run was cancelled on request",
            server=known.server,
            run=known.id,
            next_step="To go on with it after all, wait for its DAG run to end and clear its server.reserve task",
        )


def _check_maintenance(ledger: Ledger, connector: str, server: str) -> None:
    with ledger.read() as tx:
        reason = connectors.in_maintenance(tx, connector)
    if reason is not None:
        raise PermanentError(
            f"The connector is in maintenance: {reason}",
            next_step="Clear the server's task when `wavelift connectors maintenance CONNECTOR --off` was said.",
            connector=connector,
            server=server,
        )
