"""Stopping runs and servers while they work, and clearing what still runs."""

from __future__ import annotations

from typing import Any

import pytest

from wavelift.ledger.slots import list_slots

pytestmark = pytest.mark.airflow

KIB = 1024


def test_a_run_marked_failed_in_mid_export_leaves_nothing(world: Any) -> None:
    run = world.trigger("halted")
    for index in (0, 1):
        run.until(f"export {index} to move", lambda index=index: run.exported(index) > 256 * KIB)
    assert len(world.uploads("/halted/")) == 2
    assert all(world.machine(name)["snapshots"] for name in ("halted-a", "halted-b"))
    world.api.call("PATCH", f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}", {"state": "failed"})

    run.until("the report", lambda: run.row("report")["state"] in ("success", "failed"))
    run.ends("failed")
    states = {(row["task_id"], row["map_index"]): row["state"] for row in run.rows()}
    for index in (0, 1):
        assert states["server.export", index] == "failed"
        assert states["server.remove_snapshot", index] == states["server.release", index] == "success"
        assert run.row("import_image", index)["state"] in ("skipped", "upstream_failed")
    for name in ("halted-a", "halted-b"):
        outcome = run.outcome(name)
        assert outcome["state"] == "failed"
        assert outcome["error"]
        assert not world.machine(name)["snapshots"]
    assert not world.uploads("/halted/")
    assert not [slot for slot in list_slots(world.ledger) if slot.scope == "halted"]


def test_amp_04_amp_07_cancelling_a_queued_an_exporting_and_an_importing_migration(world: Any) -> None:
    """Four servers, two slots: a and b export, c and d wait in this order. a's slot goes to c, d's place to nobody."""
    run = world.trigger("queued")
    run.until("the first two to export", lambda: all(run.exported(run.index(f"queued-{one}")) for one in "ab"))
    run.until_state("reserve", run.index("queued-d"), "deferred")
    queue = [
        (slot.holder[-1], slot.granted_at is not None) for slot in list_slots(world.ledger) if slot.scope == "queued"
    ]
    assert sorted(queue[:2]) == [("a", True), ("b", True)]
    assert sorted(queue[2:]) == [("c", False), ("d", False)]
    first, last = queue[2][0], queue[3][0]
    assert run.migration(f"queued-{first}").phase == "place 1 in the queue of connector queued"
    assert run.migration(f"queued-{last}").phase == "place 2 in the queue of connector queued"
    # The rule of the import that never ends is on c: whoever of the two is next goes on, the other is cancelled.
    if first == "d":
        first, last = "c", "d"

    op = world.airflow.client("op")
    assert _cancel(op, run, f"queued-{last}") == ["server.reserve"]
    run.until("d to be cancelled", lambda: run.migration(f"queued-{last}").state == "cancelled")
    assert run.row("reserve", run.index(f"queued-{first}"))["state"] == "deferred"
    assert not world.snapshots_taken(f"queued-{last}")

    assert _cancel(op, run, "queued-a") == ["server.export"]
    run.until("a to be cancelled", lambda: run.migration("queued-a").state == "cancelled")
    assert not world.machine("queued-a")["snapshots"]
    assert not world.uploads("/queued-a/")

    importing = run.index(f"queued-{first}")
    run.until(
        "c to be importing",
        lambda: (
            run.row("import_image", importing)["state"] == "deferred"
            and run.migration(f"queued-{first}").import_task_id
        ),
    )
    task = run.migration(f"queued-{first}").import_task_id
    assert _cancel(op, run, f"queued-{first}") == ["server.import_image"]
    assert run.migration(f"queued-{first}").state == "cancelled", "nothing of it is left in vCenter: it ends at once"
    run.until("AWS to have cancelled it", lambda: _import_status(world, task) == "deleted")

    run.ends("failed")
    states = {one["server"][-1]: one["state"] for one in run.report()["outcomes"]}
    assert states == {"a": "cancelled", "b": "completed", "c": "cancelled", "d": "cancelled"}
    world.assert_proven("queued-b", run.outcome("queued-b")["image_id"])


def _cancel(op: Any, run: Any, server: str) -> list[str]:
    answer = op.call("POST", f"/wavelift/migrations/{run.migration(server).id}/cancel")
    assert answer["cancel_requested"]
    return list(answer["stopped_tasks"])


def _import_status(world: Any, task: str) -> str:
    found = world.aws.client("ec2").describe_import_image_tasks(ImportTaskIds=[task])["ImportImageTasks"]
    return str(found[0]["Status"])


def test_inv_5_clearing_what_still_runs_destroys_and_doubles_nothing(world: Any) -> None:
    """a is cleared while its export moves: the old try is fenced off. b is cleared while its import waits: the old
    trigger cancels the job under the new try, which submits another."""
    run = world.trigger("cleared")
    exporting, importing = run.index("cleared-a"), run.index("cleared-b")
    run.until("a to export", lambda: run.exported(exporting) > 256 * KIB)
    run.until_state("import_image", importing, "deferred")
    stuck = run.migration("cleared-b").import_task_id
    uploads = world.uploads("/cleared-a/")
    assert len(uploads) == 1

    run.clear(["server.reserve", exporting])
    run.clear(["server.import_image", importing])
    run.ends("success")

    assert len(world.snapshots_taken("cleared-a")) == len(world.snapshots_taken("cleared-b")) == 1
    assert run.tries(exporting)["export"] >= 2
    assert run.tries(importing)["import_image"] >= 2
    assert run.tries(importing)["export"] == 1
    for name in ("cleared-a", "cleared-b"):
        world.assert_proven(name, run.outcome(name)["image_id"])
    assert "Another try of this task owns the work now" in run.log("export", exporting)
    assert _import_status(world, stuck) == "deleted"
    assert run.outcome("cleared-b")["import_task"] != stuck
    assert _images_of(world, "cleared") == {run.outcome(name)["image_id"] for name in ("cleared-a", "cleared-b")}


def _images_of(world: Any, wave: str) -> set[str]:
    tagged = [{"Name": "tag:wavelift:wave", "Values": [wave]}]
    return {one["ImageId"] for one in world.aws.client("ec2").describe_images(Filters=tagged)["Images"]}
