"""A restart of all of Airflow in mid-wave."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.airflow, pytest.mark.proof]

KIB = 1024


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
