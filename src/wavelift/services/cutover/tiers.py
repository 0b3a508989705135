"""The order of tiers: a server's source is stopped once every server of the earlier tiers has passed its checks.

Only the ledger says so, and it is asked by whoever waits. No edge of the DAG does: servers of one tier need not wait
for each other.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from wavelift.base.errors import PermanentError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, Tx, cutovers
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.cutover import CutoverState
from wavelift.rules.flows import SlotKind
from wavelift.services.cutover.moving import fail, last_start

_DONE = frozenset({CutoverState.SWITCHED, CutoverState.FINALIZING, CutoverState.FINALIZED})
_UNDER_WAY = frozenset({CutoverState.GOING, CutoverState.MOVING})
STOPPED_UNHEARD = "its tasks have ended, and it has not passed its checks"


@dataclass(frozen=True, slots=True)
class Earlier:
    """The cutovers of the same DAG run whose tiers come before a server's.

    :param waiting: under way, not checked yet. :param broken: they will not be checked.
    """

    waiting: tuple[Cutover, ...]
    broken: tuple[Cutover, ...]


def earlier(tx: Tx, known: Cutover) -> Earlier:
    before = [one for one in cutovers.of_dag_run(tx, known.run) if one.tier_index < known.tier_index]
    open_ = [one for one in before if one.state not in _DONE]
    waiting = [one for one in open_ if one.state in _UNDER_WAY and one.moment("checked") is None]
    broken = [one for one in open_ if one.state not in _UNDER_WAY]
    return Earlier(tuple(waiting), tuple(broken))


def to_wake(ledger: Ledger, ids: Collection[str], *, now: datetime) -> frozenset[str]:
    """The waiting cutovers that have something to decide: their tier's turn has come, or never will; they were
    cancelled; or their window is over. Reads only."""
    with ledger.read() as tx:
        found = [cutovers.find(tx, id) for id in ids]
        gone = {id for id, known in zip(ids, found, strict=True) if known is None}
        return frozenset(gone | {known.id for known in found if known is not None and _is_to_wake(tx, known, now)})


def _is_to_wake(tx: Tx, known: Cutover, now: datetime) -> bool:
    last = last_start(known)
    if known.cancel_requested or known.state is not CutoverState.GOING or (last is not None and now > last):
        return True
    before = earlier(tx, known)
    return bool(before.broken) or not before.waiting


def first_of_each_run(ledger: Ledger, ids: Collection[str]) -> frozenset[str]:
    """One of those who wait in each DAG run."""
    with ledger.read() as tx:
        found = [known for id in sorted(ids) if (known := cutovers.find(tx, id)) is not None]
    return frozenset({known.run: known.id for known in reversed(found)}.values())


def must_wait(ledger: Ledger, known: Cutover, ctx: RunContext) -> str:
    """What a server's tier still waits for, in words; empty: its turn has come.

    Airflow is asked about servers that say nothing: one whose tasks were killed or skipped tells the ledger nothing.

    :raises PermanentError: a server of an earlier tier failed: none of a later tier is stopped any more.
    """
    with ledger.read() as tx:
        before = earlier(tx, known)
    if before.waiting and not before.broken:
        ended = set(ctx.liveness.ended(ctx.run, [one.run_key for one in before.waiting], SlotKind.ACCOUNT.value))
        for one in before.waiting:
            if one.run_key in ended:
                fail(ledger, ctx.run, one.id, STOPPED_UNHEARD, ctx)
        with ledger.read() as tx:
            before = earlier(tx, known)
    if before.broken:
        names = ", ".join(f"{one.server} ({one.tier}: {one.state})" for one in before.broken)
        raise PermanentError(
            f"A server of an earlier tier was not cut over: {names}",
            server=known.server,
            tier=known.tier,
            next_step="Nothing of this server was touched. Trigger a new cutover when the earlier tier is right",
        )
    return ", ".join(f"{one.server} ({one.tier})" for one in before.waiting)
