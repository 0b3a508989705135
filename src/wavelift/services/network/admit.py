"""The admit task of a network's run: its spec, frozen for the run, and the cutover that it opens or ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, network_cutovers, waves
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.rules.authority import Action
from wavelift.rules.conf import NetworkConf
from wavelift.rules.grants import LOOK_LIFETIME, Grant, sign
from wavelift.rules.network_cutover import NetworkState
from wavelift.services.common.admit import RunRequest, freeze
from wavelift.services.common.authority import Rights, require_run
from wavelift.services.common.grant_keys import private_key
from wavelift.services.dataplane.network_messages import LookOrder, NetworkPlace
from wavelift.services.network.ending import End, chosen, claim
from wavelift.services.network.opening import open_cutover
from wavelift.services.network.runs import Load, frozen_place, place_of, require_unchanged, run_name


def admit(
    ledger: Ledger, request: RunRequest, load: Load, ctx: RunContext, *, rights: Rights, key_file: Path
) -> LookOrder:
    """Check the conf, freeze the network's spec for the run, and open its cutover, or claim the one that it ends.

    A repeated call keeps the spec that was frozen first. Mode plan opens no cutover. A run that goes back, or gives
    the way back up, needs no file of the network: the one that opened the cutover froze it.

    :param request: its ``wave`` is the network's name.
    :param key_file: of the key that signs grants.
    :returns: what the queue may read now, with its grant.
    :raises SpecError: an unknown key or value; the present files allow no run; no such cutover.
    :raises RefusedError: another cutover of the network is open; or this one can't be ended so.
    :raises DeniedError: whoever asked may not cut over in the network's environment. The way back that a failed cutover
        begins by itself is everybody's: nobody routes meanwhile, also while a file is broken.
    """
    network = request.wave
    conf = NetworkConf.read(request.conf, network=network)
    ending: End | None = conf.mode if conf.mode in ("revert", "finish") else None
    known: NetworkCutover | None = None
    if ending is not None:
        known = chosen(ledger, network, conf.cutover or "")
        with ledger.read() as tx:
            place = place_of(tx, known)
    else:
        place = _present(ledger, network, load, ctx)
    if ending != "revert" or known is None or known.revert_run != ctx.run.dag_run_id:
        require_run(ledger, place.environment.environment, Action.CUT_OVER, ctx, rights=rights)
    if ending is not None and known is not None:
        known = claim(ledger, known, ending, ctx)
    elif conf.mode == "cutover":
        known = open_cutover(ledger, place, ctx, note=conf.note or "")
    named = RunRequest(wave=run_name(network), conf=request.conf, source=request.source, first=request.first)
    freeze(ledger, named, ctx, mode=conf.mode, spec=place.dump())
    return _order(place, conf.mode, known, ctx, key_file)


def _present(ledger: Ledger, network: str, load: Load, ctx: RunContext) -> NetworkPlace:
    with ledger.read() as tx:
        run = waves.find(tx, ctx.run)
    if run is None:
        return load(network)
    require_unchanged(run, load)
    return frozen_place(run)


def _order(place: NetworkPlace, mode: str, known: NetworkCutover | None, ctx: RunContext, key_file: Path) -> LookOrder:
    before = (known.before or {}) if known is not None and mode == "finish" else {}
    order = LookOrder(place=place, mode=mode, extension=before.get("extension"))
    if mode == "revert":  # it reads nothing before it acts, and each order has a grant of its own
        return order
    grant = Grant(
        scope="look",
        action="network",
        user=ctx.requester,
        server=place.network.network,
        plan=place.digest,
        **network_grant(place, ctx),
    )
    token = sign(grant, private_key(key_file), now=ctx.clock.now(), lifetime=LOOK_LIFETIME)
    return order.model_copy(update={"token": token})


def network_grant(place: NetworkPlace, ctx: RunContext) -> dict[str, Any]:
    """What all grants of a network's run share: the queue, and every connection that a task on it may open."""
    environment = place.environment
    source, destination = environment.source, environment.destination
    nsx = (source.nsx, destination.nsx.connection if destination.nsx is not None else None)
    others = (
        source.connection,
        *source.vcenters,
        destination.connection,
        *nsx,
        place.network.source.disconnect.connection,
    )
    return {
        "environment": environment.environment,
        "dag_id": ctx.run.dag_id,
        "run_id": ctx.run.dag_run_id,
        "vcenter": environment.hcx.connection,
        "connections": tuple(dict.fromkeys(each for each in others if each)),
        "connector": environment.hcx.queue,
    }


_ARRIVED: Final = {
    "cutover": frozenset({NetworkState.SWITCHED, NetworkState.FINISHING, NetworkState.FINISHED}),
    "revert": frozenset({NetworkState.REVERTED}),
    "finish": frozenset({NetworkState.FINISHED}),
}
"""Mode → states in which a run of it has nothing left to do."""


def has_arrived(ledger: Ledger, mode: str, ctx: RunContext) -> bool:
    """Whether nothing is left to do: a run whose cutover has arrived was cleared."""
    with ledger.read() as tx:
        known = network_cutovers.of_dag_run(tx, ctx.run) or network_cutovers.ended_by(tx, ctx.run)
    return known is not None and known.state in _ARRIVED.get(mode, frozenset())
