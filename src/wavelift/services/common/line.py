"""The queue for people: who waits for what, at which place, and who has the slots. Only reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from wavelift.base.names import run_hash
from wavelift.base.run import DagRun
from wavelift.ledger import Ledger, connectors, slots
from wavelift.ledger.slots import Waiting
from wavelift.rules.flows import EXPORT, SlotKind, flow_of
from wavelift.rules.queue import Place, Priority, Taken, Waiter, Want, counts_for, lacking
from wavelift.services.common.slots import Queued, held_back

ANOTHER: Final = "another wave"
"""What the reader may not see."""
NAMED: Final = 10
"""Holders of slots that a line names; the others are counted."""
_ORDINALS: Final = {1: "st", 2: "nd", 3: "rd"}
MayRead = Callable[[str], bool]
"""Whether the reader may see the DAG of this id."""


@dataclass(frozen=True, slots=True)
class Moving:
    """A server that waits, or has a slot.

    :ivar id: of its migration or replication run; empty for a task outside any wave.
    """

    run: DagRun
    id: str
    wave: str
    server: str

    def named(self, may_read: MayRead) -> str:
        return f"{self.wave}/{self.server}" if may_read(self.run.dag_id) else ANOTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One server that waits.

    :ivar position: 1 for the next in the queue of ``place``.
    :ivar limit: slots of the place; None: an older version of wavelift asked.
    :ivar taken: how many of them are granted. :ivar by: to whom.
    :ivar maintenance: the reason, if its connector is in maintenance.
    """

    moving: Moving
    priority: Priority
    since: datetime
    place: Place
    position: int
    limit: int | None
    taken: int
    by: tuple[Moving, ...]
    maintenance: str | None

    def words(self, may_read: MayRead) -> str:
        return _words(self.place, self.position, self.taken, self.limit, self.maintenance, by=self._names(may_read))

    def _names(self, may_read: MayRead) -> str:
        names = Counter(one.named(may_read) for one in self.by)
        hidden = names.pop(ANOTHER, 0)
        told = list(names)[:NAMED]
        more = len(names) - len(told)
        told += [f"{more} more"] if more else []
        told += [ANOTHER if hidden == 1 else f"{ANOTHER} ({hidden})"] if hidden else []
        return ", ".join(told)


def words_of(queued: Queued) -> str:
    """For the task that waits: the same without the names of those who have the slots, which others may read."""
    return _words(queued.request.place, queued.position, queued.taken, queued.request.limit, queued.maintenance)


def lines(ledger: Ledger) -> list[Line]:
    """Everybody who waits: by priority, then in the order of asking."""
    with ledger.read() as tx:
        waiting, counts = slots.waiting(tx), slots.granted(tx)
        shut = connectors.all_in_maintenance(tx)
        wants: dict[str, list[Waiting]] = {}
        for each in waiting:
            wants.setdefault(each.holder, []).append(each)
        lacks = {holder: tuple(each.want for each in mine) for holder, mine in wants.items()}
        held = held_back(tx, lacks, shut)
        holding = slots.having(tx)
    found = lacking(counts, (Waiter(holder, mine, holder in held) for holder, mine in lacks.items()))
    places, ahead = _positions(waiting), Taken(counts)
    shown = []
    for holder, mine in wants.items():
        # What would be granted waits only until its task has woken: for the last place, which it comes to last.
        want: Want = found[holder] or mine[-1].want
        if holder in held:
            want = next(one.want for one in mine if one.place.kind is SlotKind.TRANSFER and one.place.scope in shut)
        shown.append(
            Line(
                moving=moving(holder, mine[0].run),
                priority=Priority(mine[0].priority),
                since=min(one.requested_at for one in mine),
                place=want.place,
                position=places[(holder, want.place)],
                limit=want.allowed,
                taken=ahead.of(want.place),
                by=tuple(moving(*one) for place, one in holding if counts_for(want.place, place)),
                maintenance=shut[want.place.scope] if holder in held else None,
            )
        )
    return shown


def moving(holder: str, run: DagRun) -> Moving:
    """What a run key is about."""
    server = holder.removeprefix(f"{run.dag_id}/{run.dag_run_id}/")
    if EXPORT.wave_of(run.dag_id):  # of no wave: its DAG's id stands for one
        return Moving(run, f"{EXPORT.prefix}{run_hash(holder)}", run.dag_id, server)
    try:
        flow = flow_of(run.dag_id)
    except KeyError:
        return Moving(run, "", run.dag_id, server)
    return Moving(run, f"{flow.prefix}{run_hash(holder)}", flow.wave_of(run.dag_id), server)


def _positions(waiting: tuple[Waiting, ...]) -> Mapping[tuple[str, Place], int]:
    count: Counter[Place] = Counter()
    found = {}
    for each in waiting:
        count[each.place] += 1
        found[(each.holder, each.place)] = count[each.place]
    return found


def _words(place: Place, position: int, taken: int, limit: int | None, maintenance: str | None, *, by: str = "") -> str:
    """:param by: who has the slots."""
    where = f"{_ordinal(position)} in line for {_named(place)}"
    if maintenance is not None:
        return f"{where}, which is in maintenance: {maintenance}"
    users = f" by {by}" if by else ""
    if limit is None:
        return f"{where}, in use{users}" if by else where
    used = f"{where}: {taken} of {limit} in use{users}"
    if taken >= limit:
        return used
    return f"{used}; the rest is for those before" if position > 1 else f"{used}; it goes on in a moment"


def _named(place: Place) -> str:
    scope, _, region = place.scope.partition("/")
    account = f"account {scope}" if scope.isdecimal() else f"the account of connection {scope}"
    return {
        SlotKind.ACCOUNT: account,
        SlotKind.IMPORT: f"imports into {account} in {region}",
        SlotKind.EXPORT: f"exports from {account} in {region}",
        SlotKind.DATASTORE: f"datastore {place.scope}",
        SlotKind.NFC_HOST: f"ESXi host {place.scope}",
        SlotKind.NFC_VCENTER: f"the NFC sessions of vCenter {place.scope}",
        SlotKind.TRANSFER: f"connector {place.scope}",
        SlotKind.HCX_MANAGER: f"HCX manager {place.scope}",
        SlotKind.HCX_MESH: f"service mesh {region} of HCX manager {scope}",
        SlotKind.HCX_SERIAL: f"vMotion and cold migration with HCX manager {scope}",
    }[place.kind]


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else _ORDINALS.get(number % 10, "th")
    return f"{number}{ending}"
