"""Live migrations begin: one open migration per server, whoever asks for it and however often.

The REST API reserves migrations for a DAG run that it makes next; the admit task of each run takes its reservations,
and opens what nobody reserved. Both decide by :func:`open_migrations`.
"""

from __future__ import annotations

from typing import Any, Final

from wavelift.base.domain import Refusal
from wavelift.base.errors import RefusedError
from wavelift.base.names import run_key
from wavelift.base.run import RunContext
from wavelift.ledger import live_migrations
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.rules.live import IN_HCX, LiveState
from wavelift.rules.live_plans import ResolvedLive
from wavelift.rules.replication import DEFAULT_POLICY, Rule
from wavelift.services.live_migration.runs import lock_of

RUN_ENDED: Final = "Its DAG run ended before HCX was asked for anything"
NOT_VERIFIED: Final = "Its DAG run ended before it was verified"
TOO_LATE: Final = "Its DAG run did not start in time"
BEGINS: Final = frozenset({LiveState.RESERVED, LiveState.EXPIRED, LiveState.ENDED})
"""States of a run's own migration that is admitted now, or again."""
_ENDS_AS: Final = {
    LiveState.WAITING: (LiveState.ENDED, RUN_ENDED),
    LiveState.VERIFYING: (LiveState.UNVERIFIED, NOT_VERIFIED),
}
"""State of a migration whose run has ended → how it ended. What HCX may be moving stays open: nobody knows."""


def open_migrations(
    ledger: Ledger,
    wave: ResolvedLive,
    ctx: RunContext,
    *,
    note: str = "",
    request_id: str = "",
    state: LiveState = LiveState.WAITING,
) -> tuple[LiveMigration, ...]:
    """The migrations of ``ctx.run``, one per server of the wave: all of them or none.

    Repeated (a retry, a clear), it returns what it opened. One of the run that ended before HCX was asked begins anew,
    also its plan and approval. One that ended later stays: HCX has a group of this run's name.

    :param state: WAITING, or RESERVED for a DAG run that is made next.
    :raises RefusedError: a server has another open migration, perhaps one that HCX still moves. It names each.
    """
    with ledger.read() as tx:
        standing = [each for each in live_migrations.open_of(tx, wave.wave) if each.run != ctx.run]
    ended = _of_ended_runs(standing, ctx)
    locks = {lock_of(wave), *(live_migrations.lock_name(each.manager) for each in standing)}
    with ledger.write(*sorted(locks)) as tx:
        others = _others(tx, wave, ctx, ended)
        mine = {each.server: each for each in live_migrations.of_dag_run(tx, ctx.run)}
        refused = tuple(
            Refusal(server=name, rule=Rule.LIVE, reason=_words(others[name]))
            for name in (plan.server for plan in wave.servers)
            if name in others and (name not in mine or mine[name].state in BEGINS)
        )
        if not refused:
            common = {"note": note, "request_id": request_id, "state": state}
            return tuple(_open(tx, wave, plan.server, mine.get(plan.server), ctx, common) for plan in wave.servers)
    words = "; ".join(f"{each.server}: {each.reason}" for each in refused)
    raise RefusedError(f"The live migration is refused: {words}", refusals=refused, wave=wave.wave)


def _others(tx: Tx, wave: ResolvedLive, ctx: RunContext, ended: dict[str, int]) -> dict[str, LiveMigration]:
    """Server → its open migration of another run. Those that nobody will go on with are ended first."""
    now, found = ctx.clock.now(), {}
    for each in live_migrations.open_of(tx, wave.wave):
        if each.run == ctx.run:
            continue
        if each.state is LiveState.RESERVED and now - each.requested_at >= DEFAULT_POLICY.reservation:
            _end(tx, each, LiveState.EXPIRED, TOO_LATE, ctx)
        elif ended.get(each.id) == each.version:
            _end(tx, each, *_ENDS_AS[each.state], ctx)
        else:
            found[each.server] = each
    return found


def _end(tx: Tx, known: LiveMigration, state: LiveState, words: str, ctx: RunContext) -> None:
    live_migrations.apply(tx, known, str(state), at=ctx.clock.now(), by=ctx.requester, state=state, error=words)


def _words(known: LiveMigration) -> str:
    if known.state not in IN_HCX:
        return f"migration {known.id} of {known.run} is {known.state}"
    return (
        f"HCX may still move it: migration {known.id} of {known.run} is {known.state}. See `wavelift live show "
        f"{known.id}`; `wavelift live cancel {known.id}` ends it if it has not begun to switch over"
    )


def _open(
    tx: Tx, wave: ResolvedLive, server: str, mine: LiveMigration | None, ctx: RunContext, common: dict[str, Any]
) -> LiveMigration:
    state, now = common["state"], ctx.clock.now()
    if mine is not None and (mine.state not in BEGINS or mine.state is state):
        return mine
    columns: dict[str, Any] = {
        "state": state,
        "environment": wave.environment.environment,
        "kind": wave.type,
        "manager": wave.environment.hcx.connection,
        "window_start": wave.window.start if wave.window is not None else None,
        "window_end": wave.window.end if wave.window is not None else None,
    }
    if mine is None:
        return live_migrations.insert(
            tx,
            at=now,
            by=ctx.requester,
            run=ctx.run,
            run_key=run_key(ctx.run.dag_id, ctx.run.dag_run_id, server),
            wave=wave.wave,
            server=server,
            requested_by=ctx.requester,
            **{**common, **columns},
        )
    # Nothing that was found or approved before counts any more: the digest of a plan names when it was asked for.
    columns |= {"plan_digest": "", "before": None, "group_name": "", "phase": "", "error": "", "percent": 0}
    columns |= {"requested_at": mine.requested_at if mine.state is LiveState.RESERVED else now}
    columns |= {"cancel_requested": mine.cancel_requested and mine.state is LiveState.RESERVED}
    return live_migrations.apply(tx, mine, "admitted", at=now, by=ctx.requester, **columns)


def _of_ended_runs(standing: list[LiveMigration], ctx: RunContext) -> dict[str, int]:
    """Those whose runs have ended and which nobody goes on with; each with the version seen before Airflow was asked.
    Asked outside any transaction, once per DAG run."""
    found = [each for each in standing if each.state in _ENDS_AS]
    alive = {run: ctx.liveness.run(run) for run in {each.run for each in found}}
    return {each.id: each.version for each in found if not alive[each.run]}
