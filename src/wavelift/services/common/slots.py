"""Slots: limited rights, granted in the order of the requests (AMP-04, invariant 8).

A task requests a slot. If it does not get one, its place in the queue is stored in the ledger and the task waits
deferred. Its trigger calls :func:`ready_holders`, which only reads. When the request would be granted, the task wakes
and requests again. Only the process that asks gets a slot, so a process that dies holds at most what it had. With ``f``
free slots, exactly the first ``f`` waiters may take one, and none of them can lose it to another.

What a dead holder has is free, for every kind of slot: see :func:`reclaim`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from wavelift.base.errors import PermanentError
from wavelift.base.run import Clock, DagRun, RunContext
from wavelift.ledger import slots
from wavelift.ledger.database import Ledger
from wavelift.ledger.records import Slot
from wavelift.rules.flows import SlotKind

ASK_EVERY: Final = timedelta(seconds=30)
"""How often Airflow is asked about one run, however many wait."""


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """One holder's request for a slot.

    :param scope: connector for transfers, account and region for imports.
    :param holder: run key.
    :param limit: slots of this scope. When it was lowered, those granted before keep theirs.
    """

    kind: SlotKind
    scope: str
    holder: str
    limit: int


@dataclass(frozen=True, slots=True)
class Granted:
    """The holder has the slot, since this instant."""

    since: datetime


@dataclass(frozen=True, slots=True)
class Queued:
    """The holder waits.

    :param position: 1 for the next in the queue.
    :param ready: whether a request would be granted now.
    """

    position: int
    ready: bool = False


@dataclass(frozen=True, slots=True)
class InQueue:
    """A request that waits: all slots of its scope are taken.

    :param words: for people, about its place in the queue.
    """

    request: SlotRequest
    words: str


def win_slot(ledger: Ledger, request: SlotRequest, ctx: RunContext) -> Granted | Queued:
    """Free what dead holders have of the scope, then request the slot."""
    reclaim(ledger, ctx, kind=request.kind, scope=request.scope)
    return request_slot(ledger, request, ctx)


def request_slot(ledger: Ledger, request: SlotRequest, ctx: RunContext) -> Granted | Queued:
    """Take a slot, or a place in the queue. A repeated call of the same holder keeps slot and place."""
    kind, scope, holder, clock = request.kind, request.scope, request.holder, ctx.clock
    _check_limit(request.limit)
    with ledger.write(slots.lock_name(kind, scope)) as tx:
        mine = _find(slots.standing(tx, kind, scope), holder)
        if mine is None:
            slots.enqueue(tx, kind=kind, scope=scope, holder=holder, run=ctx.run, at=clock.now())
        else:
            slots.ask_again(tx, mine)
        queue = slots.standing(tx, kind, scope)
        found = _standing_of(queue, holder, request.limit)
        if isinstance(found, Queued) and found.ready:
            now = clock.now()
            slots.grant(tx, queue[-1] if mine is None else mine, at=now)
            return Granted(now)
        assert found is not None
        return found


def ready_holders(
    ledger: Ledger, *, kind: SlotKind, scope: str, holders: Collection[str], limit: int
) -> frozenset[str]:
    """Those of ``holders`` whose task should wake: the request would be granted, was granted, or is gone (its run was
    taken for dead). Only reads, once for all of them: for the trigger."""
    _check_limit(limit)
    with ledger.read() as tx:
        queue = slots.standing(tx, kind, scope)
    waiting = [each.holder for each in queue if each.granted_at is None]
    free = max(0, limit - (len(queue) - len(waiting)))
    return frozenset(holders) - frozenset(waiting[free:])


def release_slot(
    ledger: Ledger, *, kind: SlotKind, scope: str, holder: str, reason: str = "done", clock: Clock
) -> bool:
    """Give the slot back, or leave the queue. False when there was nothing to give; calling twice does no harm."""
    with ledger.write(slots.lock_name(kind, scope)) as tx:
        mine = _find(slots.standing(tx, kind, scope), holder)
        if mine is None:
            return False
        slots.release(tx, mine, at=clock.now(), reason=reason)
        return True


def give_back(
    ledger: Ledger,
    holder: str,
    *,
    kinds: Collection[SlotKind] = tuple(SlotKind),
    keep: Collection[tuple[SlotKind, str]] = (),
    reason: str = "done",
    clock: Clock,
) -> None:
    """Give back everything of these kinds that a holder has, in whichever scope.

    :param keep: kind and scope of what it keeps.
    """
    with ledger.read() as tx:
        mine = [each for each in slots.standing(tx) if each.holder == holder and each.kind in kinds]
    for each in mine:
        if (each.kind, each.scope) not in keep:
            release_slot(ledger, kind=each.kind, scope=each.scope, holder=holder, reason=reason, clock=clock)


def reclaim(
    ledger: Ledger,
    ctx: RunContext,
    *,
    kind: SlotKind,
    scope: str,
    every: timedelta = ASK_EVERY,
) -> tuple[Slot, ...]:
    """Free the slots and places in a scope of DAG runs that have ended, and of ended tasks in running DAG runs.

    Returns what was freed.

    A task that failed for good, or that a person marked failed, gives nothing back by itself, and its run may go on for
    hours.

    Airflow is asked outside any transaction, at most once per run and ``every``. If the holder requests its slot again
    meanwhile, it keeps it: the answer was about the time before. An error of ``ctx.liveness`` goes on to the caller,
    and nothing is freed.
    """
    now = ctx.clock.now()
    with ledger.read() as tx:
        queue = slots.standing(tx, kind, scope)
    asked = slots.by_run(queue)
    due = {run: found for run, found in asked.items() if _due(found, now, every)}
    dead = {id: reason for run, found in due.items() for id, reason in _dead(run, found, ctx)}
    seen = [each for found in due.values() for each in found]
    return tuple(_free(ledger, (kind, scope), seen, dead, ctx.clock)) if seen else ()


def _dead(run: DagRun, found: Collection[Slot], ctx: RunContext) -> Iterator[tuple[int, str]]:
    """The ids of the slots that nobody will give back, each with the reason."""
    if not ctx.liveness.run(run):
        yield from ((each.id, "its DAG run has ended") for each in found)
        return
    for kind in sorted({each.kind for each in found}):
        others = [each for each in found if each.kind is kind and each.holder != ctx.run_key]
        ended = ctx.liveness.ended(run, [each.holder for each in others], kind) if others else ()
        yield from ((each.id, "its task has ended") for each in others if each.holder in ended)


def _free(
    ledger: Ledger, part: tuple[SlotKind, str], seen: list[Slot], dead: Mapping[int, str], clock: Clock
) -> list[Slot]:
    versions = {each.id: each.version for each in seen}
    freed: list[Slot] = []
    with ledger.write(slots.lock_name(*part)) as tx:
        now = clock.now()
        for each in slots.standing(tx, *part):
            if each.id in dead and versions.get(each.id) == each.version:
                slots.release(tx, each, at=now, reason=dead[each.id])
                freed.append(each)
        slots.note_asked(tx, list(versions), at=now)
    return freed


def _due(found: list[Slot], now: datetime, every: timedelta) -> bool:
    """A request that is new in a run asked about a moment ago brings no new question: 150 servers start at once."""
    asked = [each.asked_at for each in found if each.asked_at is not None]
    return not asked or now - max(asked) >= every


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise PermanentError(
            "A limit of slots below 1 would let nobody through", next_step="Set it to 1 or more.", limit=limit
        )


def _find(queue: Collection[Slot], holder: str) -> Slot | None:
    return next((each for each in queue if each.holder == holder), None)


def _standing_of(queue: Collection[Slot], holder: str, limit: int) -> Granted | Queued | None:
    mine = _find(queue, holder)
    if mine is None:
        return None
    if mine.granted_at is not None:
        return Granted(mine.granted_at)
    granted = sum(each.granted_at is not None for each in queue)
    position = sum(each.granted_at is None and each.id <= mine.id for each in queue)
    return Queued(position, ready=position <= limit - granted)
