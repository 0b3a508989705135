"""The control plane of a network's cutover on PostgreSQL: the whole way, the way back, and two requests at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ledgers import within
from tests.network_world import NETWORK, World
from tests.postgres import Postgres

from wavelift.base.errors import RefusedError
from wavelift.ledger import Ledger, network_cutovers
from wavelift.rules.conf import NetworkConf
from wavelift.rules.network_cutover import DESTINATION, SOURCE, NetworkState
from wavelift.services.network import requests

pytestmark = pytest.mark.wire


@pytest.fixture
def world(postgres: Postgres, tmp_path: Path) -> Iterator[World]:
    with Ledger.open(postgres.create(), upgrade=True) as ledger:
        yield World(ledger, tmp_path)


def test_there_and_back(world: World) -> None:
    world.switched()
    assert world.sides.routed_by == (DESTINATION,)
    world.admit("back", "revert")
    world.back("back")
    assert world.sides.routed_by == (SOURCE,)
    assert world.report("back").succeeded
    assert world.known().state is NetworkState.REVERTED


def test_of_many_requests_at_once_one_is_granted(world: World) -> None:
    granted, refused = [], []
    ready = threading.Barrier(6)

    def ask(number: int) -> None:
        ready.wait()
        try:
            ctx = world.ctx(f"r{number}")
            granted.append(requests.reserve(world.ledger, world.place, NetworkConf(mode="cutover"), ctx))
        except RefusedError as error:
            refused.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (len(granted), len(refused)) == (1, 5)
    found = within(world.ledger.read(), network_cutovers.list_cutovers).items
    assert [each.network for each in found] == [NETWORK]
