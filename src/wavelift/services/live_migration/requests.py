"""What people ask of live migrations from outside a DAG run: reserve them for a run that is made next, and cancel."""

from __future__ import annotations

from typing import Any, Final

from wavelift.base.errors import PermanentError
from wavelift.base.run import Clock, DagRun, RunContext
from wavelift.ledger import Ledger, live_migrations
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.rules.conf import LiveConf
from wavelift.rules.live import IN_HCX, LiveState
from wavelift.rules.live_plans import ResolvedLive
from wavelift.services.common.reserve import CANCELLED, refuse_in_maintenance, require_same_servers
from wavelift.services.common.reserve import NOT_MADE as NOT_MADE
from wavelift.services.live_migration.admit import as_asked
from wavelift.services.live_migration.opening import open_migrations

BEFORE: Final = frozenset({LiveState.RESERVED, LiveState.WAITING})
"""HCX has not been asked."""


def reserve(
    ledger: Ledger, wave: ResolvedLive, conf: LiveConf, ctx: RunContext, *, request_id: str = ""
) -> tuple[LiveMigration, ...]:
    """What a run with this conf would be refused for is refused here. In mode migrate its migrations are reserved under
    the id of the run, all of them or none; mode plan opens none.

    :raises SpecError: an unknown server; a window that is none, over or too short.
    :raises RefusedError: a server has another open migration. :raises PermanentError: the connector is in maintenance.
    """
    chosen = as_asked(wave, conf, ctx.clock.now())
    if conf.mode != "migrate":
        return ()
    with ledger.read() as tx:
        refuse_in_maintenance(tx, wave.environment.hcx.queue, wave=wave.wave)
    return open_migrations(ledger, chosen, ctx, note=conf.note or "", request_id=request_id, state=LiveState.RESERVED)


def made_before(ledger: Ledger, run: DagRun, conf: LiveConf) -> tuple[LiveMigration, ...]:
    """The migrations that an earlier request of the same name has.

    :raises PermanentError: that one was about other servers.
    """
    with ledger.read() as tx:
        found = live_migrations.of_dag_run(tx, run)
    require_same_servers({each.server for each in found}, conf.servers, run)
    return found


def give_back(ledger: Ledger, run: DagRun, clock: Clock) -> None:
    """The DAG run could not be made: its reservations keep no server from another migration."""
    with ledger.read() as tx:
        found = live_migrations.of_dag_run(tx, run)
    if not found:
        return
    with ledger.write(*sorted({live_migrations.lock_name(each.manager) for each in found})) as tx:
        for each in live_migrations.of_dag_run(tx, run):
            if each.state is LiveState.RESERVED:
                columns: dict[str, Any] = {"state": LiveState.EXPIRED, "error": NOT_MADE}
                live_migrations.apply(tx, each, "expired", at=clock.now(), by=each.requested_by, **columns)


def cancel(ledger: Ledger, id: str, *, by: str, clock: Clock, over: bool) -> LiveMigration:
    """The migration goes no further. What HCX was not asked for ends when its run comes to it. What HCX moves must be
    ended there, which a run in mode cancel does (:attr:`LiveMigration.state` says which it is). May be repeated.

    :param over: its DAG run has ended or is not there: nothing comes to it any more.
    :raises PermanentError: it is over, or verified by now; or HCX is being told to start it at this moment.
    """
    with ledger.read() as tx:
        manager = live_migrations.get(tx, id).manager
    with ledger.write(live_migrations.lock_name(manager)) as tx:
        known = live_migrations.get(tx, id, lock=True)
        if known.state not in BEFORE | IN_HCX:
            raise PermanentError(
                f"The live migration is {known.state}: there is nothing to cancel",
                next_step="Nothing: HCX has ended with it",
                migration=id,
                server=known.server,
            )
        if known.state is LiveState.STARTING and not over:
            raise PermanentError(
                "HCX is being told to start it",
                next_step="Try again in a minute: then it moves, or it has failed",
                migration=id,
                server=known.server,
            )
        ends = over and known.state in BEFORE
        if known.cancel_requested and not ends:
            return known
        columns: dict[str, Any] = {"cancel_requested": True}
        if ends:
            columns |= {"state": LiveState.ENDED, "error": CANCELLED}
        return live_migrations.apply(tx, known, "cancel_requested", at=clock.now(), by=by, **columns)
