"""The admit task of a migrate run: what may begin, frozen for the run."""

from __future__ import annotations

from collections.abc import Callable, Collection

from wavelift.base.domain import ExportResult
from wavelift.base.errors import SpecError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, Migration, migrations
from wavelift.rules.authority import Action, cleanup_action, priority_action
from wavelift.rules.conf import MigrateConf
from wavelift.rules.plans import ResolvedWave
from wavelift.services.common.admit import RunRequest, freeze, frozen_spec, lost_of
from wavelift.services.common.authority import Rights, require_run, require_where
from wavelift.services.common.leftovers import known_runs, standing_snapshots
from wavelift.services.common.reserve import refuse_in_maintenance
from wavelift.services.dataplane.messages import (
    Admitted,
    Imported,
)
from wavelift.services.migration.waiting import close_abandoned, write_rows


def admit(
    ledger: Ledger, request: RunRequest, load: Callable[[str], ResolvedWave], ctx: RunContext, *, rights: Rights
) -> Admitted:
    """Check the conf, resolve the spec and freeze it for the run.

    A repeated call returns what was frozen first and does not read the conf again. So the REST API may call it for a
    DAG run that it makes next. The servers have their rows, and so their ids, from here on.

    :raises SpecError: for an unknown key or value, naming what is allowed, or if the present files allow no run. There
        are no rows then.
    :raises DeniedError: whoever asked may not, by the present files.
    :raises PermanentError: servers are to be migrated while their connector is in maintenance (AMP-05).
    """
    known = frozen_spec(ledger, request, lost_of(load), ctx)
    frozen = Admitted.load(known) if known else _resolve(ledger, request, load, ctx)
    environment = frozen.wave.environment.environment
    require_run(ledger, environment, action_of(frozen), ctx, rights=rights)
    if known is None and frozen.mode == "migrate":
        require_run(ledger, environment, priority_action(request.conf.get("priority")), ctx, rights=rights)
    if frozen.migrations:
        with ledger.read() as tx:
            ran = {migrations.get(tx, id).run for id in frozen.migrations}
        require_where(ledger, ran, Action.MIGRATE, ctx, rights=rights)
    freeze(ledger, request, ctx, mode=frozen.mode, spec=frozen.dump())
    close_abandoned(ledger, ctx, wave=request.wave)
    write_rows(ledger, frozen, ctx)
    return frozen


def action_of(admitted: Admitted) -> Action:
    """What a run does. A cleanup that removes concerns what all runs of the wave left."""
    return cleanup_action(dry_run=admitted.dry_run) if admitted.mode == "cleanup" else Action.MIGRATE


def _resolve(ledger: Ledger, request: RunRequest, load: Callable[[str], ResolvedWave], ctx: RunContext) -> Admitted:
    """A key of the conf that the mode does not use is ignored: the form shows ``servers`` and ``launch`` in each."""
    conf = MigrateConf.read(request.conf, wave=request.wave)
    mode = conf.mode
    wave = load(request.wave)
    if mode == "migrate":
        with ledger.read() as tx:
            refuse_in_maintenance(tx, wave.connector, wave=wave.wave)
    if mode in ("migrate", "plan", "preflight"):
        wave = wave.choose(conf.servers)
    if mode == "migrate" and conf.launch != "spec":
        wave = wave.with_launch(conf.launch)
    named = _named(ledger, wave.wave, conf.migrations or ()) if mode in ("launch", "verify") else []
    return Admitted(
        wave=wave,
        mode=mode,
        dag_id=ctx.run.dag_id,
        run_id=ctx.run.dag_run_id,
        requested_by=ctx.requester,
        migrations=tuple(each.id for each in named),
        imported=tuple(_imported(each) for each in named) if mode == "verify" else (),
        dry_run=conf.dry_run,
        runs=tuple(known_runs(ledger, wave.wave)) if mode == "cleanup" else (),
        standing=tuple(standing_snapshots(ledger, wave.wave)) if mode == "cleanup" else (),
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
