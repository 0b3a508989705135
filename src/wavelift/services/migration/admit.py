"""The admit task of a migrate run: what may begin, frozen for the run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from wavelift.base.domain import ExportResult
from wavelift.base.errors import SpecError
from wavelift.base.run import Clock
from wavelift.ledger import (
    DagRun,
    Ledger,
    Migration,
    migrations,
    waves,
)
from wavelift.rules.conf import MigrateConf
from wavelift.rules.plans import ResolvedWave
from wavelift.services.common.leftovers import known_runs, standing_snapshots
from wavelift.services.dataplane.messages import (
    Admitted,
    Imported,
)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What triggered a run: Airflow's conf and who sent it."""

    run: DagRun
    wave: str
    conf: Mapping[str, Any]
    requested_by: str
    source: str
    """``ui``, ``api`` or ``schedule``."""


def admit(
    ledger: Ledger,
    request: RunRequest,
    load: Callable[[str], ResolvedWave],
    *,
    clock: Clock,
) -> Admitted:
    """Check the conf, resolve the spec and freeze it for the run. A repeated call returns what was frozen first.

    :raises SpecError: for an unknown key or value, naming what is allowed, or a broken spec.
    """
    conf = MigrateConf.read(request.conf, wave=request.wave)
    with ledger.read() as tx:
        known = waves.find(tx, request.run)
    frozen = Admitted.load(known.spec) if known else _resolve(ledger, request, conf, load)
    with ledger.write(waves.LOCK) as tx:
        waves.freeze_wave_run(
            tx,
            run=request.run,
            wave=request.wave,
            mode=frozen.mode,
            requested_by=request.requested_by,
            source=request.source,
            spec=frozen.dump(),
            note=conf.note or "",
            clock=clock,
        )
    return frozen


def _resolve(ledger: Ledger, request: RunRequest, conf: MigrateConf, load: Callable[[str], ResolvedWave]) -> Admitted:
    mode = conf.mode
    wave = load(request.wave).choose(conf.servers)
    if mode == "migrate" and conf.launch != "spec":
        wave = wave.with_launch(conf.launch)
    named = _named(ledger, request.wave, conf.migrations or ())
    return Admitted(
        wave=wave,
        mode=mode,
        dag_id=request.run.dag_id,
        run_id=request.run.dag_run_id,
        requested_by=request.requested_by,
        migrations=tuple(each.id for each in named),
        imported=tuple(_imported(each) for each in named) if mode == "verify" else (),
        dry_run=conf.dry_run,
        runs=tuple(known_runs(ledger)) if mode == "cleanup" else (),
        standing=tuple(standing_snapshots(ledger)) if mode == "cleanup" else (),
    )


def _named(ledger: Ledger, wave: str, ids: Collection[str]) -> list[Migration]:
    """The migrations that the conf names; all must be of this wave."""
    with ledger.read() as tx:
        found = [migrations.get(tx, id) for id in ids]
    for known in found:
        if known.wave != wave:
            raise SpecError(f"{known.id} belongs to wave {known.wave}", wave=wave, next_step="Trigger that wave's DAG")
    return found


def _imported(known: Migration) -> Imported:
    if not known.export_result or not known.snapshot_ids:
        raise SpecError(
            f"{known.id} has no image to verify: it is {known.state}",
            server=known.server,
            next_step="Verify only finished imports; see wavelift migrations list",
        )
    return Imported(migration=known.id, export=ExportResult.load(known.export_result), snapshot_ids=known.snapshot_ids)
