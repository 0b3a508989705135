"""SIGKILL and restarts. These come last: they take Airflow down under everything that runs."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.airflow

KIB = 1024
MIB = 1024 * KIB


def test_inv_6_kill_9_of_the_task_at_70_percent_keeps_the_parts(world: Any) -> None:
    run = world.trigger("killed")
    run.until("70 % of the disk and five parts", lambda: run.exported(0) > 50 * MIB and _parts(world) >= 5)
    (before,) = world.uploads("/killed-a/")
    repeated = _sent_again(world)
    pid = run.row("export", 0)["pid"]
    world.kill([pid])
    run.ends("success")
    assert run.tries(0)["export"] == 2
    assert run.tries(0)["snapshot"] == 1
    (disk,) = world.api.xcom(run.dag_id, run.run_id, "server.export", map_index=0)["disks"]
    assert disk["parts_kept"] >= before["parts"] >= 5
    assert disk["parts"] > disk["parts_kept"]
    assert _sent_again(world) == repeated, "no stored part is sent again"
    assert len(world.snapshots_taken("killed-a")) == 1
    world.assert_proven("killed-a", run.outcome("killed-a")["image_id"])
    world.vcenter.expire_sessions()  # the dead process's, as vCenter does after half an hour


def _sent_again(world: Any) -> int:
    return int(world.aws.counters()["s3.parts"].get("repeated", 0))


def _parts(world: Any) -> int:
    return sum(one["parts"] for one in world.uploads("/killed-a/"))


def test_kill_9_of_the_scheduler_with_its_workers(world: Any) -> None:
    run = world.trigger("orphan")
    run.until("both to export", lambda: all(run.exported(index) > 256 * KIB for index in (0, 1)))
    workers = [run.row("export", index)["pid"] for index in (0, 1)]
    world.airflow.stop_component("scheduler", kill=True)  # with the executor's workers; tasks have groups of their own
    world.kill(workers)
    world.airflow.start_component("scheduler")
    run.ends("success")
    for index, name in ((run.index(name), name) for name in ("orphan-a", "orphan-b")):
        assert run.tries(index)["export"] == 2
        assert run.tries(index)["snapshot"] == 1
        assert len(world.snapshots_taken(name)) == 1
        world.assert_proven(name, run.outcome(name)["image_id"])
    world.vcenter.expire_sessions()


def test_airflow_restarted_in_mid_wave(world: Any) -> None:
    run = world.trigger("paused")
    run.until("a to export", lambda: run.exported(run.index("paused-a")) > 256 * KIB)
    world.airflow.stop()
    assert not world.airflow.processes()
    world.airflow.start()
    run.ends("success")
    for name in ("paused-a", "paused-b"):
        assert len(world.snapshots_taken(name)) == 1
        world.assert_proven(name, run.outcome(name)["image_id"])
    world.vcenter.expire_sessions()
