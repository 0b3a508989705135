"""A person who may edit the XComs of one wave, at a running Airflow: what they change by REST is refused, and told."""

from __future__ import annotations

from typing import Any

import pytest
from tests.airflow.aside import aside
from tests.airflow.fleet import OTHER_VCENTER, TOOLS_VM
from tests.ledgers import within

from wavelift.ledger import events
from wavelift.operators._base import ServerOperator
from wavelift.operators.control import image, launch, record, slots
from wavelift.operators.control._plane import ControlServerOperator

pytestmark = pytest.mark.airflow


@aside("edited")
def test_an_edited_pre_flight_takes_no_vm_of_another_vcenter(world: Any) -> None:
    """``preflight`` is patched: a VM of another connection, into another bucket. Then ``server.reserve`` is cleared."""
    run = world.trigger("edited").ends("success")
    migration = run.migration("edited-a")
    path = f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/preflight/xcomEntries/server_0"
    task = world.api.xcom(run.dag_id, run.run_id, "preflight", key="server_0")
    victim = world.machine(TOOLS_VM)
    task["plan"] |= {"connection": OTHER_VCENTER}
    task["plan"]["target"] |= {"bucket": "of-the-attacker"}
    task["facts"] |= {"moref": victim["moref"]}
    world.api.call("PATCH", path, {"value": task})
    before = world.snapshots_taken("edited-a")

    run.clear(["server.reserve", 0])
    run.wait()
    assert (run.row("reserve", 0)["state"], run.row("snapshot", 0)["state"]) == ("failed", "upstream_failed")
    assert run.row("release", 0)["state"] == "success", "it takes nothing of what came"
    words = run.words("reserve", 0)
    for part in ("field=connection", "expected=vsphere_demo", f"found={OTHER_VCENTER}", "server=edited-a"):
        assert part in words, words
    told = within(world.ledger.read(), events.list_events, object_kind="migration", object_id=migration.id)
    (refused,) = [each for each in told if each.action == "run.tampered"]
    assert (refused.details["task"], refused.details["field"]) == ("server.reserve", "connection")
    assert world.snapshots_taken("edited-a") == before, "no snapshot was taken"
    assert not world.snapshots_taken(TOOLS_VM)
    assert run.migration("edited-a").image_id == migration.image_id


def test_every_task_of_the_control_plane_for_a_server_compares_what_came() -> None:
    """A new one that derives from :class:`ServerOperator` alone would take whatever an XCom says."""
    kinds = {
        kind
        for module in (image, launch, record, slots)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, ServerOperator) and kind is not ServerOperator
    }
    assert len(kinds) > 8
    assert all(issubclass(kind, ControlServerOperator) for kind in kinds)
    own = {kind for kind in kinds if "work" in vars(kind)} - {ControlServerOperator}
    assert own == {slots.ReleasingOperator, launch.LaunchInstanceOperator}, "these call the base, or take no plan"
