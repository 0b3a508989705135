"""The admit task of a migrate run: what may begin, frozen for the run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from wavelift.base.domain import ExportResult
from wavelift.base.errors import SpecError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, Migration, migrations
from wavelift.rules.plans import ResolvedWave
from wavelift.services.common.admit import RunRequest, freeze, frozen_spec
from wavelift.services.common.leftovers import known_runs, standing_snapshots
from wavelift.services.dataplane.messages import (
    Admitted,
    Imported,
    Mode,
)

FORM_KEYS: Final = ("servers", "launch", "mode", "note")
EXTRA_KEYS: Final = ("migrations", "dry_run")
"""What our own REST routes add to the form's keys."""
MODES: Final[tuple[Mode, ...]] = ("migrate", "plan", "preflight", "launch", "verify", "cleanup")
LAUNCH: Final = ("spec", "none", "running")


def admit(ledger: Ledger, request: RunRequest, load: Callable[[str], ResolvedWave], ctx: RunContext) -> Admitted:
    """Check the conf, resolve the spec and freeze it for the run. A repeated call returns what was frozen first.

    :raises SpecError: for an unknown key or value, naming what is allowed, or a broken spec.
    """
    known = frozen_spec(ledger, ctx)
    frozen = Admitted.load(known) if known else _resolve(ledger, request, load, ctx)
    freeze(ledger, request, ctx, mode=frozen.mode, spec=frozen.dump())
    return frozen


def _resolve(ledger: Ledger, request: RunRequest, load: Callable[[str], ResolvedWave], ctx: RunContext) -> Admitted:
    conf = request.conf
    allowed = (*FORM_KEYS, *EXTRA_KEYS)
    unknown = sorted(set(conf) - set(allowed))
    if unknown:
        raise SpecError(
            f"The run's conf has unknown keys: {', '.join(unknown)}",
            next_step=f"Allowed are {', '.join(allowed)}",
            wave=request.wave,
        )
    mode = _one_of("mode", conf.get("mode", "migrate"), MODES)
    launch = _one_of("launch", conf.get("launch", "spec"), LAUNCH)
    servers = _names("servers", conf.get("servers"))
    ids = _names("migrations", conf.get("migrations"))
    wave = load(request.wave)
    if mode in ("migrate", "plan", "preflight"):
        wave = wave.choose(servers)
    if mode == "migrate" and launch != "spec":
        wave = wave.with_launch(launch)  # type: ignore[arg-type]
    named = _named(ledger, request.wave, ids) if mode in ("launch", "verify") else []
    return Admitted(
        wave=wave,
        mode=mode,  # type: ignore[arg-type]
        dag_id=ctx.run.dag_id,
        run_id=ctx.run.dag_run_id,
        requested_by=ctx.requester,
        migrations=tuple(each.id for each in named),
        imported=tuple(_imported(each) for each in named) if mode == "verify" else (),
        dry_run=_flag("dry_run", conf.get("dry_run", True)),
        runs=tuple(known_runs(ledger)) if mode == "cleanup" else (),
        standing=tuple(standing_snapshots(ledger)) if mode == "cleanup" else (),
    )


def _one_of(key: str, value: object, allowed: Collection[str]) -> str:
    if value not in allowed:
        raise SpecError(f"{key} is {value!r}", next_step=f"Allowed are {', '.join(allowed)}")
    return str(value)


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise SpecError(f"{key} is {value!r}", next_step="Allowed are true, false")
    return value


def _names(key: str, value: object) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SpecError(f"{key} is {value!r}", next_step="Give a list of names in quotes, or leave it out for all")
    return value


def _named(ledger: Ledger, wave: str, ids: list[str] | None) -> list[Migration]:
    """The migrations that the conf names; all must be of this wave."""
    if not ids:
        raise SpecError("No migration is named", next_step="Give their ids in conf under migrations", wave=wave)
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
