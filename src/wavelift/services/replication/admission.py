"""Which replication runs may start (SMS-06, SMS-07, AIR-04): one function decides, in one ledger transaction.

Our REST API and CLI reserve runs first, under the id of the DAG run that they create next. The admit task of every DAG
run takes the reservations of its id and decides about all other servers. Therefore the source and the number of
concurrent requests do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from wavelift.base.domain import Refusal
from wavelift.base.errors import PermanentError, RefusedError
from wavelift.base.names import run_key
from wavelift.base.run import RunContext
from wavelift.ledger import connectors, cutovers, events, jobs, replication_runs
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.replication_records import ReplicationJob, ReplicationRun
from wavelift.rules.replication import (
    DEFAULT_POLICY,
    JobState,
    Policy,
    Rule,
    RunState,
    RunType,
    Standing,
    refuse_run,
)
from wavelift.rules.schedule import due_servers
from wavelift.services.replication.outcome import DAG_RUN_ENDED, end_failed, expire

Denies = Callable[[Tx, ReplicationJob], Refusal | None]


class Skipped(Refusal):
    """A scheduled instant that passed, not a request that was refused."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What a DAG run may do.

    :param granted: runs that may continue.
    :param refused: on-demand requests that a rule forbids.
    :param skipped: scheduled instants that came while a run was in progress (SMS-07), or while the connector was in
        maintenance (AMP-05). They count as no failure.
    :param finished: runs of this DAG run that have completed: clearing it does not repeat them.
    """

    granted: tuple[ReplicationRun, ...] = ()
    refused: tuple[Refusal, ...] = ()
    skipped: tuple[Refusal, ...] = ()
    finished: tuple[ReplicationRun, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a DAG run is to replicate.

    :param scheduled_for: the instant of a scheduled DAG run, which serves every server that is due by then and whose
        instant no other run has covered yet; None: on demand.
    :param servers: of an on-demand run; None: those reserved for it, else all of the wave.
    :param connector: of the wave. While it is in maintenance nothing new begins; what was granted before goes on, and
        waits for its slots.
    """

    scheduled_for: datetime | None = None
    servers: Sequence[str] | None = None
    backfill: bool = False
    connector: str = ""
    cutover: bool = False
    """The DAG run is that of a cutover, or one that a cutover started: only servers whose open cutovers say so run."""
    denies: Denies | None = None
    """Of a scheduled run: why a job's authoriser may not replicate any more. None: all may."""


def reserve_runs(
    ledger: Ledger,
    wave: str,
    servers: Sequence[str],
    ctx: RunContext,
    *,
    connector: str = "",
    policy: Policy = DEFAULT_POLICY,
) -> tuple[ReplicationRun, ...]:
    """Reserve an on-demand run of each server for ``ctx.run``, which the caller makes next; all of them or none.

    A reservation that the DAG run does not take within 2 minutes expires and is not counted. A repeated call for the
    same DAG run returns what it reserved.

    :param connector: of the wave. While it is in maintenance, every new run is refused.
    :raises RefusedError: when a rule forbids one of them. It names rule and time of each. Nothing is reserved then.
    :raises PermanentError: when that DAG run has begun, or no server is named.
    """
    if not servers:
        raise PermanentError("No server is named", next_step="Name at least one server of the wave.", wave=wave)
    names = tuple(dict.fromkeys(servers))
    ended = _ended_runs(ledger, wave, names, ctx)
    with ledger.write(jobs.lock_name(wave)) as tx:
        desk = _Desk(tx, wave, ctx, policy, ended, connector)
        asked = {name: desk.decide(name, RunType.ON_DEMAND) for name in names if desk.must_reserve(name)}
        refused = tuple(refusal for refusal in asked.values() if refusal)
        if not refused:
            for name in asked:
                desk.write(name, RunType.ON_DEMAND, RunState.RESERVED, counted_at=desk.now)
            return tuple(desk.mine[name] for name in names)
        desk.tell_refused(refused)
    raise _refused_error(wave, refused)


def admit_runs(
    ledger: Ledger, wave: str, asked: Asked, ctx: RunContext, *, policy: Policy = DEFAULT_POLICY
) -> Admission:
    """Decide what a DAG run may do. A repeated call (a retry, a clear) continues the same runs and counts nothing
    twice: failed and cancelled ones start again, completed, refused and skipped ones stay so.

    :raises PermanentError: for a backfill: only the present content of a server can be read.
    """
    scheduled_for, servers = asked.scheduled_for, asked.servers
    if asked.backfill:
        raise PermanentError(
            "A backfill can't replicate: a server can be read only as it is now",
            next_step="Trigger the DAG instead.",
            wave=wave,
            rule=str(Rule.BACKFILL),
        )
    names = None if scheduled_for is not None or servers is None else tuple(dict.fromkeys(servers))
    ended = _ended_runs(ledger, wave, names, ctx)
    with ledger.write(jobs.lock_name(wave)) as tx:
        desk = _Desk(tx, wave, ctx, policy, ended, asked.connector)
        desk.denies = asked.denies
        instants: dict[str, datetime | None] = dict.fromkeys(desk.mine)
        if scheduled_for is not None:
            instants |= desk.due(scheduled_for)
        else:
            instants |= dict.fromkeys(desk.everyone() if names is None and not instants else names or ())
        kind = RunType.ON_DEMAND if scheduled_for is None else RunType.AUTOMATIC
        if asked.cutover:
            kind = RunType.CUTOVER
        return _sort([desk.admit(name, kind, at) for name, at in instants.items()])


def continue_run(ledger: Ledger, run_id: str, ctx: RunContext, *, policy: Policy = DEFAULT_POLICY) -> ReplicationRun:
    """Continue a run whose tasks were cleared after `admit`. An active one is returned as it is. Nothing is counted.

    :raises RefusedError: when a rule forbids it now: another run of the job is in progress, the job is paused …
    :raises PermanentError: when the run has ended for good.
    """
    with ledger.read() as tx:
        known = replication_runs.get(tx, run_id)
    ended = _ended_runs(ledger, known.wave, (known.server,), ctx)
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        desk = _Desk(tx, known.wave, replace(ctx, requester=str(ctx.run)), policy, ended)
        known = desk.mine[known.server]
        if known.state is not RunState.ACTIVE and not known.state.resumable:
            raise PermanentError(
                f"The replication run has ended as {known.state}",
                next_step="Start a new run of this server.",
                run=known.id,
                server=known.server,
            )
        found = desk.admit(known.server, known.type, known.scheduled_for)
    if isinstance(found, Refusal):
        raise _refused_error(known.wave, (found,))
    return found


Found = ReplicationRun | Refusal


class _Desk:
    """What one transaction knows about a wave while it decides: a few reads, whatever the number of servers."""

    def __init__(
        self, tx: Tx, wave: str, ctx: RunContext, policy: Policy, ended: Mapping[str, int], connector: str = ""
    ) -> None:
        self.tx, self.wave, self.policy = tx, wave, policy
        self.maintenance = connectors.in_maintenance(tx, connector) if connector else None
        self.run, self.by, self.now = ctx.run, ctx.requester, ctx.clock.now()
        self.open = self._close_stale(ended)
        self.jobs = {each.server: each for each in jobs.standing(tx, wave)}
        self.mine = {each.server: each for each in replication_runs.of_dag_run(tx, ctx.run)}
        self.grants = replication_runs.grants_since(tx, wave, self.now - policy.window)
        self.denies: Denies | None = None
        self.withheld = cutovers.withholding(tx, wave)
        self.served = cutovers.served_by(tx, ctx.run, wave)

    def _close_stale(self, ended: Mapping[str, int]) -> dict[str, ReplicationRun]:
        """Job id → its open run. Expired reservations, and runs whose DAG run has ended, are closed first."""
        standing = {}
        for each in replication_runs.open_of_wave(self.tx, self.wave):
            if each.state is RunState.RESERVED and self.now - each.requested_at >= self.policy.reservation:
                expire(self.tx, each, at=self.now)
            elif ended.get(each.id) == each.version:
                end_failed(self.tx, each, DAG_RUN_ENDED, at=self.now)
            else:
                standing[each.job_id] = each
        return standing

    def everyone(self) -> Iterable[str]:
        return [server for server, job in self.jobs.items() if job.state is not JobState.DELETING]

    def due(self, instant: datetime) -> dict[str, datetime]:
        """The servers whose next instant is not later than this one and was not covered yet."""
        active = {server: job.schedule for server, job in self.jobs.items() if job.state is JobState.ACTIVE}
        found = due_servers(active, instant, self.policy.grace)
        served = replication_runs.newest_instants(self.tx, self.wave, instant - self.policy.grace)
        return {
            server: at
            for server, at in found.items()
            if (last := served.get(self.jobs[server].id)) is None or last < at
        }

    def must_reserve(self, server: str) -> bool:
        known = self.mine.get(server)
        if known is not None and known.state is not RunState.RESERVED:
            raise PermanentError(
                f"This DAG run has a replication run of the server already: {known.state}",
                next_step="Reserve for a new DAG run id.",
                run=known.id,
                server=server,
            )
        return known is None

    def decide(self, server: str, kind: RunType, known: ReplicationRun | None = None) -> Refusal | None:
        """The decision: why this server may not run now; None: it may."""
        job = self.jobs.get(server)
        if job is None:
            reason = f"wave '{self.wave}' has no replication job for server '{server}'"
            return Refusal(server=server, rule=Rule.NO_JOB, reason=reason)
        if known is not None and known.job_id != job.id:
            return Refusal(server=server, rule=Rule.DELETED, reason="the job of this run is deleted")
        other = self.open.get(job.id)
        standing = Standing(
            job.state,
            job.term_ends_at,
            other.id if other is not None and (known is None or other.id != known.id) else "",
            self.grants.get(job.id, ()),
            self.withheld[server].id if server in self.withheld else "",
        )
        again = known is not None and known.state.resumable
        if kind is RunType.CUTOVER and server not in self.served:
            reason = "no open cutover of this server knows this DAG run"
            return Refusal(server=server, rule=Rule.CUTOVER, reason=reason)
        if self.maintenance is not None and not again:
            reason = f"the connector is in maintenance: {self.maintenance}"
            return Refusal(server=server, rule=Rule.MAINTENANCE, reason=reason)
        refusal = refuse_run(standing, kind, self.now, again=again, policy=self.policy)
        if refusal is None and kind is RunType.AUTOMATIC and self.denies is not None:
            refusal = self.denies(self.tx, job)
        return refusal.model_copy(update={"server": server}) if refusal else None

    def admit(self, server: str, kind: RunType, instant: datetime | None) -> Found:
        """The run with which this server continues in this DAG run, or why it may not."""
        known = self.mine.get(server)
        if known is None:
            return self._admit_new(server, kind, instant)
        if known.state is RunState.RESERVED:
            if server not in self.withheld:
                return self._activate(known, "taken_up")
            # A cutover went after the reservation was made.
            known = self.mine[server] = expire(self.tx, known, at=self.now)
        if known.state in (RunState.ACTIVE, RunState.COMPLETED):
            return known
        if known.state in (RunState.REFUSED, RunState.SKIPPED):
            answer = Skipped if known.state is RunState.SKIPPED else Refusal
            return answer(server=server, rule=known.rule, reason=known.status, until=known.refused_until)
        if known.state is RunState.DELETED:
            reason = "the job was deleted while this run was in progress"
            return Refusal(server=server, rule=Rule.DELETED, reason=reason)
        return self._admit_again(known)

    def _admit_new(self, server: str, kind: RunType, instant: datetime | None) -> Found:
        refusal = self.decide(server, kind)
        if refusal is None:
            counted = self.now if kind is RunType.ON_DEMAND else None
            return self.write(
                server, kind, RunState.ACTIVE, scheduled_for=instant, counted_at=counted, started_at=self.now
            )
        if server in self.jobs:
            state = RunState.SKIPPED if kind is RunType.AUTOMATIC else RunState.REFUSED
            self.write(
                server,
                kind,
                state,
                scheduled_for=instant,
                rule=str(refusal.rule),
                status=refusal.reason,
                refused_until=refusal.until,
                finished_at=self.now,
            )
        return Skipped(**refusal.model_dump()) if kind is RunType.AUTOMATIC else refusal

    def _admit_again(self, known: ReplicationRun) -> Found:
        """A failed or cancelled run, or a reservation whose DAG run came too late."""
        refusal = self.decide(known.server, known.type, known)
        if refusal is None:
            late = known.state is RunState.EXPIRED
            counts = late and known.type is RunType.ON_DEMAND
            return self._activate(known, "taken_up_late" if late else "continued", count=counts)
        if known.state is RunState.EXPIRED:
            words: dict[str, Any] = {
                "rule": str(refusal.rule),
                "status": refusal.reason,
                "refused_until": refusal.until,
            }
            replication_runs.apply(self.tx, known, "refused", at=self.now, by=self.by, state=RunState.REFUSED, **words)
        else:
            self.tell_refused((refusal,))
        return refusal

    def _activate(self, known: ReplicationRun, action: str, *, count: bool = False) -> ReplicationRun:
        changes: dict[str, Any] = {"counted_at": self.now} if count else {}
        began = replication_runs.apply(
            self.tx,
            known,
            action,
            at=self.now,
            by=self.by,
            state=RunState.ACTIVE,
            started_at=self.now,
            status="",
            error="",
            quarantine="",
            progress_pct=0,
            cancel_requested=False,
            **changes,
        )
        self.open[began.job_id] = began
        return began

    def write(self, server: str, kind: RunType, state: RunState, **columns: Any) -> ReplicationRun:
        job: ReplicationJob = self.jobs[server]
        made = replication_runs.insert(
            self.tx,
            at=self.now,
            by=self.by,
            run=self.run,
            run_key=run_key(self.run.dag_id, self.run.dag_run_id, server),
            job_id=job.id,
            wave=self.wave,
            server=server,
            type=kind,
            state=state,
            **columns,
        )
        self.mine[server] = made
        return made

    def tell_refused(self, refused: Collection[Refusal]) -> None:
        for each in refused:
            job = self.jobs.get(each.server)
            id = job.id if job else f"{self.wave}/{each.server}"
            subject = events.Subject("replication_job", id, self.run)
            events.append(self.tx, subject, "replication_run.refused", at=self.now, actor=self.by, details=each.dump())


def _sort(found: Sequence[Found]) -> Admission:
    runs = [each for each in found if isinstance(each, ReplicationRun)]
    refused = [each for each in found if isinstance(each, Refusal)]
    return Admission(
        granted=tuple(each for each in runs if each.state is RunState.ACTIVE),
        refused=tuple(each for each in refused if not isinstance(each, Skipped)),
        skipped=tuple(each for each in refused if isinstance(each, Skipped)),
        finished=tuple(each for each in runs if each.state is RunState.COMPLETED),
    )


def _ended_runs(ledger: Ledger, wave: str, servers: Collection[str] | None, ctx: RunContext) -> dict[str, int]:
    """Active runs whose DAG run has ended, each with the version seen before Airflow was asked: should the run come
    back to life meanwhile, the answer counts no more. Asked outside any transaction, once per DAG run."""
    with ledger.read() as tx:
        found = replication_runs.open_of_wave(tx, wave)
    others = [
        each
        for each in found
        if each.state is RunState.ACTIVE and each.run != ctx.run and (servers is None or each.server in servers)
    ]
    alive = {dag_run: ctx.liveness.run(dag_run) for dag_run in {each.run for each in others}}
    return {each.id: each.version for each in others if not alive[each.run]}


def _refused_error(wave: str, refused: tuple[Refusal, ...]) -> RefusedError:
    words = "; ".join(f"{each.server}: {each.reason}" for each in refused)
    return RefusedError(f"The replication run is refused: {words}", refusals=refused, wave=wave)
