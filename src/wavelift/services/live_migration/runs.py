"""A run of ``<wave>.live`` as it was frozen, and what all steps ask about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import live_migrations, waves
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.ledger.records import WaveRun
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.hcx_wave import WITH_WINDOW
from wavelift.rules.live_plans import ResolvedLive, lost_live_rights
from wavelift.services.common.admit import Lost

Load = Callable[[str], ResolvedLive]
"""The wave of this name as its files are now."""
RUN_KIND: Final = "live_run"
"""Subject of an approval: ``dag_id/dag_run_id``."""
SWITCHOVER_KIND: Final = "live_switchover"
"""The same, of the question before the window."""
NEW_RUN: Final = "Trigger a new run of the wave for it"


def run_subject(run: DagRun) -> str:
    return f"{run.dag_id}/{run.dag_run_id}"


def frozen_live(run: WaveRun) -> ResolvedLive:
    """The wave as it was frozen for a run."""
    return ResolvedLive.load(run.spec)


def lost_of_live(load: Load) -> Lost:
    """As :func:`wavelift.services.common.admit.lost_of`."""
    return lambda known: lost_live_rights(frozen_live(known), load(known.wave).environment)


def of_run(ledger: Ledger, ctx: RunContext) -> tuple[ResolvedLive, tuple[LiveMigration, ...]]:
    """The run's wave, and its migrations by server. :raises NotFoundError: the run was never admitted."""
    with ledger.read() as tx:
        return frozen_live(waves.get(tx, ctx.run)), live_migrations.of_dag_run(tx, ctx.run)


def of_server(tx: Tx, ctx: RunContext, *, lock: bool = False) -> LiveMigration:
    """The migration of the server that the task is for. :raises NotFoundError: it has none in this run."""
    return live_migrations.get(tx, live_migrations.live_id(ctx.run_key), lock=lock)


def lock_of(wave: ResolvedLive) -> str:
    """The lock under which migrations of the wave change."""
    return live_migrations.lock_name(wave.environment.hcx.connection)


def hcx_has_window(wave: ResolvedLive) -> bool:
    """Whether HCX itself holds the switchover back; else we wait before the start."""
    return wave.type in WITH_WINDOW


def connections_of(environment: HcxEnvironment) -> tuple[str, ...]:
    """What a task near HCX may open besides the manager."""
    return (environment.source.connection, environment.destination.connection)
