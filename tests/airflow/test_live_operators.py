"""The tasks of a live run, without a running Airflow: what they leave for each other, and what they skip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped
from tests.contexts import HandClock
from tests.ledgers import fresh_ledger
from tests.unit.services.live import HOUR, Live

from wavelift.airflow import config
from wavelift.base.errors import GrantError, NotApprovedError
from wavelift.operators._keys import LOOK_KEY, ORDER_KEY
from wavelift.operators.approval import ApproveOperator
from wavelift.operators.connector import live as near
from wavelift.operators.control import live_move
from wavelift.operators.control.live_plan import LiveOperator, ReserveLiveOperator
from wavelift.operators.hcx import HcxMigrateOperator
from wavelift.services.common import grant_keys
from wavelift.services.common.grant_keys import KeyFiles
from wavelift.services.dataplane import hcx_migrate
from wavelift.services.dataplane.live_messages import Cancelled, CancelledOne, Followed, FollowedOne, LiveOrder

pytestmark = pytest.mark.airflow


class Ti:
    """Of a task instance: XComs."""

    dag_id, run_id, queue, map_index, try_number, max_tries, task_id = "erp.live", "r1", "near-hcx", -1, 1, 2, "moved"

    def __init__(self) -> None:
        self.left: dict[tuple[str, str], Any] = {}

    def xcom_push(self, *, key: str, value: Any) -> None:
        self.left[self.task_id, key] = value

    def xcom_pull(self, *, task_ids: str, key: str = "return_value", map_indexes: int = -1) -> Any:
        return self.left.get((task_ids, key))


class Running:
    """A run, the XComs of its tasks, and how often it was cleared."""

    def __init__(self, live: Live) -> None:
        self.live, self.ti, self.clears = live, Ti(), 0

    @property
    def context(self) -> Any:
        run = SimpleNamespace(clear_number=self.clears, triggering_user_name="ana", run_type="manual", conf={})
        return {"ti": self.ti, "dag_run": run, "task_state_store": {}, "params": {}}

    def as_task(self, name: str) -> Any:
        self.ti.task_id = name
        return self.context


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Running:
    files = KeyFiles(tmp_path / "grants" / "private.pem", tmp_path / "grants" / "public")
    grant_keys.keygen(files)
    clock = HandClock()
    live = Live(fresh_ledger(tmp_path / "ledger.db"), clock)
    made = Running(live)
    monkeypatch.setattr(config, "grant_key_file", lambda: files.private)
    monkeypatch.setattr(config, "grant_keys_folder", lambda: files.public)
    monkeypatch.setattr(config, "connector_names", lambda: ())
    monkeypatch.setattr("wavelift.base.run.SystemClock.now", lambda _: clock.now())

    @contextmanager
    def ledger(_: Any) -> Iterator[Any]:
        yield live.ledger

    for opens in (LiveOperator, ApproveOperator):
        monkeypatch.setattr(opens, "ledger", ledger)
    for kind in (LiveOperator, ApproveOperator, near.HcxConnectorOperator):
        monkeypatch.setattr(kind, "server_context", lambda self, context, server="": live.ctx(server=server))
    return made


def order(running: Running, **conf: Any) -> LiveOrder:
    """As ``reserve`` gives it, with what ``admit`` left."""
    from wavelift.services.live_migration import orders

    found = running.live.ordered(**conf)
    running.ti.left["admit", "return_value"] = running.live.admit(**conf).dump()
    wave = running.live.admit(**conf).wave
    return orders.to_start(config.grant_key_file(), found, wave, running.live.ctx())


def start(running: Running, given: LiveOrder) -> Any:
    return HcxMigrateOperator(task_id="start", queue="near-hcx", order=given.dump()).work(running.as_task("start"))


@pytest.fixture
def hcx(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What HCX was asked for."""
    asked: list[str] = []

    @contextmanager
    def client(self: Any, conn_id: str) -> Iterator[None]:
        self.must_be_granted(conn_id)
        yield

    def started(given: LiveOrder, **_: Any) -> Any:
        asked.append(f"start {given.group_name}")
        return SimpleNamespace(dump=dict)

    def cancelled(given: Any, **_: Any) -> Cancelled:
        asked.append("cancel " + " ".join(one.server for one in given.servers))
        one = CancelledOne(server=given.servers[0].server, outcome="cancelled")
        return Cancelled(servers=(one,), at=HandClock().now())

    monkeypatch.setattr(near.HcxConnectorOperator, "hcx", client)
    monkeypatch.setattr(hcx_migrate, "start", started)
    monkeypatch.setattr(hcx_migrate, "cancel", cancelled)
    return asked


def test_a_start_needs_its_order_unchanged_and_a_run_that_was_not_cleared_since(
    running: Running, hcx: list[str]
) -> None:
    given = order(running)
    start(running, given)
    assert hcx == [f"start {given.group_name}"]
    for forged in (
        given.model_copy(update={"group_name": "other"}),
        given.model_copy(update={"tasks": given.tasks[:1]}),
    ):
        with pytest.raises(GrantError) as refused:
            start(running, forged)
        assert refused.value.where["field"] == "plan"
    running.clears = 1
    with pytest.raises(GrantError, match="cleared after the order was given") as refused:
        start(running, given)
    assert "Clear the run's reserve task with downstream" in refused.value.next_step
    assert len(hcx) == 1


def recorded(running: Running, given: LiveOrder) -> set[str]:
    """The tasks that ``record`` skips."""
    task = live_move.RecordStartedOperator(task_id="record", started=running.live.started(given).dump())
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        task.work(running.as_task("record"))
    return {str(each) for each in skipped.value.tasks}


def cancel_task(running: Running) -> Any:
    return near.LiveCancelOperator(task_id="cancel", queue="near-hcx").work(running.as_task("cancel"))


def approval(running: Running, monkeypatch: pytest.MonkeyPatch, answer: Any) -> Any:
    def work(self: Any, context: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ApproveOperator, "work", work)
    task = live_move.ApproveSwitchoverOperator(task_id="approve_switchover", subject="s", body="b")
    return task.work(running.as_task("approve_switchover"))


def windowed(running: Running) -> LiveOrder:
    now = running.live.clock.now()
    window = {"start": (now + 10 * HOUR).isoformat(), "end": (now + 12 * HOUR).isoformat()}
    running.live.spec = {"approve_switchover": True, "window": window}
    return order(running)


def test_nobody_is_asked_about_a_switchover_unless_the_wave_wants_it(running: Running, hcx: list[str]) -> None:
    assert recorded(running, order(running)) == {"approve_switchover", "cancel", "follow_near"}
    with pytest.raises(AirflowSkipException):
        cancel_task(running)
    assert hcx == []


def test_without_a_yes_what_has_not_switched_is_cancelled(
    running: Running, hcx: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recorded(running, windowed(running)) == {"follow_near"}
    assert approval(running, monkeypatch, NotApprovedError("ben rejected it", next_step="x"))["approved"] is False
    assert cancel_task(running)["servers"][0]["outcome"] == "cancelled"
    assert hcx == ["cancel a b"]


def test_a_yes_skips_the_cancel(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(running, windowed(running))
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        approval(running, monkeypatch, {"approved_by": "ben"})
    assert list(skipped.value.tasks) == ["cancel"]


def test_a_question_that_somebody_marked_a_success_is_no_yes(running: Running, hcx: list[str]) -> None:
    """Nothing skipped the task that cancels, and it has the order that ``record`` left."""
    recorded(running, windowed(running))
    cancel_task(running)
    assert hcx == ["cancel a b"]
    left = running.ti.left["record", ORDER_KEY]
    running.ti.left["record", ORDER_KEY] = {**left, "servers": left["servers"][:1]}
    with pytest.raises(GrantError):
        cancel_task(running)


def test_a_start_that_nobody_knows_of_is_cancelled_if_its_switchover_must_be_approved(
    running: Running, hcx: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was lost, and HCX away: the group may run, and would switch over in its window without a yes."""
    live = running.live
    monkeypatch.setattr(LiveOperator, "resolved_live", lambda self, name: live.wave())
    monkeypatch.setattr(LiveOperator, "rights", lambda self: live.rights)
    monkeypatch.setattr(LiveOperator, "live_terms", lambda self, context: live.terms)
    windowed(running)
    ReserveLiveOperator(task_id="reserve").work(running.as_task("reserve"))
    cancel_task(running)
    assert hcx == ["cancel a b"]


def test_what_moved_is_handed_out_with_a_look_for_each_side(running: Running) -> None:
    recorded(running, order(running))
    at = running.live.clock.now()
    servers = tuple(FollowedOne(server=name, migration_id=f"m-{name}", phase="complete") for name in ("a", "b"))
    running.ti.left["follow", "return_value"] = Followed(servers=servers, at=at).dump()
    handed = live_move.MovedOperator(task_id="moved").work(running.as_task("moved"))
    assert [each["name"] for each in handed] == ["a", "b"]
    for side, kind in (
        ("destination", near.LiveVerifyDestinationOperator),
        ("source", near.LiveVerifySourceOperator),
    ):
        assert running.ti.left["moved", LOOK_KEY.format(side=side)]["token"]
        running.ti.queue = {"destination": "sddc", "source": "dc1"}[side]
        task = kind(task_id="verify", queue=running.ti.queue, server=handed[1])
        found, connection = task.granted_order(running.as_task("verify"))
        assert (found.name, connection) == ("b", {"destination": "vsphere_sddc", "source": "vsphere_dc1"}[side])
        running.ti.queue = "elsewhere"
        with pytest.raises(GrantError):
            task.granted_order(running.context)


def test_following_goes_on_until_all_are_over_or_the_time_is(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(running, order(running))
    task = live_move.FollowLiveOperator(task_id="follow")
    watched: list[Any] = []

    class Deferred(Exception):
        pass

    def defer(self: Any, to: Any) -> None:
        watched.append(to)
        raise Deferred

    monkeypatch.setattr(live_move.FollowLiveOperator, "_watch", defer)
    told = {"phase": "complete", "over": True, "percent": 100, "words": "complete"}
    half = {"m-a": told, "m-b": {"phase": "replicating", "over": False, "percent": 7, "words": "replicating"}}
    with pytest.raises(Deferred):
        task.execute_complete(running.as_task("follow"), {"over": ["m-a"], "progress": half})
    assert running.live.rows()["b"].percent == 7
    both = task.execute_complete(running.context, {"over": ["m-a", "m-b"], "progress": {"m-a": told, "m-b": told}})
    assert [each["phase"] for each in both["servers"]] == ["complete", "complete"]
    running.live.clock.sleep(timedelta(hours=49).total_seconds())
    late = task.execute_complete(running.context, {"over": ["m-a"], "progress": half})
    assert [each["phase"] for each in late["servers"]] == ["complete", "replicating"]
