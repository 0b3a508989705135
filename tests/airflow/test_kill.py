"""SIGKILL of one process of each kind. These tests run last, because they stop Airflow for everything that runs."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.airflow

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture(scope="module")
def orphan(world: Any) -> Any:
    """A run whose scheduler was killed with the executor's workers and its task. Airflow needs a minute to miss it."""
    run = world.trigger("orphan")
    run.until("it to export", lambda: run.exported(0) > 256 * KIB)
    run.until("its rate to show", lambda: run.export_rate(0) > 0)
    worker = run.row("export", 0)["pid"]
    world.airflow.stop_component("scheduler", kill=True)  # with the executor's workers; tasks have groups of their own
    world.kill([worker])
    run.until("its rate to fall, though nobody misses it yet", lambda: run.export_rate(0) == 0)
    assert run.row("export", 0)["state"] == "running"
    world.airflow.start_component("scheduler")
    return run


def test_inv_6_kill_9_of_the_task_at_70_percent_keeps_the_parts(world: Any, orphan: Any) -> None:
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


def test_kill_9_of_the_scheduler_with_its_workers(world: Any, orphan: Any) -> None:
    orphan.ends("success")
    assert orphan.tries(0)["export"] == 2
    assert orphan.tries(0)["snapshot"] == 1
    assert len(world.snapshots_taken("orphan-a")) == 1
    world.assert_proven("orphan-a", orphan.outcome("orphan-a")["image_id"])
    world.vcenter.expire_sessions()  # the dead processes', as vCenter does after half an hour


def _sent_again(world: Any) -> int:
    return int(world.aws.counters()["s3.parts"].get("repeated", 0))


def _parts(world: Any) -> int:
    return sum(one["parts"] for one in world.uploads("/killed-a/"))
