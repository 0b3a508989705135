"""Stopping runs and servers while they work, and clearing what still runs."""

from __future__ import annotations

from typing import Any

import pytest
from tests.airflow.aside import aside
from tests.ledgers import within

from wavelift.ledger.slots import standing

pytestmark = pytest.mark.airflow

KIB = 1024


@aside("halted")
def test_a_run_marked_failed_in_mid_export_leaves_nothing(world: Any) -> None:
    run = world.trigger("halted")
    for index in (0, 1):
        run.until(f"export {index} to move", lambda index=index: run.exported(index) > 256 * KIB)
    assert len(world.uploads("/halted/")) == 2
    assert all(world.machine(name)["snapshots"] for name in ("halted-a", "halted-b"))

    run.stop()
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
    assert not [slot for slot in within(world.ledger.read(), standing) if slot.scope == "halted"]


@aside("queued")
def test_amp_04_amp_07_cancelling_a_queued_an_exporting_and_an_importing_migration(world: Any) -> None:
    """Four servers, two slots: the first two export, the others wait in the order in which they came."""
    run = world.trigger("queued")
    run.index("queued-a")
    run.until("all to have asked", lambda: len(_queue(world)) == 4)
    leaving, staying, importing, waiting = (holder.rsplit("/", 1)[1] for holder, _ in _queue(world))
    assert [granted for _, granted in _queue(world)] == [True, True, False, False]
    run.until("the first two to export", lambda: all(run.exported(run.index(name)) for name in (leaving, staying)))
    for name in (importing, waiting):
        run.until_state("reserve", run.index(name), "deferred")
    assert run.migration(importing).phase == "1st in line for connector queued: 2 of 2 in use"
    assert run.migration(waiting).phase == "2nd in line for connector queued: 2 of 2 in use"
    world.aws.rule(kind="import", key=f"*{importing}*", outcome="stuck", count=1)
    op = world.airflow.client("op")

    assert _cancel(op, run, waiting) == ["server.reserve"]
    run.until("the queued one to be cancelled", lambda: run.migration(waiting).state == "cancelled")
    assert run.row("reserve", run.index(importing))["state"] == "deferred", "nobody gains by it"

    assert _cancel(op, run, leaving) == ["server.export"]
    run.until("the exporting one to be cancelled", lambda: run.migration(leaving).state == "cancelled")
    assert not world.machine(leaving)["snapshots"]
    assert not world.uploads(f"/{leaving}/")

    run.until_state("import_image", run.index(importing), "deferred")
    run.until_state("release", run.index(importing), "success")  # any sooner, the snapshot's removal is waited for
    run.until("its trigger to watch", lambda: run.migration(importing).phase.startswith("import: "))
    task = run.migration(importing).import_task_id
    assert _cancel(op, run, importing) == ["server.import_image"]
    assert run.migration(importing).state == "cancelled", "nothing of it is left in vCenter: it ends at once"
    run.until("AWS to have cancelled it", lambda: _import_status(world, task) == "deleted")

    run.ends("failed")
    assert {one["server"]: one["state"] for one in run.report()["outcomes"]} == {
        **dict.fromkeys((leaving, importing, waiting), "cancelled"),
        staying: "completed",
    }
    assert not world.snapshots_taken(waiting)
    world.assert_proven(staying, run.outcome(staying)["image_id"])


def _queue(world: Any) -> list[tuple[str, bool]]:
    """Holders of the connector's slots and who waits behind them, in order."""
    slots = [slot for slot in within(world.ledger.read(), standing) if slot.scope == "queued"]
    return [(slot.holder, slot.granted_at is not None) for slot in slots]


def _cancel(op: Any, run: Any, server: str) -> list[str]:
    answer = op.call("POST", f"/wavelift/migrations/{run.migration(server).id}/cancel")
    assert answer["cancel_requested"]
    return list(answer["stopped_tasks"])


def _import_status(world: Any, task: str) -> str:
    found = world.aws.client("ec2").describe_import_image_tasks(ImportTaskIds=[task])["ImportImageTasks"]
    return str(found[0]["Status"])


@aside("cleared")
def test_inv_5_clearing_what_still_runs_destroys_and_doubles_nothing(world: Any) -> None:
    """a is cleared while its export moves: the old try is fenced off. b is cleared while its import waits: the old
    trigger cancels the job under the new try, which submits another."""
    run = world.trigger("cleared")
    exporting, importing = run.index("cleared-a"), run.index("cleared-b")
    run.until("a to export", lambda: run.exported(exporting) > 256 * KIB)
    run.until_state("import_image", importing, "deferred")
    # Cleared any sooner, Airflow has no running trigger to stop: the new try finds the old job and waits for it.
    run.until("the trigger to watch", lambda: run.migration("cleared-b").phase.startswith("import: "))
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
    # Whichever comes first: the refused write to the state store, or the signal of Airflow's supervisor.
    log = run.log("export", exporting)
    assert "Another try of this task owns the work now" in log or "the task was killed" in log
    assert _import_status(world, stuck) == "deleted"
    assert run.outcome("cleared-b")["import_task"] != stuck
    assert _images_of(world, "cleared") == {run.outcome(name)["image_id"] for name in ("cleared-a", "cleared-b")}


def _images_of(world: Any, wave: str) -> set[str]:
    tagged = [{"Name": "tag:wavelift:wave", "Values": [wave]}]
    return {one["ImageId"] for one in world.aws.client("ec2").describe_images(Filters=tagged)["Images"]}
