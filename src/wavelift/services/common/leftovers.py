"""For `wavelift cleanup` of one wave: what its runs may have left outside, by the ledger, and what was removed.

A wave is told nothing of the runs of another, and removes nothing of theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from wavelift.base.errors import TamperedError
from wavelift.base.names import run_hash
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, ServerRun, SnapshotState, events, waves
from wavelift.ledger.server_runs import SERVER_RUNS
from wavelift.services.common.admit import frozen_wave
from wavelift.services.dataplane.messages import (
    SNAPSHOT_KIND,
    CleanupReport,
    KnownRun,
    StandingSnapshot,
)


def known_runs(ledger: Ledger, wave: str) -> Iterator[KnownRun]:
    """Every run of the wave that may have made something, with its servers."""
    servers: dict[DagRun, list[str]] = {}
    for rows in SERVER_RUNS:
        with ledger.read() as tx:
            started = rows.started_runs(tx, wave)
        for run, server in started:
            servers.setdefault(run, []).append(server)
    for run, found in servers.items():
        yield KnownRun(dag_id=run.dag_id, run_id=run.dag_run_id, servers=tuple(found))


def standing_snapshots(ledger: Ledger, wave: str) -> Iterator[StandingSnapshot]:
    """The wave's snapshots that exist according to the ledger. Nothing else tells it when one was removed by other
    means."""
    with ledger.read() as tx:
        standing: list[ServerRun[Any]] = [each for rows in SERVER_RUNS for each in rows.open_snapshots(tx, wave)]
    for each in standing:
        with ledger.read() as tx:
            frozen = waves.find(tx, each.run)
        if frozen is not None:
            yield StandingSnapshot(
                server=each.server,
                connection=frozen_wave(frozen).connection,
                vm=each.snapshot_vm,
                name=each.snapshot_name,
                run=run_hash(each.run_key),
            )


def record_removed(ledger: Ledger, swept: CleanupReport, known: Collection[KnownRun], ctx: RunContext) -> Iterator[str]:
    """Record what was removed, so that its server is free again. Yields words about what could not be removed.

    :param known: the runs whose leftovers the clean-up was to look for, as the ledger froze them.
    :raises TamperedError: it says that it removed something of another run: the report came by XCom.
    """
    run, clock = ctx.run, ctx.clock
    own = {hash for each in known for hash in each.hashes}
    if foreign := next((one for one in swept.leftovers if one.removed and one.run not in own), None):
        raise TamperedError(
            "The clean-up's report names a run that it was not to clean up",
            field="leftovers.run",
            expected="a run of this wave",
            found=foreign.run,
            wave=swept.wave,
        )
    for one in swept.leftovers:
        if one.error:
            yield f"{one.name}: {one.error}"
        if not one.removed:
            continue
        with ledger.write() as tx:
            subject = events.Subject(one.kind, one.name, run)
            events.append(tx, subject, "cleanup.removed", at=clock.now(), actor=str(run))
        if one.kind != SNAPSHOT_KIND:
            continue
        for rows in SERVER_RUNS:
            with ledger.read() as tx:
                owner = rows.find(tx, rows.id_of_hash(one.run))
            if owner is not None and owner.snapshot_state is SnapshotState.INTENDED:
                with ledger.write(*rows.locks(owner)) as tx:
                    rows.snapshot_removed(tx, owner.id, by=str(run), clock=clock)
