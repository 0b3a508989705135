"""Any interleaving of requests, releases, polls, deaths and restarts (invariant 8), against a model in ten lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.contexts import Alive, run_context
from tests.depth import depth
from tests.ledgers import within

from wavelift.base.run import DagRun
from wavelift.ledger import Ledger
from wavelift.ledger.slots import standing
from wavelift.rules.flows import SlotKind
from wavelift.rules.queue import Place
from wavelift.services.common import slots as admission
from wavelift.services.common.slots import Granted, Queued

pytestmark = pytest.mark.unit

RUNS = tuple(DagRun(f"w{number}.migrate", "r") for number in range(3))
HOLDERS = tuple((f"{run.dag_id}/r/s{number}", run) for run in RUNS for number in range(3))
PLACES = st.sampled_from(HOLDERS)


class TickingClock:
    def __init__(self) -> None:
        self.time = datetime(2026, 11, 22, tzinfo=UTC)

    def now(self) -> datetime:
        self.time += timedelta(milliseconds=1)
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class Queue(RuleBasedStateMachine):
    """One scope. The model: who was granted, and who waits in which order."""

    url: ClassVar[str]
    scopes: ClassVar[Iterator[int]] = itertools.count()

    @initialize(limit=st.integers(1, 4))
    def open(self, limit: int) -> None:
        self.ledger = Ledger.open(self.url)
        self.clock = TickingClock()
        self.scope = f"scope-{next(self.scopes)}"
        self.limit = limit
        self.granted: set[str] = set()
        self.waiting: list[str] = []
        self.told = limit
        self.dead: set[DagRun] = set()

    def _request(self, holder: str, run: DagRun) -> Granted | Queued:
        request = admission.SlotRequest(SlotKind.DATASTORE, self.scope, holder, self.limit)
        return admission.request_slots(self.ledger, [request], run_context(run, clock=self.clock))

    def _ready(self, holder: str) -> bool:
        return self.waiting.index(holder) < self.limit - len(self.granted)

    @rule(place=PLACES)
    def request(self, place: tuple[str, DagRun]) -> None:
        """Also brings a dead run back to life: somebody cleared it."""
        holder, run = place
        self.dead.discard(run)
        self.told = self.limit
        found = self._request(holder, run)
        if holder not in self.granted and holder not in self.waiting:
            self.waiting.append(holder)
        if holder in self.waiting and self._ready(holder):
            self.waiting.remove(holder)
            self.granted.add(holder)
        if holder in self.granted:
            assert isinstance(found, Granted)
        else:
            assert isinstance(found, Queued)
            assert found.position == self.waiting.index(holder) + 1

    @rule(place=PLACES)
    def release(self, place: tuple[str, DagRun]) -> None:
        holder, _ = place
        had = holder in self.granted or holder in self.waiting
        freed = admission.give_back(self.ledger, holder, clock=self.clock)
        assert freed is had
        self._forget(holder)

    @rule(place=PLACES)
    def poll(self, place: tuple[str, DagRun]) -> None:
        holder, _ = place
        lacks = admission.look(self.ledger, [holder])[holder]
        # The trigger goes by the limit with which somebody asked last.
        if holder not in self.waiting:
            assert lacks is None
        elif self.told == self.limit:
            assert (lacks is None) is self._ready(holder)

    @rule(run=st.sampled_from(RUNS))
    def die(self, run: DagRun) -> None:
        """Nobody gives anything back."""
        self.dead.add(run)

    @rule()
    def reclaim(self) -> None:
        ctx = run_context(RUNS[0], clock=self.clock, liveness=Alive(lambda run: run not in self.dead))
        freed = admission.reclaim(self.ledger, ctx, [Place(SlotKind.DATASTORE, self.scope)], every=timedelta(0))
        lost = {holder for holder, run in HOLDERS if run in self.dead} & (self.granted | set(self.waiting))
        assert {each.holder for each in freed} == lost
        for holder in lost:
            self._forget(holder)

    @rule(limit=st.integers(1, 4))
    def change_the_limit(self, limit: int) -> None:
        self.limit = limit

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.url)

    def _forget(self, holder: str) -> None:
        self.granted.discard(holder)
        if holder in self.waiting:
            self.waiting.remove(holder)

    @invariant()
    def the_ledger_is_the_model(self) -> None:
        found = within(self.ledger.read(), standing, SlotKind.DATASTORE, self.scope)
        assert {each.holder for each in found if each.granted_at} == self.granted
        assert [each.holder for each in found if not each.granted_at] == self.waiting

    def teardown(self) -> None:
        """Nobody starves: when holders finish, everyone waiting gets a slot, whoever comes first."""
        if not hasattr(self, "ledger"):
            return
        order = list(self.waiting)
        runs = dict(HOLDERS)
        for _ in order:
            for holder in sorted(self.granted):
                self.release((holder, runs[holder]))
            for holder in reversed(order):
                if holder in self.waiting:
                    self.request((holder, runs[holder]))
        assert self.waiting == []
        for holder in sorted(self.granted):  # else the next example finds them
            self.release((holder, runs[holder]))


def test_inv_8_any_interleaving_keeps_limit_order_and_progress(tmp_path: Path) -> None:
    # Each example has a scope of its own in one database: making a database is the dear part. Not shrunk: with a
    # database behind it that takes longer than a test may.
    Queue.url = f"sqlite:///{tmp_path / 'wavelift.db'}"
    run_state_machine_as_test(
        Queue,
        settings=settings(
            max_examples=depth(8, 50),
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
