"""50 requests for one server at the same instant, from processes, on SQLite and PostgreSQL (SMS-06, AIR-04)."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.depth import depth
from tests.ledgers import within
from tests.postgres import Postgres

from wavelift.base.domain import DiskLineage, ReplicatedDisk, ReplicationResult
from wavelift.base.run import SystemClock
from wavelift.ledger import Ledger
from wavelift.ledger.replication_runs import RunFilter, list_runs
from wavelift.rules.replication import RunState
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder, create_jobs
from wavelift.services.replication.outcome import complete_run, record_run

pytestmark = [pytest.mark.wire, pytest.mark.sampled]

PROCESSES = depth(4, 10)
REQUESTS = depth(13, 5)
ROOT = Path(__file__).parents[3]
WORKER = (sys.executable, "-m", "tests.wire.services.replication_worker")
CLOCK = SystemClock()


class Askers:
    """The processes, which live for all rounds and begin each at the same instant: when all of them are ready."""

    def __init__(self, url: str, way: str) -> None:
        self._workers = [
            subprocess.Popen(
                [*WORKER, url, way, str(number), str(REQUESTS)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(PROCESSES)
        ]

    def ask(self, name: str) -> list[str]:
        for worker in self._workers:
            assert self._line(worker) == "ready"
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write(f"{name}\n")
            worker.stdin.flush()
        return [self._line(worker) for worker in self._workers for _ in range(REQUESTS)]

    @staticmethod
    def _line(worker: subprocess.Popen[str]) -> str:
        assert worker.stdout is not None
        return worker.stdout.readline().strip()

    def end(self) -> None:
        for worker in self._workers:
            worker.communicate(timeout=120)
            assert worker.returncode == 0

    def kill(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.communicate()


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'wavelift.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create()


def _end_the_active_run(ledger: Ledger) -> None:
    (run,) = within(ledger.read(), list_runs, RunFilter(states=[RunState.ACTIVE])).items
    lineage = DiskLineage(
        key=2000,
        address="SCSI 0:0",
        uuid="u",
        file="f",
        capacity=8,
        change_id=None,
        snapshot_id=f"snap-{run.id}",
        bucket="b",
        manifest_key="m",
        manifest_digest="d",
    )
    disk = ReplicatedDisk(
        index=0,
        boot=True,
        label="Hard disk 1",
        kind="seed",
        reader="nfc",
        lineage=lineage,
        content_digest="c",
        data_bytes=8,
        bytes_read=8,
        bytes_sent=8,
        blocks_sent=1,
    )
    result = ReplicationResult(server="web01", snapshot="s", disks=(disk,))
    record_run(ledger, run.id, result, clock=CLOCK)
    complete_run(ledger, run.id, clock=CLOCK)


@pytest.mark.parametrize(
    ("url", "way"),
    [
        ("sqlite", "reserve"),
        ("postgresql", "admit"),
        pytest.param("sqlite", "admit", marks=pytest.mark.proof),
        pytest.param("postgresql", "reserve", marks=pytest.mark.proof),
    ],
    indirect=["url"],
)
def test_sms_06_air_04_fifty_requests_at_once_give_one_run_twice_and_then_none(
    url: str, way: str, request: pytest.FixtureRequest
) -> None:
    ledger = Ledger.open(url, upgrade=True)
    order = JobOrder(server="web01", plan=ReplicationPlan())
    create_jobs(ledger, "erp", [order], by="ana", clock=CLOCK)
    askers = Askers(url, way)
    try:
        for name in ("first", "second"):
            rules = Counter(answer.split()[0] for answer in askers.ask(name))
            assert rules == {"granted": 1, "in_progress": PROCESSES * REQUESTS - 1}
            _end_the_active_run(ledger)
        if url.startswith("postgresql"):
            askers.end()
            request.getfixturevalue("postgres").restart()
            askers = Askers(url, way)
        answers = askers.ask("third")
        askers.end()
    finally:
        askers.kill()
    assert Counter(answer.split()[0] for answer in answers) == {"quota": PROCESSES * REQUESTS}
    times = {datetime.fromisoformat(answer.split()[1]) for answer in answers}
    assert len(times) == 1
    assert timedelta(hours=23) < times.pop() - CLOCK.now() < timedelta(hours=24)
    assert within(ledger.read(), list_runs, RunFilter(states=[RunState.COMPLETED])).total == 2
    ledger.close()
