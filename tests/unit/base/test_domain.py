"""The facts of a server, also as older versions stored them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from wavelift.base.domain import MOST_NICS, NicFacts, ServerFacts

pytestmark = pytest.mark.unit


def stored(**changes: Any) -> dict[str, Any]:
    values = {"name": "web01", "moref": "vm-1", "instance_uuid": "u", "path": "/dc1/vm/web01", "power": "poweredOn"}
    return {**values, "guest_id": "ubuntu64Guest", **changes}


@pytest.mark.parametrize(("counted", "cards"), [(0, 0), (1, 1), (3, 3), (-1, 0), (10**9, MOST_NICS)])
def test_cards_that_an_older_version_counted_are_unknown_ones(counted: int, cards: int) -> None:
    facts = ServerFacts.load(stored(nics=counted))
    assert facts.nics == (NicFacts(key=0),) * cards
    assert ServerFacts.load(facts.dump()) == facts


@pytest.mark.parametrize("wrong", [True, "2", 1.5, None, [3]])
def test_nothing_else_is_a_list_of_cards(wrong: object) -> None:
    with pytest.raises(ValidationError):
        ServerFacts.load(stored(nics=wrong))


@pytest.mark.parametrize("name", ["start_connected", "connected", "allow_guest_control"])
def test_a_card_that_anything_can_connect_is_not_fenced(name: str) -> None:
    assert NicFacts(key=4000).fenced
    assert not NicFacts.load({"key": 4000, name: True}).fenced
