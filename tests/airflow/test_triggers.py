"""Triggers without a triggerer: their queries, their listeners, and that serialising keeps all their arguments."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.serialization.serialized_objects import BaseSerialization
from tests.contexts import run_context

from wavelift.airflow.triggers import imports, slots, wait
from wavelift.airflow.triggers.hcx import HcxFollowTrigger
from wavelift.airflow.triggers.imports import ImportSlotTrigger, ImportWatchTrigger
from wavelift.airflow.triggers.instant import DagRunTrigger, InstantTrigger
from wavelift.airflow.triggers.owned_imports import ImportImageTrigger
from wavelift.airflow.triggers.replication_runs import ReplicationRunTrigger
from wavelift.airflow.triggers.slots import RECHECK_SECONDS, SlotQueue, SlotTrigger
from wavelift.airflow.triggers.snapshots import EbsSnapshotsTrigger, settled_snapshots
from wavelift.airflow.triggers.watch import MAX_FAILURES, PERMANENT_FAILURES, SharedPoller
from wavelift.base.errors import LoginError

pytestmark = pytest.mark.airflow

INTERVAL = 0.05
AWS: dict[str, Any] = {
    "aws_conn_id": "aws_near",
    "region_name": "eu-central-1",
    "poll_seconds": 7.5,
    "verify": "/etc/ssl/corporate.pem",
    "botocore_config": {"proxies": {"https": "http://proxy:3128"}, "read_timeout": 30},
}


class Source:
    """What a poller asks: ends jobs when told to, counts its calls."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.ended: dict[str, str] = {}
        self.error: Exception | None = None

    def __call__(self, ids: Sequence[str]) -> Mapping[str, str]:
        self.asked.append(tuple(ids))
        if self.error:
            raise self.error
        return {id: self.ended[id] for id in ids if id in self.ended}


async def _asked(source: Source, times: int) -> None:
    """Until ``source`` was asked this often."""
    async with asyncio.timeout(60):
        while len(source.asked) < times:
            await asyncio.sleep(INTERVAL / 5)


def test_inv_7_two_hundred_watchers_share_one_question_per_interval() -> None:
    async def main() -> None:
        source = Source()
        names = [f"import-{number}" for number in range(200)]
        watchers = [asyncio.create_task(SharedPoller.of("one", source, INTERVAL).watch(name)) for name in names]
        await _asked(source, 3)
        assert all(set(asked) == set(names) for asked in source.asked)
        source.ended = dict.fromkeys(names, "completed")
        assert await asyncio.gather(*watchers) == ["completed"] * 200
        assert len(source.asked) <= 5
        assert "one" not in SharedPoller._pollers or not SharedPoller._pollers["one"]._waiting

    asyncio.run(main())


def test_every_watcher_is_told_when_asking_keeps_failing() -> None:
    async def main() -> None:
        source = Source()
        source.error = ConnectionError("no route")
        poller = SharedPoller.of("failing", source, INTERVAL)
        results = await asyncio.gather(*(poller.watch(name) for name in "abc"), return_exceptions=True)
        assert [str(result) for result in results] == ["no route"] * 3
        assert len(source.asked) == MAX_FAILURES
        source.error, source.ended = None, {"d": "completed"}
        assert await SharedPoller.of("failing", source, INTERVAL).watch("d") == "completed", "and begins anew"

    asyncio.run(main())


def test_a_lost_login_is_told_after_one_more_look_at_the_connection() -> None:
    async def main() -> None:
        source = Source()
        source.error = LoginError("the session is over")
        with pytest.raises(LoginError):
            await SharedPoller.of("lost", source, INTERVAL).watch("a")
        assert len(source.asked) == PERMANENT_FAILURES

    asyncio.run(main())


def test_one_failed_question_is_nobodys_business() -> None:
    async def main() -> None:
        source = Source()
        source.error = ConnectionError("a blip")
        watcher = asyncio.create_task(SharedPoller.of("blip", source, INTERVAL).watch("a"))
        await _asked(source, MAX_FAILURES - 1)
        source.error, source.ended = None, {"a": "completed"}
        assert await watcher == "completed"

    asyncio.run(main())


def test_a_cancelled_watcher_leaves_the_question() -> None:
    async def main() -> None:
        source = Source()
        poller = SharedPoller.of("leaving", source, INTERVAL)
        going, staying = (asyncio.create_task(poller.watch(name)) for name in ("going", "staying"))
        await _asked(source, 1)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        seen = len(source.asked)
        await _asked(source, seen + 2)
        assert source.asked[-1] == ("staying",)
        source.ended = {"staying": "completed"}
        assert await staying == "completed"

    asyncio.run(main())


@pytest.mark.parametrize(
    "trigger",
    [
        ImportWatchTrigger(import_task_id="import-ami-1", **AWS),
        ImportImageTrigger(import_task_id="import-ami-1", **AWS),
        ImportSlotTrigger(below=3, **AWS),
        SlotTrigger(kind="transfer", scope="site-a", holder="w.migrate/r/web01", limit=4, poll_seconds=5.0),
        EbsSnapshotsTrigger(snapshot_ids=["snap-1", "snap-2"], **AWS),
        ReplicationRunTrigger(run_id="run-0123456789ab", poll_seconds=5.0),
        InstantTrigger(at="2026-12-05T22:00:00+01:00"),
        HcxFollowTrigger(hcx_conn_id="hcx1", migration_ids=["m-1", "m-2"], poll_seconds=5.0, within_seconds=60.0),
        DagRunTrigger(dag_id="erp.replicate", run_id="cutover__r1_1", poll_seconds=5.0),
    ],
    ids=lambda trigger: type(trigger).__name__,
)
def test_a_trigger_survives_the_database_with_every_field(trigger: Any) -> None:
    """The bug class of Airflow's #72144: ``verify`` and ``botocore_config`` were lost on the way to the triggerer."""
    classpath, fields = trigger.serialize()
    stored = BaseSerialization.deserialize(BaseSerialization.serialize(fields))
    module, _, name = classpath.rpartition(".")
    revived = getattr(__import__(module, fromlist=[name]), name)(**stored)
    assert type(revived) is type(trigger)
    own = {key: value for key, value in vars(trigger).items() if not key.startswith("_")}
    assert {key: getattr(revived, key) for key in own} == own
    assert set(fields) >= {key for key in AWS if hasattr(trigger, key)}


def test_stopping_an_import_task_cancels_the_import_and_a_watcher_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[tuple[str, str]] = []

    class Imports:
        def cancel(self, task_id: str, reason: str) -> None:
            cancelled.append((task_id, reason))

    async def fake(self: object) -> Imports:
        return Imports()

    monkeypatch.setattr(imports.ImportsTrigger, "imports", fake)
    asyncio.run(ImportWatchTrigger(import_task_id="import-ami-1", **AWS).on_kill())
    assert not cancelled
    asyncio.run(ImportImageTrigger(import_task_id="import-ami-2", **AWS).on_kill())
    assert [task_id for task_id, _ in cancelled] == ["import-ami-2"]


def test_amp_04_a_queue_wakes_who_is_next_and_one_to_look_for_dead_holders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from wavelift.base.run import DagRun, SystemClock
    from wavelift.ledger import Ledger
    from wavelift.rules.flows import SlotKind
    from wavelift.services.common import slots as admission

    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    monkeypatch.setattr("wavelift.airflow.config.ledger_url", lambda: url)
    now = [0.0]
    scope: dict[str, Any] = {"kind": SlotKind.TRANSFER, "scope": "site-a"}
    with Ledger.open(url) as ledger:
        for holder in ("a", "b", "c"):
            request = admission.SlotRequest(**scope, holder=holder, limit=1)
            admission.request_slots(ledger, [request], run_context(DagRun("w", "r")))
        queue = SlotQueue(clock=lambda: now[0])
        assert queue(["c", "b"]) == {}
        now[0] = RECHECK_SECONDS
        assert queue(["b", "c"]) == {"b": True}, "one looks, however many wait"
        assert queue(["b", "c"]) == {}
        admission.give_back(ledger, "a", clock=SystemClock())
        assert queue(["c", "b"]) == {"b": True}, "the next in the queue, not the first that asked"
        assert queue(["gone"]) == {"gone": True}, "who is in no queue must ask again"
    assert slots.RECHECK_SECONDS >= 60, "a task each time: not more often"


def test_no_event_is_fired_before_the_deferring_process_has_surely_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    source.ended["me"] = "free"
    monkeypatch.setattr(slots, "SlotQueue", lambda **_: source)
    assert wait.settle_seconds() > 5, "longer than [workers] min_heartbeat_interval"
    monkeypatch.setattr(wait, "settle_seconds", lambda: 0.4)
    trigger = SlotTrigger(kind="transfer", scope="dc", holder="me", limit=1, poll_seconds=INTERVAL)
    began = time.monotonic()
    assert _first(trigger) == {"free": True}
    assert source.asked, "the queue was looked at"
    assert time.monotonic() - began >= 0.4


def test_a_wait_that_breaks_wakes_its_task_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: object) -> None:
        raise ConnectionError("no such connection")

    monkeypatch.setattr(imports.ImportsTrigger, "imports", broken)
    monkeypatch.setattr(wait, "settle_seconds", lambda: 0.0)
    trigger = ImportImageTrigger(import_task_id="import-ami-1", **{**AWS, "poll_seconds": INTERVAL})
    assert _first(trigger) == {"error": "no such connection"}


def test_one_connection_that_could_not_be_made_is_nobodys_business() -> None:
    calls: list[int] = []

    async def make() -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("for a moment")
        return lambda ids: dict.fromkeys(ids, "completed")

    async def watch_all() -> list[Any]:
        pollers = [SharedPoller.made_by("made again", make, INTERVAL) for _ in range(20)]
        return await asyncio.gather(*(poller.watch(str(number)) for number, poller in enumerate(pollers)))

    assert asyncio.run(watch_all()) == ["completed"] * 20
    assert len(calls) == 2


def test_inv_7_two_hundred_waits_make_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    class Ended:
        def describe(self, ids: Sequence[str]) -> dict[str, Any]:
            return {id: SimpleNamespace(finished=True, status="completed") for id in ids}

    async def fake(self: object) -> Ended:
        made.append(self)
        return Ended()

    async def all_events() -> list[Any]:
        names = [f"import-ami-{number}" for number in range(200)]
        runs = [ImportImageTrigger(import_task_id=name, **{**AWS, "aws_conn_id": "one-client"}).run() for name in names]
        return [event.payload["import_task_id"] for event in await asyncio.gather(*(anext(run) for run in runs))]

    monkeypatch.setattr(imports.ImportsTrigger, "imports", fake)
    monkeypatch.setattr(wait, "settle_seconds", lambda: 0.0)
    assert len(set(asyncio.run(all_events()))) == 200
    assert len(made) == 1


def test_a_place_that_aws_refused_is_asked_for_again_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limit may have been raised meanwhile; no import has to end for that."""

    class Full:
        def count_active(self) -> int:
            return 3

    async def fake(self: object) -> Full:
        return Full()

    monkeypatch.setattr(imports.ImportsTrigger, "imports", fake)
    monkeypatch.setattr(imports, "ASK_AGAIN_SECONDS", 0.3)
    monkeypatch.setattr(wait, "settle_seconds", lambda: 0.0)
    aws = {**AWS, "poll_seconds": INTERVAL}
    assert _first(ImportSlotTrigger(below=3, **aws)) == {"free": False}
    assert _first(ImportSlotTrigger(below=4, **aws)) == {"free": True}


def _first(trigger: Any) -> Any:
    """The payload of a trigger's event."""

    async def event() -> Any:
        return await anext(trigger.run())

    return asyncio.run(event()).payload


def test_inv_7_snapshots_of_many_runs_are_asked_about_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from wavelift.adapters.aws import ec2

    asked: list[tuple[str, ...]] = []
    states = {"snap-done": "completed", "snap-bad": "error", "snap-young": "pending"}

    class Fake:
        def __init__(self, access: object) -> None:
            pass

        def snapshots(self, ids: Sequence[str]) -> dict[str, ec2.Snapshot]:
            asked.append(tuple(ids))
            return {id: ec2.Snapshot(id, states[id], 1) for id in ids if id in states}

    monkeypatch.setattr(ec2, "Ec2", Fake)
    found = settled_snapshots(object())(["snap-done", "snap-bad", "snap-young", "snap-gone"])
    assert found == {"snap-done": "completed", "snap-bad": "error", "snap-gone": "missing"}
    assert len(asked) == 1
