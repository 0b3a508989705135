"""Replication in a running Airflow: an instant of the schedule, and a completed run that is cleared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.airflow.aside import aside
from tests.ledgers import within

from wavelift.base.run import SystemClock
from wavelift.cli.local_airflow import wait_for
from wavelift.ledger.replication_runs import RunFilter, list_runs
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = pytest.mark.airflow

DAG_ID = "clocked.replicate"


@aside("clocked")
def test_air_05_an_instant_of_the_schedule_fires_and_clearing_its_run_does_nothing(world: Any) -> None:
    world.airflow.wait_for_dag(DAG_ID)
    world.api.unpause(DAG_ID)
    at = (datetime.now(UTC) + timedelta(seconds=10)).replace(microsecond=0)
    order = JobOrder(server="clocked-a", plan=ReplicationPlan(seed_time=at.isoformat()))
    (job,) = create_jobs(world.ledger, "clocked", [order], by="op", clock=SystemClock())

    def ran() -> bool:
        return bool(within(world.ledger.read(), list_runs, RunFilter(job_id=job.id)).items)

    wait_for(ran, timeout=400, what="the scheduled run")
    (known,) = within(world.ledger.read(), list_runs, RunFilter(job_id=job.id)).items
    assert (known.scheduled_for, known.type, known.counted_at) == (at, "automatic", None)
    run = world.known_run(DAG_ID, known.dag_run_id).ends("success")
    assert run.report()["scheduled"]
    assert [(one["server"], one["state"]) for one in run.report()["outcomes"]] == [("clocked-a", "completed")]
    assert len(world.snapshots_taken("clocked-a")) == 1

    run.clear(["server.reserve", 0])
    run.ends("success")
    assert len(world.snapshots_taken("clocked-a")) == 1, "clearing a completed run does nothing"
