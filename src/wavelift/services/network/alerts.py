"""The alert that perhaps nobody routes a network: when a run ends, and when one ended without a word.

A run tells it in its report. One that was killed with its report, or whose way back never came, is found by
:func:`alarm`, which ``cutover_upkeep`` asks. Of a cutover that nothing has changed since, an alert is told once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from wavelift.base.domain import Instant, Message
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, Tx, events, network_cutovers
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.ledger.network_cutovers import NETWORK_KIND
from wavelift.rules.cutover import StepState
from wavelift.rules.flows import NETWORK
from wavelift.rules.network_cutover import DESTINATION, SOURCE, NetworkState, may_route_nobody
from wavelift.services.dataplane.network_messages import NetworkPlace
from wavelift.services.network.orders import rows_of
from wavelift.services.network.runs import place_of

ACTION: Final = "alert"
ALERT: Final = f"{NETWORK_KIND}.{ACTION}"
"""Event of a cutover: perhaps nobody routes its network."""
WATCHED: Final = (NetworkState.GOING, NetworkState.FAILED, NetworkState.REVERTING)
"""States in which nobody may route."""


class NetworkAlert(Message):
    """Nobody routes a network, and no run is about it any more.

    :param since: when this was found; with the cutover, what tells one alert from another.
    """

    cutover: str
    network: str
    words: str
    next_steps: tuple[str, ...]
    since: Instant


def alarm(ledger: Ledger, ctx: RunContext) -> tuple[NetworkAlert, ...]:
    """Cutovers that perhaps left a network without a router, and that no run is about: it died without its report, or
    the run that goes back died, or never came. What a report has told is not told again."""
    with ledger.read() as tx:
        found = network_cutovers.everything_open(tx, *WATCHED)
    seen = [_found(ledger, each, ctx) for each in found if not _goes_on(each, ctx)]
    return tuple(each for each in seen if each is not None)


def see_to_alert(tx: Tx, known: NetworkCutover, next_steps: Sequence[str], ctx: RunContext) -> NetworkCutover:
    """Keep what somebody must know as long as it is so, and write when it was told. Needs the lock of the network.

    :param next_steps: what a person does.
    """
    words = nobody_routes(tx, known)
    if not words and not known.alert:
        return known
    if words and _told(tx, known, next_steps) is not None:
        return known
    at = ctx.clock.now()
    told = {"words": words, "next": list(next_steps), "at": at.isoformat(), "version": known.version + 1}
    told["dag_id"] = ctx.run.dag_id
    action, details = (ACTION, told) if words else (f"{ACTION}_over", None)
    return network_cutovers.apply(tx, known, action, at=at, by=ctx.run, details=details, alert=words)


def nobody_routes(tx: Tx, known: NetworkCutover) -> str:
    """What the steps say; empty: somebody routes."""
    if known.state not in WATCHED:
        return ""
    states = {name: row.state for name, row in rows_of(tx, known).items()}
    if not may_route_nobody(states):
        return ""
    sure = states.get(DESTINATION) in (StepState.PLANNED, StepState.UNDONE) and (
        states.get(SOURCE) in (StepState.APPLIED, StepState.SETTLED)
    )
    return f"{'' if sure else 'perhaps '}nobody routes {known.prefix}"


def by_hand(place: NetworkPlace, known: NetworkCutover, *, alone: bool = False) -> list[str]:
    """What a person does next, and in which order.

    :param alone: no run is about the cutover any more: nothing begins by itself.
    """
    spec, dag = place.network, NETWORK.dag_id(known.network)
    if known.state is NetworkState.REVERTING:
        first = (
            f"Remove the cause, then clear the task order_isolate of run {known.revert_run} of {dag}, with downstream; "
            f"if that run is not there, `wavelift network revert {known.id}` makes another"
        )
    elif spec.on_failure == "revert" and not alone:
        first = f"A run of {dag} in mode revert begins by itself: see that it ends well"
    else:
        first = (
            f"Go back with `wavelift network revert {known.id}`, or go on: clear order_disconnect of run "
            f"{known.dag_run_id} with downstream"
        )
    return [
        first,
        f"By hand, if that does not help: see in NSX that {spec.destination.segment} is disconnected (connectivity "
        f"OFF); only then connect {spec.source.network} to its router at the source, so that "
        f"{spec.destination.gateway} answers there",
    ]


def _goes_on(known: NetworkCutover, ctx: RunContext) -> bool:
    runs = [DagRun(known.dag_id, id) for id in (known.dag_run_id, known.revert_run) if id]
    return any(ctx.liveness.run(run) for run in runs)


def _found(ledger: Ledger, known: NetworkCutover, ctx: RunContext) -> NetworkAlert | None:
    """:param known: as it was before Airflow was asked; the next look sees what was changed since."""
    with ledger.write(network_cutovers.lock_name(known.network)) as tx:
        now = network_cutovers.get(tx, known.id, lock=True)
        if now.version != known.version:
            return None
        steps = by_hand(place_of(tx, now), now, alone=True)
        now = see_to_alert(tx, now, steps, ctx)
        told = _told(tx, now, steps)
        if told is None or told["dag_id"] == now.dag_id:  # somebody routes; or the report told people the very same
            return None
    since = datetime.fromisoformat(str(told["at"]))
    words = f"{now.alert}. Cutover {now.id} is {now.state}, and no run is about it any more"
    return NetworkAlert(cutover=now.id, network=now.network, words=words, next_steps=tuple(steps), since=since)


def _told(tx: Tx, known: NetworkCutover, next_steps: Sequence[str]) -> Mapping[str, Any] | None:
    """How this was told of the cutover as it is now; None: it was not."""
    last = events.last_details(tx, object_id=known.id, action=ALERT)
    if last is None or not known.alert:
        return None
    return last if (last.get("version"), last.get("next")) == (known.version, list(next_steps)) else None
