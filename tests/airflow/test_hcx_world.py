"""Live migrations with HCX and cutovers of networks on a running Airflow, between two simulated sites.

What only a scheduler does is proven here: questions to people, deferred tasks that resume, tasks that look again, runs
that a failed run starts, clears.
"""

from __future__ import annotations

import time
from typing import Any, Final

import pytest
from tests.airflow.aside import aside
from tests.airflow.crossing import Crossing
from tests.airflow.sites import BY_HAND
from tests.airflow.world import Run

from wavelift.cli.local_airflow import wait_for

pytestmark = pytest.mark.airflow

PATIENCE: Final = 400.0


@aside("crossed")
def test_hcx_06_a_server_crosses_and_its_network_follows_and_comes_back(world: Any) -> None:
    story = Crossing(world, "crossed")
    # Both are rehearsed at the same time: the wave can go, the network can't while a server is on it.
    planned = story.run(story.live("plan"))
    (blocking,) = story.plan()
    assert blocking["code"] == "network.occupied"
    assert "crossed-a" in blocking["what"]
    planned.ends("success")
    words = world.api.xcom(planned.dag_id, planned.run_id, "plan", key="words")
    assert story.lan.there in words

    started = story.live(note="Saturday", request_id="ticket-1")
    (row,) = started["migrations"]
    assert (row["server"], row["kind"], row["state"]) == ("crossed-a", "rav", "reserved")
    again = story.live(request_id="ticket-1")
    assert (again["made_before"], again["dag_run_id"]) == (True, started["dag_run_id"])
    run = story.run(started)
    story.asked(run)
    # Airflow lets every operator answer. Only an answer of somebody who may migrate counts.
    story.guest.answer(run.dag_id, run.run_id, "approve", "Approve")
    story.asked(run)
    assert not story.migrations_in_hcx("crossed-a")
    story.approve_live(run)
    seen = followed(story, run, row["id"])
    assert any(0 < percent < 100 for percent in seen), seen
    run.ends("success")
    moved = story.migration(row["id"])
    assert (moved["state"], moved["percent"]) == ("moved", 100), moved
    assert moved["approval"]["answered_by"] == "op"
    assert set(moved["found"]) == {"source", "destination"}
    assert story.migrations_in_hcx("crossed-a") == ["complete"]
    story.assert_moved("crossed-a")

    assert story.plan() == []
    run, cutover = story.cut_over(note="Saturday", request_id="ticket-2")
    again = story.post("/networks/crossed/cutovers", {"mode": "cutover", "request_id": "ticket-2"})
    assert (again["made_before"], again["cutover"]["id"]) == (True, cutover)
    story.asked(run)
    story.guest.answer(run.dag_id, run.run_id, "approve", "Approve")
    story.asked(run)
    assert story.routed_by() == [story.lan.here]
    story.approve(run)
    run.ends("success")
    known = story.assert_switched(cutover)
    assert known["approval"]["answered_by"] == "op"
    assert [known[moment]["destination"]["connectivity"] for moment in ("before", "after")] == ["OFF", "ON"]
    assert [known[moment]["source"]["connectivity"] for moment in ("before", "after")] == ["ON", "OFF"]
    assert known["probes"]["passed"]

    story.run(story.post(f"/network_cutovers/{cutover}/revert")).ends("success")
    story.assert_back(cutover)


def followed(story: Crossing, run: Run, id: str) -> set[int]:
    """Every percentage that the ledger has while HCX migrates."""
    seen: set[int] = set()

    def over() -> bool:
        now = story.migration(id)
        seen.add(now["percent"])
        return str(now["state"]) not in ("waiting", "starting", "moving")

    run.until("HCX to have ended", over)
    return seen
