"""The engine of undoable steps: look, apply, verify, undo.

A step changes one place outside (a record, a route, a target group) from the state *before* to the state *wanted*. The
caller stores the state before in the ledger, then writes. Apply and undo act only if the place is in one of these two
states (or between them, on the way of the step's own change). Any other state is somebody's change: nothing is written.
So a repeated call, a lost answer and a killed task do no harm.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

from wavelift.base.errors import BusyError, PermanentError, WaveliftError
from wavelift.base.printable import printable

State: TypeAlias = Any
"""What a place holds. JSON-able, and equal after a round trip through JSON."""

SEEN_WAIT_S: Final = 60.0
SEEN_POLL_S: Final = 1.0
SHOWN: Final = 400
"""Characters of one state in an error."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The change is done and works. ``note`` says what stays to do for people, if anything."""

    note: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The change is made, or can't be made yet; ``words`` say what is waited for.

    :ivar wait: what :func:`.poll.poll` can ask about. When it answers, call the same function again.
    :ivar receipt: what AWS calls the change. Give it to the next call: nobody can read it again.
    """

    words: str
    wait: str
    receipt: str = ""


Outcome: TypeAlias = Settled | Waiting


class ChangedElsewhere(PermanentError):
    """The place is neither as it was before the step nor as the step makes it: somebody else changed it. Nothing was
    written."""

    def __init__(self, what: str, *, before: object, wanted: object, now: object, **where: object) -> None:
        where.pop("next_step", None)
        self.before, self.wanted, self.now = before, wanted, now
        said = {name: show(state) for name, state in (("before", before), ("wanted", wanted), ("now", now))}
        super().__init__(
            what,
            next_step="Find out who changed it. Set it to one of these two states, then clear the task",
            **{**where, **said},
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (_changed, (self.what, self.where, self.before, self.wanted, self.now))


def _changed(what: str, where: dict[str, object], before: object, wanted: object, now: object) -> ChangedElsewhere:
    return ChangedElsewhere(what, **{**where, "before": before, "wanted": wanted, "now": now})


class Step(ABC):
    """One undoable change. Its methods only read, except :meth:`change` and :meth:`renew`.

    :cvar kind: names the class in specs, plans and the ledger.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """Unique within a cutover, and the same in every task: ``dns:Z1:app01.corp.example.:A``."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What the step does, one sentence for people."""

    @property
    @abstractmethod
    def undo_words(self) -> str:
        """What its undo does."""

    @abstractmethod
    def read(self) -> State:
        """The place now.

        :raises NotFoundError: there is no such place.
        """

    @abstractmethod
    def wanted(self, before: State) -> State:
        """The place after the step. Pure.

        :raises PermanentError: the step is impossible from this state.
        """

    @abstractmethod
    def change(self, now: State, to: State) -> str:
        """Write. The write itself fails if the place is not ``now``, wherever AWS can do that.

        Returns the receipt, if the settling is asked for by one; else an empty string.
        """

    def check(self) -> None:
        """Asked by :func:`look`, never later: an undo must not fail for it.

        :raises PermanentError: the step is impossible for another reason than its state.
        """
        return None

    def ready(self, now: State, to: State) -> Outcome | None:
        """What must happen before :meth:`change`; None if nothing. Settled leaves the place as it is, and says why."""
        return None

    def settled(self, to: State, receipt: str = "") -> Outcome:
        """Whether the change has taken effect. The place is ``to`` already."""
        return Settled()

    def under_way(self, to: State, receipt: str) -> Waiting | None:
        """After :meth:`change`: what is waited for until the place shows it, if that takes more than moments. The next
        call finds the place as it is then, and :meth:`ready` must know that the change was asked for."""
        return None

    def renew(self, to: State) -> str:
        """Another receipt for a change that was made and whose receipt was lost. Must not change anything."""
        return ""

    def between(self, before: State) -> Sequence[State]:
        """States that the step's own change passes through, if it takes several calls."""
        return ()

    def same(self, one: State, other: State) -> bool:
        return canonical(one) == canonical(other)


def look(step: Step) -> State:
    """The state before the step. Commit it before the first :func:`apply`, and never look again after that.

    :raises PermanentError: the step is impossible from this state.
    """
    step.check()
    before = step.read()
    step.wanted(before)
    return before


def apply(step: Step, before: State, receipt: str = "") -> Outcome:
    """Make the change, unless it is made already. Repeat it as often as needed.

    :param before: what :func:`look` returned. :param receipt: of the last :class:`Waiting`, if there was one.
    :raises ChangedElsewhere: somebody else changed the place.
    """
    return _move(step, before, step.wanted(before), before, receipt)


def undo(step: Step, before: State, receipt: str = "") -> Outcome:
    """Make the place as it was before, unless it is so already.

    :raises ChangedElsewhere: somebody else changed the place.
    """
    return _move(step, step.wanted(before), before, before, receipt)


def verify(step: Step, before: State, receipt: str = "") -> Outcome:
    """Whether the change stands and has taken effect. Writes nothing.

    :raises ChangedElsewhere: the place is not as wanted.
    """
    wanted, now = step.wanted(before), step.read()
    if not step.same(now, wanted):
        raise _elsewhere(step, "is not as the step left it", before, now)
    return step.settled(wanted, receipt)


def _move(step: Step, source: State, to: State, before: State, receipt: str) -> Outcome:
    now = step.read()
    if not step.same(now, to):
        known = (source, *step.between(before))
        if not _is_any(step, now, known):
            raise _elsewhere(step, "was changed by somebody else", before, now)
        first = step.ready(now, to)
        if first is not None:
            return first
        receipt = _change(step, now, to, known, before)
        under_way = step.under_way(to, receipt)
        if under_way is not None:
            return under_way
        _see(step, to, known, before)
    elif not receipt:
        receipt = step.renew(to)
    outcome = step.settled(to, receipt)
    if isinstance(outcome, Waiting) and receipt and not outcome.receipt:
        return Waiting(outcome.words, outcome.wait, receipt)
    return outcome


def _change(step: Step, now: State, to: State, known: Sequence[State], before: State) -> str:
    """Write. A write that AWS refuses may be one whose first answer was lost, or one that came too late."""
    try:
        return step.change(now, to)
    except WaveliftError as error:
        found = _found(step, now)
        if step.same(found, to):
            return step.renew(to)
        if not _is_any(step, found, (now, *known)):
            raise _elsewhere(step, "was changed by somebody else", before, found) from error
        raise


def _see(step: Step, to: State, known: Sequence[State], before: State) -> None:
    """Wait until AWS shows what was written: its describes may lag behind for some seconds."""
    ends = time.monotonic() + SEEN_WAIT_S
    while not step.same(now := step.read(), to):
        if not _is_any(step, now, known):
            raise _elsewhere(step, "was changed by somebody else", before, now)
        if time.monotonic() >= ends:
            raise BusyError(
                f"{step.name} was changed, but still shows the old state",
                next_step="Look whether somebody changed it back; if not, clear the task",
                step=step.name,
            )
        time.sleep(SEEN_POLL_S)


def _found(step: Step, now: State) -> State:
    """The place after a failed write; ``now`` if it can't be read either."""
    try:
        return step.read()
    except WaveliftError:
        return now


def _is_any(step: Step, state: State, known: Sequence[State]) -> bool:
    return any(step.same(state, each) for each in known)


def _elsewhere(step: Step, what: str, before: State, now: State) -> ChangedElsewhere:
    return ChangedElsewhere(
        f"{step.name} {what}", before=before, wanted=step.wanted(before), now=now, step=step.name, kind=step.kind
    )


def canonical(state: State) -> str:
    return json.dumps(state, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def show(state: State) -> str:
    """A state in an error's text."""
    return printable(state if isinstance(state, str) else canonical(state), SHOWN)
