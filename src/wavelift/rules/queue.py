"""Who may go next: the one decision about all slots, over what is taken and who waits (AMP-04, invariant 8).

A waiter needs a slot in several places: an account, datastores, an ESXi host, a connector. It gets all of them at once
or none, so nobody waits for a slot while it keeps another from somebody who waits: a deadlock cannot arise.

Waiters are looked at by priority, then in the order of asking. One that lacks a slot somewhere is passed over; those
behind it may go if they fit. So a full host delays its own servers, and not those of other hosts. But up to the place
where it lacks one, in the order of its wants, the first that is passed over keeps a slot of each place for itself. So
it comes nearer with each slot that becomes free there, and nobody starves behind smaller wants. In the places after it
nothing is kept: a server that waits for its host takes nothing from its connector. Waiters with the same wants never
overtake each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, NamedTuple

from wavelift.rules.flows import SlotKind

PriorityName = Literal["next", "normal", "later"]


class Priority(IntEnum):
    """Of a waiter: the lower number goes first."""

    NEXT = 0
    NORMAL = 1
    LATER = 2

    @classmethod
    def named(cls, name: str) -> Priority:
        """The priority of a run's conf; what is not one of its words is ``normal``."""
        return next((each for each in cls if each.word == name), cls.NORMAL)

    @property
    def word(self) -> str:
        return self.name.lower()


class Place(NamedTuple):
    """Where slots are: see :class:`~wavelift.rules.flows.SlotKind` for the scope of each kind."""

    kind: SlotKind
    scope: str


Counts = Mapping[Place, int]


@dataclass(frozen=True, slots=True)
class Want:
    """A slot that a waiter lacks.

    :param allowed: slots of the place. None: it is not known, since an older version of wavelift asked.
    """

    place: Place
    allowed: int | None


@dataclass(frozen=True, slots=True)
class Waiter:
    """Somebody who waits, with everything that it lacks.

    :param held_back: it may not go, however many slots are free: its connector is in maintenance.
    """

    holder: str
    wants: tuple[Want, ...]
    held_back: bool = False


class Taken:
    """How many slots of each place are taken.

    Where the scope names an account, runs of earlier versions have their connection in place of its number:
    ``aws_prod/eu-west-1``. Which account that is, is not in the ledger. So until they are given back, such slots count
    for every account of their region, and who asks for one counts all accounts of its region.
    """

    def __init__(self, granted: Counts) -> None:
        self._count: Counter[Place] = Counter()
        for place, number in granted.items():
            self.add(place, number)

    def add(self, place: Place, number: int = 1) -> None:
        for key in _counted_as(place):
            self._count[key] += number

    def of(self, place: Place) -> int:
        if not _of_account(place):
            return self._count[place]
        if _is_numbered(place):
            return self._count[place] + self._count[_unnumbered(place)]
        return self._count[_anywhere(place)]

    def lacking(self, wants: Iterable[Want]) -> Want | None:
        """The first want for which there is no slot."""
        return next((want for want in wants if want.allowed is not None and self.of(want.place) >= want.allowed), None)


_RANKS: Final = {kind: number for number, kind in enumerate(SlotKind)}


def rank(place: Place) -> tuple[int, str]:
    """The one order of all places. What a waiter keeps comes before what it lacks, so those who wait for each other
    form no circle."""
    return _RANKS[place.kind], place.scope


def _rank(want: Want) -> tuple[int, str]:
    return rank(want.place)


def lacking(granted: Counts, waiting: Iterable[Waiter]) -> dict[str, Want | None]:
    """Holder → the first of its wants that it must still wait for; None: it may go now.

    :param granted: the slots that are taken, by place. :param waiting: by priority, then in the order of asking.
    """
    taken, kept = Taken(granted), set[Place]()
    found: dict[str, Want | None] = {}
    for waiter in waiting:
        wants = sorted(waiter.wants, key=_rank)
        if waiter.held_back:
            found[waiter.holder] = wants[-1]
            continue
        missing = found[waiter.holder] = taken.lacking(wants)
        for want in wants:
            if missing is None or want.place not in kept:
                taken.add(want.place)
            if missing is not None:
                kept.add(want.place)
            if want is missing:
                break
    return found


def counts_for(place: Place, other: Place) -> bool:
    """Whether a slot of ``other`` leaves one less for ``place``."""
    return Taken({other: 1}).of(place) > 0


_ACCOUNT_DIGITS: Final = 12


def _of_account(place: Place) -> bool:
    return place.kind in (SlotKind.ACCOUNT, SlotKind.IMPORT)


def _is_numbered(place: Place) -> bool:
    name = place.scope.partition("/")[0]
    return name.isdecimal() and len(name) == _ACCOUNT_DIGITS


def _anywhere(place: Place) -> Place:
    return Place(place.kind, f"*/{place.scope.partition('/')[2]}")


def _unnumbered(place: Place) -> Place:
    return Place(place.kind, f"?/{place.scope.partition('/')[2]}")


def _counted_as(place: Place) -> tuple[Place, ...]:
    if not _of_account(place):
        return (place,)
    if _is_numbered(place):
        return (place, _anywhere(place))
    return (place, _anywhere(place), _unnumbered(place))
