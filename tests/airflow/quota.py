"""50 requests at once for one server, through either door, and what the ledger and Airflow say afterwards (SMS-06)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.ledgers import within

from wavelift.base.run import SystemClock
from wavelift.cli.local_airflow import wait_for
from wavelift.ledger import ReplicationRun
from wavelift.ledger.replication_runs import RunFilter, list_runs
from wavelift.rules.replication import RunState
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder, create_jobs

REQUESTS: Final = 50
LATER: Final = 10
"""Requests after the quota is used up: each must be refused."""
HELD: Final = 3600.0
"""Seconds that AWS takes to complete a snapshot while a run is held: longer than any test."""
DECIDED_SECONDS: Final = 600


@dataclass(frozen=True)
class Answer:
    """What became of one request; ``rule`` is empty when it was granted."""

    rule: str
    until: datetime | None = None
    dag_run_id: str = ""


@dataclass(frozen=True)
class Door:
    """One server and one way to ask for a run of it."""

    world: Any
    wave: str
    server: str
    way: str
    """``rest``: ours; ``trigger``: Airflow's own."""

    @property
    def dag_id(self) -> str:
        return f"{self.wave}.replicate"

    def ask(self, requests: int) -> list[Answer]:
        """So many requests begun at the same moment; all of them decided."""
        if self.way == "rest":
            return at_once(requests, self._by_rest)
        made = at_once(requests, lambda number: self.world.api.trigger(self.dag_id, {"servers": [self.server]}))
        assert len(set(made)) == requests
        return self._decided(made)

    def _by_rest(self, _number: int) -> Answer:
        path = f"/wavelift/waves/{self.wave}/replications"
        status, answer = self.world.api.request("POST", path, {"servers": [self.server]})
        if status == 200:
            return Answer("", dag_run_id=answer["dag_run_id"])
        assert status == 409, answer
        (refusal,) = answer["refusals"]
        return Answer(refusal["rule"], _time(refusal["until"]))

    def _decided(self, dag_run_ids: list[str]) -> list[Answer]:
        """The ledger's verdict on each DAG run, once there is one."""
        found: dict[str, ReplicationRun] = {}

        def all_there() -> bool:
            self.world.airflow.raise_if_dead()
            found.update({run.dag_run_id: run for run in self.runs()})
            return found.keys() >= set(dag_run_ids)

        def missing() -> str:
            return f"undecided: {sorted(set(dag_run_ids) - found.keys())}\n{self.world.airflow.log_tail('scheduler')}"

        wait_for(all_there, timeout=DECIDED_SECONDS, what=f"{len(dag_run_ids)} verdicts", log=missing)
        return [Answer(found[id].rule or "", found[id].refused_until, id) for id in dag_run_ids]

    def runs(self, *states: RunState) -> list[ReplicationRun]:
        which = RunFilter(wave=self.wave, server=self.server, states=states or None)
        return list(within(self.world.ledger.read(), list_runs, which, limit=500).items)

    def ended(self) -> dict[str, str]:
        """Every DAG run of the wave with its end, once all have ended."""
        found: dict[str, str] = {}

        def over() -> bool:
            self.world.airflow.raise_if_dead()
            page = self.world.api.call(
                "GET", f"/api/v2/dags/{self.dag_id}/dagRuns?limit=100&state=running&state=queued"
            )
            return not page["dag_runs"]

        wait_for(over, timeout=DECIDED_SECONDS, what="the DAG runs to end", log=self.world.airflow.log_tail)
        while True:
            page = self.world.api.call("GET", f"/api/v2/dags/{self.dag_id}/dagRuns?limit=100&offset={len(found)}")
            found |= {run["dag_run_id"]: run["state"] for run in page["dag_runs"]}
            if len(found) >= page["total_entries"]:
                return found


def prove_one_at_a_time(door: Door, requests: int) -> list[Answer]:
    """One run of so many requests at once, while it lasts."""
    world = door.world
    order = JobOrder(
        server=door.server, plan=ReplicationPlan(seed_time=(datetime.now(UTC) + timedelta(days=2)).isoformat())
    )
    create_jobs(world.ledger, door.wave, [order], by="op", clock=SystemClock())
    world.airflow.wait_for_dag(door.dag_id)
    world.api.unpause(door.dag_id)
    world.aws.settings(snapshot_seconds=HELD)
    try:
        first = door.ask(requests)
    finally:
        world.aws.settings(snapshot_seconds=0)
    assert Counter(each.rule for each in first) == {"": 1, "in_progress": requests - 1}
    ends = door.ended()
    (granted,) = (each.dag_run_id for each in first if not each.rule)
    assert ends[granted] == "success", world.airflow.describe(door.dag_id, granted)
    mine = {each.dag_run_id for each in first if each.dag_run_id}
    assert {id: ends[id] for id in mine} == {id: "success" if id == granted else "failed" for id in mine}
    return first


def prove_quota(door: Door, restart: Callable[[], None]) -> None:
    """One run of 50 requests while it lasts, one of 50 more, none of 10 more, a restart of everything between."""
    world = door.world
    first = prove_one_at_a_time(door, REQUESTS)
    second = door.ask(REQUESTS)
    rules = Counter(each.rule for each in second)
    assert rules[""] == 1
    assert rules.keys() <= {"", "in_progress", "quota"}
    door.ended()
    assert len(door.runs(RunState.COMPLETED)) == 2

    restart()
    third = door.ask(LATER)
    assert Counter(each.rule for each in third) == {"quota": LATER}
    times = {each.until for each in third}
    (until,) = times
    assert until is not None
    assert timedelta(hours=23) < until - datetime.now(UTC) < timedelta(hours=24)
    ends = door.ended()
    completed = {run.dag_run_id for run in door.runs(RunState.COMPLETED)}
    assert len(completed) == 2
    assert len(world.snapshots_taken(door.server)) == 2, "a refused request touches nothing"
    mine = {each.dag_run_id for each in (*first, *second, *third) if each.dag_run_id}
    assert {id: ends[id] for id in mine} == {id: "success" if id in completed else "failed" for id in mine}


def at_once(requests: int, ask: Callable[[int], Any]) -> list[Any]:
    """What ``ask(0)``, ``ask(1)``, … give, all begun at the same moment."""
    gate = threading.Barrier(requests)

    def one(number: int) -> Any:
        gate.wait()
        return ask(number)

    with ThreadPoolExecutor(requests) as pool:
        return list(pool.map(one, range(requests)))


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
