"""An Airflow with two schedulers, its database and the ledger in a PostgreSQL each, and what a test does to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.airflow.waves import BUCKET, KIB, Vm, WaveOf, lay_out, machines
from tests.airflow.world import World
from tests.postgres import Postgres, running

from wavelift.cli.local_airflow import LocalAirflow
from wavelift.cli.simulators import Stage
from wavelift.ledger import Ledger
from wavelift.simulators.aws import start as start_aws
from wavelift.simulators.vcenter import start as start_vcenter

SCHEDULERS: Final = ("scheduler", "scheduler-2")
INSTANTS: Final = 52
"""Server instants of the timetable's proof: one each of so many servers, whose machines no vCenter has."""
UNSEEN: Final = tuple(f"unseen-{number:02}" for number in range(INSTANTS))
OUTLASTS: Final = {"retries": 5, "retry_delay_s": 10}
"""Retries that outlast a minute; the defaults (3, after 30, 60 and 120 s) do so too, only later."""
WAVES: Final = {
    "asked": WaveOf((Vm("asked-a", (4,)), Vm("asked-b", (4,))), {"replication": {}}),
    "steady": WaveOf((Vm("steady-a"),), {"replication": {}, **OUTLASTS}),
}
CLOCKED: Final = WaveOf(tuple(Vm(name) for name in (*UNSEEN, "stale", "fresh")), {"replication": {}, **OUTLASTS})
STEADY_RATE: Final = 120 * KIB
"""Bytes per second of the lease of ``steady-a``: some 4 MiB take longer than it takes to stop the ledger."""


@dataclass
class Pair:
    """The running stack.

    :param ledger_server: the PostgreSQL of the ledger alone.
    """

    world: World
    ledger_server: Postgres
    airflow_server: Postgres

    @property
    def airflow(self) -> LocalAirflow:
        return self.world.airflow

    def start(self) -> None:
        self.airflow.start(wait=False)
        self.airflow.start_component("scheduler", label="scheduler-2")
        self.airflow.wait_healthy()

    def restart(self) -> None:
        """Airflow ends; both databases go as in a power cut; all come again."""
        self.airflow.stop()
        self.world.ledger.close()
        for server in (self.ledger_server, self.airflow_server):
            server.restart()
        self.start()

    def freeze(self, number: signal.Signals) -> None:
        """Stop (``SIGSTOP``) or continue (``SIGCONT``) both schedulers, as a machine that is too busy to serve them."""
        for label in SCHEDULERS:
            os.kill(self.airflow.pid(label), number)


@contextmanager
def running_pair(folder: Path, binaries: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        ledger_server = stack.enter_context(running(binaries))
        airflow_server = stack.enter_context(running(binaries))
        aws = stack.enter_context(start_aws(folder / "aws", tls=True, evidence=True))
        network = aws.bootstrap(bucket=BUCKET, role=True)
        servers = machines(folder / "disks", WAVES)
        vcenter = stack.enter_context(start_vcenter(folder / "vcenter", servers, evidence=True, lease_timeout=10))
        vcenter.rule(kind="nfc", action="slow", vm="steady-a", rate=STEADY_RATE, times=1)
        stage = Stage(vcenter, aws, network)
        lay_out(folder / "dags", stage, {**WAVES, "clocked": CLOCKED})
        ledger_url = ledger_server.create()
        Ledger.open(ledger_url, upgrade=True).close()
        settings = {
            **stage.connections(),
            "AIRFLOW__WAVELIFT__POLL_SECONDS": "1",
            "AIRFLOW__WAVELIFT__LEDGER_URL": ledger_url,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": airflow_server.create().replace("://", "+psycopg2://", 1),
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        airflow = stack.enter_context(LocalAirflow(folder / "home", folder / "dags", settings))
        airflow.migrate()
        pair = Pair(
            World(stage=stage, dags=folder / "dags", ledger_url=ledger_url, airflow=airflow),
            ledger_server,
            airflow_server,
        )
        pair.start()
        stack.callback(pair.world.ledger.close)
        yield pair
