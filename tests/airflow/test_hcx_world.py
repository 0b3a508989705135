"""Live migrations with HCX and cutovers of networks on a running Airflow, between two simulated sites.

What only a scheduler does is proven here: questions to people, deferred tasks that resume, tasks that look again, runs
that a failed run starts, clears.
"""

from __future__ import annotations

import re
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
    (source,) = [step for step in known["steps"] if step["name"] == "source"]
    assert [source[moment]["connectivity"] for moment in ("before", "wanted")] == ["ON", "OFF"]
    assert known["before"]["source"] == source["before"]
    assert known["before"]["extension"]["source"] == story.lan.here
    assert known["probes"]["passed"]

    story.run(story.post(f"/network_cutovers/{cutover}/revert")).ends("success")
    story.assert_back(cutover)
    print(*story.without_routing(cutover), sep="\n")


def followed(story: Crossing, run: Run, id: str) -> set[int]:
    """Every percentage that the ledger has while HCX migrates."""
    seen: set[int] = set()

    def over() -> bool:
        now = story.migration(id)
        seen.add(now["percent"])
        return str(now["state"]) not in ("waiting", "starting", "moving")

    run.until("HCX to have ended", over)
    return seen


@pytest.mark.proof
@aside("byhand")
def test_hcx_08_a_person_disconnects_and_connects_again_by_cli(world: Any) -> None:
    """The router is no NSX: nothing reads it, and the person's word stands for it."""
    story = Crossing(world, "byhand")
    begun = story.cli("network", "cutover", "byhand", "--note", "by hand")
    (id,) = set(re.findall(r"net-[0-9a-f]+", begun))
    run = world.known_run("byhand.network_cutover", story.known(id)["dag_run_id"])
    story.asked(run)
    assert "op approved the plan" in story.cli("network", "approve", "byhand", run.run_id)
    asked_of_person(story, run, id, "intended")
    assert BY_HAND["ask"] in story.cli("network", "show", id)
    assert story.routed_by() == ["router"]
    story.sites.hcx.route(story.lan.prefix, routed=False)
    assert "confirmed as done" in story.cli("network", "confirm", id, "source")
    run.ends("success")
    story.assert_switched(id)

    back = story.run(story.post(f"/network_cutovers/{id}/revert"))
    asked_of_person(story, back, id, "undoing")
    assert BY_HAND["undo"] in story.cli("network", "show", id)
    assert story.routed_by() == []
    story.sites.hcx.route(story.lan.prefix, routed=True)
    assert "confirmed as undone" in story.cli("network", "confirm", id, "source", "--undone")
    back.ends("success")
    story.assert_back(id)


def asked_of_person(story: Crossing, run: Run, id: str, state: str) -> None:
    def asked() -> bool:
        return any(step["waits"] and step["state"] == state for step in story.known(id)["steps"])

    run.until("a person to be asked", asked)


@pytest.mark.proof
@aside("clinging")
def test_hcx_07_an_extension_that_stays_sends_all_back_by_itself(world: Any) -> None:
    story = Crossing(world, "clinging")
    story.sites.hcx.rule(kind="unextend", key=story.lan.name, outcome="kept", count=1)
    run, id = story.cut_over()
    story.approve(run)
    run.ends("failed")
    assert "failed" in run.words("unextend")
    wait_for(lambda: bool(story.known(id)["revert_run"]), timeout=PATIENCE, what="a run that goes back")
    world.known_run(run.dag_id, story.known(id)["revert_run"]).ends("success")
    known = story.assert_back(id)
    assert known["error"].count("Look at the job in HCX") == 1


@pytest.mark.proof
@aside("done")
def test_hcx_06_after_the_soak_time_the_source_network_goes_and_the_other_is_renamed(world: Any) -> None:
    story = Crossing(world, "done")
    run, id = story.cut_over()
    story.approve(run)
    run.ends("success")
    story.assert_switched(id)
    ending = story.run(story.post(f"/network_cutovers/{id}/finish"))
    story.approve(ending, "approve_finish")
    ending.ends("success")
    assert story.known(id)["state"] == "finished"
    assert story.lan.here not in [segment["path"] for segment in story.sites.here.segments()]
    assert story.sites.there.segment(story.lan.extended)["display_name"] == "web-24"
    assert story.routed_by() == [story.lan.extended]


@pytest.mark.proof
@aside("again")
def test_hcx_07_what_is_cleared_after_a_revert_moves_nothing(world: Any) -> None:
    """An acting task alone has no order of after the clear; with its order, the ledger says no."""
    story = Crossing(world, "again")
    run, id = story.cut_over()
    run.ends("success")
    story.assert_switched(id)
    story.run(story.post(f"/network_cutovers/{id}/revert")).ends("success")
    story.assert_back(id)
    changes = story.sites.hcx.extension_log()
    for task in ("disconnect", "unextend", "connect"):
        run.clear_alone(task)
        run.wait()
        assert run.row(task)["state"] == "failed"
        assert "cleared after the order was given" in run.words(task)
        story.assert_back(id)
    run.clear("order_disconnect")
    run.wait()
    assert run.row("order_disconnect")["state"] == "failed"
    assert [run.row(task)["state"] for task in ("disconnect", "unextend", "connect")] == ["upstream_failed"] * 3
    assert "is reverted" in run.words("order_disconnect")
    story.assert_back(id)
    assert [row for row in story.sites.hcx.extension_log() if row[2] == story.lan.name] == [
        row for row in changes if row[2] == story.lan.name
    ]


@pytest.mark.proof
@aside("partly")
def test_hcx_03_one_failed_server_stops_no_other_and_is_tried_again(world: Any) -> None:
    story = Crossing(world, "partly")
    story.sites.hcx.rule(kind="migration", key="partly-b", operation="base_sync", message="disk full", count=1)
    first = story.live()
    story.run(first).ends("failed")
    states = {row["server"]: story.migration(row["id"]) for row in first["migrations"]}
    assert {name: row["state"] for name, row in states.items()} == {"partly-a": "moved", "partly-b": "failed"}
    assert "disk full" in states["partly-b"]["error"]
    again = story.live(servers=["partly-b"])
    story.run(again).ends("success")
    (row,) = again["migrations"]
    assert story.migration(row["id"])["state"] == "moved"
    assert [len(story.migrations_in_hcx(name)) for name in ("partly-a", "partly-b")] == [1, 2]
    for name in ("partly-a", "partly-b"):
        story.assert_moved(name)


@pytest.mark.proof
@aside("remote")
def test_hcx_03_a_manager_that_only_its_connector_reaches_is_followed_near_it(world: Any) -> None:
    story = Crossing(world, "remote")
    started = story.live()
    run = story.run(started)
    run.ends("success")
    assert story.migration(started["migrations"][0]["id"])["state"] == "moved"
    assert [run.row(task)["state"] for task in ("follow", "follow_near")] == ["skipped", "success"]
    story.assert_moved("remote-a")
