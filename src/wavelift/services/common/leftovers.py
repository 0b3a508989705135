"""What runs may have left outside, as the ledger knows it, for `wavelift cleanup`; and what it removed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from wavelift.base.names import run_hash
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, Migration, ReplicationRun, SnapshotState, migrations, replication_runs, waves
from wavelift.ledger.events import record_event
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
        offset = 0
        while (page := pages(ledger, limit=500, offset=offset)).items:
            for each in page.items:
                hashes.setdefault(each.run, []).append(run_hash(each.run_key))
            offset += len(page.items)
    for run, found in hashes.items():
        yield KnownRun(dag_id=run.dag_id, run_id=run.dag_run_id, hashes=tuple(found))


def standing_snapshots(ledger: Ledger) -> Iterator[StandingSnapshot]:
    """The snapshots that the ledger takes for standing: nobody else may tell it when one went another way."""
    standing: list[Migration | ReplicationRun] = [*migrations.open_snapshots(ledger)]
    standing += replication_runs.open_snapshots(ledger)
    for each in standing:
        frozen = waves.find_wave_run(ledger, each.run)
        if frozen is not None:
            spec = frozen.spec.get("wave")  # of a replicate run the wave itself is frozen, of any other what it admits
            wave = ResolvedWave.load(spec if isinstance(spec, dict) else frozen.spec)
            yield StandingSnapshot(
                server=each.server,
                connection=wave.connection,
                vm=each.snapshot_vm,
                name=each.snapshot_name,
                run=run_hash(each.run_key),
            )


def record_removed(ledger: Ledger, swept: CleanupReport, ctx: RunContext) -> Iterator[str]:
    """Write down what was removed, so that its server is free again; words about what could not be."""
    run, clock = ctx.run, ctx.clock
    for one in swept.leftovers:
        if one.error:
            yield f"{one.name}: {one.error}"
        if not one.removed:
            continue
        record_event(
            ledger,
            clock=clock,
            actor=str(run),
            action="cleanup.removed",
            object_kind=one.kind,
            object_id=one.name,
            run=run,
        )
        if one.kind != SNAPSHOT_KIND:
            continue
        owner = migrations.find_migration(ledger, f"mig-{one.run}")
        if owner is not None and owner.snapshot_state is SnapshotState.INTENDED:
            migrations.record_snapshot_removed(ledger, owner.id, by=str(run), clock=clock)
        replica = replication_runs.find_run(ledger, f"run-{one.run}")
        if replica is not None and replica.snapshot_state is SnapshotState.INTENDED:
            replication_runs.record_snapshot_removed(ledger, replica.id, by=str(run), clock=clock)
