"""The server catalogue: one vCenter's VMs as the last import saw them (SMS-02).

Each import has a generation number. Its pages are merged one by one, in any order, and a task may merge a page again. A
server that the import did not list is marked as gone only after all pages are merged. Pages of an older generation are
ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.catalog import PAGE_ROWS, SERVER_TYPE, CatalogIndex, CatalogManager, CatalogRow
from wavelift.base.errors import BusyError, NotFoundError, PermanentError
from wavelift.base.run import Clock, DagRun
from wavelift.ledger import events
from wavelift.ledger.catalog_records import Catalog, CatalogEntry, CatalogServer, CatalogState, ImportCounts, ServerJob
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.records import ROWS_A_PAGE, Page
from wavelift.ledger.tables_catalog import catalog, catalog_server

EXPIRES_AFTER: Final = timedelta(days=14)
"""An import older than this is shown as EXPIRED. AWS SMS has this state but does not document the age."""
NOTICED: Final = (
    "name",
    "path",
    "vm_id",
    "instance_uuid",
    "guest_id",
    "guest_full_name",
    "template",
    "cpus",
    "memory_mib",
    "tags",
)
"""The fields whose change counts as a change of the server. Power state and used space change all the time."""

JobOf = Callable[[Tx, Sequence[CatalogServer]], Mapping[str, ServerJob]]
"""Maps the servers of one page to their jobs, by server id. It is called once per page, not once per row."""


def no_jobs(tx: Tx, servers: Sequence[CatalogServer]) -> Mapping[str, ServerJob]:
    """A :data:`JobOf` that finds no jobs."""
    return {}


def server_id(connection: str, identity: str) -> str:
    """The id of a server. It is the same in every import."""
    return f"s-{hashlib.sha256(f'{connection}/{identity}'.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFilter:
    """Which servers to list. A field that is not set does not restrict the list."""

    connections: Collection[str] | None = None
    search: str = ""
    """Part of a name, path, id, VM id or guest. Case does not matter."""
    tag: str = ""
    """An exact ``category:tag``."""
    gone: bool | None = False
    """True: only servers that are gone. None: all servers."""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        wanted: list[sa.ColumnElement[bool]] = []
        if self.connections is not None:
            wanted.append(catalog_server.c.connection.in_(self.connections))
        if self.search:
            text = self.search.lower()
            fields = ("name", "path", "id", "vm_id", "guest_full_name")
            looked = (sa.func.lower(catalog_server.c[name]).contains(text, autoescape=True) for name in fields)
            wanted.append(sa.or_(*looked))
        if self.tag:
            stored = sa.cast(sa.type_coerce(catalog_server.c.tags, sa.JSON), sa.Text)
            wanted.append(stored.contains(json.dumps(self.tag), autoescape=True))
        if self.gone is not None:
            wanted.append(catalog_server.c.gone.is_(self.gone))
        return wanted


def lock_name(connection: str) -> str:
    """The lock under which one connection's catalogue changes. Every function that changes it needs this lock."""
    return f"catalog/{connection}"


# Reading


def get_catalog(tx: Tx, connection: str, *, clock: Clock) -> Catalog:
    """The catalogue of a connection. Its state is NOT_IMPORTED if it was never imported."""
    now = clock.now()
    found = _find(tx, connection)
    return _aged(found, now) if found else _never(connection, now)


def list_catalogs(tx: Tx, *, clock: Clock) -> tuple[Catalog, ...]:
    """All catalogues that were ever imported, sorted by connection."""
    now = clock.now()
    rows = tx.execute(sa.select(catalog).order_by(catalog.c.connection))
    return tuple(_aged(Catalog(**row._asdict()), now) for row in rows)


def list_servers(
    tx: Tx,
    which: ServerFilter | None = None,
    *,
    limit: int = ROWS_A_PAGE,
    offset: int = 0,
    job_of: JobOf = no_jobs,
) -> Page[CatalogEntry]:
    """One page of servers, sorted by name, each with its replication job."""
    conditions = (which or ServerFilter()).conditions()
    rows = (
        sa.select(catalog_server)
        .where(*conditions)
        .order_by(catalog_server.c.name, catalog_server.c.id)
        .limit(limit)
        .offset(offset)
    )
    total = tx.execute(sa.select(sa.func.count()).select_from(catalog_server).where(*conditions)).scalar_one()
    servers = tuple(CatalogServer(**row._asdict()) for row in tx.execute(rows))
    jobs = job_of(tx, servers)
    items = tuple(CatalogEntry(server=server, job=jobs.get(server.id)) for server in servers)
    return Page(items=items, total=total, limit=limit, offset=offset)


# Writing: the steps of one import, in order


def begin_import(tx: Tx, connection: str, *, connector: str, run: DagRun, by: str, clock: Clock) -> Catalog:
    """Begin an import, or continue the one that this DAG run began. An older import that still runs is superseded.

    Every later call passes the ``generation`` of the result.
    """
    now = clock.now()
    require_lock(tx, lock_name(connection))
    known = _find(tx, connection, lock=True)
    if known and known.state is CatalogState.IMPORTING and known.run == run:
        return known
    before = known or _never(connection, now)
    values: dict[str, Any] = {
        "connector": connector,
        "state": CatalogState.IMPORTING,
        "state_before": before.state_before if before.state is CatalogState.IMPORTING else before.state,
        "generation": before.generation + 1,
        "merged_pages": [],
        "error": "",
        "modified_at": now,
        "dag_id": run.dag_id,
        "dag_run_id": run.dag_run_id,
    }
    if known is None:
        tx.execute(catalog.insert().values(connection=connection, **values))
    else:
        tx.execute(catalog.update().where(catalog.c.connection == connection).values(**values))
    made = _get(tx, connection)
    overtaken = known.generation if known and known.state is CatalogState.IMPORTING else None
    _append(tx, made, "import_started", now, by=by, details={"connector": connector, "overtakes": overtaken})
    return made


def merge_page(
    tx: Tx, connection: str, generation: int, *, number: int, rows: Sequence[CatalogRow], clock: Clock
) -> bool:
    """Merge page ``number`` (from 0) of an import. Merging a page twice has the effect of merging it once.

    :returns: False if a newer import or a clear superseded this one; then nothing is written.
    :raises PermanentError: the page has more than :data:`PAGE_ROWS` rows.
    """
    if len(rows) > PAGE_ROWS:
        raise PermanentError(f"A page of the catalogue has {len(rows)} rows", next_step=f"Send {PAGE_ROWS} at most.")
    now = clock.now()
    require_lock(tx, lock_name(connection))
    known = _find(tx, connection, lock=True)
    if known is None or not _is_running(known, generation):
        return False
    changes = _merge(tx, known, {row.identity: row for row in rows}, now)
    pages = sorted({*known.merged_pages, number})
    same = catalog.c.connection == connection
    tx.execute(catalog.update().where(same).values(merged_pages=pages, modified_at=now))
    _append(tx, known, "page_merged", now, details={"page": number, "rows": len(rows), **changes})
    return True


def finish_import(
    tx: Tx, connection: str, generation: int, *, index: CatalogIndex, clock: Clock
) -> ImportCounts | None:
    """Mark the servers that this import did not list as gone, and set the catalogue to AVAILABLE. A second call changes
    nothing.

    :param index: has the number of pages. All of them must be merged.
    :returns: the counts; None if a newer import or a clear superseded this one.
    :raises BusyError: a page is not merged yet.
    """
    now = clock.now()
    require_lock(tx, lock_name(connection))
    known = _find(tx, connection, lock=True)
    if known is None or known.generation != generation:
        return None
    if known.state is CatalogState.AVAILABLE:
        return _counts(tx, connection, generation)
    if not _is_running(known, generation):
        return None
    missing = sorted(set(range(index.pages)) - set(known.merged_pages))
    if missing:
        raise BusyError(
            f"{len(missing)} of {index.pages} pages of the import are not merged yet",
            next_step="The task tries again by itself.",
            connection=connection,
            pages=", ".join(map(str, missing[:5])),
        )
    _mark_gone(tx, connection, generation)
    _set_manager(tx, connection, index.manager)
    tx.execute(
        catalog.update()
        .where(catalog.c.connection == connection)
        .values(
            state=CatalogState.AVAILABLE,
            imported_at=now,
            modified_at=now,
            error="",
            tags_unknown=index.tags_unknown,
            manager_id=index.manager.id,
            manager_name=index.manager.name,
            manager_type=index.manager.type,
            manager_product=index.manager.product,
        )
    )
    found = _counts(tx, connection, generation)
    story = {"servers": found.servers, "new": found.new, "changed": found.changed, "gone": found.gone}
    _append(tx, known, "imported", now, details=story)
    return found


def abort_import(tx: Tx, connection: str, generation: int, error: str, *, clock: Clock) -> bool:
    """End an import that failed. The catalogue returns to its previous state and keeps the rows that were merged.

    :returns: False if the import has already ended or a newer one is running.
    """
    now = clock.now()
    require_lock(tx, lock_name(connection))
    known = _find(tx, connection, lock=True)
    if known is None or not _is_running(known, generation):
        return False
    tx.execute(
        catalog.update()
        .where(catalog.c.connection == connection)
        .values(state=known.state_before, error=error, modified_at=now)
    )
    _append(tx, known, "import_failed", now, details={"error": error})
    return True


def clear(tx: Tx, connection: str, *, by: str, clock: Clock) -> int:
    """Delete the servers of a connection and return their number. An import that is running can write no more.

    Jobs and migrations stay. They hold their own data about servers.

    :raises NotFoundError: the connection was never imported.
    """
    now = clock.now()
    require_lock(tx, lock_name(connection))
    known = _get(tx, connection, lock=True)
    removed = tx.execute(catalog_server.delete().where(catalog_server.c.connection == connection)).rowcount
    tx.execute(
        catalog.update()
        .where(catalog.c.connection == connection)
        .values(
            state=CatalogState.DELETED,
            generation=known.generation + 1,
            merged_pages=[],
            imported_at=None,
            error="",
            modified_at=now,
        )
    )
    _append(tx, known, "cleared", now, by=by, details={"servers": removed})
    return int(removed)


# Helpers


def _find(tx: Tx, connection: str, *, lock: bool = False) -> Catalog | None:
    query = sa.select(catalog).where(catalog.c.connection == connection)
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    return Catalog(**row._asdict()) if row else None


def _get(tx: Tx, connection: str, *, lock: bool = False) -> Catalog:
    known = _find(tx, connection, lock=lock)
    if known is None:
        raise NotFoundError(
            "No catalogue was ever imported from this connection",
            next_step="See `wavelift catalog list`.",
            connection=connection,
        )
    return known


def _never(connection: str, now: datetime) -> Catalog:
    empty = dict.fromkeys(
        ("connector", "manager_id", "manager_name", "manager_type", "manager_product", "tags_unknown", "error"), ""
    )
    return Catalog(
        connection=connection,
        state=CatalogState.NOT_IMPORTED,
        state_before=CatalogState.NOT_IMPORTED,
        generation=0,
        merged_pages=[],
        imported_at=None,
        modified_at=now,
        dag_id="",
        dag_run_id="",
        **empty,
    )


def _aged(known: Catalog, now: datetime) -> Catalog:
    old = known.imported_at is not None and now - known.imported_at > EXPIRES_AFTER
    return replace(known, state=CatalogState.EXPIRED) if old and known.state is CatalogState.AVAILABLE else known


def _is_running(known: Catalog, generation: int) -> bool:
    return known.generation == generation and known.state is CatalogState.IMPORTING


def _merge(tx: Tx, known: Catalog, rows: Mapping[str, CatalogRow], now: datetime) -> dict[str, int]:
    """Insert new servers and update known ones, in three statements per page."""
    mine = (catalog_server.c.connection == known.connection) & catalog_server.c.identity.in_(rows)
    old = {row.identity: CatalogServer(**row._asdict()) for row in tx.execute(sa.select(catalog_server).where(mine))}
    inserts = [_new(known, row, now) for identity, row in rows.items() if identity not in old]
    updates = [_renewed(known, old[identity], row, now) for identity, row in rows.items() if identity in old]
    if inserts:
        tx.execute(catalog_server.insert(), inserts)
    if updates:
        names = [name for name in updates[0] if name != "row_id"]
        same = catalog_server.c.id == sa.bindparam("row_id")
        values = {name: sa.bindparam(f"to_{name}", type_=catalog_server.c[name].type) for name in names}
        tx.execute(
            catalog_server.update().where(same).values(values),
            [{"row_id": one["row_id"], **{f"to_{name}": one[name] for name in names}} for one in updates],
        )
    return {"new": len(inserts), "known": len(updates)}


def _values(row: CatalogRow) -> dict[str, Any]:
    values = row.model_dump()
    return {**values, "tags": row.tags}


def _new(known: Catalog, row: CatalogRow, now: datetime) -> dict[str, Any]:
    return {
        **_values(row),
        "id": server_id(known.connection, row.identity),
        "connection": known.connection,
        "identity": row.identity,
        "type": SERVER_TYPE,
        "manager_name": known.manager_name,
        "manager_type": known.manager_type,
        "manager_id": known.manager_id,
        "gone": False,
        "first_seen": now,
        "last_seen": now,
        "first_generation": known.generation,
        "changed_generation": known.generation,
        "seen_generation": known.generation,
        "gone_generation": None,
    }


def _renewed(known: Catalog, old: CatalogServer, row: CatalogRow, now: datetime) -> dict[str, Any]:
    changed = old.gone or any(getattr(old, name) != getattr(row, name) for name in NOTICED)
    return {
        **_values(row),
        "row_id": old.id,
        "gone": False,
        "last_seen": now,
        "changed_generation": known.generation if changed else old.changed_generation,
        "seen_generation": known.generation,
        "gone_generation": None,
    }


def _mark_gone(tx: Tx, connection: str, generation: int) -> None:
    missed = (
        (catalog_server.c.connection == connection)
        & (catalog_server.c.seen_generation != generation)
        & catalog_server.c.gone.is_(False)
    )
    tx.execute(catalog_server.update().where(missed).values(gone=True, gone_generation=generation))


def _set_manager(tx: Tx, connection: str, manager: CatalogManager) -> None:
    """Write the vCenter's identity to all rows. The pages are merged before it is stored."""
    values = {"manager_id": manager.id, "manager_name": manager.name, "manager_type": manager.type}
    tx.execute(catalog_server.update().where(catalog_server.c.connection == connection).values(**values))


def _counts(tx: Tx, connection: str, generation: int) -> ImportCounts:
    mine, first = catalog_server.c.connection == connection, catalog_server.c.first_generation
    changed = (catalog_server.c.changed_generation == generation) & (first != generation)
    conditions: Iterable[sa.ColumnElement[bool]] = (
        catalog_server.c.gone.is_(False),
        first == generation,
        changed,
        catalog_server.c.gone_generation == generation,
    )
    columns = [sa.func.coalesce(sa.func.sum(sa.case((one, 1), else_=0)), 0) for one in conditions]
    servers, new, altered, gone = tx.execute(sa.select(*columns).where(mine)).one()
    return ImportCounts(servers=int(servers), new=int(new), changed=int(altered), gone=int(gone))


def _append(tx: Tx, known: Catalog, action: str, at: datetime, *, by: str = "", details: Mapping[str, Any]) -> None:
    subject = events.Subject("catalog", known.connection, known.run)
    story = {"generation": known.generation, **details}
    events.append(tx, subject, f"catalog.{action}", at=at, actor=by or str(known.run), details=story)
