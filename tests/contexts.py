"""Run contexts for services that are called without Airflow, and a clock for them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from wavelift.base.run import DagRun, MemoryCheckpoints, RunContext


def context_of(run_key: str, **more: Any) -> RunContext:
    """:param run_key: ``<dag id>/<dag run id>/<server>``, without another slash in the first two."""
    dag_id, dag_run_id, server = run_key.split("/", 2)
    return run_context(DagRun(dag_id, dag_run_id), server, **more)


def run_context(run: DagRun, server: str = "", **more: Any) -> RunContext:
    """Nobody is dead, checkpoints last as long as the context, and ``test`` asked, unless ``more`` says otherwise."""
    kept: dict[str, Any] = {"checkpoints": MemoryCheckpoints(), "liveness": Alive(), "requester": "test"}
    return RunContext(run, server, **{**kept, **more})


class Alive:
    """A :class:`~wavelift.base.run.Liveness` as a test says it."""

    def __init__(self, run: Any = lambda run: True, holder: Any = lambda holder: True) -> None:
        self._run, self._holder = run, holder

    def run(self, run: DagRun) -> bool:
        return bool(self._run(run))

    def ended(self, run: DagRun, holders: Collection[str], kind: str) -> Collection[str]:
        return [holder for holder in holders if not self._holder(holder)]


class HandClock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
