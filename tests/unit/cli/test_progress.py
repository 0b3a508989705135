"""The progress of a task as Airflow's REST API answers it: its age is told by the server's clock alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import urllib3

from wavelift.airflow.rest import ApiClient
from wavelift.base.rates import TransferProgress

pytestmark = pytest.mark.unit

STORED = {"disks": {"SCSI 0:0": {"phase": "export", "done": 3, "total": 10, "data": 2, "sent": 1}}, "rate": 5}
PLACE = (
    "https://airflow/api/v2/dags/w.migrate/dagRuns/r%3A1/taskInstances/server.export/state-store/progress?map_index=2"
)
NOON = "Wed, 02 Dec 2026 12:00:00 GMT"


class Pool:
    """Answers with what the test gives, and notes what was asked."""

    def __init__(self, *answers: tuple[int, Any, Mapping[str, str]]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def request(self, method: str, url: str, **_: Any) -> urllib3.BaseHTTPResponse:
        self.asked.append(f"{method} {url}")
        status, body, headers = self.answers.pop(0)
        return urllib3.HTTPResponse(json.dumps(body).encode(), headers, status)


def progress(monkeypatch: pytest.MonkeyPatch, pool: Pool) -> TransferProgress | None:
    client = ApiClient("https://airflow", lambda: "token")
    monkeypatch.setattr(client, "_pool", pool)
    return client.progress("w.migrate", "r:1", "server.export", map_index=2)


@pytest.mark.parametrize(
    ("updated_at", "rate"),
    [
        ("2026-12-02T12:00:00.400000Z", 5),  # the header has whole seconds
        ("2026-12-02T11:59:51Z", 5),
        ("2026-12-02T12:59:51+01:00", 5),
        ("2026-12-02T11:59:49Z", 0),
        ("2026-12-02T09:00:00Z", 0),
    ],
)
def test_a_rate_counts_for_ten_seconds_of_the_server_s_time(
    monkeypatch: pytest.MonkeyPatch, updated_at: str, rate: int
) -> None:
    pool = Pool((200, {"key": "progress", "value": STORED, "updated_at": updated_at}, {"Date": NOON}))
    assert progress(monkeypatch, pool) == TransferProgress(done=3, total=10, sent=1, rate=rate)
    assert pool.asked == [f"GET {PLACE}"]


def test_without_the_server_s_time_our_own_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool((200, {"value": STORED, "updated_at": "2020-01-01T00:00:00Z"}, {}))
    assert progress(monkeypatch, pool) == TransferProgress(done=3, total=10, sent=1, rate=0)


def test_nothing_stored_is_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress(monkeypatch, Pool((404, {"detail": "not found"}, {"Date": NOON}))) is None


def test_an_expired_token_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool((401, {}, {}), (200, {"value": STORED, "updated_at": "2026-12-02T12:00:00Z"}, {"Date": NOON}))
    found = progress(monkeypatch, pool)
    assert found is not None
    assert (found.rate, len(pool.asked)) == (5, 2)
