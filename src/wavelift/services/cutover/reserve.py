"""The point after which a server's source is stopped: its run is admitted, its tier's turn has come, its slots are won,
the window is long enough; and what a revert restores is stored before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass

from wavelift.base.errors import PermanentError, RefusedError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, cutovers, jobs
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.cutover import CutoverState, SourceBefore
from wavelift.rules.flows import CUTOVER
from wavelift.services.common.slots import InQueue
from wavelift.services.common.wanted import Terms
from wavelift.services.cutover import moving as rows
from wavelift.services.cutover import tiers
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.replication_messages import ReservedRun, StopOrder
from wavelift.services.replication import reserve as replication
from wavelift.services.replication.admission import Asked, admit_runs

_GOES = (CutoverState.GOING, CutoverState.MOVING, CutoverState.FAILED)


@dataclass(frozen=True, slots=True)
class InTier:
    """Earlier tiers are not through.

    :param cutover: who waits.
    """

    cutover: str
    words: str


def reserve(
    ledger: Ledger, task: ServerTask, ctx: RunContext, *, limit: int, terms: Terms
) -> ReservedRun | InQueue | InTier | None:
    """Bring a server one step nearer to the stop of its source; None: it is switched already, and nothing is repeated.

    A repeated call goes on with the same run. What the source was before is written once: a source that was stopped and
    fenced is never taken for what it was.

    :param limit: transfers of the connector.
    :raises PermanentError: the cutover is over or cancelled, an earlier tier failed, or the window is too short by now.
    :raises RefusedError: a rule of replication runs forbids it.
    """
    with ledger.read() as tx:
        known = rows.of_server(tx, ctx)
    if known.state is CutoverState.SWITCHED:
        return None
    _require(known, ctx)
    before = known.source or _before(task).dump()
    _admit(ledger, task, known, ctx)
    if known.state is CutoverState.GOING:
        words = tiers.must_wait(ledger, known, ctx)
        if words:
            rows.tell(ledger, ctx, f"Waits for earlier tiers: {words}")
            return InTier(known.id, words)
    found = replication.reserve(ledger, task, ctx, limit=limit, terms=terms)
    if isinstance(found, InQueue):
        rows.tell(ledger, ctx, f"Waits: {found.words}")
        return found
    if isinstance(found, replication.Finished):
        raise PermanentError(
            "The last changes were sent, and their image is made: nothing is sent again",
            server=task.name,
            run=found.run,
            next_step=f"Clear the server's {CUTOVER.task_id('launch')} task with all that follows, or revert it",
        )
    known = _begin(ledger, ctx, found.run, before)
    assert known.source is not None
    stop = StopOrder(
        cutover=known.id,
        before=SourceBefore.load(known.source),
        not_after=rows.last_start(known),
        ordered_at=known.moment("stopping"),
    )
    return found.model_copy(update={"stop": stop})


def _require(known: Cutover, ctx: RunContext) -> None:
    rows.require_wanted(known)
    rows.require_state(known, *_GOES)
    last = rows.last_start(known)
    if known.state is CutoverState.GOING and last is not None and ctx.clock.now() > last:
        raise PermanentError(
            f"The window does not hold the server's downtime any more: by the forecast (P90), it had to be stopped by "
            f"{last:%Y-%m-%d %H:%M} UTC",
            server=known.server,
            cutover=known.id,
            window_end=f"{known.window_end:%Y-%m-%d %H:%M} UTC",
            next_step="Nothing was touched. Cut it over in another window",
        )


def _admit(ledger: Ledger, task: ServerTask, known: Cutover, ctx: RunContext) -> None:
    """The replication run of the last changes. :raises RefusedError: it may not be."""
    asked = Asked(servers=(task.name,), connector=task.plan.connector, cutover=True)
    found = admit_runs(ledger, known.wave, asked, ctx)
    refused = (*found.refused, *found.skipped)
    if refused:
        raise RefusedError(
            f"The last changes may not be sent: {refused[0].reason}",
            refusals=refused,
            server=task.name,
            next_step="Trigger a new cutover of this server when that is over"
            if known.state is CutoverState.GOING
            else "Clear this task when that is over, or revert the cutover",
        )


def _before(task: ServerTask) -> SourceBefore:
    """:raises PermanentError: pre-flight did not see the cards: a revert could not restore them."""
    facts, plan = task.facts, task.plan
    if not all(card.key for card in facts.nics):
        raise PermanentError(
            "An older version of wavelift looked at this server, and did not note its network cards",
            server=task.name,
            next_step="Trigger a new cutover: its pre-flight looks again",
        )
    return SourceBefore(
        connection=plan.connection,
        connector=plan.connector,
        vm=facts.moref,
        instance_uuid=facts.instance_uuid,
        path=facts.path,
        powered_on=facts.power == "poweredOn",
        addresses=facts.ip_addresses,
        cards=facts.nics,
    )


def _begin(ledger: Ledger, ctx: RunContext, run: str, before: dict[str, object]) -> Cutover:
    """From here on the source may be off: in one transaction with what it was."""
    with ledger.read() as tx:
        wave = rows.of_server(tx, ctx).wave
    with ledger.write(jobs.lock_name(wave)) as tx:
        known, at = rows.of_server(tx, ctx, lock=True), ctx.clock.now()
        _require(known, ctx)
        times = {name: when for name, when in (known.times or {}).items() if name not in rows.OF_ONE_STOP}
        return cutovers.apply(
            tx,
            known,
            "stopping",
            at=at,
            by=ctx.run,
            state=CutoverState.MOVING,
            source=known.source or before,
            run_id=run,
            phase="Stops its source",
            times={**times, "stopping": at.isoformat()},
            error="",
        )
