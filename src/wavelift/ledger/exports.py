"""Instance exports. Every change needs the lock of the instance, and writes an event to the audit trail."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.names import run_hash
from wavelift.base.run import Clock, DagRun
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.export_records import InstanceExport
from wavelift.ledger.records import ROWS_A_PAGE, Page
from wavelift.ledger.spine import Rows, Words, containing, matching, of_run
from wavelift.ledger.tables_exports import instance_export
from wavelift.rules.flows import EXPORT
from wavelift.rules.instance_export import OPEN, ExportState, require_export_way

EXPORT_KIND: Final = "instance_export"
"""Of the subjects of its events."""


def export_id(run_key: str) -> str:
    """The id of the export of a DAG run."""
    return f"{EXPORT.prefix}{run_hash(run_key)}"


def lock_name(region: str, instance_id: str) -> str:
    return f"export:{region}:{instance_id}"


class _Exports(Rows[InstanceExport]):
    def locks(self, known: InstanceExport) -> tuple[str, ...]:
        return (lock_name(known.region, known.instance_id),)

    def _require_way(self, known: InstanceExport, to: ExportState) -> None:
        require_export_way(known.state, to, export=known.id)

    def _arrival(self, known: InstanceExport, to: ExportState, at: datetime) -> Mapping[str, Any]:
        return {"finished_at": at if to.terminal else None}

    def _run_of(self, known: InstanceExport) -> DagRun:
        return known.run


_rows = _Exports(
    instance_export,
    InstanceExport,
    Words(
        kind=EXPORT_KIND,
        noun="instance export",
        key="export",
        listing="the list of exports (`wavelift export list --all`)",
    ),
)
ROWS: Final = _rows
find = _rows.find
get = _rows.get
apply = _rows.apply
tell = _rows.tell


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFilter:
    """Which exports to list. Fields that are not set do not restrict it."""

    environment: str | None = None
    environments: Collection[str] | None = None
    """Environments that the caller may read. If it is empty, the list is empty."""
    instance_id: str | None = None
    subject: str | None = None
    """As it was asked for."""
    states: Collection[ExportState] | None = None
    run: DagRun | None = None
    since: datetime | None = None
    """Asked for at this instant or later."""
    search: str = ""
    """Part of an id, instance, key or note. Case does not matter."""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        found = matching(
            instance_export,
            {"environment": self.environment, "instance_id": self.instance_id, "subject": self.subject},
            {"environment": self.environments, "state": self.states},
        )
        if self.run is not None:
            found.append(of_run(instance_export, self.run))
        if self.since is not None:
            found.append(instance_export.c.requested_at >= self.since)
        if self.search:
            found.append(
                containing(instance_export, self.search, ("id", "instance_id", "subject", "object_key", "note"))
            )
        return found


def list_exports(
    tx: Tx, which: ExportFilter | None = None, *, limit: int = ROWS_A_PAGE, offset: int = 0
) -> Page[InstanceExport]:
    """One page of exports, newest first."""
    order = (instance_export.c.requested_at.desc(), instance_export.c.id)
    return _rows.page(tx, (which or ExportFilter()).conditions(), order=order, limit=limit, offset=offset)


def of_dag_run(tx: Tx, run: DagRun) -> InstanceExport | None:
    """The export of a DAG run; None: it has none."""
    return next(iter(_rows.all(tx, of_run(instance_export, run), limit=1)), None)


def open_of(tx: Tx, *, account: str, region: str, instance_id: str) -> InstanceExport | None:
    """The open export of an instance; None: there is none."""
    table = instance_export.c
    where = (
        table.account == account,
        table.region == region,
        table.instance_id == instance_id,
        table.state.in_(OPEN),
    )
    return next(iter(_rows.all(tx, *where, limit=1)), None)


def everything_open(tx: Tx) -> tuple[InstanceExport, ...]:
    """Every open export of the installation, oldest first."""
    table = instance_export.c
    return _rows.all(tx, table.state.in_(OPEN), order=(table.requested_at, table.id))


def with_tasks(tx: Tx, task_ids: Collection[str]) -> tuple[InstanceExport, ...]:
    """The open exports that these tasks of AWS belong to."""
    table = instance_export.c
    return _rows.all(tx, table.task_id.in_(task_ids), table.state.in_(OPEN)) if task_ids else ()


def insert(tx: Tx, *, at: datetime, by: str, run: DagRun, run_key: str, **columns: Any) -> InstanceExport:
    """Write an export down; the database refuses a second open one of the instance.

    :raises WaveliftError: there is one. Whoever asks first under the lock of the instance never meets that."""
    made = _rows.insert(
        tx,
        id=export_id(run_key),
        run_key=run_key,
        dag_id=run.dag_id,
        dag_run_id=run.dag_run_id,
        requested_at=at,
        updated_at=at,
        **{
            "state": ExportState.QUEUED,
            "phase": "",
            "error": "",
            "method": "",
            "task_id": "",
            "object_key": "",
            **columns,
        },
    )
    _rows.tell(tx, made, str(made.state), at=at, by=by, details={"instance": made.instance_id})
    return made


def record_progress(tx: Tx, id: str, *, phase: str, percent: int, clock: Clock) -> None:
    """Store phase and percent of an open export. This writes no event, and leaves the version: whoever decides
    something meanwhile is not disturbed."""
    require_lock(tx)
    table = instance_export.c
    where = (table.id == id, table.state.in_(OPEN))
    values = {"phase": phase, "percent": max(0, min(100, percent)), "updated_at": clock.now()}
    tx.execute(instance_export.update().where(*where).values(**values))


def completed_since(tx: Tx, since: datetime) -> tuple[InstanceExport, ...]:
    """The exports that completed at this instant or later, oldest first."""
    table = instance_export.c
    where = (table.state == ExportState.COMPLETED, table.finished_at >= since)
    return _rows.all(tx, *where, order=(table.finished_at, table.id))


def note_time(
    tx: Tx, known: InstanceExport, moment: str, *, at: datetime, by: str | DagRun, **columns: Any
) -> InstanceExport:
    """Record when something happened, with other changes."""
    times = {**(known.times or {}), moment: at.isoformat()}
    return _rows.apply(tx, known, moment, at=at, by=by, times=times, **columns)
