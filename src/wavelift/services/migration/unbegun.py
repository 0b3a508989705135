"""How the servers end that never began in a run: pre-flight or `reserve` refused them, or the run was stopped before.
The report closes their rows, and writes those that ``admit`` could not: of the VMs of a folder or a tag.

What pre-flight refused is *refused*: it has no tasks, and a new run takes it. What passed pre-flight has a ``reserve``
that can be cleared: it has *failed*, as if it had begun. Its ``reserve`` continues it under the same id. What a person
cancelled meanwhile is *cancelled*, whatever pre-flight says of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from wavelift.base.names import run_key
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, Migration, Tx, WaveRun, migrations, servers
from wavelift.rules.findings import subject_of
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.rules.lifecycle import MigrationState, allowed
from wavelift.rules.plans import ResolvedWave
from wavelift.services.common.admit import frozen_wave
from wavelift.services.common.report import TaskOutcome, refusals
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.dataplane.messages import PreflightReport
from wavelift.services.migration.waiting import end_waiting, storable

NEVER_BEGUN: Final = "none of its tasks began: the run was stopped"
FORGOTTEN: Final = "the pre-flight of this run was repeated and does not name it any more"
OTHER_NAME: Final = "the pre-flight tells of its server under another name: see the other servers of this run"


def record(
    ledger: Ledger,
    run: WaveRun,
    preflight: PreflightReport,
    tasks: Mapping[str, TaskOutcome],
    rows: Iterable[Migration],
    ctx: RunContext,
) -> list[Migration]:
    """Write how the servers ended that did not begin. A repeated call changes only what is different now.

    :param tasks: by server. :param rows: those of the run; what began has ended.
    :returns: the rows that count for the report.
    """
    wave = frozen_wave(run)
    refused = {storable(_entry(wave, subject)): why for subject, why in refusals(preflight).items()}
    passed = {storable(task.name): tasks.get(task.name) for task in preflight.passed}
    place: dict[str, Any] = {"wave": wave.wave, "connector": wave.connector, "region": wave.environment.region}
    kept = {row.id: row for row in rows}
    keys = {name: run_key(ctx.run.dag_id, ctx.run.dag_run_id, name) for name in (*refused, *passed)}
    named = {migrations.migration_id(key) for key in keys.values()}
    with ledger.write(servers.LOCK) as tx:
        now = ctx.clock.now()
        for name, key in keys.items():
            known = migrations.find(tx, migrations.migration_id(key), lock=True)
            state, why = _refused(known, refused[name]) if name in refused else _passed(known, passed[name])
            if known is not None:
                row = migrations.end_anew(tx, known, state, why, at=now)
            else:
                row = migrations.insert_ended(
                    tx, at=now, run=ctx.run, run_key=key, state=state, error=why, server=name, **place
                )
            kept[row.id] = row
        for row in [row for row in kept.values() if row.server_id is None and row.id not in named]:
            kept[row.id] = _forget(tx, row, ctx)
            if not (_was_cancelled(row) and kept[row.id].error == CANCELLED):
                del kept[row.id]
    return list(kept.values())


def stop(ledger: Ledger, id: str, stopped: str, ctx: RunContext) -> Migration:
    """Close the row of a server that no pre-flight has passed, because its run was stopped before.

    :param stopped: why the run was stopped, if that is known.
    """
    with ledger.write() as tx:
        row = migrations.ROWS.held(tx, id)
        why = f"{NEVER_BEGUN}: {stopped}" if stopped else NEVER_BEGUN
        return end_waiting(tx, row, MigrationState.FAILED, why, ctx.clock) if row.waits else row


def _forget(tx: Tx, row: Migration, ctx: RunContext) -> Migration:
    """The pre-flight does not name it: its VM left the folder, its entry finds VMs now, or another entry means the same
    VM. Nothing is left to do about it."""
    if row.waits:
        return end_waiting(tx, row, MigrationState.REFUSED, OTHER_NAME, ctx.clock)
    said_before = row.state is MigrationState.CANCELLED or row.error == OTHER_NAME
    return row if said_before else migrations.end_anew(tx, row, row.state, FORGOTTEN, at=ctx.clock.now())


def listed(run: WaveRun, preflight: PreflightReport | None) -> Collection[str]:
    """The names by which a new run takes one refused server, and no other.

    An entry for a folder or a tag takes all its VMs. So it counts only if it found none.
    """
    plans = frozen_wave(run).servers
    single = {plan.server for plan in plans if not plan.selector.many}
    found = {task.name for task in preflight.servers} if preflight else set()
    return single if found - single else {plan.server for plan in plans}


def _refused(known: Migration | None, why: str) -> tuple[MigrationState, str]:
    """What pre-flight refuses. A completed server stays completed, one that was cancelled before stays cancelled."""
    if _was_cancelled(known):
        return MigrationState.CANCELLED, CANCELLED
    if known is not None and not allowed(known.state, MigrationState.REFUSED):
        return known.state, known.error
    return MigrationState.REFUSED, why


def _passed(known: Migration | None, tasks: TaskOutcome | None) -> tuple[MigrationState, str]:
    """What pre-flight accepts. Once it began, its row says how it ended, unless ``reserve`` refused it since."""
    said = tasks.words if tasks is not None else ""
    if _was_cancelled(known):
        return MigrationState.CANCELLED, CANCELLED
    if known is None or known.waits or known.state is MigrationState.REFUSED:
        return MigrationState.FAILED, said or NEVER_BEGUN
    at_reserve = known.server_id is None or (tasks is not None and CONTINUE_FROM in tasks.failed_tasks)
    if known.state is MigrationState.FAILED and at_reserve and said:
        return known.state, said
    return known.state, known.error


def _was_cancelled(known: Migration | None) -> bool:
    """A person cancelled it before anything of it began."""
    return known is not None and known.server_id is None and known.cancel_requested


def _entry(wave: ResolvedWave, subject: str) -> str:
    """The name of the entry that a finding is about, as a new run takes it; that of a VM is its subject."""
    return next((plan.server for plan in wave.servers if subject_of(plan.server) == subject), subject)
