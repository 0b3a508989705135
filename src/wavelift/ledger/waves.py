"""Runs of a wave, each with the spec that was resolved when it began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.errors import NotFoundError
from wavelift.base.run import Clock, DagRun
from wavelift.ledger import events
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.records import WaveRun, WaveRunState
from wavelift.ledger.spine import of_run
from wavelift.ledger.tables import wave_run

LOCK: Final = "wave_run"
"""The lock for writing runs of waves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWaveRun:
    """The data of a new run."""

    run: DagRun
    wave: str
    mode: str
    """``migrate``, ``plan`` or ``preflight``."""
    requested_by: str
    source: str
    """``ui``, ``api`` or ``schedule``."""
    spec: Mapping[str, Any]
    note: str = ""


def freeze_wave_run(tx: Tx, asked: NewWaveRun, *, clock: Clock) -> WaveRun:
    """Store the resolved spec of a run. A second call returns the spec that was stored first.

    So a change of the YAML file does not affect a run that has begun. A second call also sets the state to RUNNING: the
    run's admission task was cleared. Needs :data:`LOCK`.
    """
    run, by = asked.run, asked.requested_by
    now = clock.now()
    require_lock(tx, LOCK)
    known = find(tx, run)
    if known is None:
        tx.execute(
            wave_run.insert().values(
                dag_id=run.dag_id,
                dag_run_id=run.dag_run_id,
                wave=asked.wave,
                mode=asked.mode,
                requested_by=by,
                source=asked.source,
                spec=dict(asked.spec),
                note=asked.note,
                state=WaveRunState.RUNNING,
                created_at=now,
            )
        )
        details = {"wave": asked.wave, "mode": asked.mode, "source": asked.source}
        _append(tx, run, now, "wave_run.frozen", by, details)
        return get(tx, run)
    return reopen_wave_run(tx, run, by=by, clock=clock)


def reopen_wave_run(tx: Tx, run: DagRun, *, by: str, clock: Clock) -> WaveRun:
    """An ended run goes on, because a task of it was cleared. Needs :data:`LOCK`.

    :raises NotFoundError: the run was never stored.
    """
    require_lock(tx, LOCK)
    known = get(tx, run)
    if known.state is not WaveRunState.RUNNING:
        _set_state(tx, run, WaveRunState.RUNNING, None)
        _append(tx, run, clock.now(), "wave_run.reopened", by, {"was": known.state})
    return get(tx, run)


def finish_wave_run(tx: Tx, run: DagRun, state: WaveRunState, *, clock: Clock) -> WaveRun:
    """Store how the run ended. The report may call this again, after a server was cleared. Needs
    :data:`LOCK`.

    :raises NotFoundError: the run was never stored.
    """
    now = clock.now()
    require_lock(tx, LOCK)
    known = get(tx, run)
    _set_state(tx, run, state, None if state is WaveRunState.RUNNING else now)
    if known.state is not state:
        _append(tx, run, now, f"wave_run.{state}", str(run), {"was": known.state})
    return get(tx, run)


def find(tx: Tx, run: DagRun) -> WaveRun | None:
    """The stored run; None if it was never stored."""
    row = tx.execute(sa.select(wave_run).where(of_run(wave_run, run))).one_or_none()
    return WaveRun(**row._asdict()) if row else None


def get(tx: Tx, run: DagRun) -> WaveRun:
    """:raises NotFoundError: the run was never stored."""
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
    """The connector of the wave's newest run; None if it never ran."""
    query = sa.select(wave_run.c.spec).where(wave_run.c.wave == wave).order_by(wave_run.c.created_at.desc()).limit(1)
    frozen = wave_of(tx.execute(query).scalar_one_or_none() or {})
    return str(frozen["connector"]) if "connector" in frozen else None


def wave_of(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The wave in what a run froze: a replicate run freezes the wave itself, any other the wave among other things."""
    wave = spec.get("wave")
    return wave if isinstance(wave, dict) else spec


def _set_state(tx: Tx, run: DagRun, state: WaveRunState, finished_at: datetime | None) -> None:
    tx.execute(wave_run.update().where(of_run(wave_run, run)).values(state=state, finished_at=finished_at))


def _append(tx: Tx, run: DagRun, at: datetime, action: str, actor: str, details: Mapping[str, Any]) -> None:
    subject = events.Subject("wave_run", f"{run.dag_id}/{run.dag_run_id}", run)
    events.append(tx, subject, action, at=at, actor=actor, details=details)
