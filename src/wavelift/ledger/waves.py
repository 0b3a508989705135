"""Runs of a wave, each with the spec as it was resolved when the run began."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.errors import NotFoundError
from wavelift.base.run import Clock, DagRun
from wavelift.ledger import events
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.records import WaveRun, WaveRunState
from wavelift.ledger.tables import wave_run

LOCK: Final = "wave_run"
"""The lock under which runs of waves are written down."""


def freeze_wave_run(
    tx: Tx,
    *,
    run: DagRun,
    wave: str,
    mode: str,
    requested_by: str,
    source: str,
    spec: Mapping[str, Any],
    note: str = "",
    clock: Clock,
) -> WaveRun:
    """Freeze the resolved ``spec`` for this run; a repeated call returns what was frozen first, whatever it says now.

    So an edit of the YAML never reaches a run that has begun. The run counts as running again (its admission was
    cleared). Needs :data:`LOCK`.

    :param mode: ``migrate``, ``plan`` or ``preflight``.
    :param source: ``ui``, ``api`` or ``schedule``.
    """
    now = clock.now()
    require_lock(tx, LOCK)
    known = find(tx, run)
    if known is None:
        tx.execute(
            wave_run.insert().values(
                dag_id=run.dag_id,
                dag_run_id=run.dag_run_id,
                wave=wave,
                mode=mode,
                requested_by=requested_by,
                source=source,
                spec=dict(spec),
                note=note,
                state=WaveRunState.RUNNING,
                created_at=now,
            )
        )
        _append(tx, run, now, "wave_run.frozen", requested_by, {"wave": wave, "mode": mode, "source": source})
    elif known.state is not WaveRunState.RUNNING:
        _set_state(tx, run, WaveRunState.RUNNING, None)
        _append(tx, run, now, "wave_run.reopened", requested_by, {"was": known.state})
    return get(tx, run)


def finish_wave_run(tx: Tx, run: DagRun, state: WaveRunState, *, clock: Clock) -> WaveRun:
    """Write down how the run ended. May be repeated: a cleared server makes the report run again.
    Needs :data:`LOCK`.

    :raises NotFoundError: when the run was never frozen.
    """
    now = clock.now()
    require_lock(tx, LOCK)
    known = get(tx, run)
    _set_state(tx, run, state, None if state is WaveRunState.RUNNING else now)
    if known.state is not state:
        _append(tx, run, now, f"wave_run.{state}", str(run), {"was": known.state})
    return get(tx, run)


def find(tx: Tx, run: DagRun) -> WaveRun | None:
    """The run as it was frozen; None when it never was."""
    row = tx.execute(sa.select(wave_run).where(_where(run))).one_or_none()
    return WaveRun(**row._asdict()) if row else None


def get(tx: Tx, run: DagRun) -> WaveRun:
    """:raises NotFoundError: when the run was never frozen."""
    known = find(tx, run)
    if known is None:
        raise NotFoundError(
            "The ledger does not know this run",
            next_step="Clear the run's first task, `admit`: it writes the run down.",
            dag=run.dag_id,
            run=run.dag_run_id,
        )
    return known


def last_connector(tx: Tx, wave: str) -> str | None:
    """The connector that the wave's newest run was frozen with; None when it never ran."""
    query = sa.select(wave_run.c.spec).where(wave_run.c.wave == wave).order_by(wave_run.c.created_at.desc()).limit(1)
    spec = tx.execute(query).scalar_one_or_none()
    return str(spec["connector"]) if spec and "connector" in spec else None


def _where(run: DagRun) -> sa.ColumnElement[bool]:
    return (wave_run.c.dag_id == run.dag_id) & (wave_run.c.dag_run_id == run.dag_run_id)


def _set_state(tx: Tx, run: DagRun, state: WaveRunState, finished_at: datetime | None) -> None:
    tx.execute(wave_run.update().where(_where(run)).values(state=state, finished_at=finished_at))


def _append(tx: Tx, run: DagRun, at: datetime, action: str, actor: str, details: Mapping[str, Any]) -> None:
    events.append(
        tx,
        at=at,
        actor=actor,
        action=action,
        object_kind="wave_run",
        object_id=f"{run.dag_id}/{run.dag_run_id}",
        run=run,
        details=details,
    )
