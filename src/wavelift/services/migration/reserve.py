"""The slots of a migration, and the cancellation of a migration. Uses only the ledger."""

from __future__ import annotations

from dataclasses import dataclass, replace

from wavelift.base.errors import PermanentError
from wavelift.base.names import snapshot_name
from wavelift.base.run import Clock, RunContext
from wavelift.ledger import Ledger, Migration, Progress, SnapshotState, SourceServer, migrations
from wavelift.rules.flows import OF_TRANSFER, SlotKind
from wavelift.rules.lifecycle import MigrationState
from wavelift.services.common.reserve import CANCELLED, cancelled_error, win_transfer
from wavelift.services.common.slots import InQueue, give_back
from wavelift.services.common.wanted import DEFAULT_TERMS, Terms, for_transfer
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.migration.begin import NewMigration, begin_migration
from wavelift.services.migration.waiting import take_over


def cancelled(known: Migration) -> PermanentError:
    """What a step raises when a person has asked to cancel the migration."""
    return cancelled_error("The migration", "run", server=known.server, migration=known.id)


def after_cancel(ledger: Ledger, known: Migration, *, released: bool, clock: Clock) -> Migration:
    """The tasks of a cancelled migration have been stopped: free what it has.

    :param released: its snapshot is removed and its transfer slot given back; else the teardown ends the migration.
    """
    kinds = tuple(SlotKind) if released else (SlotKind.IMPORT,)
    give_back(ledger, known.run_key, kinds=kinds, reason="cancelled", clock=clock)
    if not released:
        return known
    with ledger.write() as tx:
        return migrations.mark_cancelled(tx, known.id, CANCELLED, clock=clock)


@dataclass(frozen=True, slots=True)
class Reserved:
    """The transfer slot is won."""

    migration_id: str


def reserve(
    ledger: Ledger, task: ServerTask, ctx: RunContext, *, limit: int, terms: Terms = DEFAULT_TERMS
) -> Reserved | InQueue:
    """Write the migration's intent and ask for the slots of a transfer (AMP-04, invariant 4).

    While its connector is in maintenance it waits, unless it has begun to move before (AMP-05).

    :param limit: transfers of the connector.

    :raises BusyError: when a living run migrates this server.
    :raises PermanentError: when a person cancelled the migration.
    """
    with ledger.read() as tx:
        known = migrations.find(tx, migrations.migration_id(ctx.run_key))
    if known is None:
        known = take_over(ledger, task, ctx)
    if known is not None and known.waits and known.cancel_requested:
        raise cancelled(known)  # `release`, which follows, ends it
    if known is None or known.state is not MigrationState.QUEUED or known.waits:
        wanted = NewMigration(
            wave=task.plan.wave,
            # By the name that is unique in the wave: reports and staging folders are found by it.
            server=replace(SourceServer.of(task.plan.connection, task.facts), name=task.name),
            connector=task.plan.connector,
            region=task.plan.target.region,
            bytes_total=task.facts.capacity,
        )
        known = begin_migration(ledger, wanted, ctx)
    if known.cancel_requested:
        raise cancelled(known)
    needs = for_transfer(task, ctx.run_key, limit, terms)
    queued = win_transfer(ledger, needs, ctx, priority=terms.priority)
    with ledger.write() as tx:
        if queued is None:
            name = snapshot_name(ctx.run_key)
            migrations.record_intent(tx, known.id, name=name, vm=task.facts.moref, clock=ctx.clock)
        else:
            migrations.record_progress(tx, known.id, Progress(queued.words, 0), clock=ctx.clock)
    return queued or Reserved(known.id)


def release(ledger: Ledger, ctx: RunContext, *, removed: bool, exported: bool) -> None:
    """Give the transfer slots back. A migration that was cancelled before its export ended ends here.

    The account's slot stays with a migration that goes on to its import, until it has ended.

    :param removed: the snapshot's removal succeeded. :param exported: every disk is in S3.
    """
    with ledger.read() as tx:
        known = migrations.find(tx, migrations.migration_id(ctx.run_key))
    if known is not None:
        if removed and known.snapshot_state is SnapshotState.INTENDED:
            with ledger.write() as tx:
                known = migrations.record_snapshot_removed(tx, known.id, clock=ctx.clock)
        if exported:
            with ledger.write() as tx:
                known = migrations.begin_verifying(tx, known.id, clock=ctx.clock)
        if known.cancel_requested:
            with ledger.write() as tx:
                known = migrations.mark_cancelled(tx, known.id, CANCELLED, clock=ctx.clock)
    lands = exported and known is not None and not known.state.terminal
    give_back(ledger, ctx.run_key, kinds=OF_TRANSFER if lands else (SlotKind.ACCOUNT, *OF_TRANSFER), clock=ctx.clock)
