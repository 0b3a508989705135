"""50 requests at once with everything on SQLite; on PostgreSQL: ``test_two_schedulers.py``."""

from __future__ import annotations

from typing import Any

import pytest
from tests.airflow.quota import Door, prove_quota

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]


@pytest.mark.parametrize(("way", "server"), [("rest", "asked-a"), ("trigger", "asked-b")])
def test_sms_06_air_04_fifty_requests_at_once_on_sqlite(world: Any, way: str, server: str) -> None:
    def restart() -> None:
        world.airflow.stop()
        world.ledger.close()
        world.airflow.start()

    prove_quota(Door(world, "asked", server, way), restart)
