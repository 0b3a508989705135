"""Requests at once for one server, through either door; 50 of them, and everything on SQLite, as a long proof.

The same on PostgreSQL under two schedulers: ``test_two_schedulers``. On SQLite Airflow's own trigger API can't be asked
so: two triggers on each other's heels stop Airflow 3.3's api-server for a minute. Its event loop writes the log of the
first and waits for the file's lock, which the second one's thread holds, and that waits for the event loop; the answer
is 500, "database is locked".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.airflow.aside import aside
from tests.airflow.fleet import WAVES, simulators
from tests.airflow.quota import Door, prove_one_at_a_time, prove_quota
from tests.airflow.world import World

from wavelift.cli.local_airflow import LocalAirflow

pytestmark = pytest.mark.airflow


@aside("sample")
def test_sms_06_air_04_of_requests_at_once_one_is_granted(world: Any) -> None:
    for way, server, requests in (("rest", "sample-a", 16), ("trigger", "sample-b", 5)):
        prove_one_at_a_time(Door(world, "sample", server, way), requests)


@pytest.fixture
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An Airflow with everything on SQLite."""
    folder = tmp_path_factory.mktemp("sqlite")
    waves = {"asked": WAVES["asked"]}
    with ExitStack() as stack:
        stage = stack.enter_context(simulators(folder, waves, slow={}))
        settings = {
            **stage.connections(),
            "AIRFLOW__WAVELIFT__POLL_SECONDS": "1",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            # Wait for a writer instead of answering "database is locked" after 5 s.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'home' / 'airflow.db'}?timeout=60",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        airflow = stack.enter_context(LocalAirflow(folder / "home", folder / "dags", settings))
        airflow.migrate()
        airflow.start()
        ledger_url = f"sqlite:///{airflow.home / 'wavelift' / 'wavelift.db'}"
        made = World(stage=stage, dags=folder / "dags", ledger_url=ledger_url, airflow=airflow)
        stack.callback(made.ledger.close)
        yield made
        made.assert_nothing_is_left(set(waves))
    assert not airflow.processes(), "processes of this Airflow outlived it"


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("airflow")
def test_sms_06_air_04_fifty_requests_at_once_on_sqlite(on_sqlite: World) -> None:
    def restart() -> None:
        on_sqlite.airflow.stop()
        on_sqlite.ledger.close()
        on_sqlite.airflow.start()

    prove_quota(Door(on_sqlite, "asked", "asked-a", "rest"), restart)
