"""The plan of a network's cutover, and the state before it, which is committed before the first write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from wavelift.base.domain import Finding, Severity
from wavelift.base.errors import PermanentError
from wavelift.base.run import RunContext
from wavelift.base.units import counted
from wavelift.ledger import Ledger, Tx, WaveRun, cutovers, network_cutovers, waves
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.ledger.network_cutovers import NETWORK_KIND
from wavelift.rules.conf import NetworkMode
from wavelift.rules.network_cutover import DESTINATION, EXTENSION, SOURCE, STEPS, NetworkState, wanted
from wavelift.services.common.persons import PERSON
from wavelift.services.dataplane.network_messages import Looked, NetworkPlace, digest_of
from wavelift.services.network.messages import NO_WAY_BACK, PlannedNetwork, PlannedStep, told
from wavelift.services.network.runs import frozen_place

CONNECTIVITY_KIND: Final = "network_connectivity"
EXTENSION_KIND: Final = "network_extension"


def record(ledger: Ledger, looked: Looked, ctx: RunContext) -> PlannedNetwork:
    """Make the plan of what was found; in mode cutover, keep it with the state of both sides.

    Once something may be changed, a later look changes neither: what was there before is known already.

    :raises PermanentError: what was looked at is another network.
    """
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
        known = network_cutovers.of_dag_run(tx, ctx.run)
    place = frozen_place(run)
    if looked.network != place.network.network:
        raise PermanentError(
            f"What was looked at is network {looked.network}",
            next_step="Find out who edited the run's XComs; then clear the look task with downstream",
            network=place.network.network,
        )
    if known is not None and known.state.touched:
        return PlannedNetwork.load(known.plan)
    planned = _planned(place, looked, run, known)
    if known is not None:
        _keep(ledger, known, planned, looked, ctx)
    return planned


def refuse_blocked(planned: PlannedNetwork) -> None:
    """:raises PermanentError: something is in the way."""
    if planned.blocking:
        raise PermanentError(
            f"{len(planned.blocking)} in the way of the cutover: {told(planned.blocking)}",
            next_step="Remove the causes, then trigger a new run",
            network=planned.network,
        )


def states_before(known: NetworkCutover) -> dict[str, Any]:
    """Step → the state of its place before the cutover. :raises PermanentError: it was never recorded."""
    before = known.before or {}
    if not set(STEPS) <= before.keys() or not known.plan_digest:
        raise PermanentError(
            "The state before this cutover was never recorded",
            next_step="Clear the look task with all that comes after it",
            cutover=known.id,
        )
    return {name: before[name] for name in STEPS}


def _keep(ledger: Ledger, known: NetworkCutover, planned: PlannedNetwork, looked: Looked, ctx: RunContext) -> None:
    before = {
        **_states(looked),
        "records": dict(looked.records),
        "ports": looked.ports,
        "at": looked.at.isoformat(),
    }
    with ledger.write(network_cutovers.lock_name(known.network)) as tx:
        now = network_cutovers.get(tx, known.id, lock=True)
        if now.state is not NetworkState.WAITING:
            raise PermanentError(
                f"The cutover is {now.state}: nothing is recorded for it",
                next_step="Trigger a new run",
                cutover=known.id,
            )
        at = ctx.clock.now()
        network_cutovers.apply(
            tx,
            now,
            "planned",
            at=at,
            by=ctx.run,
            details={"digest": planned.digest, "blocking": len(planned.blocking), "before": before},
            plan=planned.dump(),
            plan_digest=planned.digest,
            before=before,
            extension_id=looked.extension_id,
        )
        _write_steps(tx, now, planned, at)


def _write_steps(tx: Tx, known: NetworkCutover, planned: PlannedNetwork, at: Any) -> None:
    rows = [
        {"name": each.name, "kind": each.kind, "words": each.words, "undo_words": each.undo_words, "spec": {}}
        for each in planned.steps
    ]
    cutovers.plan_steps(tx, NETWORK_KIND, known.id, rows, at=at)


def _planned(place: NetworkPlace, looked: Looked, run: WaveRun, known: NetworkCutover | None) -> PlannedNetwork:
    spec = place.network
    mode: NetworkMode = "cutover" if known is not None else "plan"
    steps = tuple(_steps(place))
    states = _states(looked)
    digest = digest_of(
        {
            "place": place.dump(),
            "before": states,
            "wanted": {name: wanted(name, state) for name, state in states.items()},
            "extension": looked.extension_id,
            # Who approves has read them: a machine that stays without a gateway, something that nobody can tell.
            "findings": [[each.code, each.what] for each in looked.findings],
            # An approval is for this very request, and no later one of the same plan.
            "cutover": known.id if known is not None else f"{run.dag_id}/{run.dag_run_id}",
            "asked": known.requested_at.isoformat() if known is not None else "",
        }
    )
    return PlannedNetwork(
        network=spec.network,
        mode=mode,
        prefix=spec.destination.prefix,
        digest=digest,
        steps=steps,
        findings=looked.findings,
        exceptions=tuple(dict.fromkeys(each.vm for each in looked.occupants if each.excepted)),
        notes=tuple(_notes(place)),
    )


def _states(looked: Looked) -> dict[str, Any]:
    return {SOURCE: looked.source, EXTENSION: looked.extension, DESTINATION: looked.destination}


def _steps(place: NetworkPlace) -> list[PlannedStep]:
    spec = place.network
    name, segment, gateway = spec.source.network, spec.destination.segment, spec.destination.gateway
    by = spec.source.disconnect.by
    how = {"nsx": "in NSX", "vmc": "in NSX of VMware Cloud", "webhook": "by the webhook"}.get(by, f"by '{by}'")
    if by == PERSON:
        asked = spec.source.disconnect
        off = asked.ask or f"Disconnect {name} from its router at the source, where {gateway} answers now"
        on = asked.undo or f"Connect {name} to its router at the source again, so that {gateway} answers there"
        source = PlannedStep(name="source", kind=PERSON, words=off, undo_words=on)
    else:
        source = PlannedStep(
            name="source",
            kind=CONNECTIVITY_KIND,
            words=f"Disconnect {name} from its router at the source, {how}",
            undo_words=f"Connect {name} to its router at the source, {how}",
        )
    return [
        source,
        PlannedStep(
            name="extension",
            kind=EXTENSION_KIND,
            words=f"End the extension of {name} in HCX, with the cloud network connected to its gateway",
            undo_words="Extend the network again, as it was; that takes minutes",
        ),
        PlannedStep(
            name="destination",
            kind=CONNECTIVITY_KIND,
            words=f"See that {segment} routes {spec.destination.prefix} with {gateway}; connect it if HCX did not",
            undo_words=f"Disconnect {segment} from its gateway, before anything else",
        ),
    ]


def _notes(place: NetworkPlace) -> list[str]:
    spec = place.network
    fails = "everything is undone by itself" if spec.on_failure == "revert" else "a person decides"
    probes = "nothing"
    if spec.probes is not None:
        probes = f"{counted(len(spec.probes.checks), 'check')} from queue {spec.probes.queue}"
    return [
        "nobody routes the network from the first step until the third",
        f"probed: {probes}; if a step or a check fails, {fails}",
        f"it may be finished {spec.soak_hours:g} h after the cutover. {NO_WAY_BACK}",
    ]


def blocking(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(each for each in findings if each.severity is Severity.ERROR)
