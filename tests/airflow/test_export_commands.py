"""``wavelift export`` against a running Airflow: set up, check, export, and cancel while AWS works (AMP-10, VIE-06)."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from tests.airflow.outward import BUCKET, ENVIRONMENT, Outward, exporting

pytestmark = pytest.mark.airflow
UNKNOWN: Final = "i-0123456789abcdef0"
IN: Final = ("--environment", ENVIRONMENT)


def test_amp_10_the_command_sets_up_exports_and_cancels(world: Any) -> None:
    with exporting(world) as outward:
        instance = outward.instance
        refused = outward.cli("setup", *IN, user="guest")
        assert (refused.returncode, "may not administer" in refused.stderr) == (1, True), refused.stderr
        done = outward.cli("setup", *IN)
        assert done.returncode == 0, done.stderr
        assert f"{BUCKET}: " in done.stdout

        checked = outward.cli("check", instance, *IN, "--method", "instance")
        assert (checked.returncode, "1 error" in checked.stdout) == (1, True), checked.stdout
        checked = outward.cli("check", instance, *IN, "--may-reboot")
        assert (checked.returncode, "method instance" in checked.stdout) == (0, True), checked.stdout + checked.stderr

        unknown = outward.cli("start", UNKNOWN, *IN)
        assert (unknown.returncode, unknown.stdout.count("s3://")) == (1, 0)
        assert UNKNOWN in unknown.stderr.splitlines()[-1]

        done = outward.cli("start", instance, *IN, "--may-reboot", "--prefix", "out/")
        assert done.returncode == 0, done.stderr
        [key] = outward.objects()
        assert f"s3://{BUCKET}/{key}" in done.stdout
        assert "instance: " in done.stdout
        listed = outward.cli("list", *IN)
        assert (instance in listed.stdout, key in listed.stdout) == (True, True)
        _cancelled_while_aws_works(world, outward, instance)
        assert outward.objects() == [key]


def _cancelled_while_aws_works(world: Any, outward: Outward, instance: str) -> None:
    stuck = world.aws.rule(kind="export", key=instance, outcome="stuck", phase="converting")
    done = outward.cli("start", instance, *IN, "--may-reboot", "--request-id", "once", "--no-wait", "--json")
    assert done.returncode == 0, done.stderr
    started = json.loads(done.stdout)
    id = started["export"]["id"]
    again = outward.cli("start", instance, *IN, "--may-reboot", "--request-id", "once", "--no-wait", "--json")
    assert json.loads(again.stdout)["export"]["id"] == id, again.stderr
    other = outward.cli("start", instance, *IN, "--may-reboot", "--no-wait")
    assert (other.returncode, id in other.stderr) == (1, True), "one export of an instance at a time"
    run = world.known_run(started["dag_id"], started["dag_run_id"])

    def waits() -> bool:
        row: dict[str, Any] = outward.get(f"/exports/{id}")
        return bool(row["task_id"]) and (row["step"], row["step_state"]) == ("begin", "deferred")

    run.until("the task of AWS to be followed", waits)
    asked = outward.cli("cancel", id)
    assert (asked.returncode, "--yes" in asked.stderr) == (1, True), "nobody is there to answer"
    done = outward.cli("cancel", id, "--yes")
    assert (done.returncode, "is being cancelled" in done.stdout) == (0, True), done.stderr
    run.ends("failed")
    row = outward.get(f"/exports/{id}")
    assert (row["state"], row["cancel_requested"]) == ("cancelled", True), row
    assert world.aws.state()["export_tasks"] == []
    world.aws.clear_rules(stuck)
    late = outward.cli("cancel", id, "--yes")
    assert (late.returncode, "nothing to cancel" in late.stderr) == (1, True)
    [first] = [one["id"] for one in outward.get(f"/exports?state=completed&environment={ENVIRONMENT}")["exports"]]
    late = outward.cli("cancel", first, "--yes")
    assert (late.returncode, "too late: the final image is being written" in late.stderr) == (1, True)
