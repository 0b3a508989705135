"""The trigger that waits for what steps wait for: one look per place for all, and the task is woken once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.serialization.serialized_objects import BaseSerialization

from wavelift.airflow.triggers import steps
from wavelift.airflow.triggers.steps import StepsTrigger
from wavelift.airflow.triggers.watch import SharedPoller
from wavelift.services.dataplane.steps import poll

pytestmark = pytest.mark.airflow

POLL = 0.05
NEAR = {"aws_conn_id": "near", "region_name": "eu-central-1"}
FAR = {"aws_conn_id": "far", "region_name": "eu-west-1"}


class Polls:
    """What AWS says of waits, by connection."""

    def __init__(self) -> None:
        self.over: set[str] = set()
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def __call__(self, access: Any, waits: Iterable[str]) -> dict[str, bool]:
        chosen = tuple(waits)
        self.asked.append((access.name, chosen))
        return {wait: wait in self.over for wait in chosen}


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Polls:
    async def access(self: Any) -> Any:
        return SimpleNamespace(name=self.aws_conn_id)

    made = Polls()
    monkeypatch.setattr(poll, "poll", made)
    monkeypatch.setattr(steps._Place, "access", access)
    monkeypatch.setattr(steps, "GATHER_SECONDS", POLL)
    return made


def trigger(*groups: tuple[dict[str, str], tuple[str, ...]], within: float = 30) -> StepsTrigger:
    waits = [{**place, "waits": list(each)} for place, each in groups]
    return StepsTrigger(waits=waits, poll_seconds=POLL, within_seconds=within)


def test_one_wait_that_is_over_wakes_the_task(polls: Polls) -> None:
    polls.over = {"instance|i-2|stopped"}
    found = asyncio.run(trigger((NEAR, ("in sync|C1", "instance|i-2|stopped")), (FAR, ("in sync|C3",))).wait())
    assert found == {"over": ["instance|i-2|stopped"]}
    assert {name for name, _ in polls.asked} <= {"near", "far"}
    assert all("in sync|C3" not in waits for name, waits in polls.asked if name == "near")


def test_what_ends_together_wakes_it_once(polls: Polls) -> None:
    polls.over = {"in sync|C1", "in sync|C3"}
    found = asyncio.run(trigger((NEAR, ("in sync|C1",)), (FAR, ("in sync|C3",))).wait())
    assert found == {"over": ["in sync|C1", "in sync|C3"]}


def test_inv_7_tasks_of_one_place_share_each_look(polls: Polls) -> None:
    async def main() -> None:
        waits = [f"in sync|C{number}" for number in range(50)]
        tasks = [asyncio.create_task(trigger((NEAR, (wait,))).wait()) for wait in waits]
        async with asyncio.timeout(60):
            while not any(set(asked) == set(waits) for _, asked in polls.asked):
                await asyncio.sleep(POLL / 5)
        polls.over = set(waits)
        found = await asyncio.gather(*tasks)
        assert [each["over"] for each in found] == [[wait] for wait in waits]
        assert len(polls.asked) < len(waits)

    asyncio.run(main())


def test_a_bound_wakes_it_too_and_nobody_goes_on_waiting(polls: Polls) -> None:
    async def main() -> None:
        assert await trigger((NEAR, ("in sync|C1",)), within=POLL).wait() == {"over": []}
        assert not [one for one in SharedPoller._pollers.values() if one._waiting]

    asyncio.run(main())


def test_people_and_instants_are_waited_for_beside_aws(polls: Polls, monkeypatch: pytest.MonkeyPatch) -> None:
    person = "person|cutover|cut-1|router"
    monkeypatch.setattr(steps, "answered", lambda waits: dict.fromkeys(waits, True))
    assert asyncio.run(trigger((NEAR, (person, "in sync|C1"))).wait())["over"] == [person]
    soon = f"time|{(datetime.now(UTC) + timedelta(seconds=POLL)).isoformat()}"
    assert asyncio.run(trigger((NEAR, (soon, "in sync|C1"))).wait())["over"] == [soon]
    assert all(waits == ("in sync|C1",) for _, waits in polls.asked), "no AWS call tells of them"


def test_it_reaches_the_triggerer_whole() -> None:
    made = trigger((NEAR, ("in sync|C1",)))
    path, fields = made.serialize()
    assert path == "wavelift.airflow.triggers.steps.StepsTrigger"
    back = StepsTrigger(**BaseSerialization.deserialize(BaseSerialization.serialize(fields)))
    assert back.fields() == made.fields()
