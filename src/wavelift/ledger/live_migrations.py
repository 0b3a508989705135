"""Live migrations with HCX. Every change needs the lock of the HCX manager, and writes an event to the audit trail."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.names import run_hash
from wavelift.base.run import DagRun
from wavelift.ledger.database import Tx
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.ledger.records import ROWS_A_PAGE, Page
from wavelift.ledger.spine import Rows, Words, containing, matching, of_run
from wavelift.ledger.tables_hcx import live_migration
from wavelift.rules.flows import LIVE
from wavelift.rules.live import OPEN, LiveState, require_live_way


def live_id(run_key: str) -> str:
    """The id of the migration that one server has in one DAG run."""
    return f"{LIVE.prefix}{run_hash(run_key)}"


def lock_name(manager: str) -> str:
    """The lock for what moves through one HCX manager: whether a VM is free to move is decided under it."""
    return f"hcx:{manager}"


class _LiveMigrations(Rows[LiveMigration]):
    def locks(self, known: LiveMigration) -> tuple[str, ...]:
        return (lock_name(known.manager),)

    def _require_way(self, known: LiveMigration, to: LiveState) -> None:
        require_live_way(known.state, to, migration=known.id)

    def _arrival(self, known: LiveMigration, to: LiveState, at: datetime) -> Mapping[str, Any]:
        times = dict(known.times or {})
        times[str(to)] = at.isoformat()
        return {"finished_at": at if to.terminal else None, "times": times}

    def _run_of(self, known: LiveMigration) -> DagRun:
        return known.run


_rows = _LiveMigrations(
    live_migration,
    LiveMigration,
    Words(
        kind="live_migration",
        noun="live migration",
        key="migration",
        listing="the list of live migrations (`wavelift live list`)",
    ),
)
ROWS: Final = _rows
find = _rows.find
get = _rows.get
apply = _rows.apply
tell = _rows.tell


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFilter:
    """Which migrations to list. Fields that are not set do not restrict it."""

    wave: str | None = None
    waves: Collection[str] | None = None
    """Waves that the caller may read. If it is empty, the list is empty."""
    server: str | None = None
    states: Collection[LiveState] | None = None
    run: DagRun | None = None
    search: str = ""
    """Part of an id, server, wave, note or migration id. Case does not matter."""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        found = matching(
            live_migration, {"wave": self.wave, "server": self.server}, {"wave": self.waves, "state": self.states}
        )
        if self.run is not None:
            found.append(of_run(live_migration, self.run))
        if self.search:
            columns = ("id", "server", "wave", "note", "migration_id")
            found.append(containing(live_migration, self.search, columns))
        return found


def list_migrations(
    tx: Tx, which: LiveFilter | None = None, *, limit: int = ROWS_A_PAGE, offset: int = 0
) -> Page[LiveMigration]:
    """One page of migrations, newest first."""
    order = (live_migration.c.requested_at.desc(), live_migration.c.id)
    return _rows.page(tx, (which or LiveFilter()).conditions(), order=order, limit=limit, offset=offset)


def of_dag_run(tx: Tx, run: DagRun) -> tuple[LiveMigration, ...]:
    """The migrations of a DAG run, by server."""
    return _rows.all(tx, of_run(live_migration, run), order=(live_migration.c.server,))


def open_of(tx: Tx, wave: str, servers: Collection[str] | None = None) -> tuple[LiveMigration, ...]:
    """The open migrations of a wave, by server."""
    where = [live_migration.c.wave == wave, live_migration.c.state.in_(OPEN)]
    if servers is not None:
        where.append(live_migration.c.server.in_(servers))
    return _rows.all(tx, *where, order=(live_migration.c.server,))


def of_vm(tx: Tx, instance_uuid: str) -> tuple[LiveMigration, ...]:
    """The open migrations of a VM, whichever wave or name it has there."""
    where = (live_migration.c.instance_uuid == instance_uuid, live_migration.c.state.in_(OPEN))
    return _rows.all(tx, *where, order=(live_migration.c.requested_at,)) if instance_uuid else ()


def insert(tx: Tx, *, at: datetime, by: str, run: DagRun, run_key: str, **columns: Any) -> LiveMigration:
    """Open a migration. The database refuses a second open one of the server
    (:class:`sqlalchemy.exc.IntegrityError`)."""
    made = _rows.insert(
        tx,
        id=live_id(run_key),
        run_key=run_key,
        dag_id=run.dag_id,
        dag_run_id=run.dag_run_id,
        requested_at=at,
        updated_at=at,
        **{"phase": "", "error": "", **columns},
    )
    _rows.tell(tx, made, str(made.state), at=at, by=by, details={"server": made.server, "wave": made.wave})
    return made


def progress(tx: Tx, known: LiveMigration, *, percent: int, phase: str, at: datetime, **columns: Any) -> None:
    """Write how far HCX is, without an event and without a new version: people read it, nothing decides by it."""
    columns = {"percent": percent, "phase": phase, "updated_at": at, **columns}
    tx.execute(live_migration.update().where(live_migration.c.id == known.id).values(**columns))


def moving_as(tx: Tx, migration_ids: Collection[str]) -> tuple[LiveMigration, ...]:
    """The migrations that HCX moves under these ids."""
    moving = (live_migration.c.state == LiveState.MOVING) & live_migration.c.migration_id.in_(migration_ids)
    return _rows.all(tx, moving, order=(live_migration.c.server,)) if migration_ids else ()
