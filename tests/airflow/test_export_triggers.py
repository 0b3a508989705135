"""Triggers of exports without a triggerer: what they ask of AWS, whom they tell, and what reaches the triggerer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import pytest
from airflow.serialization.serialized_objects import BaseSerialization

from wavelift.adapters.aws.instance_exports import ExportTask, TaskState
from wavelift.airflow.triggers import exports, wait
from wavelift.airflow.triggers.exports import EXPORTS, ExportSlotTrigger, ExportWatchTrigger
from wavelift.airflow.triggers.listeners import listen

pytestmark = pytest.mark.airflow
INTERVAL: Final = 0.05
WATCHED: Final = 200
AWS: Final[dict[str, Any]] = {
    "aws_conn_id": "aws_near",
    "region_name": "eu-central-1",
    "poll_seconds": INTERVAL,
    "verify": "/etc/ssl/corporate.pem",
    "botocore_config": {"read_timeout": 30},
}


class Account:
    """Stands for InstanceExports: all tasks run until :attr:`ended`; counts its calls."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.ended: dict[str, TaskState] = {}
        self.gone: set[str] = set()
        self.active = 0

    def describe(self, ids: Sequence[str]) -> dict[str, ExportTask]:
        self.asked.append(tuple(ids))
        states = {id: self.ended.get(id, TaskState.RUNNING) for id in ids if id not in self.gone}
        return {id: ExportTask(id, "instance", state, status=str(state)) for id, state in states.items()}

    def count_active(self) -> int:
        self.asked.append(())
        return self.active


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Account:
    found = Account()
    made: list[object] = []

    async def fake(self: object) -> Account:
        made.append(self)
        assert len(made) == 1, "one client for all who wait"
        return found

    monkeypatch.setattr(exports.ExportsTrigger, "exports", fake)
    monkeypatch.setattr(wait, "settle_seconds", lambda: 0.0)
    return found


async def _asked(account: Account, times: int) -> None:
    async with asyncio.timeout(60):
        while len(account.asked) < times:
            await asyncio.sleep(INTERVAL / 5)


async def _event(trigger: Any) -> Any:
    return (await anext(trigger.run())).payload


def test_vie_05_two_hundred_watched_exports_are_one_question_per_interval(account: Account) -> None:
    ids = [f"export-{'i' if number % 2 else 'ami'}-{number:x}" for number in range(WATCHED)]
    told: list[dict[str, Any]] = []
    listen(EXPORTS, lambda running: told.append(dict(running)))

    async def main() -> list[Any]:
        watchers = [asyncio.create_task(_event(ExportWatchTrigger(export_task_id=id, **AWS))) for id in ids]
        await _asked(account, 3)
        assert all(sorted(asked) == sorted(ids) for asked in account.asked)
        account.ended = dict.fromkeys(ids[2:], TaskState.COMPLETED)
        account.gone = {ids[0]}
        account.ended[ids[1]] = TaskState.CANCELLED
        return await asyncio.gather(*watchers)

    events = {one["export_task_id"]: one["status"] for one in asyncio.run(main())}
    assert events == {ids[0]: exports.GONE, ids[1]: "cancelled", **dict.fromkeys(ids[2:], "completed")}
    assert len(account.asked) <= 5
    assert told[0].keys() == set(ids), "listeners hear of those that run"


def test_vie_04_those_who_wait_for_a_place_count_together(account: Account) -> None:
    account.active = 5

    async def main() -> list[Any]:
        waiting = [asyncio.create_task(_event(ExportSlotTrigger(below=5, **AWS))) for _ in range(3)]
        await _asked(account, 2)
        assert not any(one.done() for one in waiting)
        account.active = 4
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1, "one place, one task"
        account.active = 0
        return [one.result() for one in done] + await asyncio.gather(*pending)

    assert asyncio.run(main()) == [{"free": True}] * 3


@pytest.mark.parametrize(("below", "active"), [(5, 5), (0, 0)])
def test_a_place_is_asked_for_again_in_time(
    account: Account, monkeypatch: pytest.MonkeyPatch, below: int, active: int
) -> None:
    monkeypatch.setattr(exports, "ASK_AGAIN_SECONDS", 0.3)
    account.active = active
    assert asyncio.run(_event(ExportSlotTrigger(below=below, **AWS))) == {"free": False}


@pytest.mark.parametrize(
    "trigger",
    [ExportWatchTrigger(export_task_id="export-i-1", **AWS), ExportSlotTrigger(below=5, **AWS)],
    ids=lambda trigger: type(trigger).__name__,
)
def test_a_trigger_survives_the_database_with_every_field(trigger: Any) -> None:
    classpath, fields = trigger.serialize()
    stored = BaseSerialization.deserialize(BaseSerialization.serialize(fields))
    module, _, name = classpath.rpartition(".")
    revived = getattr(__import__(module, fromlist=[name]), name)(**stored)
    assert {**vars(trigger)}.keys() == {**vars(revived)}.keys()
    assert revived.serialize() == (classpath, fields)
    assert set(fields) >= set(AWS)
