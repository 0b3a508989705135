"""Orders: the ledger says whether a step may go forward or back, and its intent is written before the queue acts.

Whatever an acting task finds, it does only what an order says that was given since the last clear of its run: so a
clear of that task alone, perhaps after a revert, never acts. Whoever clears the order's task asks here again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from wavelift.base.errors import BusyError, PermanentError
from wavelift.base.run import RunContext
from wavelift.base.times import utc_minute
from wavelift.ledger import Ledger, Tx, cutovers, network_cutovers, waves
from wavelift.ledger.cutover_records import StepRow
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.ledger.network_cutovers import NETWORK_KIND
from wavelift.rules.authority import Action
from wavelift.rules.cutover import StepState
from wavelift.rules.grants import LOOK_LIFETIME, Grant, sign
from wavelift.rules.network_cutover import DESTINATION, EXTENSION, SOURCE, STEPS, NetworkState, is_made, wanted
from wavelift.services.common import persons
from wavelift.services.common.authority import Rights, require_again
from wavelift.services.common.grant_keys import private_key
from wavelift.services.common.persons import ANSWER, ANSWERED_AT, ANSWERED_BY, DONE, PERSON, UNDONE, wait_of
from wavelift.services.dataplane.network_messages import Acted, Direction, NetworkOrder, NetworkPlace, StepName
from wavelift.services.network.admit import network_grant
from wavelift.services.network.approvals import require_approved
from wavelift.services.network.ending import may_still_act, rival
from wavelift.services.network.messages import PlannedNetwork
from wavelift.services.network.plan import refuse_blocked, states_before
from wavelift.services.network.runs import Load, ended_by, opened_by, place_of, reopen, require_unchanged

JOB: Final = "job"
"""In the spec of the extension's row: HCX's job that ends it, as far as it is known."""
WORD: Final = "word"
"""In the spec of the source's row: who said that it is disconnected, where nothing could read it."""
UNEXTENDING: Final = "unextending"
"""Moment: the end of the extension was ordered last."""
GO_ON: Final = "To go on all the same, clear order_disconnect with downstream once the run has ended"
_MOMENTS: Final[Mapping[tuple[str, Direction], str]] = {
    (SOURCE, "forward"): "disconnected",
    (EXTENSION, "forward"): "unextended",
    (DESTINATION, "forward"): "connected",
    (DESTINATION, "back"): "isolated",
    (EXTENSION, "back"): "extended",
    (SOURCE, "back"): "reconnected",
}
_PHASES: Final[Mapping[tuple[str, Direction], str]] = {
    (SOURCE, "forward"): "the source is disconnected",
    (EXTENSION, "forward"): "the extension is ended",
    (DESTINATION, "forward"): "the destination is connected",
    (DESTINATION, "back"): "the destination is disconnected again",
    (EXTENSION, "back"): "the extension is made again",
    (SOURCE, "back"): "the source is connected again",
}


@dataclass(frozen=True, slots=True)
class Desk:
    """What an order needs beside the ledger.

    :param key_file: of the key that signs grants. :param load: the network by the present files.
    :param clear_number: Airflow's count of clears of the run now.
    """

    rights: Rights
    key_file: Path
    load: Load
    clear_number: int


@dataclass(frozen=True, slots=True)
class AsksPerson:
    """The order waits for a person's word: call the same function again when the wait is over.

    :param wait: for :class:`~wavelift.airflow.triggers.steps.StepsTrigger`. :param ask: what to do.
    :param since: when it was asked.
    """

    cutover: str
    network: str
    step: str
    direction: Direction
    wait: str
    ask: str
    since: datetime

    @property
    def words(self) -> str:
        """For the person."""
        until = "Nobody routes the network until then" if self.direction == "back" else "The cutover waits for it"
        command = (
            f"wavelift network confirm {self.cutover} {self.step}{' --undone' if self.direction == 'back' else ''}"
        )
        return f"{self.ask}. {until}. Confirm it with `{command}`"


def order(
    ledger: Ledger, step: StepName, direction: Direction, ctx: RunContext, desk: Desk, *, acted: Acted | None = None
) -> NetworkOrder | AsksPerson:
    """Record what the step before did, write the intent of this one, and permit it. May be repeated.

    :param acted: what the task of the step before returned; None: this is the first step of its direction.
    :raises PermanentError: the cutover may not go this way now, or a person did not answer in time.
    :raises NotApprovedError: nobody has approved the plan. :raises DeniedError: whoever asked may not go forward.
    :raises BusyError: the cutover was changed at the same moment.
    """
    if direction == "forward":  # the way back was asked for at its admission: nothing may hold it up now
        require_again(ledger, ctx, Action.CUT_OVER, rights=desk.rights)
        with ledger.read() as tx:
            require_unchanged(waves.get(tx, ctx.run), desk.load)
    known = _seen(ledger, direction, ctx)
    with ledger.write(network_cutovers.lock_name(known.network)) as tx:
        now = network_cutovers.get(tx, known.id, lock=True)
        if now.version != known.version:
            raise BusyError("The cutover was changed at the same moment", cutover=known.id)
        going = _going(tx, now, step, ctx) if direction == "forward" else _going_back(tx, now, step, ctx)
        if acted is not None:
            going = write_acted(tx, going, acted, _step_before(step, direction), direction, ctx)
        going = _intend(tx, going, step, direction, ctx)
        rows = rows_of(tx, going)
        place = place_of(tx, going)
    reopen(ledger, ctx)
    asks = _asks(ledger, going, rows[step], place, direction, ctx)
    return asks if asks is not None else _permit(going, rows, place, step, direction, ctx, desk)


def rows_of(tx: Tx, known: NetworkCutover) -> dict[str, StepRow]:
    return {row.name: row for row in cutovers.steps_of(tx, NETWORK_KIND, known.id)}


def write_acted(
    tx: Tx, known: NetworkCutover, acted: Acted, step: str, direction: Direction, ctx: RunContext
) -> NetworkCutover:
    """A step is done, or undone: what the queue found is compared with what was ordered, and kept.

    :raises PermanentError: that is not what was ordered.
    """
    row = rows_of(tx, known)[step]
    back = direction == "back"
    _compare(known, acted, row, step, direction)
    at, spec = ctx.clock.now(), dict(row.spec or {})
    said: dict[str, Any] = {"wait": {"note": acted.note} if acted.note else None, "changed_at": acted.at}
    if step == EXTENSION and not back and acted.job:
        spec[JOB] = acted.job
    if step == SOURCE and not back:
        spec[WORD] = "" if acted.read_back else _word_of(row)
    said["spec"] = spec
    end = StepState.UNDONE if back else StepState.SETTLED
    if row.state is not end:
        if not back and row.state is StepState.INTENDED:
            row = _change(tx, row, StepState.APPLIED, at, ctx)
        _change(tx, row, end, at, ctx, **said)
    after = {**(known.after or {}), step: acted.state}
    if back and step == EXTENSION and acted.extension_id:
        after["extension_made_again"] = acted.extension_id
    columns: dict[str, Any] = {"phase": _PHASES[step, direction], "after": after}
    return network_cutovers.note_time(tx, known, _MOMENTS[step, direction], at=acted.at, by=ctx.run, **columns)


def remember_job(ledger: Ledger, job: str, ctx: RunContext) -> None:
    """What HCX calls the end of the extension, though the task that asked for it failed: the way back waits for it."""
    with ledger.read() as tx:
        known = network_cutovers.of_dag_run(tx, ctx.run)
    if known is None or not job:
        return
    with ledger.write(network_cutovers.lock_name(known.network)) as tx:
        row = rows_of(tx, known).get(EXTENSION)
        if row is not None and row.state in (StepState.INTENDED, StepState.APPLIED):
            spec = {**(row.spec or {}), JOB: job}
            _change(tx, row, row.state, ctx.clock.now(), ctx, spec=spec, wait=row.wait, error=row.error)


# Whether it may go


def _seen(ledger: Ledger, direction: Direction, ctx: RunContext) -> NetworkCutover:
    """As it is before Airflow is asked: what lives now must still be so when the ledger is written.

    :raises PermanentError: another run that lives is about the cutover.
    """
    with ledger.read() as tx:
        known = opened_by(tx, ctx) if direction == "forward" else ended_by(tx, ctx, "revert")
    other = rival(known, ctx)
    if other:
        raise PermanentError(
            f"Run {other} reverts or finishes this cutover",
            next_step="Wait until it has ended",
            cutover=known.id,
        )
    if direction == "back" and may_still_act(known, ctx):
        raise PermanentError(
            f"The cutover is under way in {known.run}: it can't go forward and back at once",
            next_step="Cancel it, or mark that run failed; then clear order_isolate with downstream",
            cutover=known.id,
        )
    return known


def _going(tx: Tx, known: NetworkCutover, step: str, ctx: RunContext) -> NetworkCutover:
    """The cutover on its way forward. Only its first step lets one begin, or one that failed go on."""
    goes_on = known.state is NetworkState.FAILED and step == SOURCE
    if known.cancel_requested and not goes_on:
        raise PermanentError("The cutover was cancelled on request", next_step=GO_ON, cutover=known.id)
    if known.state is NetworkState.GOING:
        return known
    begins = known.state is NetworkState.WAITING and step == SOURCE
    if not begins and not goes_on:
        raise PermanentError(
            f"The cutover is {known.state}: this step does not go forward now",
            next_step=GO_ON if known.state is NetworkState.FAILED else f"See `wavelift network show {known.id}`",
            cutover=known.id,
        )
    states_before(known)
    refuse_blocked(PlannedNetwork.load(known.plan))
    require_approved(tx, known.plan_digest, ctx)
    columns: dict[str, Any] = {"state": NetworkState.GOING, "error": "", "alert": "", "cancel_requested": False}
    columns["phase"] = "goes forward"
    if goes_on:  # weeks may have passed: what a person said then is asked again, and what was seen then is looked at
        _forget_word(tx, known, ctx)
        _doubt_destination(tx, known, ctx)
    return network_cutovers.note_time(tx, known, "going", at=ctx.clock.now(), by=ctx.run, **columns)


def _going_back(tx: Tx, known: NetworkCutover, step: str, ctx: RunContext) -> NetworkCutover:
    if known.state is NetworkState.REVERTING:
        return known
    if known.state is NetworkState.REVERTED or step != DESTINATION:
        raise PermanentError(
            f"The cutover is {known.state}: this step does not go back now",
            next_step="Nothing: it is reverted" if known.state is NetworkState.REVERTED else "Clear order_isolate",
            cutover=known.id,
        )
    states_before(known)
    columns: dict[str, Any] = {"state": NetworkState.REVERTING, "phase": "goes back"}
    return network_cutovers.note_time(tx, known, "reverting", at=ctx.clock.now(), by=ctx.run, **columns)


# The intent


def _intend(tx: Tx, known: NetworkCutover, step: StepName, direction: Direction, ctx: RunContext) -> NetworkCutover:
    rows, before = rows_of(tx, known), states_before(known)
    if direction == "back":
        _intend_back(tx, rows[step], before[step], ctx)
        return known
    # HCX connects the destination when it ends the extension: that is one change of two places.
    for name in (EXTENSION, DESTINATION) if step == EXTENSION else (step,):
        row = rows[name]
        if row.state is StepState.UNDOING:
            raise PermanentError("This step is being undone", next_step="Wait until the revert has ended", step=name)
        if row.state in (StepState.PLANNED, StepState.UNDONE):
            _intended(tx, row, before[name], ctx)
    if step != EXTENSION:
        return known
    at = ctx.clock.now()
    row = rows_of(tx, known)[EXTENSION]
    if row.state is not StepState.SETTLED:
        _change(tx, row, row.state, at, ctx, spec={**(row.spec or {}), JOB: ""})
    times = {**(known.times or {}), UNEXTENDING: at.isoformat()}
    return network_cutovers.apply(tx, known, UNEXTENDING, at=at, by=ctx.run, times=times)


def _intend_back(tx: Tx, row: StepRow, before: Any, ctx: RunContext) -> None:
    """Also a step of which nothing was begun, or which is undone, is ordered: the queue looks, and writes only where
    the place is not as it was before."""
    if row.state is StepState.UNDOING:
        if row.error:  # somebody cleared the task: its time begins anew
            _change(tx, row, row.state, ctx.clock.now(), ctx, changed_at=ctx.clock.now())
        return
    spec = row.spec if row.state is StepState.UNDONE else persons.unanswered(row.spec)
    if row.state in (StepState.PLANNED, StepState.UNDONE):
        row = _intended(tx, row, before, ctx, spec=spec)
    _change(tx, row, StepState.UNDOING, ctx.clock.now(), ctx, spec=spec, changed_at=ctx.clock.now())


def _intended(tx: Tx, row: StepRow, before: Any, ctx: RunContext, **columns: Any) -> StepRow:
    at = ctx.clock.now()
    columns = {"spec": persons.unanswered(row.spec), **columns}
    made = wanted(row.name, before)
    return _change(tx, row, StepState.INTENDED, at, ctx, before=before, wanted=made, changed_at=at, **columns)


def _forget_word(tx: Tx, known: NetworkCutover, ctx: RunContext) -> None:
    row = rows_of(tx, known)[SOURCE]
    if row.kind == PERSON and row.state in (StepState.INTENDED, StepState.SETTLED):
        at = ctx.clock.now()
        _change(tx, row, StepState.INTENDED, at, ctx, spec=persons.unanswered(row.spec), changed_at=at)


def _doubt_destination(tx: Tx, known: NetworkCutover, ctx: RunContext) -> None:
    row = rows_of(tx, known)[DESTINATION]
    if row.state is StepState.SETTLED:
        _change(tx, row, StepState.INTENDED, ctx.clock.now(), ctx)


def _change(tx: Tx, row: StepRow, to: StepState, at: datetime, ctx: RunContext, **columns: Any) -> StepRow:
    return cutovers.change_step(tx, row, to=to, at=at, by=ctx.requester, run=ctx.run, **columns)


# A person


def _asks(  # whose step, in which direction
    ledger: Ledger, known: NetworkCutover, row: StepRow, place: NetworkPlace, direction: Direction, ctx: RunContext
) -> AsksPerson | None:
    """None: nobody is asked, or somebody gave the word for this very direction.

    :raises PermanentError: the time to give it is over. On the way back a person may take as long as they like.
    """
    if row.kind != PERSON or (row.spec or {}).get(ANSWER) == (DONE if direction == "forward" else UNDONE):
        return None
    ask = row.words if direction == "forward" else row.undo_words
    hours = place.network.source.disconnect.hours
    since = row.changed_at or ctx.clock.now()
    late = direction == "forward" and ctx.clock.now() - since >= timedelta(hours=hours)
    if not late:
        kept = {"wait": wait_of(row), "words": f"until somebody confirms: {ask}"}
        with ledger.write(network_cutovers.lock_name(known.network)) as tx:
            now = rows_of(tx, known)[row.name]
            if now.wait != kept:
                _change(tx, now, now.state, ctx.clock.now(), ctx, wait=kept, error=now.error)
        return AsksPerson(known.id, known.network, row.name, direction, wait_of(row), ask, since)
    raise PermanentError(
        f"Nobody confirmed within {hours:g} h, since {utc_minute(since)}: {ask}",
        next_step=GO_ON,
        cutover=known.id,
        step=row.name,
    )


def _word_of(row: StepRow) -> str:
    """Who said that the source is disconnected."""
    spec = row.spec or {}
    if spec.get(ANSWER) == DONE:
        return f"{spec.get(ANSWERED_BY)} at {spec.get(ANSWERED_AT)}"
    return row.words


# The order


def _permit(  # noqa: PLR0913  # all that an order says
    known: NetworkCutover,
    rows: Mapping[str, StepRow],
    place: NetworkPlace,
    step: StepName,
    direction: Direction,
    ctx: RunContext,
    desk: Desk,
) -> NetworkOrder:
    before = states_before(known)
    spec = {name: dict(row.spec or {}) for name, row in rows.items()}
    by_person = rows[step].kind == PERSON
    made = NetworkOrder(
        cutover=known.id,
        place=place,
        step=step,
        direction=direction,
        before=before[step],
        wanted=wanted(step, before[step]),
        befores={name: before[name] for name in STEPS},
        records=(known.before or {}).get("records") or {},
        extension_id=known.extension_id,
        source_word=str(spec[SOURCE].get(WORD, "")),
        answered=str(spec[step].get(ANSWERED_BY, "")) if by_person else "",
        asked_at=_asked_at(known, rows[EXTENSION]) if direction == "back" else None,
        job=str(spec[EXTENSION].get(JOB, "")) if direction == "back" else "",
        digest=known.plan_digest,
        clear_number=desk.clear_number,
    )
    return made.model_copy(update={"token": acting_token(place, made.bound, known, ctx, desk)})


def _asked_at(known: NetworkCutover, row: StepRow) -> datetime | None:
    """When the end of the extension was asked of HCX, at the latest; None: it never was.

    An order says only since when it may have been: its task waits for a worker, and asks again what came to nothing. It
    asks no more once the place was seen as it should be, or the run that goes forward has ended.
    """
    ordered = known.moment(UNEXTENDING)
    if ordered is None:
        return None
    seen = known.moment("unextended") if row.state is StepState.SETTLED else None
    return max(ordered, seen or known.moment("failed") or known.moment("reverting") or ordered)


def acting_token(place: NetworkPlace, bound: str, known: NetworkCutover, ctx: RunContext, desk: Desk) -> str:
    """The grant of one act.

    :raises PermanentError: the private key is missing, or others can read it.
    """
    grant = Grant(
        scope="network",
        action="network",
        user=ctx.requester,
        server=place.network.network,
        vm=known.id,
        plan=bound,
        clear_number=desk.clear_number,
        **network_grant(place, ctx),
    )
    return sign(grant, private_key(desk.key_file), now=ctx.clock.now(), lifetime=LOOK_LIFETIME)


def _step_before(step: str, direction: Direction) -> str:
    order_of = STEPS if direction == "forward" else tuple(reversed(STEPS))
    return order_of[order_of.index(step) - 1]


def _compare(known: NetworkCutover, acted: Acted, row: StepRow, step: str, direction: Direction) -> None:
    back = direction == "back"
    said = (acted.cutover, acted.step, acted.direction)
    doing = (
        {StepState.UNDOING, StepState.UNDONE}
        if back
        else {
            StepState.INTENDED,
            StepState.APPLIED,
            StepState.SETTLED,
        }
    )
    if said != (known.id, step, direction) or row.state not in doing:
        what = f"What was done is {acted.step} {acted.direction} of {acted.cutover}, not {step} {direction}"
    elif not acted.read_back and step != SOURCE:
        what = f"The step {step} was not read back"
    elif acted.read_back and not is_made(step, acted.state, back=back):
        what = f"The step {step} is not as it was ordered"
    else:
        return
    raise PermanentError(
        what,
        next_step="Clear the task that gave that order, with downstream; if it comes again, find out who edited the "
        "run's XComs",
        cutover=known.id,
        step=step,
    )
