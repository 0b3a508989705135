"""Steps that a person does: what is asked now, and somebody's word that it is done.

A word counts for the direction in which the step is asked at that moment, and for no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from wavelift.base.errors import NotFoundError, PermanentError
from wavelift.ledger import Ledger, Tx, cutovers, events
from wavelift.ledger.cutover_records import StepRow
from wavelift.rules.cutover import TO_UNDO, StepState

PERSON: Final = "person"
"""Kind of these steps."""
PERSON_WAIT: Final = "person"
"""Kind of a wait that only the ledger can tell of: ``person|<subject kind>|<subject id>|<step>``."""
ANSWER: Final = "answer"
"""In the spec of such a step: what was confirmed last."""
ANSWERED_BY: Final = "answered_by"
ANSWERED_AT: Final = "answered_at"
DONE: Final = "done"
UNDONE: Final = "undone"
_ANSWERS: Final = {StepState.INTENDED: DONE, StepState.APPLIED: DONE, StepState.UNDOING: UNDONE}


def wait_of(row: StepRow) -> str:
    """For :class:`wavelift.airflow.triggers.steps.StepsTrigger`."""
    return "|".join((PERSON_WAIT, row.subject_kind, row.subject_id, row.name))


def answered_in(ledger: Ledger, wait: str) -> bool:
    """Whether a person answered what a wait of :data:`PERSON_WAIT` is for. Gone: yes, the task shall look itself."""
    _, kind, id, name = wait.split("|", 3)
    with ledger.read() as tx:
        row = next((each for each in cutovers.steps_of(tx, kind, id) if each.name == name), None)
    if row is None or row.state not in TO_UNDO:
        return True
    return (row.spec or {}).get(ANSWER) == (UNDONE if row.state is StepState.UNDOING else DONE)


def confirm(tx: Tx, kind: str, id: str, step: str, by: str, *, at: datetime, said: str = "") -> StepRow:  # noqa: PLR0913  # who says what
    """Somebody says that they did what a step of a person asks for, or that they undid it: what is asked now.

    Repeated: nothing more. Whether they may is asked by the caller, who holds the subject's lock.

    :param said: :data:`DONE` or :data:`UNDONE`, of somebody who says which; empty: whatever is asked now.
    :raises NotFoundError: there is no such step. :raises PermanentError: nothing is asked of a person there now, or the
        opposite of what was said.
    """
    rows = {row.name: row for row in cutovers.steps_of(tx, kind, id)}
    row = rows.get(step)
    if row is None or row.kind != PERSON:
        persons = ", ".join(f"'{each.name}'" for each in rows.values() if each.kind == PERSON) or "none"
        raise NotFoundError(
            f"The cutover has no step '{step}' that a person does",
            next_step=f"Name one of its steps: {persons}",
            cutover=id,
        )
    answer = _ANSWERS.get(row.state)
    if answer is None:
        raise PermanentError(
            f"Nothing is asked of a person in this step now: it is {row.state}",
            next_step="Wait until it is asked for",
            cutover=id,
            step=step,
        )
    if said and said != answer:
        raise PermanentError(
            f"The step asks for the opposite now: {row.words if answer == DONE else row.undo_words}",
            next_step=f"Do that, and confirm that it is {answer}",
            cutover=id,
            step=step,
        )
    if (row.spec or {}).get(ANSWER) == answer:
        return row
    spec = {**(row.spec or {}), ANSWER: answer, ANSWERED_BY: by, ANSWERED_AT: at.isoformat()}
    changed = cutovers.change_step(tx, row, to=row.state, at=at, by=by, spec=spec, wait=row.wait, error=row.error)
    subject = events.Subject(f"{kind}_step", f"{id}/{step}")
    events.append(tx, subject, "step.confirmed", at=at, actor=by, details={"answer": answer})
    return changed


def unanswered(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """The spec of a step that is asked anew: no earlier word counts."""
    return {name: value for name, value in (spec or {}).items() if name not in (ANSWER, ANSWERED_BY, ANSWERED_AT)}
