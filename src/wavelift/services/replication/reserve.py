"""The slots of one server's run: won, kept, given back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from wavelift.base.errors import PermanentError
from wavelift.base.names import snapshot_name
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, Progress, SnapshotState, SourceServer, jobs, lineage, servers
from wavelift.ledger import replication_runs as runs
from wavelift.ledger.replication_records import ReplicationRun
from wavelift.rules.flows import OF_TRANSFER, SlotKind
from wavelift.rules.replication import RunState
from wavelift.services.common.reserve import (
    CANCELLED,
    cancelled_error,
    win_transfer,
)
from wavelift.services.common.slots import InQueue, give_back
from wavelift.services.common.wanted import DEFAULT_TERMS, Terms, for_transfer
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.replication_messages import ReservedRun
from wavelift.services.replication.admission import continue_run
from wavelift.services.replication.jobs import remember_server
from wavelift.services.replication.outcome import mark_cancelled, quarantine_tracking


@dataclass(frozen=True, slots=True)
class Finished:
    """The run has completed: clearing it repeats nothing."""

    run: str


def reserve(
    ledger: Ledger, task: ServerTask, ctx: RunContext, *, limit: int, terms: Terms = DEFAULT_TERMS
) -> ReservedRun | InQueue | Finished:
    """Ask for the slots of a transfer, and write the snapshot's intent once they are won (AMP-04, invariant 4).

    While its connector is in maintenance it waits, unless it has begun to move before (AMP-05). A failed run whose
    tasks were cleared continues here.

    :param limit: transfers of the connector.
    :raises RefusedError: when a rule forbids that by now.
    :raises PermanentError: cancelled on request, or the name now means another server than the one that was replicated.
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
    wanted = for_transfer(task, ctx.run_key, limit, terms)
    queued = win_transfer(ledger, wanted, ctx, priority=terms.priority)
    if queued is not None:
        tell(ledger, ctx, f"Waits: {queued.words}")
        return queued
    with ledger.write(jobs.lock_name(known.wave), servers.LOCK) as tx:
        servers.remember(tx, seen, at=ctx.clock.now())  # what is launched of its image later asks for its guest
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
    ledger: Ledger, ctx: RunContext, *, removed: bool, distrusted: Mapping[int, str] = MappingProxyType({})
) -> None:
    """Give the transfer slots back. A run that was cancelled before it was recorded ends here.

    The account's slot stays with a run that was recorded, until it has ended: its AMI is still to come.

    :param removed: the snapshot's removal succeeded.
    :param distrusted: key of a disk → why its change tracking is not trusted any more, however the run ends.
    """
    lands = False
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
        lands = known.recorded_at is not None and not known.state.terminal
    give_back(ledger, ctx.run_key, kinds=OF_TRANSFER if lands else (SlotKind.ACCOUNT, *OF_TRANSFER), clock=ctx.clock)


def tell(ledger: Ledger, ctx: RunContext, status: str, progress_pct: int = 0) -> None:
    """Update the status that lists show of the run."""
    id = runs.run_id(ctx.run_key)
    with ledger.write() as tx:
        runs.record_progress(tx, id, Progress(status, progress_pct), clock=ctx.clock)


def cancelled(known: ReplicationRun) -> PermanentError:
    """What a step raises when a person has asked to cancel the run."""
    return cancelled_error("The replication run", "DAG run", server=known.server, run=known.id)


def check_wanted(known: ReplicationRun) -> None:
    """:raises PermanentError: a person cancelled the run."""
    if known.cancel_requested:
        raise cancelled(known)
