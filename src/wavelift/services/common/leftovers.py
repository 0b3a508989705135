"""For `wavelift cleanup`: what runs may have left outside according to the ledger, and what was removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from wavelift.base.names import run_hash
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import (
    Ledger,
    Migration,
    Page,
    ReplicationRun,
    SnapshotState,
    events,
    jobs,
    migrations,
    replication_runs,
    waves,
)
from wavelift.rules.plans import ResolvedWave
from wavelift.services.dataplane.messages import (
    SNAPSHOT_KIND,
    CleanupReport,
    KnownRun,
    StandingSnapshot,
)


def known_runs(ledger: Ledger) -> Iterator[KnownRun]:
    """Every run of the ledger that may have made something, with the run hashes of its servers."""
    hashes: dict[DagRun, list[str]] = {}
    started = replication_runs.RunFilter(started=True)
    for pages in (migrations.list_migrations, partial(replication_runs.list_runs, which=started)):
        for each in _all(ledger, pages):
            hashes.setdefault(each.run, []).append(run_hash(each.run_key))
    for run, found in hashes.items():
        yield KnownRun(dag_id=run.dag_id, run_id=run.dag_run_id, hashes=tuple(found))


def _all(ledger: Ledger, pages: Callable[..., Page[Any]]) -> Iterator[Migration | ReplicationRun]:
    offset = 0
    while True:
        with ledger.read() as tx:
            page = pages(tx, limit=500, offset=offset)
        if not page.items:
            return
        yield from page.items
        offset += len(page.items)


def standing_snapshots(ledger: Ledger) -> Iterator[StandingSnapshot]:
    """The snapshots that exist according to the ledger. Nothing else tells it when one was removed by other means."""
    with ledger.read() as tx:
        standing: list[Migration | ReplicationRun] = [*migrations.open_snapshots(tx)]
        standing += replication_runs.open_snapshots(tx)
    for each in standing:
        with ledger.read() as tx:
            frozen = waves.find(tx, each.run)
        if frozen is not None:
            spec = frozen.spec.get("wave")  # a replicate run freezes the wave, any other its Admitted
            wave = ResolvedWave.load(spec if isinstance(spec, dict) else frozen.spec)
            yield StandingSnapshot(
                server=each.server,
                connection=wave.connection,
                vm=each.snapshot_vm,
                name=each.snapshot_name,
                run=run_hash(each.run_key),
            )


def record_removed(ledger: Ledger, swept: CleanupReport, ctx: RunContext) -> Iterator[str]:
    """Record what was removed, so that its server is free again. Yields words about what could not be removed."""
    run, clock = ctx.run, ctx.clock
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
        with ledger.read() as tx:
            owner = migrations.find(tx, f"mig-{one.run}")
        if owner is not None and owner.snapshot_state is SnapshotState.INTENDED:
            with ledger.write() as tx:
                migrations.record_snapshot_removed(tx, owner.id, by=str(run), clock=clock)
        with ledger.read() as tx:
            replica = replication_runs.find(tx, f"run-{one.run}")
        if replica is not None and replica.snapshot_state is SnapshotState.INTENDED:
            with ledger.write(jobs.lock_name(replica.wave)) as tx:
                replication_runs.record_snapshot_removed(tx, replica.id, by=str(run), clock=clock)
