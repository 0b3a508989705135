"""A list of 500 running transfers asks Airflow a bounded number of times, for a bounded time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
from tests.ledgers import fresh_ledger

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.console.progress import MOST_QUESTIONS, MOST_SECONDS, Progress
from wavelift.console.replication_rows import live
from wavelift.console.replication_runs import _page
from wavelift.console.requests import RunQuery
from wavelift.ledger.records import Page
from wavelift.ledger.replication_records import ReplicationRun
from wavelift.ledger.replication_runs import RunFilter
from wavelift.rules.replication import RunState, RunType

pytestmark = pytest.mark.unit

SERVERS: Final = 150
"""Of one wave, and so of one DAG run."""
ROWS: Final = 500


class Pool:
    """Airflow's answers on the wire: pages of 100 task instances, the state store of each, what failed tries left."""

    def __init__(self) -> None:
        self.state = "running"
        self.asked: list[str] = []
        self.breaks: Exception | None = None
        self.timeouts: list[float] = []

    def request(self, method: str, url: str, *, timeout: urllib3.Timeout, **_: Any) -> urllib3.BaseHTTPResponse:
        parts = urlsplit(url)
        self.asked.append(parts.path)
        self.timeouts.append(float(timeout.read_timeout or 0))
        if self.breaks:
            raise self.breaks
        body = STORED
        if parts.path.endswith("/taskInstances"):
            body = self._tasks(parse_qs(parts.query))
        elif "/xcomEntries/" in parts.path:
            body = {"value": json.dumps(FAILED)}
        return urllib3.HTTPResponse(json.dumps(body).encode(), {}, 200)

    def _tasks(self, asked: dict[str, list[str]]) -> dict[str, Any]:
        offset, only = int(asked["offset"][0]), asked.get("task_id", STEPS)
        tasks = [
            {"task_id": step, "map_index": at, "state": state, "rendered_map_index": f"web{at}", "try_number": 2}
            for step, state in zip(STEPS, ("success", "success", self.state), strict=True)
            for at in range(SERVERS)
            if step in only and state in asked.get("state", [state])
        ]
        return {"task_instances": tasks[offset : offset + 100], "total_entries": len(tasks)}


STEPS: Final = [f"server.{step}" for step in ("reserve", "snapshot", "transfer")]
FAILED: Final = {"what": "vCenter does not answer", "try": 2, "of": 4, "next_try_at": "2026-12-01T10:00:00+00:00"}
STORED: Final = {
    "value": {"disks": {"0": {"done": 30, "total": 100, "sent": 7}}, "rate": 5},
    "updated_at": datetime.now(UTC).isoformat(),
}


def runs_of(count: int) -> Iterator[ReplicationRun]:
    """Active runs: server after server, DAG run after DAG run."""
    empty: dict[str, Any] = dict.fromkeys(one.name for one in fields(ReplicationRun))
    now = datetime.now(UTC)
    words = ("wave", "status", "rule", "requested_by", "ami_id", "error", "quarantine", "job_id")
    one = ReplicationRun(
        **{
            **empty,
            **dict.fromkeys(words, ""),
            **dict.fromkeys(("progress_pct", "bytes_done", "bytes_total", "bytes_read", "bytes_sent", "duration_s"), 0),
            "type": RunType.AUTOMATIC,
            "state": RunState.ACTIVE,
            "requested_at": now,
            "cancel_requested": False,
            "dag_id": "erp.replicate",
        }
    )
    for at in range(count):
        yield replace(one, id=f"run-{at}", server=f"web{at % SERVERS}", dag_run_id=f"scheduled__{at // SERVERS}")


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def airflow(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> ApiClient:
    client = ApiClient("https://airflow", lambda: "token")
    monkeypatch.setattr(client, "_pool", pool)
    return client


def moved(rows: Any, asking: Progress) -> list[bool]:
    return ["bytes_done" in live(run, asking) for run in rows]


def test_the_longest_list_asks_a_hundred_times(airflow: ApiClient, pool: Pool) -> None:
    told = moved(runs_of(ROWS), Progress(airflow))
    assert sum(told) >= MOST_QUESTIONS - ROWS // SERVERS - 1
    assert len(pool.asked) <= MOST_QUESTIONS + ROWS // SERVERS + 1, "one more page for each DAG run that was asked for"
    of_tasks = [path for path in pool.asked if path.endswith("/taskInstances")]
    assert len(of_tasks) == 2 * len(set(of_tasks)), "two pages of 150 transfers, once for each DAG run"


def test_the_route_answers_all_rows_all_the_same(
    airflow: ApiClient, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = tuple(runs_of(ROWS))
    page = Page(items=items, total=ROWS, limit=ROWS, offset=0)
    monkeypatch.setattr("wavelift.ledger.replication_runs.list_runs", lambda *_, **__: page)
    with fresh_ledger(tmp_path / "wavelift.db") as ledger:
        query = RunQuery(limit=ROWS)
        rows = _page(ledger, Progress(airflow), RunFilter(), query).runs
    assert (len(rows), rows[0].bytes_done, rows[-1].bytes_done) == (ROWS, 30, 0)
    assert len(pool.asked) <= MOST_QUESTIONS + ROWS // SERVERS + 1


def test_a_fleet_that_waits_for_its_retries_costs_no_more(airflow: ApiClient, pool: Pool) -> None:
    pool.state = "up_for_retry"
    asking = Progress(airflow)
    told = [live(run, asking) for run in runs_of(ROWS)]
    assert told[0]["retry_reason"] == "vCenter does not answer"
    assert (told[0]["step_try"], told[0]["step_tries"]) == (2, 4)
    assert {one["step_state"] for one in told if one} == {"up_for_retry"}
    assert len(pool.asked) <= MOST_QUESTIONS + ROWS // SERVERS + 1


def test_a_slow_airflow_is_asked_for_ten_seconds(airflow: ApiClient, pool: Pool) -> None:
    clock = iter(range(0, 1000, 4))
    told = moved(runs_of(ROWS), Progress(airflow, lambda: float(next(clock))))
    assert sum(told) == 1, "the tasks at 4 s, one server at 8 s"
    assert all(0 < timeout <= MOST_SECONDS for timeout in pool.timeouts)


def test_an_airflow_that_does_not_answer_is_asked_once(airflow: ApiClient, pool: Pool) -> None:
    pool.breaks = urllib3.exceptions.ReadTimeoutError(None, "", "slow")  # type: ignore[arg-type]  # nobody reads the pool
    assert not any(moved(runs_of(ROWS), Progress(airflow)))
    assert len(pool.asked) == 1


def test_who_may_not_see_the_tasks_sees_the_ledger(airflow: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ApiError("forbidden", status=403)

    monkeypatch.setattr(airflow, "task_instances", refuse)
    assert not any(moved(runs_of(3), Progress(airflow)))
