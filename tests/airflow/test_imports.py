"""The limits of imports: our own, and the lower one that AWS has."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.airflow

OURS = 2
"""``limits: {imports_per_region: 2}`` of the environment that this wave lands in."""


def test_inv_8_amp_04_imports_wait_for_a_place_without_a_worker(world: Any) -> None:
    """Three servers, two places of ours, one of AWS's: never two at once, one waits for AWS and one for us."""
    # Slow until all three have met: on a busy machine their exports may end half a minute apart.
    world.aws.settings(import_limit=1, phase_seconds=6)
    try:
        run = world.trigger("limited")
        waited: dict[int, set[str]] = {}
        most = 0

        def over() -> bool:
            nonlocal most
            most = max(most, len(world.aws.state()["import_tasks"]))
            for row in run.rows():
                if row["task_id"] == "server.import_image" and row["state"]:
                    waited.setdefault(row["map_index"], set()).add(row["state"])
            for migration in world.ended():
                if migration.wave == "limited":
                    phases.add(migration.phase)
                    shown.add(migration.progress_pct if migration.state == "importing" else 0)
            if _waiting_for_us(phases) and _waiting_for_aws(phases) and any(0 < percent < 100 for percent in shown):
                world.aws.settings(import_limit=1, phase_seconds=0.5)
            return world.api.run_state(run.dag_id, run.run_id) in ("success", "failed")

        phases: set[str] = set()
        shown: set[int] = set()
        run.until("the run to end", over, timeout=900)
        run.ends("success")
    finally:
        world.aws.settings(import_limit=5, phase_seconds=0.2)
    assert most == 1
    assert any(0 < percent < 100 for percent in shown), "the list shows how far a running import is (AMP-07)"
    assert all("deferred" in states for states in waited.values()), waited
    assert _waiting_for_us(phases), phases
    assert _waiting_for_aws(phases), phases
    # Waiting is no loop of tasks: a resumed try keeps its number, so the log tells how often each was woken.
    for index in range(3):
        assert run.tries(index)["import_image"] == 1
        assert run.log("import_image", index).count("Pre Execute") <= 12
    for name in ("limited-a", "limited-b", "limited-c"):
        world.assert_proven(name, run.outcome(name)["image_id"])


def _waiting_for_us(phases: set[str]) -> bool:
    return any("waits to import: 1st in line for imports into account" in phase for phase in phases)


def _waiting_for_aws(phases: set[str]) -> bool:
    return any("waits to import" in phase and "in line" not in phase for phase in phases)
