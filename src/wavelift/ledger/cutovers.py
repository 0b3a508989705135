"""Cutovers of servers, the steps that they can undo, and the answers to their plans.

Every change needs the lock of the wave's jobs (:func:`wavelift.ledger.jobs.lock_name`): what a cutover may do and what
a replication run may do are decided together. Every change writes an event to the audit trail.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.errors import BusyError
from wavelift.base.names import run_hash
from wavelift.base.run import Clock, DagRun
from wavelift.ledger import events, jobs
from wavelift.ledger.cutover_records import Approval, Cutover, StepRow
from wavelift.ledger.database import Tx
from wavelift.ledger.records import ROWS_A_PAGE, Page
from wavelift.ledger.spine import Rows, Words, containing, matching, of_run
from wavelift.ledger.tables_cutover import approval, cutover, cutover_step
from wavelift.rules.cutover import OPEN, SYNCING, WITHHOLDING, CutoverState, StepState, require_step_way, require_way
from wavelift.rules.flows import CUTOVER, REPLICATE

CUTOVER_KIND: Final = "cutover"
"""Subject of the steps of a cutover; the id is the cutover's."""
PREPARED_KIND: Final = "prepared"
"""Subject of what ``prepare`` changed for a server (TTLs, interfaces). It outlives one cutover: ``wave/server``."""
RUN_KIND: Final = "cutover_run"
"""Subject of an approval: ``dag_id/dag_run_id``."""


def cutover_id(run_key: str) -> str:
    """The id of the cutover that one server has in one DAG run."""
    return f"{CUTOVER.prefix}{run_hash(run_key)}"


def prepared_id(wave: str, server: str) -> str:
    return f"{wave}/{server}"


def run_subject(run: DagRun) -> str:
    return f"{run.dag_id}/{run.dag_run_id}"


class _Cutovers(Rows[Cutover]):
    def locks(self, known: Cutover) -> tuple[str, ...]:
        return (jobs.lock_name(known.wave),)

    def _require_way(self, known: Cutover, to: CutoverState) -> None:
        require_way(known.state, to, cutover=known.id)

    def _arrival(self, known: Cutover, to: CutoverState, at: datetime) -> Mapping[str, Any]:
        return {"finished_at": at if to.terminal else None}


_rows = _Cutovers(
    cutover,
    Cutover,
    Words(kind="cutover", noun="cutover", key="cutover", listing="the list of cutovers (`wavelift cutover list`)"),
)
ROWS: Final = _rows
find = _rows.find
get = _rows.get
apply = _rows.apply
tell = _rows.tell


# Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class CutoverFilter:
    """Which cutovers to list. Fields that are not set do not restrict it."""

    wave: str | None = None
    waves: Collection[str] | None = None
    """Waves that the caller may read. If it is empty, the list is empty."""
    server: str | None = None
    states: Collection[CutoverState] | None = None
    run: DagRun | None = None
    search: str = ""
    """Part of an id, server, wave, note, image or instance id. Case does not matter."""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        found = matching(
            cutover, {"wave": self.wave, "server": self.server}, {"wave": self.waves, "state": self.states}
        )
        if self.run is not None:
            found.append(of_run(cutover, self.run))
        if self.search:
            columns = ("id", "server", "wave", "note", "image_id", "instance_id")
            found.append(containing(cutover, self.search, columns))
        return found


def list_cutovers(
    tx: Tx, which: CutoverFilter | None = None, *, limit: int = ROWS_A_PAGE, offset: int = 0
) -> Page[Cutover]:
    """One page of cutovers, newest first."""
    order = (cutover.c.requested_at.desc(), cutover.c.id)
    return _rows.page(tx, (which or CutoverFilter()).conditions(), order=order, limit=limit, offset=offset)


def of_dag_run(tx: Tx, run: DagRun) -> tuple[Cutover, ...]:
    """The cutovers that a DAG run opened, by server."""
    return _rows.all(tx, of_run(cutover, run), order=(cutover.c.server,))


def ended_by(tx: Tx, run: DagRun) -> tuple[Cutover, ...]:
    """The cutovers that a DAG run reverts or finalizes, or has, by server."""
    of_dag = cutover.c.dag_id == run.dag_id
    mine = (cutover.c.revert_run == run.dag_run_id) | (cutover.c.finalize_run == run.dag_run_id)
    return _rows.all(tx, of_dag, mine, order=(cutover.c.server,))


def read_back_by(tx: Tx, run: DagRun, wave: str) -> frozenset[str]:
    """The ids of the replication runs that this DAG run reads back for cutovers: its id was written into their rows
    before it was triggered."""
    found = _rows.all(tx, cutover.c.wave == wave, cutover.c.verify_run == run.dag_run_id)
    return frozenset(each.run_id for each in found if run.dag_id == REPLICATE.dag_id(wave) and each.run_id)


def open_of(tx: Tx, wave: str, servers: Collection[str] | None = None) -> tuple[Cutover, ...]:
    """The open cutovers of a wave, by server."""
    where = [cutover.c.wave == wave, cutover.c.state.in_(OPEN)]
    if servers is not None:
        where.append(cutover.c.server.in_(servers))
    return _rows.all(tx, *where, order=(cutover.c.server,))


def withholding(tx: Tx, wave: str) -> dict[str, Cutover]:
    """Server → its open cutover that lets only runs of its own begin."""
    found = _rows.all(tx, cutover.c.wave == wave, cutover.c.state.in_(WITHHOLDING))
    return {each.server: each for each in found}


def served_by(tx: Tx, run: DagRun, wave: str) -> frozenset[str]:
    """The servers for whose open cutovers this DAG run may replicate: it is the run of the cutover itself, or one whose
    id was written into the cutover's row before it was triggered."""
    found = _rows.all(tx, cutover.c.wave == wave, cutover.c.state.in_(SYNCING))
    before = run.dag_id != CUTOVER.dag_id(wave)
    return frozenset(
        each.server for each in found if (run.dag_run_id in each.presync_runs if before else each.run == run)
    )


def everything_open(tx: Tx, *states: CutoverState) -> tuple[Cutover, ...]:
    """Every open cutover of the installation, or those in these states; oldest first."""
    return _rows.all(tx, cutover.c.state.in_(states or OPEN), order=(cutover.c.requested_at, cutover.c.id))


def finished_since(tx: Tx, since: datetime, *, wave: str | None = None) -> tuple[Cutover, ...]:
    """Cutovers that reached their instance, newest first: what forecasts are made of."""
    where = [cutover.c.instance_id != "", cutover.c.requested_at >= since]
    if wave is not None:
        where.append(cutover.c.wave == wave)
    return _rows.all(tx, *where, order=(cutover.c.requested_at.desc(), cutover.c.id))


# Writing


def insert(tx: Tx, *, at: datetime, by: str, run: DagRun, run_key: str, **columns: Any) -> Cutover:
    """Open a cutover. The database refuses a second open one of the server (:class:`sqlalchemy.exc.IntegrityError`)."""
    made = _rows.insert(
        tx,
        id=cutover_id(run_key),
        run_key=run_key,
        dag_id=run.dag_id,
        dag_run_id=run.dag_run_id,
        requested_at=at,
        updated_at=at,
        **columns,
    )
    _rows.tell(tx, made, str(made.state), at=at, by=by, details={"server": made.server, "wave": made.wave})
    return made


def note_time(tx: Tx, known: Cutover, moment: str, *, at: datetime, by: str | DagRun, **columns: Any) -> Cutover:
    """Record when something happened, with other changes. The first time stays when it happens again, unless the
    columns change the state."""
    times = dict(known.times or {})
    if moment not in times or "state" in columns:
        times[moment] = at.isoformat()
    return _rows.apply(tx, known, moment, at=at, by=by, times=times, **columns)


# Steps


def steps_of(tx: Tx, kind: str, id: str) -> tuple[StepRow, ...]:
    """The steps of a subject in their order."""
    where = (cutover_step.c.subject_kind == kind) & (cutover_step.c.subject_id == id)
    query = sa.select(cutover_step).where(where).order_by(cutover_step.c.position)
    return tuple(StepRow(**row._asdict()) for row in tx.execute(query))


def plan_steps(tx: Tx, kind: str, id: str, planned: Sequence[Mapping[str, Any]], *, at: datetime) -> None:
    """Write the steps of a subject. One that has begun keeps its row, whatever is planned now; one that is planned no
    more and was never begun goes.

    :param planned: each with name, kind, words, undo_words and spec.
    """
    known = {each.name: each for each in steps_of(tx, kind, id)}
    names = [each["name"] for each in planned]
    for name, row in known.items():
        if row.state is StepState.PLANNED or (row.state is StepState.UNDONE and name not in names):
            tx.execute(cutover_step.delete().where(_is_step(row)))
    for position, each in enumerate(planned):
        old = known.get(each["name"])
        if old is not None and old.state is not StepState.PLANNED:
            tx.execute(cutover_step.update().where(_is_step(old)).values(position=position, updated_at=at))
            continue
        columns = {"subject_kind": kind, "subject_id": id, "position": position, "state": StepState.PLANNED}
        tx.execute(cutover_step.insert().values(**columns, **each, updated_at=at))


def change_step(
    tx: Tx, known: StepRow, *, to: StepState, at: datetime, by: str | DagRun, run: DagRun | None = None, **columns: Any
) -> StepRow:
    """Bring a step to another state, and write an event.

    :raises PermanentError: it can't go there. :raises BusyError: it was changed since ``known`` was read.
    """
    require_step_way(known.state, to, step=known.name)
    change = cutover_step.update().where(_is_step(known) & (cutover_step.c.version == known.version))
    columns = {"error": "", "wait": None, **columns}
    row = tx.execute(
        change.values(state=to, updated_at=at, version=known.version + 1, **columns).returning(cutover_step)
    ).one_or_none()
    if row is None:
        raise BusyError("Another task changed this step at the same moment", step=known.name, subject=known.subject_id)
    changed = StepRow(**row._asdict())
    if to is not known.state:
        subject = events.Subject(f"{known.subject_kind}_step", f"{known.subject_id}/{known.name}", run)
        details = {"from": known.state, "to": to, "before": changed.before, "wanted": changed.wanted}
        events.append(tx, subject, f"step.{to}", at=at, actor=str(by), details=details)
    return changed


def _is_step(known: StepRow) -> sa.ColumnElement[bool]:
    return (
        (cutover_step.c.subject_kind == known.subject_kind)
        & (cutover_step.c.subject_id == known.subject_id)
        & (cutover_step.c.name == known.name)
    )


# Approvals


def approve(  # noqa: PLR0913  # one row
    tx: Tx,
    kind: str,
    id: str,
    digest: str,
    *,
    answer: str,
    by: str,
    requested_by: str,
    valid: timedelta,
    clock: Clock,
    note: str = "",
    run: DagRun | None = None,
) -> Approval:
    """Record an answer to a plan, and write an event."""
    at = clock.now()
    values = {
        "subject_kind": kind,
        "subject_id": id,
        "digest": digest,
        "answer": answer,
        "answered_by": by,
        "requested_by": requested_by,
        "answered_at": at,
        "valid_until": at + valid,
        "note": note,
    }
    row = tx.execute(approval.insert().values(**values).returning(approval)).one()
    details = {"digest": digest, "answer": answer, "valid_until": (at + valid).isoformat()}
    events.append(tx, events.Subject(kind, id, run), f"approval.{answer}", at=at, actor=by, details=details)
    return Approval(**row._asdict())


def newest_approval(tx: Tx, kind: str, id: str, digest: str) -> Approval | None:
    """The newest answer to a plan; None: nobody answered, or only to another plan."""
    where = (approval.c.subject_kind == kind) & (approval.c.subject_id == id) & (approval.c.digest == digest)
    row = tx.execute(sa.select(approval).where(where).order_by(approval.c.id.desc()).limit(1)).one_or_none()
    return Approval(**row._asdict()) if row else None
