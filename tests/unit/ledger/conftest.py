"""A ledger per test, copied from one made once."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.ledgers import within

from wavelift.base.run import DagRun
from wavelift.ledger import Ledger, waves


class HandClock:
    """A clock that a test moves. Every reading is a second later, so that order shows."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)

    def now(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "empty.db"
    Ledger.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def database(tmp_path: Path, empty_ledger: Path) -> Path:
    return Path(shutil.copy(empty_ledger, tmp_path / "wavelift.db"))


@pytest.fixture
def ledger(database: Path) -> Ledger:
    return Ledger.open(f"sqlite:///{database}")


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def run(ledger: Ledger, clock: HandClock) -> DagRun:
    """A frozen run of the wave ``erp``."""
    run = DagRun("erp.migrate", "manual__1")
    within(
        ledger.write(waves.LOCK),
        waves.freeze_wave_run,
        waves.NewWaveRun(
            run=run, wave="erp", mode="migrate", requested_by="ana", source="ui", spec={"servers": ["web01"]}
        ),
        clock=clock,
    )
    return run
