"""50 requests at once with everything on SQLite, through our REST. Both doors on PostgreSQL: ``test_two_schedulers``.

Airflow's own trigger API can't be asked so on SQLite: two triggers on each other's heels stop Airflow 3.3's api-server
for a minute. Its event loop writes the log of the first and waits for the file's lock, which the second one's thread
holds, and that waits for the event loop; the answer is 500, "database is locked".
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.airflow.quota import Door, prove_quota

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]


def test_sms_06_air_04_fifty_requests_at_once_on_sqlite(world: Any) -> None:
    def restart() -> None:
        world.airflow.stop()
        world.ledger.close()
        world.airflow.start()

    prove_quota(Door(world, "asked", "asked-a", "rest"), restart)
