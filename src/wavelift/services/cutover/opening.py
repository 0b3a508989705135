"""Cutovers begin: one open cutover per server, whoever asks for it and however often.

The REST API reserves cutovers for a DAG run that it makes next; the admit task of each run takes its reservations, and
opens what nobody reserved. Both decide by :func:`open_cutovers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from wavelift.base.domain import Refusal
from wavelift.base.errors import RefusedError
from wavelift.base.names import run_key
from wavelift.base.run import RunContext
from wavelift.ledger import cutovers, jobs
from wavelift.ledger.cutover_records import Cutover
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.replication_records import ReplicationJob
from wavelift.rules.cutover import CutoverState
from wavelift.rules.cutover_plan import Opening
from wavelift.rules.replication import DEFAULT_POLICY, JobState, Policy, Rule

RUN_ENDED: Final = "Its DAG run ended before its source was touched"
TOO_LATE: Final = "Its DAG run did not start in time"
_BEGINS: Final = frozenset({CutoverState.RESERVED, CutoverState.EXPIRED, CutoverState.ENDED})
"""States of a run's own cutover that is admitted now, or again."""
_OVER: Final = frozenset(
    {CutoverState.REVERTING, CutoverState.REVERTED, CutoverState.FINALIZING, CutoverState.FINALIZED}
)
_UNTOUCHED: Final = frozenset({CutoverState.WAITING, CutoverState.GOING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A server that is to be cut over. Its tier may be known only once pre-flight has found it."""

    server: str
    environment: str
    tier: str = ""
    tier_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What all cutovers of one request share."""

    opening: Opening = field(default_factory=Opening)
    note: str = ""
    request_id: str = ""


def open_cutovers(  # noqa: PLR0913  # what, on which terms, and how far
    ledger: Ledger,
    wave: str,
    wanted: Sequence[Wanted],
    terms: Terms,
    ctx: RunContext,
    *,
    state: CutoverState = CutoverState.WAITING,
    policy: Policy = DEFAULT_POLICY,
) -> tuple[Cutover, ...]:
    """The cutovers of ``ctx.run``, in the order of ``wanted``: all of them or none.

    Repeated (a retry, a clear), it returns what it opened. A cutover of the run that ended before its source was
    touched begins anew, also its plan and approval.

    :param state: WAITING, or RESERVED for a DAG run that is made next.
    :raises RefusedError: a server has another open cutover, or no replication job. It names each.
    """
    ended = _ended_runs(ledger, wave, ctx)
    with ledger.write(jobs.lock_name(wave)) as tx:
        desk = _Desk(tx, wave, ctx, ended, policy)
        refused = tuple(refusal for each in wanted if (refusal := desk.refuse(each.server)) is not None)
        if not refused:
            return tuple(desk.open(each, terms, state) for each in wanted)
    words = "; ".join(f"{each.server}: {each.reason}" for each in refused)
    raise RefusedError(f"The cutover is refused: {words}", refusals=refused, wave=wave)


class _Desk:
    """What one transaction knows about a wave's cutovers."""

    def __init__(self, tx: Tx, wave: str, ctx: RunContext, ended: Mapping[str, int], policy: Policy) -> None:
        self.tx, self.wave, self.ctx, self.policy = tx, wave, ctx, policy
        self.now: datetime = ctx.clock.now()
        self.mine = {each.server: each for each in cutovers.of_dag_run(tx, ctx.run)}
        self.jobs: dict[str, ReplicationJob] = {job.server: job for job in jobs.standing(tx, wave)}
        self.others = self._standing(ended)

    def _standing(self, ended: Mapping[str, int]) -> dict[str, Cutover]:
        """Server → its open cutover of another run. Those that nobody will go on with are ended first."""
        found = {}
        for each in cutovers.open_of(self.tx, self.wave):
            if each.run == self.ctx.run:
                continue
            if each.state is CutoverState.RESERVED and self.now - each.requested_at >= self.policy.reservation:
                self._end(each, CutoverState.EXPIRED, TOO_LATE)
            elif ended.get(each.id) == each.version:
                self._end(each, CutoverState.ENDED, RUN_ENDED)
            else:
                found[each.server] = each
        return found

    def _end(self, known: Cutover, state: CutoverState, words: str) -> None:
        by = self.ctx.requester
        cutovers.apply(self.tx, known, str(state), at=self.now, by=by, state=state, error=words)

    def refuse(self, server: str) -> Refusal | None:
        mine, other, job = self.mine.get(server), self.others.get(server), self.jobs.get(server)
        if mine is not None and mine.state in _OVER:
            reason = f"cutover {mine.id} of this run is {mine.state}; trigger a new run"
            return Refusal(server=server, rule=Rule.CUTOVER, reason=reason)
        if mine is not None and mine.state not in _BEGINS:
            return None
        if other is not None:
            reason = f"cutover {other.id} of {other.run} is {other.state}"
            return Refusal(server=server, rule=Rule.CUTOVER, reason=reason)
        if job is None:
            reason = f"wave '{self.wave}' has no replication job for it; create one, and wait for its first run"
            return Refusal(server=server, rule=Rule.NO_JOB, reason=reason)
        if job.state is JobState.DELETING:
            return Refusal(server=server, rule=Rule.DELETED, reason="its replication job is being deleted")
        return None

    def open(self, wanted: Wanted, terms: Terms, state: CutoverState) -> Cutover:
        mine = self.mine.get(wanted.server)
        if mine is not None and (mine.state not in _BEGINS or mine.state is state):
            return mine
        columns: dict[str, Any] = {
            "state": state,
            "environment": wanted.environment,
            "window_start": terms.opening.start,
            "window_end": terms.opening.end,
            "job_id": self.jobs[wanted.server].id,
        }
        if mine is None:
            return cutovers.insert(
                self.tx,
                at=self.now,
                by=self.ctx.requester,
                run=self.ctx.run,
                run_key=run_key(self.ctx.run.dag_id, self.ctx.run.dag_run_id, wanted.server),
                wave=self.wave,
                server=wanted.server,
                requested_by=self.ctx.requester,
                note=terms.note,
                request_id=terms.request_id,
                tier=wanted.tier,
                tier_index=wanted.tier_index,
                **columns,
            )
        columns |= {"tier": wanted.tier or mine.tier, "tier_index": wanted.tier_index or mine.tier_index}
        # Nothing that was found, approved or begun before counts any more.
        columns |= {"forecast": None, "plan_digest": "", "times": None, "phase": "", "error": ""}
        # Also an approval of the very same plan: its digest names when the cutover was asked for.
        columns |= {"requested_at": mine.requested_at if mine.state is CutoverState.RESERVED else self.now}
        columns |= {"cancel_requested": mine.cancel_requested and mine.state is CutoverState.RESERVED}
        return cutovers.apply(self.tx, mine, "admitted", at=self.now, by=self.ctx.requester, **columns)


def _ended_runs(ledger: Ledger, wave: str, ctx: RunContext) -> dict[str, int]:
    """Cutovers of other runs that have ended, whose sources were not touched; each with the version seen before Airflow
    was asked. Asked outside any transaction, once per DAG run."""
    with ledger.read() as tx:
        found = [each for each in cutovers.open_of(tx, wave) if each.state in _UNTOUCHED and each.run != ctx.run]
    alive = {run: ctx.liveness.run(run) for run in {each.run for each in found}}
    return {each.id: each.version for each in found if not alive[each.run]}
