"""The report of a network's run: it closes what is open, says how it ended, and whether perhaps nobody routes.

What broke once something was touched is failed: somebody continues it, or it is reverted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from wavelift.base.errors import PermanentError
from wavelift.base.printable import Lines
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, Tx, WaveRun, network_cutovers, waves
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.rules.cutover import StepState
from wavelift.rules.flows import NETWORK
from wavelift.rules.network_cutover import NetworkState
from wavelift.services.common.report import NOT_FINISHED, end_wave_run, failed_run
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.dataplane.network_messages import Acted, NetworkPlace
from wavelift.services.network.alerts import by_hand, see_to_alert
from wavelift.services.network.ending import rival
from wavelift.services.network.finish import FIRST_ORDER, run_since
from wavelift.services.network.messages import NetworkReport, PlannedNetwork, told
from wavelift.services.network.orders import rows_of, write_acted
from wavelift.services.network.runs import PREFIX, frozen_place, place_of

REVERT_PREFIX: Final = "revert__"
"""Of the ids of runs that a failed cutover starts."""
_GOOD: Final[Mapping[str, frozenset[NetworkState]]] = {
    "cutover": frozenset({NetworkState.SWITCHED, NetworkState.FINISHING, NetworkState.FINISHED, NetworkState.REVERTED}),
    "revert": frozenset({NetworkState.REVERTED}),
    "finish": frozenset({NetworkState.FINISHED}),
}
"""Mode → states in which the cutover may be when the report is made, or made again."""
_UNTOUCHED: Final = "nothing was touched"


@dataclass(frozen=True, slots=True)
class EndedRun:
    """What is left of a run when its report begins.

    :param words: what its failed task said. :param planned: what ``record`` told, in mode plan.
    :param acted: what its acting tasks returned that succeeded, in their order: the last was not recorded yet.
    :param began: whether the ``finish`` task may have begun, since the last clear.
    :param clears: Airflow's count of clears of the run.
    """

    words: str = ""
    planned: PlannedNetwork | None = None
    acted: Sequence[Acted] = ()
    began: bool = True
    clears: int = 0


@dataclass(frozen=True, slots=True)
class ToTrigger:
    """A DAG run that the ledger knows already. Its id makes it one, however often it is triggered."""

    run: DagRun
    conf: Mapping[str, Any]
    note: str


def report(ledger: Ledger, ended: EndedRun, ctx: RunContext) -> NetworkReport:
    """Close what is open, and tell how it ended. May be called again after a clear."""
    with ledger.read() as tx:
        run = waves.find(tx, ctx.run)
        known = network_cutovers.of_dag_run(tx, ctx.run) or network_cutovers.ended_by(tx, ctx.run)
    if run is None:  # it was never admitted
        return _never_admitted(ledger, known, ended, ctx)
    if known is not None:
        known = _close(ledger, known, run, ended, ctx)
    made = _told(ledger, known, run, ended)
    end_wave_run(ledger, made, ctx)
    return made


def _never_admitted(ledger: Ledger, known: NetworkCutover | None, ended: EndedRun, ctx: RunContext) -> NetworkReport:
    """Perhaps it is the way back of a cutover that failed: then still nobody routes, and nobody has been told so."""
    network = NETWORK.wave_of(ctx.run.dag_id)
    made = NetworkReport(wave=f"{PREFIX}{network}", network=network, mode="", stopped=ended.words or NOT_FINISHED)
    if known is None or not known.state.touched:
        return made
    with ledger.write(network_cutovers.lock_name(known.network)) as tx:
        now = network_cutovers.get(tx, known.id, lock=True)
        steps = tuple(by_hand(place_of(tx, now), now, alone=True))
        now = see_to_alert(tx, now, steps, ctx)
    return made.model_copy(update={"cutover": now.id, "state": str(now.state), "alert": now.alert, "next_steps": steps})


def raise_when_failed(made: NetworkReport) -> None:
    """:raises PermanentError: saying what is not done, and the way out."""
    if not made.succeeded:
        lines = [part for part in (made.alert, made.error) if part]
        raise failed_run(made, "", lines, Lines("\n".join(made.next_steps) or _again(made)))


def reverts(ledger: Ledger, ctx: RunContext) -> ToTrigger | None:
    """The run in mode ``revert`` for a cutover that failed in this run once something was touched, where the network's
    file says ``on_failure: revert``. Its id is written into the cutover first. None: there is nothing to revert.

    A revert that is under way is left alone.
    """
    with ledger.read() as tx:
        known = network_cutovers.of_dag_run(tx, ctx.run)
        if known is None or known.state is not NetworkState.FAILED:
            return None
        spec = place_of(tx, known).network
    if spec.on_failure != "revert" or rival(known, ctx):
        return None
    seen = f"{known.id} {(known.times or {}).get('failed', '')}"
    run_id = REVERT_PREFIX + hashlib.sha256(seen.encode()).hexdigest()[:16]
    if known.revert_run != run_id:
        with ledger.write(network_cutovers.lock_name(known.network)) as tx:
            now = network_cutovers.get(tx, known.id, lock=True)
            if now.version != known.version:
                return None  # somebody goes on with it
            columns: dict[str, Any] = {"revert_run": run_id}
            network_cutovers.apply(tx, now, "revert_asked", at=ctx.clock.now(), by=ctx.run, details=columns, **columns)
    conf = {"mode": "revert", "cutover": known.id}
    return ToTrigger(
        DagRun(ctx.run.dag_id, run_id), conf, f"{known.network}: the cutover failed in {ctx.run.dag_run_id}"
    )


def _close(ledger: Ledger, known: NetworkCutover, run: WaveRun, ended: EndedRun, ctx: RunContext) -> NetworkCutover:
    with ledger.write(network_cutovers.lock_name(known.network)) as tx:
        now = network_cutovers.get(tx, known.id, lock=True)
        at = ctx.clock.now()
        now = _write_last(tx, now, run, ended, ctx)
        if run.mode == "cutover":
            now = _close_cutover(tx, now, ended, ctx)
        elif run.mode == "revert" and now.state is NetworkState.REVERTING:
            now = network_cutovers.apply(tx, now, "revert_failed", at=at, by=ctx.run, error=_words(now, ended))
        elif run.mode == "finish" and now.state in (NetworkState.FINISHING, NetworkState.SWITCHED):
            columns: dict[str, Any] = {"error": _words(now, ended)}
            if now.state is NetworkState.FINISHING and _never_began(now, ended, ctx):
                columns |= {"state": NetworkState.SWITCHED, "phase": "the destination routes the network"}
            now = network_cutovers.apply(tx, now, "finish_failed", at=at, by=ctx.run, **columns)
        return see_to_alert(tx, now, by_hand(place_of(tx, now), now), ctx)


def _write_last(tx: Tx, now: NetworkCutover, run: WaveRun, ended: EndedRun, ctx: RunContext) -> NetworkCutover:
    """A step was done, and the task that would have recorded it did not come."""
    doing = {"cutover": NetworkState.GOING, "revert": NetworkState.REVERTING}.get(run.mode)
    for acted in ended.acted:
        row = rows_of(tx, now).get(acted.step)
        if now.state is doing and row is not None and row.state in (StepState.INTENDED, StepState.UNDOING):
            with suppress(PermanentError):  # of another try, or edited: nothing is known of the step then
                now = write_acted(tx, now, acted, acted.step, acted.direction, ctx)
    return now


def _close_cutover(tx: Tx, now: NetworkCutover, ended: EndedRun, ctx: RunContext) -> NetworkCutover:
    at, by = ctx.clock.now(), ctx.run
    words = CANCELLED if now.cancel_requested else _words(now, ended)
    if now.state is NetworkState.GOING:
        columns: dict[str, Any] = {"state": NetworkState.FAILED, "error": words, "phase": "it broke on its way"}
        return network_cutovers.note_time(tx, now, "failed", at=at, by=by, **columns)
    if now.state in (NetworkState.RESERVED, NetworkState.WAITING):
        columns = {"state": NetworkState.ENDED, "error": words, "phase": _UNTOUCHED}
        return network_cutovers.apply(tx, now, "ended", at=at, by=by, **columns)
    return now


def _never_began(now: NetworkCutover, ended: EndedRun, ctx: RunContext) -> bool:
    """Whether no ``finish`` task can have deleted the source. Airflow tells nothing of what ran before a clear."""
    return not ended.began and (now.after or {}).get(FIRST_ORDER) == run_since(ctx, ended.clears)


def _words(now: NetworkCutover, ended: EndedRun) -> str:
    return ended.words or now.error or NOT_FINISHED


# The report itself


def _told(ledger: Ledger, known: NetworkCutover | None, run: WaveRun, ended: EndedRun) -> NetworkReport:
    place = frozen_place(run)
    name = place.network.network
    made = NetworkReport(wave=run.wave, network=name, mode=run.mode)
    if run.mode == "plan":
        planned = ended.planned
        blocked = told(planned.blocking) if planned is not None else ""
        return made.model_copy(
            update={"words": "it can go" if planned and not blocked else "", "error": blocked or ended.words}
        )
    if known is None:
        return made.model_copy(update={"stopped": ended.words or NOT_FINISHED})
    good = known.state in _GOOD.get(run.mode, frozenset())
    return made.model_copy(
        update={
            "cutover": known.id,
            "state": str(known.state),
            "words": known.phase,
            "times": known.times or {},
            "error": "" if good else ended.words or known.error or NOT_FINISHED,
            "alert": known.alert,
            "next_steps": tuple(_next(place, known)),
        }
    )


def _next(place: NetworkPlace, known: NetworkCutover) -> list[str]:
    dag = NETWORK.dag_id(known.network)
    if known.alert or known.state in (NetworkState.FAILED, NetworkState.REVERTING):
        return by_hand(place, known)
    if known.state is NetworkState.FINISHING:
        return [
            f"Remove the cause, then clear the task order_finish of run {known.finish_run} of {dag}, with downstream"
        ]
    if known.state in (NetworkState.ENDED, NetworkState.EXPIRED):
        return [f"Nothing was touched. Remove the cause, then trigger {dag} again in mode cutover"]
    return []


def _again(made: NetworkReport) -> str:
    return f"Remove the cause, then trigger {NETWORK.dag_id(made.network)} again"
