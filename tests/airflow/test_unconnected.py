"""Connections that are missing or wrong: one report with all of them, at once, in every mode and flow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.airflow.inprocess import Done, Lab

from wavelift.base.errors import LoginError
from wavelift.base.run import SystemClock
from wavelift.operators import RemoveSnapshotOperator
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = pytest.mark.airflow

NO_VCENTER = {"AIRFLOW_CONN_VSPHERE_DEMO": ""}
"""Airflow takes an empty variable for none."""
NO_AWS = {"AIRFLOW_CONN_AWS_DEMO": ""}
VCENTER = "*/connection vsphere_demo"
AWS = "*/connection aws_demo"
MAKE_VCENTER = "Make it under Admin → Connections (type VMware vCenter (wavelift)), or name another one in the spec"
MAKE_AWS = "Make it under Admin → Connections (type Amazon Web Services), or name another one in the spec"


def errors(run: Done) -> dict[str, dict[str, Any]]:
    report = run.xcom("preflight", key="report")
    return {one["subject"]: one for one in report["findings"] if one["severity"] == "error"}


def failed_at_once(run: Done) -> None:
    run.ends("failed")
    row = run.row("preflight")
    assert (row["state"], row["try_number"]) == ("failed", 1), "no retry can cure it"


@pytest.mark.parametrize(
    "mode",
    [pytest.param("plan", marks=pytest.mark.proof), pytest.param("preflight", marks=pytest.mark.proof), "migrate"],
)
def test_both_connections_that_are_missing_are_told_at_once(lab: Lab, mode: str) -> None:
    run = lab.run("modes.migrate", {"mode": mode}, **NO_VCENTER, **NO_AWS)
    failed_at_once(run)
    found = errors(run)
    assert {subject: one["next_action"] for subject, one in found.items()} == {VCENTER: MAKE_VCENTER, AWS: MAKE_AWS}
    assert found[VCENTER]["what"] == "Airflow has no connection 'vsphere_demo'"
    words = run.words("preflight")
    assert "no connection 'vsphere_demo'" in words
    assert "no connection 'aws_demo'" in words
    assert words in run.words("report")
    stopped = {one["server"]: (one["state"], words in one["error"]) for one in run.report()["outcomes"]}
    assert stopped == ({"modes-a": ("failed", True)} if mode == "migrate" else {}), "its row waited for the pre-flight"


@pytest.mark.proof
def test_one_connection_that_is_missing_hides_nothing_of_the_other(lab: Lab) -> None:
    run = lab.run("modes.migrate", {"mode": "preflight"}, **NO_AWS)
    failed_at_once(run)
    assert set(errors(run)) == {AWS}
    report = run.xcom("preflight", key="report")
    assert [one["name"] for one in report["servers"]] == ["modes-a"]
    run = lab.run("modes.migrate", {"mode": "preflight"}, **NO_VCENTER)
    failed_at_once(run)
    assert set(errors(run)) == {VCENTER}
    report = run.xcom("preflight", key="report")
    assert "*/bucket wavelift-tests" in {one["subject"] for one in report["findings"]}, "AWS was looked at"


@pytest.mark.proof
def test_replication_says_the_same(lab: Lab) -> None:
    plan = ReplicationPlan(seed_time=(datetime.now(UTC) + timedelta(days=2)).isoformat())
    create_jobs(lab.ledger, "alone", [JobOrder(server="alone-a", plan=plan)], by="op", clock=SystemClock())
    run = lab.run("alone.replicate", {"servers": ["alone-a"]}, **NO_VCENTER, **NO_AWS)
    failed_at_once(run)
    assert {subject: one["next_action"] for subject, one in errors(run).items()} == {
        VCENTER: MAKE_VCENTER,
        AWS: MAKE_AWS,
    }
    assert "no connection 'vsphere_demo'" in run.words("report")


def test_inv_4_whatever_is_wrong_with_aws_the_snapshot_goes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account of the target was opened first: revoked keys left the snapshot in vCenter."""

    def refused(*_: Any) -> Any:
        raise LoginError("AWS refused the keys")

    with monkeypatch.context() as patch:
        patch.setattr(RemoveSnapshotOperator, "aws_of", refused)
        run = lab.run("modes.migrate", {"launch": "none"}).ends("failed")
    assert "AWS refused the keys" in run.words("remove_snapshot", run.index("modes-a"))
    assert len(lab.snapshots_taken("modes-a")) == 1
    assert lab.machine("modes-a")["snapshots"] == []
    lab.clear(run, ("server.remove_snapshot", run.index("modes-a"))).ends("success")


def test_a_catalogue_import_is_not_tried_again(lab: Lab) -> None:
    run = lab.run("server_catalog", {"connection": "vsphere_demo"}, file="catalog.py", **NO_VCENTER).ends("failed")
    assert run.row("inventory")["try_number"] == 1, run.words("begin")
    assert "no connection 'vsphere_demo'" in run.words("inventory")
