"""Cutovers on a running Airflow, asked for by REST: to the instances, and back.

What only a scheduler does is proven here: questions to people, deferred tasks that resume, steps that are skipped
before a mapped group, teardowns that trigger a run.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
from tests.airflow.aside import aside
from tests.airflow.cutting import FENCED, Story
from tests.airflow.fleet import BY_HAND, TTL
from tests.airflow.world import Run

from wavelift.cli.local_airflow import wait_for

pytestmark = pytest.mark.airflow

LOWERED: Final = 60
"""Seconds of a record's TTL during a cutover, unless the file says otherwise."""
SOURCE: Final = "192.0.2.9"
"""Address of sources whose guest tells none."""
PATIENCE: Final = 400.0


@aside("shifted")
def test_air_05_a_server_is_cut_over_by_rest_and_comes_back(world: Any) -> None:
    story = Story(world, "shifted", "shifted-a")
    story.seed()
    before = story.record()
    assert before == ("10.20.1.77", TTL)

    run, cutover = story.cut_over(note="Saturday", request_id="ticket-4711")
    again = story.post(
        "/waves/shifted/cutovers", {"mode": "cutover", "servers": ["shifted-a"], "request_id": "ticket-4711"}
    )
    assert (again["made_before"], again["dag_run_id"]) == (True, run.run_id)

    story.asked(run)
    words = world.api.xcom(run.dag_id, run.run_id, "plan", key="words")
    assert "shifted-a.corp.example" in words
    assert "back: Put the old content of shifted-a.corp.example A back" in words
    assert story.record() == before
    # Airflow lets every operator answer. Only an answer of somebody who may cut over counts.
    story.guest.answer(run.dag_id, run.run_id, "approve", "Approve")
    story.asked(run)
    assert story.known(cutover)["approval"] is None
    answered = story.post(f"/waves/shifted/cutovers/{run.run_id}/approval", {"answer": "approve"})
    assert answered["answered_by"] == "op"

    story.write(b"written last" * 50)
    run.ends("success")
    known = story.assert_switched(cutover, b"written last" * 50)
    assert known["approval"]["answered_by"] == "op"
    assert [(step["kind"], step["state"]) for step in known["steps"]] == [("dns", "settled")]
    assert run.outcome("shifted-a")["state"] == "switched"
    story.verified(known)

    back = story.post(f"/cutovers/{cutover}/revert")
    story.run(back).ends("success")
    story.assert_back(cutover, "10.20.1.77")


@pytest.mark.proof
@aside("finished")
def test_a_server_with_its_own_address_goes_comes_back_goes_again_and_stays(world: Any) -> None:
    story = Story(world, "finished", "finished-a")
    story.seed()
    started = story.post("/waves/finished/cutovers", {"mode": "prepare"})
    story.run(started).ends("success")
    assert story.record() == ("10.20.1.88", LOWERED)

    run, first = story.cut_over()
    go(story, run, first, b"first" * 50)
    known = story.assert_switched(first, b"first" * 50)
    assert known["private_ip"] == "10.20.1.88", "the instance has the source's address"
    assert len(known["presync_runs"]) == 2
    world.alarm.check()
    story.verified(known)

    back = story.run(story.post(f"/cutovers/{first}/revert"))
    confirm(story, back, first, "undoing")
    back.ends("success")
    story.assert_back(first, "10.20.1.88")

    # The stopped instance keeps the address: nothing is stopped again until somebody has terminated it.
    run, refused = story.cut_over()
    run.ends("failed")
    assert (story.known(refused)["state"], story.power()) == ("ended", "poweredOn")
    ec2 = world.aws.client("ec2")
    ec2.terminate_instances(InstanceIds=[known["instance_id"]])
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[known["instance_id"]], WaiterConfig={"Delay": 1})

    run, second = story.cut_over()
    assert second != first
    go(story, run, second, b"second" * 50)
    known = story.assert_switched(second, b"second" * 50)
    story.verified(known)

    ending = story.run(story.post(f"/cutovers/{second}/finalize"))
    story.asked(ending, "approve_finalize")
    story.post(f"/waves/finished/cutovers/{ending.run_id}/approval", {"answer": "approve"})
    ending.ends("success")
    done = story.known(second)
    assert (done["state"], done["serves"]) == ("finalized", "instance")
    assert story.record() == ("10.20.1.88", TTL)
    assert (story.power(), story.cards()) == ("poweredOff", FENCED)
    job = story.op.call("GET", f"/wavelift/jobs/{done['job_id']}")
    assert job["state"] == "deleted"
    world.alarm.check()


def go(story: Story, run: Run, cutover: str, text: bytes) -> None:
    """Approve, write, and do what the run asks of a person."""
    story.asked(run)
    story.post(f"/waves/{story.wave}/cutovers/{run.run_id}/approval", {"answer": "approve"})
    run.until("go", lambda: run.row("go")["state"] == "success")
    story.write(text)
    confirm(story, run, cutover, "intended")
    run.ends("success")


def confirm(story: Story, run: Run, cutover: str, state: str) -> None:
    """Say that the step of a person is done, once it is asked."""

    def asked() -> list[dict[str, Any]]:
        return [one for one in story.known(cutover)["steps"] if one["kind"] == "person" and one["state"] == state]

    run.until("a person to be asked", asked, timeout=900)
    (step,) = asked()
    wanted = BY_HAND["person"]["ask" if state != "undoing" else "undo"]
    assert wanted in step["waits"], step
    story.post(f"/cutovers/{cutover}/confirm", {"step": step["name"]})


@pytest.mark.proof
@aside("failing")
def test_servers_that_fail_come_back_by_a_run_that_the_failed_one_started(world: Any) -> None:
    """One instance does not answer on its port. The other server of the run is switched, and stays."""
    story, other = Story(world, "failing", "failing-a"), Story(world, "failing", "failing-b")
    story.seed()
    other.seed()
    started = story.post("/waves/failing/cutovers", {"mode": "cutover"})
    ids = {row["server"]: row["id"] for row in started["cutovers"]}
    run = story.run(started).ends("failed")
    switched = story.known(ids["failing-b"])
    assert switched["state"] == "switched"
    failed = run.words("check", run.index("failing-a"))
    assert "9" in failed
    wait_for(lambda: bool(story.known(ids["failing-a"])["revert_run"]), timeout=PATIENCE, what="a run that goes back")
    world.known_run(run.dag_id, story.known(ids["failing-a"])["revert_run"]).ends("success")
    story.assert_back(ids["failing-a"], SOURCE)
    other.verified(switched)
    story.run(story.post(f"/cutovers/{ids['failing-b']}/revert")).ends("success")
    other.assert_back(ids["failing-b"], SOURCE)
