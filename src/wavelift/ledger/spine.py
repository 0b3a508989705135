"""What the tables of migrations, replication jobs and replication runs have in common.

:class:`Rows` finds, lists and changes the rows of one table; a change checks the row's version and writes its line in
the audit trail. :class:`ServerRuns` adds what a row has that follows one server through one DAG run: progress, the
vSphere snapshot, the request to cancel, and the end. ``jobs``, ``migrations`` and ``replication_runs`` each make one
object of them and add their own queries and steps; ``server_runs`` lists those that are :class:`ServerRuns`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import sqlalchemy as sa

from wavelift.base.errors import BusyError, NotFoundError, PermanentError
from wavelift.base.names import run_hash
from wavelift.base.run import Clock, DagRun
from wavelift.ledger import events
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.records import Bound, Page, ServerRun, SnapshotState
from wavelift.rules.flows import Flow


class Record(Protocol):
    """A row that has a life-cycle, and a version that grows with every change."""

    @property
    def id(self) -> str: ...
    @property
    def server(self) -> str: ...
    @property
    def state(self) -> Any: ...
    @property
    def version(self) -> int: ...


R = TypeVar("R", bound=Record)
S = TypeVar("S", bound=ServerRun[Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The names of a row in events and errors."""

    kind: str
    """In events: ``replication_run``."""
    noun: str
    """In errors: ``replication run``."""
    key: str
    """The key of the id in an error: ``run``."""
    listing: str
    """Where the ids are found."""
    busy: str = "The task tries again by itself."
    """What to do when another process changed the row at the same moment."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of the current step."""

    words: str
    percent: int
    bytes_done: int | None = field(default=None, kw_only=True)
    bytes_total: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningImport:
    """A VM Import task that AWS works on.

    :param run: the run hash in its tag. Empty: it has no such tag.
    """

    id: str
    phase: str
    percent: int
    run: str


def of_run(table: sa.Table, run: DagRun) -> sa.ColumnElement[bool]:
    """The rows of one DAG run."""
    return (table.c.dag_id == run.dag_id) & (table.c.dag_run_id == run.dag_run_id)


def matching(
    table: sa.Table, equal: Mapping[str, object], among: Mapping[str, Collection[Any] | None]
) -> list[sa.ColumnElement[bool]]:
    """Conditions by column. None adds no condition; an empty collection matches nothing."""
    found = [table.c[name] == value for name, value in equal.items() if value is not None]
    return [*found, *(table.c[name].in_(values) for name, values in among.items() if values is not None)]


def containing(table: sa.Table, text: str, names: Sequence[str]) -> sa.ColumnElement[bool]:
    """The rows with ``text`` in one of these columns. Case does not matter."""
    return sa.or_(*(table.c[name].icontains(text, autoescape=True) for name in names))


class Rows(Generic[R]):
    """The rows of one table."""

    def __init__(self, table: sa.Table, record: type[R], words: Words) -> None:
        self.table = table
        self.record = record
        self.words = words

    def find(self, tx: Tx, id: str, *, lock: bool = False) -> R | None:
        """One row; None if there is none. ``lock`` locks it until the transaction ends."""
        query = sa.select(self.table).where(self.table.c.id == id)
        row = tx.execute(query.with_for_update() if lock else query).one_or_none()
        return self._record(row) if row else None

    def get(self, tx: Tx, id: str, *, lock: bool = False) -> R:
        """:raises NotFoundError: there is none."""
        known = self.find(tx, id, lock=lock)
        if known is None:
            raise NotFoundError(
                f"The ledger knows no such {self.words.noun}",
                next_step=f"See {self.words.listing}.",
                **{self.words.key: id},
            )
        return known

    def all(
        self, tx: Tx, *where: sa.ColumnElement[bool], order: Sequence[Any] = (), limit: int | None = None
    ) -> tuple[R, ...]:
        """All rows for which all conditions hold."""
        query = sa.select(self.table).where(*where).order_by(*order).limit(limit)
        return tuple(self._record(row) for row in tx.execute(query))

    def page(
        self, tx: Tx, where: Sequence[sa.ColumnElement[bool]], *, order: Sequence[Any], limit: int, offset: int
    ) -> Page[R]:
        """One page of the rows for which all conditions hold."""
        total = tx.execute(sa.select(sa.func.count()).select_from(self.table).where(*where)).scalar_one()
        rows = tx.execute(sa.select(self.table).where(*where).order_by(*order).limit(limit).offset(offset))
        return Page(items=tuple(self._record(row) for row in rows), total=total, limit=limit, offset=offset)

    def insert(self, tx: Tx, **columns: Any) -> R:
        """Create a row. The caller writes the event."""
        made = self._record(tx.execute(self.table.insert().values(**columns).returning(self.table)).one())
        require_lock(tx, *self.locks(made))
        return made

    def apply(
        self,
        tx: Tx,
        known: R,
        action: str,
        *,
        at: datetime,
        by: str | DagRun,
        details: Mapping[str, Any] | None = None,
        **columns: Any,
    ) -> R:
        """Change a row and write an event.

        :param by: a person or a DAG run.
        :param columns: the changes. A new ``state`` must be allowed by the life-cycle.
        :raises BusyError: the row was changed since ``known`` was read.
        """
        require_lock(tx, *self.locks(known))
        story = dict(details or {})
        to = columns.get("state")
        if to is not None:
            self._require_way(known, to)
            columns = {**self._arrival(known, to, at), **columns}
            story |= {"from": known.state, "to": to}
        same = (self.table.c.id == known.id) & (self.table.c.version == known.version)
        change = self.table.update().where(same).values(updated_at=at, version=known.version + 1, **columns)
        row = tx.execute(change.returning(self.table)).one_or_none()
        if row is None:
            raise BusyError(
                f"Another process changed this {self.words.noun} at the same moment",
                next_step=self.words.busy,
                **{self.words.key: known.id},
                server=known.server,
            )
        changed = self._record(row)
        self.tell(tx, changed, action, at=at, by=by, details=story)
        return changed

    def tell(
        self,
        tx: Tx,
        known: R,
        action: str,
        *,
        at: datetime,
        by: str | DagRun,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Write an event about a row."""
        run = by if isinstance(by, DagRun) else self._run_of(known)
        subject = events.Subject(self.words.kind, known.id, run)
        events.append(tx, subject, f"{self.words.kind}.{action}", at=at, actor=str(by), details=details)

    def locks(self, known: R) -> tuple[str, ...]:
        """The named locks that a change of this row needs."""
        return ()

    def _record(self, row: sa.Row[Any]) -> R:
        return self.record(**row._asdict())

    def _require_way(self, known: R, to: Any) -> None:
        """:raises PermanentError: the life-cycle does not allow the change to the state ``to``."""
        raise NotImplementedError

    def _arrival(self, known: R, to: Any, at: datetime) -> Mapping[str, Any]:
        """The columns that a new state sets by default."""
        return {}

    def _run_of(self, known: R) -> DagRun | None:
        """The DAG run that a row belongs to."""
        return None


class ServerRuns(Rows[S]):
    """The rows of one table that follow servers through the DAG runs of one flow."""

    step: str
    """The column with the current step in words."""
    begun: str
    """The column with the time at which the row was created."""
    started: str
    """A column that has a value once its work began."""

    @property
    def flow(self) -> Flow:
        return self.record.flow

    def id_of(self, run_key: str) -> str:
        """The id for a run key. It is known before the row exists."""
        return self.id_of_hash(run_hash(run_key))

    def id_of_hash(self, hash: str) -> str:
        """The id for the run hash that names and tags outside end with."""
        return f"{self.flow.prefix}{hash}"

    def started_runs(self, tx: Tx, wave: str) -> tuple[tuple[DagRun, str], ...]:
        """DAG run and server of each row of the wave whose work began, newest first. It may have made something
        outside."""
        columns = self.table.c
        query = sa.select(columns.dag_id, columns.dag_run_id, columns.server).where(
            columns.wave == wave, columns[self.started].is_not(None)
        )
        found = tx.execute(query.order_by(columns[self.begun].desc(), columns.id))
        return tuple((DagRun(dag_id, dag_run_id), server) for dag_id, dag_run_id, server in found)

    def of_dag_run(self, tx: Tx, run: DagRun) -> tuple[S, ...]:
        """All rows of one DAG run, sorted by server."""
        return self.all(tx, of_run(self.table, run), order=(self.table.c.server,))

    def count_active(self, tx: Tx, connector: str) -> int:
        """The number of rows that have not ended and keep a connector in use."""
        raise NotImplementedError

    def record_import_progress(self, tx: Tx, imports: Collection[RunningImport], *, clock: Clock) -> None:
        """Store phase and percent of running imports. Imports of other flows are ignored.

        A flow without a step that holds an import stores nothing.
        """

    def open_snapshots(self, tx: Tx, wave: str) -> tuple[S, ...]:
        """The rows of the wave whose vSphere snapshot may exist: its name is stored, and its removal is not."""
        standing = self.table.c.snapshot_state == SnapshotState.INTENDED
        return self.all(tx, self.table.c.wave == wave, standing, order=(self.table.c[self.begun], self.table.c.id))

    def with_snapshot(self, tx: Tx, run_keys: Collection[str]) -> tuple[str, ...]:
        """Those of ``run_keys`` of which a vSphere snapshot was intended, whether or not it is removed."""
        query = sa.select(self.table.c.run_key).where(
            self.table.c.id.in_([self.id_of(key) for key in run_keys]), self.table.c.snapshot_state.is_not(None)
        )
        return tuple(tx.execute(query).scalars())

    def begin(self, tx: Tx, *, at: datetime, run: DagRun, run_key: str, **columns: Any) -> S:
        """Create a row. The caller writes the event."""
        return self.insert(
            tx,
            id=self.id_of(run_key),
            run_key=run_key,
            dag_id=run.dag_id,
            dag_run_id=run.dag_run_id,
            updated_at=at,
            **{self.begun: at},
            **columns,
        )

    def apply(
        self,
        tx: Tx,
        known: S,
        action: str,
        *,
        at: datetime,
        by: str | DagRun = "",
        details: Mapping[str, Any] | None = None,
        **columns: Any,
    ) -> S:
        """:param by: as in :meth:`Rows.apply`. Empty: the DAG run that the row belongs to."""
        return super().apply(tx, known, action, at=at, by=by or known.run, details=details, **columns)

    def note(self, tx: Tx, id: str, action: str, *, clock: Clock, by: str = "", **columns: Any) -> S:
        """:meth:`apply` by id."""
        return self.apply(tx, self.held(tx, id), action, at=clock.now(), by=by, **columns)

    def held(self, tx: Tx, id: str) -> S:
        """The row; no other transaction can change it before this one ends."""
        return self.get(tx, id, lock=True)

    def progress(self, tx: Tx, where: sa.ColumnElement[bool], progress: Progress, *, clock: Clock) -> None:
        """Store the progress of the current step. This writes no event: there would be thousands."""
        require_lock(tx)
        sizes = {"bytes_done": progress.bytes_done, "bytes_total": progress.bytes_total}
        tx.execute(
            self.table.update()
            .where(where)
            .values(
                progress_pct=max(0, min(100, progress.percent)),
                updated_at=clock.now(),
                **{self.step: progress.words},
                **{name: size for name, size in sizes.items() if size is not None},
            )
        )

    def bind(self, tx: Tx, id: str, bound: Bound, *, clock: Clock) -> S:
        """Store what the row is bound to. Needs the locks of the row. A repeated call changes nothing."""
        known = self.held(tx, id)
        value = bound.dump()
        return (
            known
            if known.bound == value
            else self.apply(tx, known, "bound", at=clock.now(), bound=value, details=value)
        )

    def intend_snapshot(self, tx: Tx, id: str, *, name: str, vm: str, clock: Clock, state: Any = None) -> S:
        """Store the snapshot's name before the snapshot is taken. So it is found even if the task is killed.

        :param vm: managed object id. :param state: the new state, if it changes.
        """
        columns = {"snapshot_state": SnapshotState.INTENDED, "snapshot_name": name, "snapshot_vm": vm}
        if state is not None:
            columns["state"] = state
        return self.note(tx, id, "snapshot_intended", clock=clock, **columns)

    def snapshot_removed(self, tx: Tx, id: str, *, by: str = "", clock: Clock) -> S:
        """vCenter does not have the snapshot any more.

        :param by: who removed it, if it was not the run itself.
        """
        return self.note(tx, id, "snapshot_removed", clock=clock, by=by, snapshot_state=SnapshotState.REMOVED)

    def request_cancel(self, tx: Tx, id: str, *, by: str, clock: Clock) -> S:
        """Store the request to cancel. The caller stops the tasks; control-plane tasks check the request before they
        write. A second request changes nothing.

        :raises PermanentError: the row has already ended.
        """
        known = self.held(tx, id)
        if known.state.terminal:
            raise PermanentError(
                f"The {self.words.noun} has already ended: it is {known.state}",
                next_step="Nothing needs to be cancelled.",
                **{self.words.key: id},
                server=known.server,
            )
        if known.cancel_requested:
            return known
        return self.apply(tx, known, "cancel_requested", at=clock.now(), by=by, cancel_requested=True)

    def end(self, tx: Tx, known: S, state: Any, why: str, *, at: datetime, **columns: Any) -> S:
        """End as failed or cancelled."""
        return self.apply(tx, known, str(state), at=at, state=state, error=why, details={"error": why}, **columns)

    def _arrival(self, known: S, to: Any, at: datetime) -> Mapping[str, Any]:
        return {"finished_at": at if to.terminal else None}

    def _run_of(self, known: S) -> DagRun | None:
        return known.run
