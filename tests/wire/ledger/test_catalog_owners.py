"""A connection's catalogue has one owner, also when two connectors ask for it at one moment."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from wavelift.base.run import SystemClock
from wavelift.ledger import Ledger, connectors
from wavelift.services.housekeeping import catalog as service

pytestmark = pytest.mark.wire

CLOCK = SystemClock()


def test_of_two_registrations_at_one_moment_one_wins(ledger: Ledger) -> None:
    def refuse(connector: str) -> None:
        raise PermissionError(connector)

    def attempt(name: str, connection: str) -> bool:
        said = connectors.Registration(connection=connection, aws_conn_id="", region="")
        at_once.wait()
        try:
            service.register_connector(ledger, name, said, may_change=refuse, by="ana", clock=CLOCK)
        except PermissionError:
            return False
        return True

    at_once = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        for round_ in range(8):
            won = list(pool.map(attempt, (f"a{round_}", f"b{round_}"), (f"vc{round_}",) * 2))
            assert sorted(won) == [False, True], round_
