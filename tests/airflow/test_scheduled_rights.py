"""A scheduled replicate run: each server has the right of whoever ordered its job, up to the vCenter (AMP-03)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt
import pytest
import yaml
from tests.airflow.inprocess import Lab
from tests.ledgers import within

from wavelift.base.run import SystemClock
from wavelift.ledger import events
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = [pytest.mark.airflow, pytest.mark.proof]

WAVE: Final = "dated"
GONE: Final = "CORP\\gone"
ORDERED: Final = {"dated-a": "op", "dated-b": "admin", "dated-c": "somebody"}
"""Of the three, the environment lets the first two migrate, and the vCenter knows the first."""


def claims(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


def test_amp_03_each_server_of_a_scheduled_run_has_the_right_of_whoever_ordered_its_job(lab: Lab) -> None:
    instant = (datetime.now(UTC) + timedelta(minutes=10)).replace(microsecond=0)
    plan = ReplicationPlan(seed_time=instant.isoformat())
    for server, by in ORDERED.items():
        create_jobs(lab.ledger, WAVE, [JobOrder(server=server, plan=plan)], by=by, clock=SystemClock())
    file = lab.dags / "environments" / "principals.yaml"
    kept = file.read_text()
    known = yaml.safe_load(kept)
    known["vcenter"]["users"]["admin"] = GONE
    file.write_text(yaml.safe_dump(known))
    try:
        run = lab.run_scheduled(f"{WAVE}.replicate", instant)
    finally:
        file.write_text(kept)
    run.ends("failed")

    admitted = run.xcom("admit")
    assert admitted["scheduled"]
    assert sorted(admitted["granted"]) == ["dated-a", "dated-b"]
    look = claims(admitted["token"])
    assert (look["scope"], look["action"], look["sub"]) == ("look", "replicate", "schedule")
    assert look["principals"] == {"dated-a": known["vcenter"]["users"]["op"], "dated-b": GONE}

    (error,) = [one for one in run.xcom("preflight", key="report")["findings"] if one["severity"] == "error"]
    assert (error["code"], error["subject"]) == ("requester.unknown", "dated-b")
    move = claims(run.xcom("reserve", index=run.index("dated-a"))["token"])
    assert (move["scope"], move["action"], move["server"]) == ("move", "replicate", "dated-a")
    assert move["run_id"] == run.run_id
    assert (run.outcome("dated-a")["state"], run.outcome("dated-a")["kinds"]) == ("completed", ["seed"])
    assert [len(lab.snapshots_taken(server)) for server in ORDERED] == [1, 0, 0]

    told = within(lab.ledger.read(), events.list_events, limit=1_000_000)  # the lab keeps those of all tests
    refused = [one for one in told if one.action == "authority.refused" and one.details.get("server") in ORDERED]
    assert {(one.details["server"], one.details["link"]) for one in refused} == {
        ("dated-b", "requester_in_vcenter"),
        ("dated-c", "environment"),
    }
