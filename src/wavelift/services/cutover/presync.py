"""Replication runs before the sources stop: what changed is sent while they still run, so that little is left.

Such a run is a DAG run of ``<wave>.replicate``. Its id is in the rows of its cutovers before it is triggered: admission
believes only that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from wavelift.base.names import run_hash
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import cutovers, jobs, lineage, replication_runs, waves
from wavelift.ledger.cutover_records import Cutover
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.records import WaveRun
from wavelift.rules.cutover import PRESYNC_PREFIX, CutoverState
from wavelift.rules.flows import REPLICATE
from wavelift.rules.plans import ServerPlan
from wavelift.rules.replication import RunState
from wavelift.services.common.admit import frozen_wave
from wavelift.services.cutover.forecasts import forecast_of

LONGEST: Final = 200
"""Characters of a DAG run's id. Airflow takes 250."""


@dataclass(frozen=True, slots=True)
class Presync:
    """What is to be done before the sources stop.

    :param run: the DAG run. :param servers: that it replicates; empty: nothing is to be done.
    :param conf: of the DAG run.
    :param busy: id of another replication run of one of the servers, which must end first; empty: there is none.
    :param fits: server → why it needs no run.
    """

    run: DagRun
    servers: tuple[str, ...] = ()
    conf: Mapping[str, Any] = field(default_factory=dict)
    busy: str = ""
    fits: Mapping[str, str] = field(default_factory=dict)


def begin(ledger: Ledger, number: int, ctx: RunContext) -> Presync:
    """Decide which servers need a run, and write its id into their rows. A repeated call answers the same.

    :param number: 1 or 2.
    """
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
    with ledger.write(jobs.lock_name(run.wave)) as tx:
        going = [each for each in cutovers.of_dag_run(tx, ctx.run) if each.state is CutoverState.GOING]
        asked = DagRun(REPLICATE.dag_id(run.wave), _id(number, going, ctx))
        busy = next((id for each in going if (id := _busy(tx, each, asked))), "")
        mine = [each for each in going if asked.dag_run_id in each.presync_runs]
        fits: dict[str, str] = {}
        if not mine and not busy:
            fits = {each.server: words for each in going if (words := _fits(tx, run, each, ctx))}
            mine = [_write(tx, each, asked.dag_run_id, ctx) for each in going if each.server not in fits]
    servers = tuple(each.server for each in mine)
    note = f"Before the cutover of {ctx.run.dag_run_id}"
    return Presync(asked, servers, {"servers": list(servers), "note": note}, busy, fits)


def settle(ledger: Ledger, presync: Presync, ctx: RunContext) -> dict[str, str]:
    """The DAG run has ended: forecast the downtime anew. Server → how its run ended, in words.

    A server whose run failed goes on: its last changes are more, and the new forecast says so.
    """
    told = {}
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
    with ledger.write(jobs.lock_name(run.wave)) as tx:
        ran = {each.server: each for each in replication_runs.of_dag_run(tx, presync.run)}
        for each in cutovers.of_dag_run(tx, ctx.run):
            if each.server not in presync.servers or each.state is not CutoverState.GOING:
                continue
            found, _ = forecast_of(tx, _plan(run, each), _disks(tx, each), now=ctx.clock.now(), synced=False)
            now = ctx.clock.now()
            cutovers.apply(tx, each, "presynced", at=now, by=ctx.run, forecast=found.dump(), phase="presynced")
            known = ran.get(each.server)
            if known is None:
                how = "the run did not reach it"
            elif known.state is RunState.COMPLETED:
                how = f"sent {known.bytes_sent} bytes"
            else:
                how = f"the run is {known.state}: {known.error or known.status}"
            told[each.server] = f"{how}; {found.words()}"
    return told


def _id(number: int, going: Sequence[Cutover], ctx: RunContext) -> str:
    """One id for each time that the run goes: a run that was cleared sends again."""
    times = [at for each in going if (at := each.moment("going"))]
    since = f"_{max(times):%H%M%S}" if times else ""
    name = ctx.run.dag_run_id
    if len(name) > LONGEST:
        name = run_hash(name)
    return f"{PRESYNC_PREFIX}{name}{since}_{number}"


def _busy(tx: Tx, known: Cutover, asked: DagRun) -> str:
    """A run that was admitted before the cutover went. It is not stopped: it ends soon, and sends changes as well."""
    found = replication_runs.open_of_job(tx, known.job_id)
    return next((each.id for each in found if each.state is RunState.ACTIVE and each.run != asked), "")


def _fits(tx: Tx, run: WaveRun, known: Cutover, ctx: RunContext) -> str:
    """Why a server needs no run; empty: it needs one. The forecast is stored: the stop of its source asks whether the
    window holds the newest one."""
    now = ctx.clock.now()
    found, needed = forecast_of(tx, _plan(run, known), _disks(tx, known), now=now, synced=False)
    if needed:
        return ""
    if known.forecast != found.dump():
        cutovers.apply(tx, known, "forecast", at=now, by=ctx.run, forecast=found.dump())
    return f"its forecast fits: {found.words()}"


def _write(tx: Tx, known: Cutover, id: str, ctx: RunContext) -> Cutover:
    runs = (*known.presync_runs, id)
    return cutovers.apply(
        tx, known, "presync", at=ctx.clock.now(), by=ctx.run, presync_runs=runs, phase="sends what changed"
    )


def _disks(tx: Tx, known: Cutover) -> list[int]:
    return [row.capacity for row in lineage.rows(tx, known.job_id)]


def _plan(run: WaveRun, known: Cutover) -> ServerPlan:
    """The server's entry as it was frozen; that of the folder or tag that holds it, if it has none of its own."""
    entries = frozen_wave(run).servers
    found = next((plan for plan in entries if plan.server == known.server), None)
    found = found or next(plan for plan in entries if plan.selector.many)
    return found.model_copy(update={"server": known.server})
