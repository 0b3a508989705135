"""Slots: limited rights, granted in the order of the requests (AMP-04, invariant 8).

A task asks for all slots that its server needs at this step. It gets all of them or none; then its places in the queues
are stored in the ledger and the task waits deferred. Its trigger calls :func:`look`, which only reads. When the request
would be granted, the task wakes and asks again. Only the process that asks gets slots, so a process that dies holds at
most what it had. Who goes next is decided in :mod:`wavelift.rules.queue`.

While it waits, a server keeps only what it had before it asked and what is listed before the first slot that it lacks:
when it comes to its import, the account's slot. Since all servers list what they want in one order, those who wait for
each other form no circle. What it had of later places (a VM that moved to another host, a run of an older version) it
puts back.

What a dead holder has is free, for every kind of slot: see :func:`reclaim`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from wavelift.base.errors import PermanentError
from wavelift.base.run import Clock, DagRun, RunContext
from wavelift.ledger import connectors, events, server_runs, slots
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.records import Slot
from wavelift.ledger.slots import Waiting
from wavelift.rules.flows import SlotKind, tasks_holding
from wavelift.rules.limits import is_nearly_full
from wavelift.rules.queue import Place, Priority, Taken, Waiter, Want, lacking, rank

ASK_EVERY: Final = timedelta(seconds=30)
"""How often Airflow is asked about one run, however many wait."""
ONE_LIMIT: Final = (SlotKind.TRANSFER, SlotKind.DATASTORE)
"""Kinds whose limit is a setting alone. When it is changed, who asks next tells it to all who wait; the limits of the
others come from environments and connectors, which may differ."""


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """One holder's request for a slot.

    :param scope: see :class:`~wavelift.rules.flows.SlotKind`.
    :param holder: run key.
    :param limit: slots of this scope. When it was lowered, those granted before keep theirs.
    """

    kind: SlotKind
    scope: str
    holder: str
    limit: int

    @property
    def place(self) -> Place:
        return Place(self.kind, self.scope)


@dataclass(frozen=True, slots=True)
class Granted:
    """The holder has the slots, all of them since this instant."""

    since: datetime


@dataclass(frozen=True, slots=True)
class Queued:
    """The holder waits.

    :param position: 1 for the next in the queue of the place that it waits for.
    :param request: what it waits for; of several, the first that is not free.
    :param taken: slots of that place that are granted.
    :param maintenance: the connector is in maintenance, for this reason; nothing else matters then.
    :param may_be_dead: nobody has asked Airflow lately about some who have slots, or wait, where this holder asks.
    """

    position: int
    request: SlotRequest
    taken: int = 0
    maintenance: str | None = None
    may_be_dead: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class InQueue:
    """A request that waits.

    :param request: for the slot that is not free.
    :param words: for people, about its place in the queue.
    """

    request: SlotRequest
    words: str


def win_slots(
    ledger: Ledger,
    requests: Sequence[SlotRequest],
    ctx: RunContext,
    *,
    priority: Priority = Priority.NORMAL,
    only: Collection[SlotKind] = (),
) -> Granted | Queued:
    """Ask for the slots: all or none. Who must wait frees what dead holders have at these places, and asks again.

    :param requests: all that one holder needs now. What else it waits for, it waits for no more.
    :param priority: of a holder that does not wait yet.
    :param only: kinds of which it keeps what is requested, and gives back all else.
    """
    found = request_slots(ledger, requests, ctx, priority=priority, only=only)
    # Asked in the same transaction: most of a wave's servers wait, and few of them have to ask Airflow.
    may_be_dead = isinstance(found, Queued) and found.may_be_dead
    if may_be_dead and reclaim(ledger, ctx, [each.place for each in requests]):
        return request_slots(ledger, requests, ctx, priority=priority, only=only)
    return found


def request_slots(
    ledger: Ledger,
    requests: Sequence[SlotRequest],
    ctx: RunContext,
    *,
    priority: Priority = Priority.NORMAL,
    only: Collection[SlotKind] = (),
) -> Granted | Queued:
    """Take all slots, or a place in each queue. A repeated call of the same holder keeps slots and places."""
    requests = sorted(requests, key=lambda each: rank(each.place))
    for each in requests:
        _check_limit(each.limit)
    with ledger.write(slots.LOCK) as tx:
        rows = _stand(tx, requests, ctx, priority, only)
        lacks = [each for each in requests if rows[each.place].granted_at is None]
        if not lacks:
            return Granted(max(row.granted_at for row in rows.values() if row.granted_at is not None))
        taken = slots.granted(tx)
        now = ctx.clock.now()
        queued = _in_the_way(tx, lacks, rows, taken)
        if queued is not None:
            later = requests[requests.index(lacks[0]) + 1 :]
            slots.put_back(tx, [rows[each.place] for each in later if each not in lacks], at=now)
            return replace(queued, may_be_dead=bool(_due(tx, list(rows), now, ASK_EVERY)))
        slots.grant(tx, [rows[each.place] for each in lacks], at=now)
        for each in lacks:
            _tell_nearly_full(tx, each, Taken(taken).of(each.place) + 1, ctx.run, now)
        return Granted(now)


def win_together(
    ledger: Ledger, requests: Sequence[SlotRequest], ctx: RunContext, *, priority: Priority = Priority.NORMAL
) -> Granted | Queued:
    """Ask for the slots of several holders of one run: all of them get all, or none gets any.

    They are granted in one transaction, and who must wait keeps nothing. So two runs never hold a half each and wait
    for the other half. Who stands before them in the queue goes first, and nobody behind them takes what they come to.
    They wait together for the first of them that lacks a slot: :attr:`Queued.request` is its.

    :param requests: of all holders; else as :func:`win_slots`.
    """
    found = _request_together(ledger, requests, ctx, priority)
    if isinstance(found, Queued) and found.may_be_dead and reclaim(ledger, ctx, _places(requests)):
        return _request_together(ledger, requests, ctx, priority)
    return found


def _request_together(
    ledger: Ledger, requests: Sequence[SlotRequest], ctx: RunContext, priority: Priority
) -> Granted | Queued:
    wanted: dict[str, list[SlotRequest]] = {}
    for each in sorted(requests, key=lambda each: rank(each.place)):
        _check_limit(each.limit)
        wanted.setdefault(each.holder, []).append(each)
    now, places = ctx.clock.now(), _places(requests)
    with ledger.write(slots.LOCK) as tx:
        rows = [row for mine in wanted.values() for row in _stand(tx, mine, ctx, priority, ()).values()]
        lacks = [row for row in rows if row.granted_at is None]
        if not lacks:
            return Granted(max(row.granted_at for row in rows if row.granted_at is not None))
        # As if none of them had anything: else those who wait for each other could form a circle.
        slots.put_back(tx, [row for row in rows if row.granted_at is not None], at=now)
        taken = slots.granted(tx)
        found = _lacking(tx, slots.waiting(tx), taken, ())
        stuck = next(((holder, want) for holder in wanted if (want := found[holder]) is not None), None)
        if stuck is None:
            slots.grant(tx, rows, at=now)
            return Granted(now)
        holder, want = stuck
        request = next(each for each in wanted[holder] if each.place == want.place)
        row = next(row for row in rows if (row.holder, _place(row)) == (holder, want.place))
        may_be_dead = bool(_due(tx, places, now, ASK_EVERY))
        return Queued(slots.position(tx, row), request, Taken(taken).of(want.place), may_be_dead=may_be_dead)


def _places(requests: Iterable[SlotRequest]) -> list[Place]:
    return list(dict.fromkeys(each.place for each in requests))


def _stand(
    tx: Tx, requests: Sequence[SlotRequest], ctx: RunContext, priority: Priority, only: Collection[SlotKind]
) -> dict[Place, Slot]:
    """The holder's rows for these requests, after it has left all other queues."""
    now = ctx.clock.now()
    wanted = {each.place: each for each in requests}
    mine = slots.of_holder(tx, requests[0].holder)
    others = [row for row in mine if _place(row) not in wanted]
    left = [row for row in others if row.granted_at is None or row.kind in only]
    slots.release(tx, left, at=now, reason="asks for other slots")
    known = {_place(row): row for row in mine if _place(row) in wanted}
    slots.ask_again(tx, known.values())
    for place, row in known.items():
        if row.allowed != wanted[place].limit:
            slots.allow(tx, row, wanted[place].limit)
    slots.allow_all(tx, [Want(each.place, each.limit) for each in requests if each.kind in ONE_LIMIT])
    moved = [row.priority for row in known.values() if row.granted_at is None]
    new = [Want(place, each.limit) for place, each in wanted.items() if place not in known]
    made = slots.enqueue(
        tx, new, holder=requests[0].holder, run=ctx.run, priority=min(moved, default=int(priority)), at=now
    )
    return known | {_place(row): row for row in made}


def _in_the_way(
    tx: Tx, lacks: Sequence[SlotRequest], rows: Mapping[Place, Slot], granted: Mapping[Place, int]
) -> Queued | None:
    """What keeps the holder from its slots; None: nothing does."""

    def queued(place: Place, maintenance: str | None = None) -> Queued:
        request = next(each for each in lacks if each.place == place)
        return Queued(slots.position(tx, rows[place]), request, taken.of(place), maintenance)

    holder, taken = lacks[0].holder, Taken(granted)
    shut = connectors.all_in_maintenance(tx)
    for each in lacks:
        if each.kind is SlotKind.TRANSFER and each.scope in shut and not server_runs.begun(tx, [holder]):
            return queued(each.place, shut[each.scope])
    # Who finds a place full need not look at those who wait: most of a wave's servers do.
    full = taken.lacking(Want(each.place, each.limit) for each in lacks)
    if full is None:
        full = _lacking(tx, slots.waiting(tx), granted, shut)[holder]
    return queued(full.place) if full is not None else None


def look(ledger: Ledger, holders: Collection[str]) -> dict[str, Want | None]:
    """Holder → what it must still wait for. None: its task should wake, since the request would be granted, was
    granted, or is gone (its run was taken for dead). Only reads, once for all of them: for the trigger."""
    with ledger.read() as tx:
        waiting = slots.waiting(tx)
        found = _lacking(tx, waiting, slots.granted(tx), connectors.all_in_maintenance(tx))
    return {holder: found.get(holder) for holder in holders}


def _lacking(
    tx: Tx, waiting: Iterable[Waiting], granted: Mapping[Place, int], shut: Collection[str]
) -> dict[str, Want | None]:
    wants: dict[str, list[Want]] = {}
    for each in waiting:
        wants.setdefault(each.holder, []).append(each.want)
    held = held_back(tx, wants, shut)
    return lacking(granted, (Waiter(holder, tuple(lacks), holder in held) for holder, lacks in wants.items()))


def held_back(tx: Tx, wants: Mapping[str, Collection[Want]], shut: Collection[str]) -> frozenset[str]:
    """Those who wait for a connector in maintenance. A server that has begun to move goes on (AMP-05).

    :param wants: by holder. :param shut: the connectors that are in maintenance.
    """
    places = {Place(SlotKind.TRANSFER, name) for name in shut}
    found = [holder for holder, lacks in wants.items() if any(want.place in places for want in lacks)]
    return frozenset(found) - server_runs.begun(tx, found)


def prefer(ledger: Ledger, holder: str, priority: Priority, *, by: str, clock: Clock) -> None:
    """Give somebody who waits another priority. The order of asking decides among equals, as before.

    :raises PermanentError: it does not wait.
    """
    with ledger.write(slots.LOCK) as tx:
        mine = [row for row in slots.of_holder(tx, holder) if row.granted_at is None]
        if not mine:
            raise PermanentError(
                "It does not wait for a slot", next_step="See `wavelift queue`.", server=holder.rpartition("/")[2]
            )
        changed = [row for row in mine if row.priority != priority]
        if changed:
            slots.prefer(tx, changed, int(priority), by=by, at=clock.now())


def give_back(
    ledger: Ledger,
    holder: str,
    *,
    kinds: Collection[SlotKind] = tuple(SlotKind),
    keep: Collection[Place] = (),
    reason: str = "done",
    clock: Clock,
) -> bool:
    """Give back everything of these kinds that a holder has or waits for. False: there was nothing; twice does no harm.

    :param keep: what it keeps.
    """
    with ledger.write(slots.LOCK) as tx:
        mine = [row for row in slots.of_holder(tx, holder) if row.kind in kinds and _place(row) not in keep]
        slots.release(tx, mine, at=clock.now(), reason=reason)
    return bool(mine)


def reclaim(ledger: Ledger, ctx: RunContext, places: Collection[Place], *, every: timedelta = ASK_EVERY) -> list[Slot]:
    """Free the slots and requests at these places of ended DAG runs, and of ended tasks in running DAG runs.

    Returns what was freed.

    A task that failed for good, or that a person marked failed, gives nothing back by itself, and its run may go on for
    hours.

    Airflow is asked outside any transaction, at most once per run and ``every``. If the holder requests its slot again
    meanwhile, it keeps it: the answer was about the time before. An error of ``ctx.liveness`` goes on to the caller,
    and nothing is freed.
    """
    now = ctx.clock.now()
    with ledger.read() as tx:
        due = _due(tx, places, now, every)
        seen = slots.of_runs(tx, places, due) if due else ()
    if not seen:
        return []
    dead = {id: reason for run, found in slots.by_run(seen).items() for id, reason in _dead(run, found, ctx)}
    return _free(ledger, seen, dead, ctx.clock)


def _due(tx: Tx, places: Collection[Place], now: datetime, every: timedelta) -> list[DagRun]:
    """A request that is new in a run asked about a moment ago brings no new question: 150 servers start at once."""
    return [run for run, asked in slots.last_asked(tx, places).items() if asked is None or now - asked >= every]


def _dead(run: DagRun, found: Collection[Slot], ctx: RunContext) -> Iterator[tuple[int, str]]:
    """The ids of the slots that nobody will give back, each with the reason."""
    if not ctx.liveness.run(run):
        yield from ((each.id, "its DAG run has ended") for each in found)
        return
    asked: dict[frozenset[str], list[Slot]] = {}
    for each in found:  # one question for all kinds that the same tasks hold
        if each.holder != ctx.run_key:
            asked.setdefault(tasks_holding(each.kind), []).append(each)
    for others in asked.values():
        ended = ctx.liveness.ended(run, list(dict.fromkeys(each.holder for each in others)), others[0].kind)
        yield from ((each.id, "its task has ended") for each in others if each.holder in ended)


def _free(ledger: Ledger, seen: Collection[Slot], dead: Mapping[int, str], clock: Clock) -> list[Slot]:
    versions = {each.id: each.version for each in seen}
    with ledger.write(slots.LOCK) as tx:
        now = clock.now()
        same = [row for row in slots.by_id(tx, dead) if versions[row.id] == row.version] if dead else []
        for reason in sorted(set(dead.values())):
            slots.release(tx, [row for row in same if dead[row.id] == reason], at=now, reason=reason)
        slots.note_asked(tx, list(versions), at=now)
    return same


def _tell_nearly_full(tx: Tx, request: SlotRequest, taken: int, run: DagRun, now: datetime) -> None:
    if request.kind is SlotKind.ACCOUNT and is_nearly_full(taken, request.limit):
        details = {"in_use": taken, "limit": request.limit, "server": request.holder}
        subject = events.Subject("account", request.scope, run)
        events.append(tx, subject, "account.nearly_full", at=now, actor=str(run), details=details)


def _place(row: Slot) -> Place:
    return Place(row.kind, row.scope)


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise PermanentError(
            "A limit of slots below 1 would let nobody through", next_step="Set it to 1 or more.", limit=limit
        )
