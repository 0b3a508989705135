"""The rows of servers that were asked for, until a ``reserve`` takes them: list and cancel know them from the first
second (AMP-04, AMP-07).

``admit`` writes them before pre-flight looks at anything; whoever makes a DAG run through our REST API has them before
that. An entry for a folder or a tag has none: which VMs it means only vCenter knows, and pre-flight, which asks it, has
no ledger. ``reserve`` or the report writes theirs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from datetime import timedelta
from typing import Any, Final

from wavelift.base.errors import WaveliftError
from wavelift.base.names import run_key
from wavelift.base.printable import printable
from wavelift.base.run import Clock, DagRun, RunContext
from wavelift.ledger import Ledger, Migration, Tx, WaveRunState, migrations, servers, waves
from wavelift.ledger.tables import NAME_LENGTH
from wavelift.rules.frozen import entries_of
from wavelift.rules.lifecycle import MigrationState
from wavelift.rules.limits import LIMITS
from wavelift.services.common.admit import frozen_wave
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.dataplane.messages import Admitted, ServerTask

log = logging.getLogger(__name__)

WAITS: Final = "waits for pre-flight"
"""The phase of such a row."""
NOT_MADE: Final = "its DAG run could not be made: nothing was begun"
RUN_ENDED: Final = "Its DAG run ended before it did"
MAKING: Final = timedelta(seconds=LIMITS["reservation_seconds"].value)
"""A row may be older than its DAG run by this much: the REST API makes the run only after it."""


def write_rows(ledger: Ledger, admitted: Admitted, ctx: RunContext) -> None:
    """A row for each server of a run that moves servers. Called again, it makes nothing twice and reopens nothing: only
    what was given back, because its DAG run seemed not to be there, waits again."""
    if admitted.mode != "migrate":
        return
    wave = admitted.wave
    place: dict[str, Any] = {"wave": wave.wave, "connector": wave.connector, "region": wave.environment.region}
    with ledger.write(servers.LOCK) as tx:
        now = ctx.clock.now()
        known = {row.id: row for row in migrations.of_dag_run(tx, ctx.run)}
        for name in [storable(plan.server) for plan in wave.servers if not plan.selector.many]:
            key = run_key(ctx.run.dag_id, ctx.run.dag_run_id, name)
            row = known.get(migrations.migration_id(key))
            if row is None:
                _insert(tx, key, ctx, server=name, **place)
            elif row.server_id is None and row.error == NOT_MADE:
                migrations.apply(tx, row, "admitted", at=now, state=MigrationState.QUEUED, phase=WAITS)


def give_back(ledger: Ledger, run: DagRun, clock: Clock) -> None:
    """The DAG run of these rows could not be made: they wait for nothing, and so does the wave's run."""
    with ledger.write(servers.LOCK, waves.LOCK) as tx:
        for row in migrations.of_dag_run(tx, run):
            if row.waits:
                _end(tx, row, MigrationState.CANCELLED, NOT_MADE, clock)
        waves.finish_wave_run(tx, run, WaveRunState.FAILED, clock=clock)


def take_over(ledger: Ledger, task: ServerTask, ctx: RunContext) -> Migration | None:
    """A row for a server that pre-flight lists under another name than its entry: a folder of the wave has a VM of the
    same name. The entry's row ends and says where it goes on. A request to cancel it goes on, too.

    :returns: None: no row waits for this server. It came by a folder or a tag.
    """
    with ledger.read() as tx:
        entries = entries_of(task.facts.path, frozen_wave(waves.get(tx, ctx.run)).servers)
    names = [storable(entry.server) for entry in entries if not entry.selector.many]
    id = migrations.migration_id(ctx.run_key)
    with ledger.write(servers.LOCK) as tx:
        ids = [migrations.migration_id(run_key(ctx.run.dag_id, ctx.run.dag_run_id, name)) for name in names]
        asked = [row for each in ids if (row := migrations.find(tx, each, lock=True)) is not None and row.waits]
        if not asked:
            return None
        for row in asked:
            _end(tx, row, MigrationState.CANCELLED, f"goes on as {printable(ctx.server)}: {id}", ctx.clock)
        cancelled = any(row.cancel_requested for row in asked)
        place: dict[str, Any] = {each: getattr(asked[0], each) for each in ("wave", "connector", "region")}
        return _insert(tx, ctx.run_key, ctx, server=ctx.server, cancel_requested=cancelled, **place)


def end_cancelled(ledger: Ledger, id: str, *, clock: Clock) -> Migration:
    """A request to cancel what waits for a DAG run that is over, or was deleted: nobody else would close it."""
    with ledger.write() as tx:
        return migrations.mark_cancelled(tx, id, CANCELLED, clock=clock)


def close_abandoned(
    ledger: Ledger, ctx: RunContext, *, wave: str | None = None, connector: str | None = None
) -> Collection[Migration]:
    """Close what waits for a DAG run that ended or was deleted before its report: its row would wait for ever.

    A run that no scheduler has taken is queued in Airflow, and alive. If Airflow does not answer, nothing is closed.

    :returns: what was closed.
    """
    with ledger.read() as tx:
        found = migrations.waiting(tx, wave=wave, connector=connector)
    old = [row for row in found if row.run != ctx.run and ctx.clock.now() - row.updated_at >= MAKING]
    try:
        alive = {run: ctx.liveness.run(run) for run in dict.fromkeys(row.run for row in old)}
    except WaveliftError as error:
        log.warning("Airflow did not tell which runs are alive: nothing is closed: %s", error)
        return ()
    closed = []
    for seen in old:
        if alive[seen.run]:
            continue
        with ledger.write() as tx:
            row = migrations.find(tx, seen.id, lock=True)
            if row is not None and row.waits and row.version == seen.version:
                closed.append(end_waiting(tx, row, MigrationState.FAILED, RUN_ENDED, ctx.clock))
    return closed


def end_waiting(tx: Tx, row: Migration, state: MigrationState, why: str, clock: Clock) -> Migration:
    """How a server ends of which nothing began. What a person cancelled is cancelled, whatever else would be said."""
    if row.cancel_requested:
        state, why = MigrationState.CANCELLED, CANCELLED
    return _end(tx, row, state, why, clock)


def storable(name: str) -> str:
    """A name of outside as the ledger takes it: one that no database takes must not stop the run. No server has such a
    name."""
    plain = len(name) <= NAME_LENGTH and not re.search("[\0\ud800-\udfff]", name)
    return name if plain else printable(printable(name), NAME_LENGTH)


def _insert(tx: Tx, key: str, ctx: RunContext, **columns: Any) -> Migration:
    return migrations.insert(
        tx,
        at=ctx.clock.now(),
        run=ctx.run,
        run_key=key,
        action="admitted",
        by=ctx.requester,
        map_index=-1,
        phase=WAITS,
        **columns,
    )


def _end(tx: Tx, row: Migration, state: MigrationState, why: str, clock: Clock) -> Migration:
    return migrations.end_anew(tx, row, state, why, at=clock.now())
