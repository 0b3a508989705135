"""One migration per server at a time (invariant 4): a migration begins, and those of ended runs are closed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wavelift.base.errors import BusyError
from wavelift.base.run import RunContext
from wavelift.ledger import migrations, servers, waves
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.records import Migration, SourceServer
from wavelift.rules.lifecycle import MigrationState
from wavelift.services.migration.waiting import RUN_ENDED


@dataclass(frozen=True, slots=True)
class NewMigration:
    """What is to be migrated, and where.

    :param bytes_total: of all its disks.
    """

    wave: str
    server: SourceServer
    connector: str
    region: str
    bytes_total: int = 0


def begin_migration(ledger: Ledger, wanted: NewMigration, ctx: RunContext) -> Migration:
    """Store one server's migration as queued; its id is known from here on (AMP-04).

    Called again for the same ``ctx.run_key`` (a retry, or the server was cleared) it continues the same migration. A
    request to cancel stays when the migration was still active, or waited for pre-flight. It goes when the migration
    had ended: clearing it means "continue". One that was admitted or refused begins now, under the id that it has.

    :raises BusyError: when another run that still lives has the server; names that run.
    :raises NotFoundError: when the wave run was not frozen.
    """
    server = wanted.server
    ended = _ended_rivals(ledger, server, ctx)
    now = ctx.clock.now()
    with ledger.write(servers.LOCK) as tx:
        waves.get(tx, ctx.run)
        server_id = servers.remember(tx, server, at=now)
        for rival in migrations.occupying(tx, server_id):
            if rival.run_key != ctx.run_key:
                _displace(tx, rival, server, ended, now)
        known = migrations.find(tx, migrations.migration_id(ctx.run_key), lock=True)
        place: dict[str, Any] = {
            "server_id": server_id,
            "map_index": ctx.map_index,
            "connector": wanted.connector,
            "region": wanted.region,
            "bytes_total": wanted.bytes_total,
        }
        if known is None:
            return migrations.insert(
                tx, at=now, run=ctx.run, run_key=ctx.run_key, wave=wanted.wave, server=server.name, **place
            )
        if known.state.terminal:
            place["cancel_requested"] = False
        return migrations.apply(
            tx, known, "queued", at=now, state=MigrationState.QUEUED, phase="", error="", progress_pct=0, **place
        )


def _ended_rivals(ledger: Ledger, server: SourceServer, ctx: RunContext) -> dict[str, int]:
    """Migrations that occupy the server although their run has ended, each with the version that was checked."""
    with ledger.read() as tx:
        known = servers.find(tx, source=server.source, identity=server.identity)
    if known is None:
        return {}
    with ledger.read() as tx:
        rivals = [
            each for each in migrations.occupying(tx, known.id) if each.run_key != ctx.run_key and each.run != ctx.run
        ]
    alive = {each.run: ctx.liveness.run(each.run) for each in rivals}
    return {each.id: each.version for each in rivals if not alive[each.run]}


def _displace(tx: Tx, rival: Migration, server: SourceServer, ended: Mapping[str, int], now: datetime) -> None:
    """Close a migration that an ended run left open; refuse when that run is active, or is active again."""
    if ended.get(rival.id) != rival.version:
        raise BusyError(
            "Another run is migrating this server",
            next_step="Wait for it to end, or cancel that migration.",
            server=server.name,
            dag=rival.dag_id,
            run=rival.dag_run_id,
            migration=rival.id,
        )
    if not rival.state.terminal:
        migrations.apply(tx, rival, "failed", at=now, state=MigrationState.FAILED, error=RUN_ENDED, phase="")
