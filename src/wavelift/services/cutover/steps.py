"""The engine of undoable steps over the ledger: forward, and back.

What was there before is committed before the first write. Every call looks at what is outside, and does what is left:
so a kill, a lost answer and a repeated call do no harm. Whether the subject may still be changed is asked again, under
the wave's lock, before each write.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

from wavelift.adapters.aws.access import AwsAccess
from wavelift.base.errors import NotFoundError, PermanentError
from wavelift.base.names import client_token
from wavelift.base.run import Clock, RunContext
from wavelift.base.times import utc_minute
from wavelift.ledger import Ledger, Tx, cutovers, events, jobs
from wavelift.ledger.cutover_records import Cutover, StepRow
from wavelift.rules.cutover import CutoverState, StepState
from wavelift.services.common import persons
from wavelift.services.common.persons import PERSON, wait_of
from wavelift.services.cutover.step_kinds import (
    BOUND,
    NO_FACTS,
    Facts,
    bound,
    build,
    refuse_taken,
)
from wavelift.services.cutover.step_kinds import Planned as Planned
from wavelift.services.cutover.step_kinds import plan_of as plan_of
from wavelift.services.cutover.step_kinds import prepared_of as prepared_of
from wavelift.services.dataplane.steps.step import ChangedElsewhere, Outcome, Settled, Step, Waiting
from wavelift.services.dataplane.steps.step import apply as apply_step
from wavelift.services.dataplane.steps.step import look as look_step
from wavelift.services.dataplane.steps.step import undo as undo_step
from wavelift.services.dataplane.steps.step import verify as verify_step

PATIENCE: Final = timedelta(hours=2)
"""How long AWS may take for a step, unless it says its own time. Draining may take an hour."""
_GOES_WITH_INSTANCE: Final = frozenset({"security_groups", "elastic_ip"})
"""Kinds whose place may be gone together with the instance: then there is nothing to restore."""
_STAYS: Final = frozenset({PERSON, "address"})
"""Kinds that are not looked at again once they are undone."""


_MADE_AGAIN: Final = frozenset({"address"})
"""Kinds that are made again if somebody removed what they had made. Nothing else leads there."""


@dataclass(frozen=True, slots=True)
class Done:
    """All steps have taken effect. ``notes`` say what stays to do for people."""

    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Waits:
    """A step takes time. ``waits`` are what :class:`wavelift.airflow.triggers.steps.StepsTrigger` polls; call the same
    function again when one of them is over. ``words`` are for people."""

    waits: tuple[str, ...]
    words: str


Guard = Callable[[Tx], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose steps they are.

    :param may_go, may_go_back: raise if the subject may not be changed this way now. Called in the transaction of each
        write.
    """

    kind: str
    id: str
    wave: str
    may_go: Guard = lambda tx: None
    may_go_back: Guard = lambda tx: None


def cutover_subject(known: Cutover) -> Subject:
    """The network steps of a cutover: forward while it moves, back while it is reverted."""

    def must_be(state: CutoverState) -> Guard:
        def guard(tx: Tx) -> None:
            now = cutovers.get(tx, known.id)
            if now.state is not state:
                raise PermanentError(
                    f"The cutover is {now.state}: its network steps stay as they are",
                    next_step="See `wavelift cutover show` for what happens to it",
                    cutover=known.id,
                    server=known.server,
                )

        return guard

    going, back = must_be(CutoverState.MOVING), must_be(CutoverState.REVERTING)
    return Subject(cutovers.CUTOVER_KIND, known.id, known.wave, going, back)


def prepared_subject(wave: str, server: str) -> Subject:
    """What ``prepare`` did for a server."""
    return Subject(cutovers.PREPARED_KIND, cutovers.prepared_id(wave, server), wave)


def write_plan(ledger: Ledger, subject: Subject, planned: Collection[Planned], *, clock: Clock) -> None:
    """Write the rows of what will be done. Steps that have begun keep theirs."""
    with ledger.write(jobs.lock_name(subject.wave)) as tx:
        rows = [each.row() for each in planned]
        cutovers.plan_steps(tx, subject.kind, subject.id, rows, at=clock.now())


def advance(
    ledger: Ledger,
    access: AwsAccess,
    subject: Subject,
    ctx: RunContext,
    *,
    facts: Facts = NO_FACTS,
    names: Collection[str] | None = None,
) -> Done | Waits:
    """Bring the steps forward, in their order, as far as possible. Steps that took effect are looked at again; one
    whose place is as it was before is made again.

    :param facts: of the instance to which the network is switched.
    :param names: only these: others are of an older plan.
    :raises ChangedElsewhere: somebody else changed a place. Nothing was written; the row says so, too.
    :raises PermanentError: a step is impossible, did not take effect in time, or the subject may not go forward now.
    """
    engine = _Engine(ledger, access, subject, ctx)
    for row in engine.rows():
        if names is not None and row.name not in names:
            continue
        found = engine.forward(row, facts)
        if found is not None:
            return found
    return Done()


def go_back(
    ledger: Ledger, access: AwsAccess, subject: Subject, ctx: RunContext, *, kinds: Collection[str] | None = None
) -> Done | Waits:
    """Undo the steps in reverse order, as far as possible. Steps that changed nothing are left as they are.

    What is undone already is looked at again: a write of a task that outlived its try may have come after.

    :param kinds: only these.
    :raises ChangedElsewhere, PermanentError: as :func:`advance`.
    """
    engine = _Engine(ledger, access, subject, ctx)
    notes: list[str] = []
    for row in reversed(engine.rows()):
        if row.state is StepState.PLANNED or (kinds is not None and row.kind not in kinds):
            continue
        found = engine.back(row)
        if isinstance(found, Waits):
            return found
        if found:
            notes.append(f"{row.name}: {found}")
    return Done(tuple(notes))


def confirm(ledger: Ledger, cutover_id: str, step: str, by: str, *, clock: Clock) -> StepRow:
    """:func:`.persons.confirm` of a server's cutover."""
    with ledger.read() as tx:
        wave = cutovers.get(tx, cutover_id).wave
    with ledger.write(jobs.lock_name(wave)) as tx:
        return persons.confirm(tx, cutovers.CUTOVER_KIND, cutover_id, step, by, at=clock.now())


class _Engine:
    """The steps of one subject, in one call."""

    def __init__(self, ledger: Ledger, access: AwsAccess, subject: Subject, ctx: RunContext) -> None:
        self.ledger, self.access, self.subject, self.ctx = ledger, access, subject, ctx

    def rows(self) -> tuple[StepRow, ...]:
        with self.ledger.read() as tx:
            return cutovers.steps_of(tx, self.subject.kind, self.subject.id)

    # Forward

    def forward(self, row: StepRow, facts: Facts) -> Waits | None:
        self.ctx.cancel.check()
        if row.state is StepState.UNDOING:
            raise PermanentError(
                "This step is being undone",
                next_step="Wait until the revert has ended, then trigger a new run",
                step=row.name,
            )
        if row.state in (StepState.PLANNED, StepState.UNDONE):
            row, step = self._intend(row, facts)
        else:
            self._refuse_other(row, facts)
            step = self._step(row)
            if row.state is StepState.SETTLED and row.kind not in _MADE_AGAIN:
                if self._stands(row, step):
                    return None
                row = self._write(row, StepState.INTENDED, self.subject.may_go, changed_at=self._now)
            row = self._again(row, self.subject.may_go)
        begun = row
        outcome = self._outcome(row, lambda: apply_step(step, begun.before, _receipt(begun)))
        if isinstance(outcome, Waiting):
            return self._wait(row, step, outcome, self.subject.may_go)
        if row.state is StepState.INTENDED:
            row = self._write(row, StepState.APPLIED, self.subject.may_go)
        self._write(row, StepState.SETTLED, self.subject.may_go, changed_at=self._now, wait=_noted(outcome))
        return None

    def _stands(self, row: StepRow, step: Step) -> bool:
        """Whether a settled step needs nothing more. False: somebody set its place back to what it was before, which is
        a state that the step begins from: it is made again."""
        try:
            verify_step(step, row.before)
        except PermanentError as error:
            if isinstance(error, ChangedElsewhere) and step.same(error.now, row.before):
                return False
            self._keep(row, error)
            raise
        return True

    def _intend(self, row: StepRow, facts: Facts) -> tuple[StepRow, Step]:
        """What is there now is committed, before anything is written."""
        token = client_token(f"{row.subject_kind}/{row.subject_id}/{row.name}", "step", row.version)
        spec = bound(self.access, row.kind, row.spec or {}, facts, token=token)
        step = build(self.access, row.kind, row.name, spec)
        before = self._outcome(row, lambda: look_step(step))
        self._outcome(row, lambda: refuse_taken(row.kind, spec, before))
        intended = self._write(
            row,
            StepState.INTENDED,
            self.subject.may_go,
            before=before,
            wanted=step.wanted(before),
            spec=spec,
            words=step.words,
            undo_words=step.undo_words,
            changed_at=self._now,
        )
        return intended, step

    def _refuse_other(self, row: StepRow, facts: Facts) -> None:
        """What was begun for one instance goes on for no other: its undo would be lost."""
        known = Facts.load((row.spec or {})[BOUND])
        if known.instance_id == facts.instance_id:
            return
        raise PermanentError(
            f"This step was begun for instance {known.instance_id}, not for {facts.instance_id}",
            next_step="Revert the cutover, then cut over again",
            step=row.name,
        )

    # Back

    def back(self, row: StepRow) -> Waits | str:
        """Waits, or what stays to do for people."""
        self.ctx.cancel.check()
        step = self._step(row) if row.before is not None else None
        if step is None or (row.state is StepState.UNDONE and not self._came_back(row, step)):
            return str((row.wait or {}).get("note", ""))
        guard = self.subject.may_go_back
        if row.state is StepState.UNDONE:
            row = self._write(row, StepState.INTENDED, guard)
        if row.state is not StepState.UNDOING:
            row = self._write(row, StepState.UNDOING, guard, changed_at=self._now)
        else:
            row = self._again(row, guard)
        outcome = self._undone(row, step)
        if isinstance(outcome, Waiting):
            return self._wait(row, step, outcome, guard)
        self._write(row, StepState.UNDONE, guard, changed_at=self._now, wait=_noted(outcome))
        return str(outcome.note)

    def _undone(self, row: StepRow, step: Step) -> Outcome:
        def undo() -> Outcome:
            try:
                return undo_step(step, row.before, _receipt(row))
            except NotFoundError as error:
                if row.kind not in _GOES_WITH_INSTANCE:
                    raise
                return Settled(f"there is nothing to restore: {error.what}")

        return self._outcome(row, undo)

    def _came_back(self, row: StepRow, step: Step) -> bool:
        """Whether a place that was undone holds what the step wanted again."""
        if row.kind in _STAYS:
            return False
        try:
            return step.same(step.read(), row.wanted) and not step.same(row.before, row.wanted)
        except NotFoundError:
            return False

    # Both

    @property
    def _now(self) -> Any:
        return self.ctx.clock.now()

    def _step(self, row: StepRow) -> Step:
        return build(self.access, row.kind, row.name, row.spec or {})

    def _write(self, row: StepRow, to: StepState, guard: Guard, **columns: Any) -> StepRow:
        with self.ledger.write(jobs.lock_name(self.subject.wave)) as tx:
            guard(tx)
            return cutovers.change_step(
                tx, row, to=to, at=self._now, by=self.ctx.requester, run=self.ctx.run, **columns
            )

    def _again(self, row: StepRow, guard: Guard) -> StepRow:
        """Before the next call for a row that has begun: it may still go this way. After an error its time begins anew:
        somebody cleared the task."""
        if row.error:
            return self._write(row, row.state, guard, wait=row.wait, changed_at=self._now)
        with self.ledger.read() as tx:
            guard(tx)
        return row

    def _outcome(self, row: StepRow, call: Callable[[], T]) -> T:
        """What a step says. What no retry can cure is kept in the row, with all three states."""
        try:
            return call()
        except PermanentError as error:
            self._keep(row, error)
            raise

    def _keep(self, row: StepRow, error: PermanentError) -> None:
        words = str(error)
        if isinstance(error, ChangedElsewhere):
            words = f"Somebody else changed it. {error}"
        with self.ledger.write(jobs.lock_name(self.subject.wave)) as tx:
            now = self._now
            changed = cutovers.change_step(
                tx, row, to=row.state, at=now, by=self.ctx.requester, run=self.ctx.run, wait=row.wait, error=words
            )
            about = events.Subject(f"{row.subject_kind}_step", f"{row.subject_id}/{row.name}", self.ctx.run)
            details = {"state": changed.state, "error": words}
            events.append(tx, about, "step.failed", at=now, actor=self.ctx.requester, details=details)

    def _wait(self, row: StepRow, step: Step, outcome: Waiting, guard: Guard) -> Waits:
        wait = outcome.wait
        if row.kind == PERSON:
            wait = wait_of(row)
        kept = {"wait": wait, "words": outcome.words, "receipt": outcome.receipt}
        made = row.state is StepState.INTENDED and row.kind != PERSON and step.same(step.read(), row.wanted)
        if made:
            row = self._write(row, StepState.APPLIED, guard, wait=kept, changed_at=self._now)
        elif row.wait != kept:
            row = self._write(row, row.state, guard, wait=kept)
        self._refuse_late(row, outcome)
        return Waits((wait,), f"{row.name}: {outcome.words}")

    def _refuse_late(self, row: StepRow, outcome: Waiting) -> None:
        """:raises PermanentError: it takes too long. People may take as long as they like."""
        if row.kind == PERSON or row.changed_at is None:
            return
        own = (row.spec or {}).get("within_minutes") if row.state is StepState.APPLIED else None
        patience = timedelta(minutes=own) if own else PATIENCE
        if self._now - row.changed_at < patience:
            return
        error = PermanentError(
            f"Waited {outcome.words} since {utc_minute(row.changed_at)}, longer than "
            f"{patience.total_seconds() / 60:g} minutes",
            next_step="Find out why, then clear the task: it waits again",
            step=row.name,
        )
        self._keep(row, error)
        raise error


def _receipt(row: StepRow) -> str:
    return str((row.wait or {}).get("receipt", ""))


def _noted(outcome: Outcome) -> dict[str, Any] | None:
    return {"note": outcome.note} if isinstance(outcome, Settled) and outcome.note else None
