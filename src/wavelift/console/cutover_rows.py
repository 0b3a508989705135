"""Cutovers as rows of the REST API."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from wavelift.console.cutover_answers import CutoverApproval, CutoverDetails, CutoverRow, CutoverStep
from wavelift.console.progress import Progress
from wavelift.ledger import Ledger, cutovers
from wavelift.ledger.cutover_records import Cutover, StepRow
from wavelift.rules.cutover import CutoverState
from wavelift.rules.serving import downtime_s, serves

UNDER_WAY: Final = (CutoverState.GOING, CutoverState.MOVING)
"""States in which a server may have tasks of its own."""


def row_fields(known: Cutover, now: datetime) -> dict[str, Any]:
    """The fields of a :class:`CutoverRow` that the ledger has not under the same name."""
    down = downtime_s(known.state, known.times, now)
    return {
        "serves": serves(known.state, known.times),
        "downtime_s": None if down is None else round(down, 1),
        "presync_runs": list(known.presync_runs),
    }


def cutover_row(known: Cutover, now: datetime, progress: Progress | None = None) -> CutoverRow:
    """:param progress: tells the step that a server is at; without it there is none."""
    return CutoverRow.of(known, **row_fields(known, now), **_live(known, progress))


def cutover_details(ledger: Ledger, known: Cutover, now: datetime, progress: Progress) -> CutoverDetails:
    """Everything about one cutover."""
    with ledger.read() as tx:
        steps = cutovers.steps_of(tx, cutovers.CUTOVER_KIND, known.id)
        kept = cutovers.steps_of(tx, cutovers.PREPARED_KIND, cutovers.prepared_id(known.wave, known.server))
        subject = cutovers.run_subject(known.run)
        answer = cutovers.newest_approval(tx, cutovers.RUN_KIND, subject, known.plan_digest)
    return CutoverDetails.of(
        known,
        **row_fields(known, now),
        **_live(known, progress),
        steps=[cutover_step(each) for each in steps],
        prepared=[cutover_step(each) for each in kept],
        approval=CutoverApproval.of(answer) if answer is not None else None,
        times={name: datetime.fromisoformat(text) for name, text in (known.times or {}).items()},
    )


def cutover_step(row: StepRow) -> CutoverStep:
    return CutoverStep.of(row, **step_fields(row))


def step_fields(row: StepRow) -> dict[str, Any]:
    """The fields of a :class:`CutoverStep` that the ledger has not under the same name."""
    wait = row.wait if isinstance(row.wait, Mapping) else {}
    return {"waits": str(wait.get("words") or "")}


def _live(known: Cutover, progress: Progress | None) -> dict[str, Any]:
    if progress is None or known.state not in UNDER_WAY:
        return {}
    index = progress.index_of(known)
    at = progress.step_of(known, index) if index is not None else None
    return at.fields if at is not None else {}
