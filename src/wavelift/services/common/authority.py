"""Asks the rules who may do what, by the files as they are now, and writes each refusal to the audit trail (AMP-03)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from wavelift.base.errors import DeniedError, SpecError
from wavelift.base.run import Clock, DagRun, Requester, RunContext
from wavelift.ledger import Ledger, Tx, events, groups, jobs, waves
from wavelift.ledger.events import Subject
from wavelift.ledger.server_runs import SERVER_RUNS
from wavelift.rules.authority import MEMORY, SCHEDULED, Action, Denial, Groups, Link, decide, granted
from wavelift.services.common.admit import Lost, frozen_environment, must_be_allowed

if TYPE_CHECKING:
    from wavelift.specs import Granting  # reading files is dear to import, and most who ask get no file

REFUSED: Final = "authority.refused"
"""The event of a refusal; its details name the link."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Where the rights are read.

    :param load: the environment of this name with the groups, as the files are now; SpecError if they have errors.
    :param memory: how long a role is believed that a user was seen with.
    """

    load: Callable[[str], Granting]
    memory: timedelta = MEMORY

    def at(self, environment: str) -> Bench:
        """Reads the files once, for any number of decisions."""
        if not environment:
            return Bench(self, "", None, "Nobody knows in which environment this wave lands")
        try:
            return Bench(self, environment, self.load(environment))
        except SpecError as error:
            return Bench(self, environment, None, f"The files of its environment allow nothing new: {error}")


@dataclass(frozen=True, slots=True)
class Bench:
    """Decisions about one environment.

    :param granting: None: its files cannot be used; ``broken`` says why.
    """

    rights: Rights
    environment: str
    granting: Granting | None
    broken: str = ""

    def decide(self, tx: Tx, requester: Requester, action: Action, *, now: datetime) -> Denial | None:
        """None: the requester may."""
        if self.granting is None:
            way_out = "Correct the files, check them with `wavelift wave validate`, and try again"
            return Denial(Link.ENVIRONMENT, self.broken, way_out)
        return decide(
            requester,
            self._groups(tx, self.granting, requester.name),
            self.granting.environment.may,
            action,
            now=now,
            memory=self.rights.memory,
            environment=self.environment,
        )

    def granted(self, tx: Tx, requester: Requester, *, now: datetime) -> tuple[Action, ...]:
        """What the requester may do."""
        if self.granting is None:
            return ()
        known = self._groups(tx, self.granting, requester.name)
        return granted(requester, known, self.granting.environment.may, now=now, memory=self.rights.memory)

    @staticmethod
    def _groups(tx: Tx, granting: Granting, user: str) -> Groups:
        return Groups(granting.principals.groups_of(user), groups.seen(tx, user)) if user else Groups()


def require(  # noqa: PLR0913  # who, where, what, and whom to tell
    ledger: Ledger,
    requester: Requester,
    environment: str,
    action: Action,
    *,
    rights: Rights,
    clock: Clock,
    subject: Subject | None = None,
    **details: object,
) -> Granting:
    """The files that say that the requester may.

    :raises DeniedError: the requester may not. It is an event of ``subject``, else of the environment.
    """
    bench, now = rights.at(environment), clock.now()
    with ledger.read() as tx:
        denial = bench.decide(tx, requester, action, now=now)
    if denial is None and bench.granting is not None:
        return bench.granting
    assert denial is not None  # what cannot be read allows nothing
    with ledger.write() as tx:
        tell(tx, denial, requester, environment, action, subject=subject, at=now, **details)
    raise denied(denial, requester, environment, **details)


def denied(denial: Denial, requester: Requester, environment: str, **where: object) -> DeniedError:
    """What a task or a route says of a refusal."""
    place = {"link": denial.link.value, "environment": environment or None, "user": str(requester), **where}
    return DeniedError(denial.why, next_step=denial.way_out, **place)


def tell(  # noqa: PLR0913  # as above
    tx: Tx,
    denial: Denial,
    requester: Requester,
    environment: str,
    action: Action | str,
    *,
    at: datetime,
    subject: Subject | None = None,
    **details: object,
) -> None:
    """Write a refusal to the audit trail, whichever link said no."""
    said: dict[str, Any] = {
        "link": denial.link.value,
        "why": denial.why,
        "action": str(action),
        "environment": environment,
        "run_type": requester.run_type,
        **details,
    }
    about = subject or Subject("environment", environment or "unknown")
    events.append(tx, about, REFUSED, at=at, actor=str(requester), details=said)


# Of one run


def require_run(ledger: Ledger, environment: str, action: Action, ctx: RunContext, *, rights: Rights) -> None:
    """Whether a run may begin.

    :raises DeniedError: whoever asked for it may not.
    """
    subject = Subject("wave_run", f"{ctx.run.dag_id}/{ctx.run.dag_run_id}", ctx.run)
    require(ledger, ctx.asker, environment, action, rights=rights, clock=ctx.clock, subject=subject)


def require_where(ledger: Ledger, ran: Collection[DagRun], action: Action, ctx: RunContext, *, rights: Rights) -> None:
    """Whether a run may act on what earlier runs of its wave made, which may lie in another environment: the wave's
    file may have named that one then.

    :raises DeniedError: whoever asked for it may not, there.
    """
    for environment in landed_in(ledger, ran):
        require_run(ledger, environment, action, ctx, rights=rights)


def landed_in(ledger: Ledger, ran: Collection[DagRun]) -> list[str]:
    """The environments of earlier runs, by what each froze; a run that was never admitted made nothing."""
    with ledger.read() as tx:
        return sorted({frozen_environment(run) for each in ran if (run := waves.find(tx, each)) is not None})


def require_rights(ledger: Ledger, lost: Lost, action: Action, ctx: RunContext, *, rights: Rights) -> None:
    """A task of an ended run was cleared, without its ``reserve``: it begins anew, so the present files must allow it.

    :raises SpecError: they do not allow what the run froze. :raises DeniedError: whoever stands behind it may not.
    """
    if must_be_allowed(ledger, lost, ctx):
        require_again(ledger, ctx, action, rights=rights)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Who stands behind a server, and the files that say that they may."""

    requester: Requester
    by: Granting


def require_again(ledger: Ledger, ctx: RunContext, action: Action, *, rights: Rights) -> Allowed:
    """Whether a server of an admitted run may have a slot now: asked at each grant, by the files of this moment.

    :raises DeniedError: whoever stands behind it may not, or not any more.
    """
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
        requester = stands_behind(tx, ctx, run.wave)
        subject = _subject_of(tx, ctx)
    environment = frozen_environment(run)
    granting = require(
        ledger,
        requester,
        environment,
        action,
        rights=rights,
        clock=ctx.clock,
        subject=subject,
        server=ctx.server,
    )
    return Allowed(requester, granting)


def stands_behind(tx: Tx, ctx: RunContext, wave: str) -> Requester:
    """Whose right counts for a server of a run: of a scheduled one, who last made, changed or resumed its job."""
    if ctx.asker.run_type != SCHEDULED:
        return ctx.asker
    job = jobs.find_standing(tx, wave, ctx.server)
    return authoriser(job.authorised_by if job else "")


def authoriser(name: str) -> Requester:
    """The user behind a replication job. Empty: nobody is known, and the way out is to resume it."""
    return Requester(name)


def _subject_of(tx: Tx, ctx: RunContext) -> Subject:
    for rows in SERVER_RUNS:
        known = rows.find(tx, rows.id_of(ctx.run_key))
        if known is not None:
            return Subject(rows.words.kind, known.id, ctx.run)
    return Subject("wave_run", f"{ctx.run.dag_id}/{ctx.run.dag_run_id}", ctx.run)
