"""Servers that are cancelled between admission and pre-flight, in runs of this process: they do not begin (AMP-07)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.airflow.inprocess import Done, Lab

from wavelift.base.run import SystemClock
from wavelift.ledger import Migration, migrations
from wavelift.operators.connector.preflight import PreflightOperator
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.migration.waiting import WAITS

pytestmark = pytest.mark.airflow


@pytest.fixture
def cancelling(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run of the wave ``called``; a person cancels these servers when admission is through."""

    def run(*names: str) -> tuple[Done, dict[str, Migration]]:
        listed: dict[str, Migration] = {}
        work = PreflightOperator.work

        def cancel_first(self: Any, context: Any) -> Any:
            with lab.ledger.read() as tx:
                found = migrations.list_migrations(tx, migrations.MigrationFilter(wave="called"))
            listed.update({row.server: row for row in found.items if row.dag_run_id == context["ti"].run_id})
            for name in names:
                with lab.ledger.write() as tx:
                    migrations.request_cancel(tx, listed[name].id, by="bob", clock=SystemClock())
            return work(self, context)

        with monkeypatch.context() as patched:
            patched.setattr(PreflightOperator, "work", cancel_first)
            return lab.run("called.migrate"), listed

    return run


@pytest.mark.proof
def test_amp_07_cancelling_every_server_before_pre_flight_ends_the_run_without_a_snapshot(
    lab: Lab, cancelling: Any
) -> None:
    run, listed = cancelling("called-a", "called-b")
    run.ends("failed")
    assert {(row.state, row.phase) for row in listed.values()} == {("queued", WAITS)}
    assert {one["server"]: one["state"] for one in run.report()["outcomes"]} == dict.fromkeys(listed, "cancelled")
    for name, row in listed.items():
        ended = run.migration(name)
        assert (ended.id, ended.state, ended.error) == (row.id, "cancelled", CANCELLED)
        assert lab.snapshots_taken(name) == []
    assert {row["state"] for row in run.rows() if row["task_id"] == "server.snapshot"} == {"upstream_failed"}


def test_amp_07_the_other_servers_go_on_and_a_clear_takes_the_cancelled_one_up(lab: Lab, cancelling: Any) -> None:
    run, listed = cancelling("called-b")
    run.ends("failed")
    assert run.migration("called-a").state == "completed"
    cancelled = run.migration("called-b")
    assert (cancelled.id, cancelled.state, cancelled.server_id) == (listed["called-b"].id, "cancelled", None)
    assert "was cancelled on request" in run.words("reserve", run.index("called-b"))
    assert "called-b cancelled: cancelled on request" in run.words("report")
    assert lab.snapshots_taken("called-b") == []
    again = lab.clear(run, ("server.reserve", run.index("called-b"))).ends("success")
    ended = again.migration("called-b")
    assert (ended.id, ended.state) == (cancelled.id, "completed")
    lab.assert_proven("called-b", ended.image_id)
