"""The admit task of an export's run: its conf and environment, frozen for the run, and the export that it opens."""

from __future__ import annotations

from typing import Any

from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, exports, waves
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.authority import Action
from wavelift.rules.conf import ExportConf
from wavelift.rules.environment import Environment
from wavelift.rules.instance_export import ExportState
from wavelift.services.common.admit import RunRequest, freeze
from wavelift.services.common.authority import Rights, require_run
from wavelift.services.instance_export.opening import asked_of, open_export
from wavelift.services.instance_export.runs import FrozenExport, Load, frozen, place_of, require_unchanged, run_name


def admit(
    ledger: Ledger, request: RunRequest, load: Load, ctx: RunContext, *, rights: Rights
) -> tuple[ExportConf, InstanceExport | None]:
    """Check the conf and who asks, freeze both with the environment, and open the export.

    A repeated call keeps what was frozen first. Modes check and setup open none.

    :param request: its ``wave`` is the environment's name.
    :raises SpecError: an unknown key or value; the environment has no ``exports``, or its files have errors.
    :raises DeniedError: whoever asked may not administer the environment.
    :raises RefusedError: another export of the instance is open.
    """
    conf = ExportConf.read(request.conf, environment=request.wave)
    environment = _environment(ledger, request.wave, load, ctx)
    place_of(environment)
    require_run(ledger, environment.environment, Action.ADMINISTER, ctx, rights=rights)
    known = None
    if conf.mode != "setup":
        asked = asked_of(ledger, environment, conf)
        known = open_export(ledger, asked, ctx) if conf.mode == "export" else None
    named = RunRequest(wave=run_name(request.wave), conf=request.conf, source=request.source, first=request.first)
    spec = FrozenExport(environment=environment, conf=conf.given())
    freeze(ledger, named, ctx, mode=conf.mode, spec=spec.dump())
    return conf, None if known is None else _admitted(ledger, known, ctx)


def _environment(ledger: Ledger, name: str, load: Load, ctx: RunContext) -> Environment:
    with ledger.read() as tx:
        run = waves.find(tx, ctx.run)
    if run is None:
        return load(name)
    require_unchanged(run, load)
    return frozen(run).environment


def _admitted(ledger: Ledger, known: InstanceExport, ctx: RunContext) -> InstanceExport:
    """From here on its DAG run is there."""
    if known.state.terminal or (known.times or {}).get("admitted"):
        return known
    with ledger.write(exports.lock_name(known.region, known.instance_id)) as tx:
        now = exports.get(tx, known.id, lock=True)
        return exports.note_time(tx, now, "admitted", at=ctx.clock.now(), by=ctx.requester)


def has_arrived(known: InstanceExport | None) -> bool:
    """Whether nothing is left to do: a run whose export has completed was cleared."""
    return known is not None and known.state is ExportState.COMPLETED


def conf_of_run(spec: FrozenExport) -> ExportConf:
    """The conf as it was read when the run was admitted."""
    given: dict[str, Any] = dict(spec.conf)
    return ExportConf.read(given, environment=spec.environment.environment)
