"""Steps that wait for a person: who is to be told, once for each step and direction."""

from __future__ import annotations

from collections.abc import Iterable

from wavelift.ledger import Ledger, cutovers
from wavelift.rules.cutover import StepState
from wavelift.services.common.persons import PERSON_WAIT, answered_in
from wavelift.services.cutover.watch import Alert


def asked(ledger: Ledger, waits: Iterable[str]) -> tuple[Alert, ...]:
    """What people are asked by waits of steps, as :class:`~wavelift.services.cutover.steps.Waits` has them.

    A step that is asked again after it was undone, or the other way round, is another alert.
    """
    found = []
    for wait in waits:
        kind, _, rest = wait.partition("|")
        if kind != PERSON_WAIT or answered_in(ledger, wait):
            continue
        subject, id, name = rest.split("|", 2)
        if subject != cutovers.CUTOVER_KIND:
            continue
        with ledger.read() as tx:
            known = cutovers.get(tx, id)
            row = next(each for each in cutovers.steps_of(tx, subject, id) if each.name == name)
        back = row.state is StepState.UNDOING
        ask = row.undo_words if back else row.words
        waiting = "Until then its source does not come back" if back else "Until then its cutover does not go on"
        words = f"{known.server}: {ask}. {waiting}. Confirm it with `wavelift cutover confirm {id} '{name}'`"
        since = row.changed_at or known.requested_at
        about = f"{name} {'back' if back else 'forward'}"
        found.append(Alert(cutover=id, server=known.server, wave=known.wave, words=words, since=since, about=about))
    return tuple(found)
