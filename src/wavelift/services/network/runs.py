"""A network's runs in the ledger: the place that each froze, and the cutover that it opened or ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from wavelift.base.errors import NotFoundError, SpecError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, Tx, WaveRun, WaveRunState, network_cutovers, waves
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.services.dataplane.network_messages import NetworkPlace

PREFIX: Final = "network/"
"""Of the names under which the ledger keeps the runs of networks: no wave's name has a slash."""
Load = Callable[[str], NetworkPlace]
"""The network of this name by the present files. SpecError: they allow no run."""


def run_name(network: str) -> str:
    return f"{PREFIX}{network}"


def frozen_place(run: WaveRun) -> NetworkPlace:
    """The network as it was frozen for a run."""
    return NetworkPlace.load(run.spec)


def place_of(tx: Tx, known: NetworkCutover) -> NetworkPlace:
    """The network as the run that opened a cutover froze it: orders go by this, in every run.

    :raises NotFoundError: that run was never admitted.
    """
    return frozen_place(waves.get(tx, known.run))


def opened_by(tx: Tx, ctx: RunContext) -> NetworkCutover:
    """The cutover that this run opened. :raises NotFoundError: it opened none."""
    return _there(network_cutovers.of_dag_run(tx, ctx.run), ctx)


def ended_by(tx: Tx, ctx: RunContext, mode: Literal["revert", "finish"]) -> NetworkCutover:
    """The cutover that this run reverts, or finishes. :raises NotFoundError: it claimed none for that."""
    known = network_cutovers.ended_by(tx, ctx.run)
    claimed = known is not None and getattr(known, f"{mode}_run") == ctx.run.dag_run_id
    return _there(known if claimed else None, ctx)


def require_unchanged(run: WaveRun, load: Load) -> None:
    """A run that has ended and is cleared goes forward only as it began: the present files must say the same.

    :raises SpecError: they allow no run, or another one.
    """
    if run.state is WaveRunState.RUNNING:
        return
    name = run.wave.removeprefix(PREFIX)
    if load(name).digest != frozen_place(run).digest:
        raise SpecError(
            "This run has ended, and the files of its network have changed since it began",
            next_step="Trigger a new run of the network",
            network=name,
        )


def reopen(ledger: Ledger, ctx: RunContext) -> None:
    """A task of an ended run was cleared: the run goes on."""
    with ledger.read() as tx:
        known = waves.get(tx, ctx.run)
    if known.state is not WaveRunState.RUNNING:
        with ledger.write(waves.LOCK) as tx:
            waves.reopen_wave_run(tx, ctx.run, by=str(ctx.run), clock=ctx.clock)


def _there(known: NetworkCutover | None, ctx: RunContext) -> NetworkCutover:
    if known is None:
        raise NotFoundError(
            "This run has no cutover",
            next_step="Clear the run's first task, `admit`: it opens or claims it",
            run=ctx.run,
        )
    return known
