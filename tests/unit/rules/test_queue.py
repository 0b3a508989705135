"""Who goes next: limits, order and progress for any servers that want slots in several places (invariant 8)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.rules.flows import SlotKind
from wavelift.rules.queue import Place, Priority, Taken, Waiter, Want, counts_for, lacking

pytestmark = pytest.mark.unit

PLACES = tuple(
    Place(kind, scope) for kind in (SlotKind.DATASTORE, SlotKind.NFC_HOST, SlotKind.TRANSFER) for scope in "ab"
)
WANTS = st.sets(st.sampled_from(PLACES), min_size=1)
LIMITS = st.fixed_dictionaries({place: st.integers(1, 3) for place in PLACES})
CHANCE = st.randoms(use_true_random=False)
ACCOUNT, OTHER = "111122223333", "444455556666"


class Hall:
    """All who want something, as the ledger would have them: who asks, who has, who ends."""

    def __init__(self, limits: Mapping[Place, int]) -> None:
        self.limits = limits
        self.granted: dict[str, frozenset[Place]] = {}
        self.waiting: dict[str, tuple[int, int, frozenset[Place]]] = {}
        self.asked = 0

    def ask(self, wants: frozenset[Place], priority: int = 1) -> str:
        self.asked += 1
        self.waiting[str(self.asked)] = (priority, self.asked, wants)
        return str(self.asked)

    @property
    def order(self) -> list[str]:
        return sorted(self.waiting, key=self.waiting.__getitem__)

    @property
    def taken(self) -> Counter[Place]:
        return Counter(place for places in self.granted.values() for place in places)

    def lacking(self, held: frozenset[str] = frozenset()) -> dict[str, Want | None]:
        wants = ((name, self.waiting[name][2]) for name in self.order)
        waiters = (
            Waiter(name, tuple(Want(place, self.limits[place]) for place in sorted(places)), name in held)
            for name, places in wants
        )
        return lacking(self.taken, waiters)

    def wake(self, chance: random.Random, held: frozenset[str] = frozenset()) -> None:
        """Those who may go ask in whatever order they come; each is decided anew, as in a transaction of its own."""
        ready = [name for name, lacks in self.lacking(held).items() if lacks is None]
        chance.shuffle(ready)
        for name in ready:
            assert self.lacking(held)[name] is None, "whoever was told to come still gets it"
            wants = self.waiting.pop(name)
            same = [other for other, each in self.waiting.items() if each[2] == wants[2] and other not in held]
            assert all(self.waiting[other] > wants or other in ready for other in same), "the same wants, out of turn"
            self.granted[name] = wants[2]
        assert all(number <= self.limits[place] for place, number in self.taken.items())

    def end(self, name: str) -> None:
        del self.granted[name]


@given(LIMITS, st.lists(st.tuples(WANTS, st.integers(0, 2)), max_size=25), CHANCE)
def test_never_above_a_limit_in_order_and_everybody_gets_through(
    limits: dict[Place, int], asks: list[tuple[set[Place], int]], chance: random.Random
) -> None:
    hall = Hall(limits)
    todo = list(asks)
    while todo or hall.waiting or hall.granted:
        if todo and chance.random() < 0.6:
            wants, priority = todo.pop()
            hall.ask(frozenset(wants), priority)
        hall.wake(chance)
        assert hall.granted or not hall.waiting, "a deadlock"
        if hall.granted and chance.random() < 0.7:
            hall.end(chance.choice(sorted(hall.granted)))


@given(LIMITS, st.lists(WANTS, min_size=1, max_size=12), WANTS, st.lists(WANTS, min_size=8, max_size=8), CHANCE)
def test_nobody_starves_however_many_come_and_whatever_they_want(
    limits: dict[Place, int], before: list[set[Place]], mine: set[Place], crowd: list[set[Place]], chance: random.Random
) -> None:
    """No transfer lasts for ever: those that began first end first. Newcomers never cease."""
    hall = Hall(limits)
    for wants in before:
        hall.ask(frozenset(wants))
    me = hall.ask(frozenset(mine))
    began: list[str] = []
    steps = 0
    while me in hall.waiting:
        hall.ask(frozenset(chance.choice(crowd)))
        hall.wake(chance)
        began += [name for name in sorted(hall.granted, key=int) if name not in began]
        if began:
            hall.end(began.pop(0))
        steps += 1
        assert steps <= len(PLACES) * sum(limits.values()) + len(before) * sum(limits.values())


@given(LIMITS, st.lists(WANTS, min_size=2, max_size=12), st.data(), CHANCE)
def test_who_is_held_back_is_in_nobody_s_way_and_goes_in_its_turn_afterwards(
    limits: dict[Place, int], asks: list[set[Place]], data: st.DataObject, chance: random.Random
) -> None:
    hall = Hall(limits)
    names = [hall.ask(frozenset(wants)) for wants in asks]
    held = frozenset(data.draw(st.sets(st.sampled_from(names))))
    while any(name not in held for name in hall.waiting):
        hall.wake(chance, held)
        assert not held & hall.granted.keys()
        assert hall.granted, "the others go on"
        hall.end(chance.choice(sorted(hall.granted)))
    for name in sorted(hall.granted):
        hall.end(name)
    while hall.waiting:
        first = hall.order[0]
        hall.wake(chance)
        assert first in hall.granted
        for name in sorted(hall.granted):
            hall.end(name)


def test_a_full_host_delays_its_own_servers_only() -> None:
    full, free, line = Place(SlotKind.NFC_HOST, "a"), Place(SlotKind.NFC_HOST, "b"), Place(SlotKind.TRANSFER, "dc")
    waiters = [
        Waiter("on-a", (Want(full, 1), Want(line, 4))),
        Waiter("on-b", (Want(free, 1), Want(line, 4))),
        Waiter("on-a-too", (Want(full, 1), Want(line, 4))),
    ]
    found = lacking({full: 1, line: 1}, waiters)
    assert found == {"on-a": Want(full, 1), "on-b": None, "on-a-too": Want(full, 1)}
    assert lacking({full: 1, line: 3}, waiters)["on-b"] is None, "who waits for its host keeps nothing of the connector"
    store = Want(Place(SlotKind.DATASTORE, "a"), 1)
    both = [Waiter("wide", (Want(full, 1), store)), Waiter("narrow", (store,))]
    assert lacking({full: 1}, both)["narrow"] == store, "what it needs before that is kept for it"


@pytest.mark.parametrize("kind", [SlotKind.IMPORT, SlotKind.ACCOUNT])
def test_a_slot_of_an_older_version_counts_for_every_account_of_its_region(kind: SlotKind) -> None:
    region = "/eu-west-1" if kind is SlotKind.IMPORT else ""
    numbered, other, old = (Place(kind, f"{name}{region}") for name in (ACCOUNT, OTHER, "aws_prod"))
    another_old = Place(kind, f"aws_two{region}")
    taken = Taken({numbered: 1, other: 2, old: 4, another_old: 8})
    assert (taken.of(numbered), taken.of(other)) == (13, 14)
    assert taken.of(old) == taken.of(another_old) == 15, "which account it leads to is not known"
    assert counts_for(numbered, old)
    assert counts_for(old, numbered)
    assert not counts_for(numbered, other)
    if region:
        assert not counts_for(numbered, Place(kind, "aws_prod/us-east-1"))
        assert not counts_for(Place(kind, "aws_prod/us-east-1"), numbered)


def test_a_want_without_a_known_limit_wakes_who_has_it() -> None:
    """It asks again, with the limit."""
    place = Place(SlotKind.TRANSFER, "dc")
    assert lacking({place: 99}, [Waiter("old", (Want(place, None),))]) == {"old": None}


def test_the_words_of_a_priority() -> None:
    assert [each.word for each in Priority] == ["next", "normal", "later"]
    assert [Priority.named(word) for word in ("next", "later", "None", "")] == [0, 2, 1, 1]
