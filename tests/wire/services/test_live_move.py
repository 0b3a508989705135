"""Live migrations with HCX between two simulated sites: validate, start once, follow, cancel, and look in both vCenters
(HCX-01 to HCX-05)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.live_journey import Live, a_wave
from tests.wire.simulators_hcx.conftest import Sites, running, sites, vm

from wavelift.adapters.hcx.mobility import Mobility
from wavelift.adapters.hcx.phases import Progress
from wavelift.base.errors import PermanentError, TamperedError, UnreachableError, WaveliftError
from wavelift.base.rest import RestClient
from wavelift.base.run import CancelFlag
from wavelift.rules.hcx_wave import MigrationType
from wavelift.services.dataplane import hcx_migrate
from wavelift.services.dataplane.hcx_migrate import cancel, follow, migration_orders, start, validate
from wavelift.services.dataplane.live_messages import CancelOrder, LiveOrder, Validated

pytestmark = pytest.mark.wire

__all__ = ["running", "sites"]


@pytest.fixture
def live(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> Live:
    monkeypatch.setattr(hcx_migrate, "LOOK_SECONDS", 0.01)
    return Live(sites)


def validated(live: Live, order: LiveOrder) -> Validated:
    with live.hcx() as hcx:
        return validate(order, hcx=hcx, ctx=live.ctx())


def cancelled(live: Live, order: CancelOrder) -> dict[str, str]:
    with live.hcx() as hcx:
        return {one.server: one.outcome for one in cancel(order, hcx=hcx, ctx=live.ctx()).servers}


def calls(live: Live, operation: str) -> int:
    return int(live.world.hcx.counters().get(f"hcx.{operation}", {}).get("calls", 0))


def moving(live: Live) -> dict[str, list[str]]:
    """VM → ids of its migrations, whatever became of them."""
    found: dict[str, list[str]] = {}
    for each in live.world.hcx.migrations():
        found.setdefault(each["vm"], []).append(each["id"])
    return found


# --- each type, from its pre-flight to its verification -------------------------------------------------------------


@pytest.mark.parametrize("other_words", [False, True])
@pytest.mark.parametrize("type", ["rav", "bulk", "vmotion", "cold"])
def test_hcx_01_each_type_moves_and_is_verified(live: Live, type: MigrationType, other_words: bool) -> None:
    """Also when every word that nobody has documented is another one."""
    live.world.hcx.settings(other_words=other_words, absent_when_false=other_words)
    names = ["cold"] if type == "cold" else ["app01", "app02"]
    order = live.order(a_wave(*names, type=type))
    started = live.started(order)
    assert [one.server for one in started.servers] == names
    ended = live.until_over(started)
    assert {one.server: one.phase for one in ended.servers} == dict.fromkeys(names, "complete")
    for name in names:
        there = live.look(order, name, "destination")
        assert there is not None
        assert there.passed, there
        told = " ".join(there.verified)
        for words in (f"/Workloads/{name}'", "folder", "pool 'Compute'", "datastore 'datastore1'", "'L2E_VLAN-100'"):
            assert words in told
        assert ("10.1.2.1" in told) is (type != "cold")
        here = live.look(order, name, "source")
        assert here is not None
        assert here.passed, here
        gone = "it is gone from the source" in here.verified
        assert gone is (type != "bulk")
        same = there.instance_uuid == next(task for task in order.tasks if task.name == name).before.instance_uuid
        assert same is (type != "bulk")


# --- validate (HCX-02) ----------------------------------------------------------------------------------------------


def test_hcx_02_errors_and_warnings_mixed_start_nothing(live: Live) -> None:
    order = live.order(a_wave("app01", "app02"), accept_warnings=True)
    live.world.hcx.rule(kind="warning", key="app01", message="slow line")
    live.world.hcx.rule(kind="error", key="app02", message="no licence")
    with pytest.raises(PermanentError, match=r"app02: .*no licence") as caught:
        validated(live, order)
    assert "slow line" not in str(caught.value)
    assert not moving(live)
    assert not calls(live, "MakeGroups")


@pytest.mark.parametrize("status", [202, 400])
def test_hcx_02_warnings_need_a_yes(live: Live, status: int) -> None:
    live.world.hcx.settings(warnings_status=status)
    live.world.hcx.rule(kind="warning", key="app02", message="slow line")
    order = live.order(a_wave("app01", "app02"))
    with pytest.raises(PermanentError, match=r"app02: .*slow line.*accept_warnings"):
        validated(live, order)
    found = validated(live, order.model_copy(update={"accept_warnings": True}))
    assert [(one.server, "slow line" in one.warnings[0]) for one in found.said] == [("app02", True)]


@pytest.mark.parametrize("xml", [True, False])
def test_hcx_02_a_400_without_errors_stops_all(live: Live, xml: bool) -> None:
    order = live.order(a_wave("app01"), accept_warnings=True)
    live.world.hcx.rule(operation="Validate", status=400, message="Nobody knows", xml=xml)
    with pytest.raises(PermanentError, match="Nobody knows"):
        validated(live, order)


# --- start, once ----------------------------------------------------------------------------------------------------


def test_hcx_01_a_start_whose_answer_was_lost_is_found_again(live: Live) -> None:
    order = live.order(a_wave("app01", "app02"))
    live.world.hcx.rule(operation="StartGroups", cut_response_after=0, count=1)
    started = live.started(order)
    assert {one.server: [one.migration_id] for one in started.servers} == moving(live)
    assert calls(live, "StartGroups") == 1
    again = live.started(order)
    assert (again.group_id, again.servers) == (started.group_id, started.servers)


def test_hcx_01_a_group_whose_answer_was_lost_is_found_again(live: Live) -> None:
    order = live.order(a_wave("app01"))
    live.world.hcx.rule(operation="MakeGroups", cut_response_after=0, count=1)
    started = live.started(order)
    assert [len(ids) for ids in moving(live).values()] == [1]
    assert started.servers[0].migration_id


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed(client: RestClient, monkeypatch: pytest.MonkeyPatch, at: int, *, sent: bool) -> Iterator[list[str]]:
    """The process dies at its n-th call: before it is sent, or with its answer unread. Which calls there were."""
    seen: list[str] = []
    send = client.send

    def tap(ask: Any, **where: object) -> Any:
        seen.append(ask.path)
        if len(seen) != at:
            return send(ask, **where)
        if sent:
            send(ask, **where)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(client, "send", tap)
        yield seen


def test_hcx_01_killed_at_every_call_nothing_starts_twice(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    order = live.order(a_wave("app01", "app02"))
    steps: tuple[Callable[..., Any], ...] = (validate, start)
    with live.hcx() as hcx, killed(hcx, monkeypatch, 0, sent=False) as all_calls:
        for step in steps:
            step(order, hcx=hcx, ctx=live.ctx())
    assert len(all_calls) >= 6, "login, group, validate, group, query, start"
    cases = [(at, sent) for at in range(1, len(all_calls) + 1) for sent in (False, True)]
    for number, (at, sent) in enumerate(cases):
        live.world.hcx.reset()
        live.world.hcx.extend("VLAN-100", gateway="10.1.2.1/24", tier="/infra/tier-1s/cgw")
        order = order.model_copy(update={"group_name": f"wavelift-kill-{number}"})
        with live.hcx() as hcx, killed(hcx, monkeypatch, at, sent=sent), pytest.raises(Killed):
            for step in steps:
                step(order, hcx=hcx, ctx=live.ctx())
        started = live.started(order)
        assert {one.server: [one.migration_id] for one in started.servers} == moving(live), (at, sent)
        # Cleared once more with all that follows, it is the same.
        assert live.started(order).servers == started.servers, (at, sent)


def test_hcx_01_a_server_that_hcx_refuses_at_the_start_stops_no_other(live: Live) -> None:
    order = live.order(a_wave("app01", "app02"))
    validated(live, order)
    live.world.hcx.rule(kind="error", key="app02", message="no licence any more")
    with live.hcx() as hcx:
        started = start(order, hcx=hcx, ctx=live.ctx())
    one, other = started.servers
    assert one.migration_id
    assert not other.migration_id
    assert "no licence any more" in other.errors[0]


def test_hcx_01_all_refused_at_the_start_says_why(live: Live) -> None:
    order = live.order(a_wave("app01"))
    live.world.hcx.rule(kind="error", key="app01", message="no licence any more")
    with live.hcx() as hcx:
        (one,) = start(order, hcx=hcx, ctx=live.ctx()).servers
    assert not one.migration_id
    assert "no licence any more" in one.errors[0]
    assert not moving(live)


# --- follow (HCX-03) ------------------------------------------------------------------------------------------------


def test_hcx_03_one_of_five_fails_and_stops_no_other(live: Live) -> None:
    names = [f"app{number:02}" for number in range(1, 6)]
    for number, name in enumerate(names[2:], 21):
        live.world.source.add_vm(vm(name, number))
    live.world.hcx.rule(kind="migration", key="app03", operation="base_sync", message="the disk broke")
    order = live.order(a_wave(*names))
    ended = {one.server: one for one in live.until_over(live.started(order)).servers}
    assert [ended[name].phase for name in names] == ["complete", "complete", "failed", "complete", "complete"]
    assert "the disk broke" in ended["app03"].error
    failed = live.look(order, "app03", "source")
    assert failed is None, "it is still at the source; it may go a while later"


def test_hcx_03_an_end_that_says_nothing_is_no_success(live: Live) -> None:
    live.world.hcx.rule(kind="migration", key="app01", operation="switchover", outcome="ended")
    live.world.hcx.rule(kind="migration", key="app02", operation="switchover", outcome="unnamed")
    ended = live.until_over(live.started(live.order(a_wave("app01", "app02"))))
    assert [one.phase for one in ended.servers] == ["ended, outcome unknown", "failed"]


def test_hcx_03_a_session_that_ends_in_mid_wait_is_renewed(live: Live) -> None:
    order = live.to_follow(live.started(live.order(a_wave("app01"))))
    with live.hcx() as hcx:
        assert follow(order, hcx=hcx, ctx=live.ctx()) is None
        assert live.world.hcx.expire_sessions()
        live.world.hcx.advance(1000)
        found = follow(order, hcx=hcx, ctx=live.ctx())
        assert found is not None
        assert found.servers[0].phase == "complete"
        assert hcx.logins == 2


def test_hcx_03_the_time_is_over_whatever_hcx_says(live: Live) -> None:
    live.world.hcx.rule(kind="migration", key="app01", operation="base_sync", outcome="stuck")
    order = live.to_follow(live.started(live.order(a_wave("app01"))))
    order = order.model_copy(update={"migrations": {**order.migrations, "ghost": "no-such-id"}})
    live.world.hcx.advance(1000)
    with live.hcx() as hcx:
        assert follow(order, hcx=hcx, ctx=live.ctx()) is None
        live.clock.sleep(3601)
        found = follow(order, hcx=hcx, ctx=live.ctx())
    assert found is not None
    assert [one.phase for one in found.servers] == ["replicating", ""], "neither is an end"
    assert found.servers[1].words == "HCX does not list it"


class Patient(CancelFlag):
    """Its waits take no time, and a clock goes on for as long."""

    def __init__(self, at: Callable[[float], None]) -> None:
        super().__init__()
        self.now, self._at = 0.0, at

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self._at(self.now)
        return False


def test_hcx_away_for_ten_minutes_is_borne(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    order = live.to_follow(live.started(live.order(a_wave("app01"))))
    live.world.hcx.advance(1000)
    rule = live.world.hcx.rule(operation="Query", status=503)
    flag = Patient(lambda now: live.world.hcx.clear_rules(rule) if now >= 600 else None)
    monkeypatch.setattr("wavelift.base.rest.time.monotonic", lambda: flag.now)
    with live.hcx(cancel=flag, patience_s=1800.0) as hcx:
        found = follow(order, hcx=hcx, ctx=live.ctx())
    assert found is not None
    assert found.servers[0].phase == "complete"
    assert 600 <= flag.now < 660
    live.world.hcx.rule(operation="Query", status=503)
    flag = Patient(lambda now: None)
    with live.hcx(cancel=flag, patience_s=1800.0) as hcx, pytest.raises(UnreachableError):
        follow(order, hcx=hcx, ctx=live.ctx())
    assert flag.now >= 1800, "bounded"
    live.world.hcx.clear_rules()


def test_hcx_03_a_hundred_servers_cost_one_call_per_look(live: Live) -> None:
    names = [f"many{number:03}" for number in range(100)]
    for number, name in enumerate(names):
        live.world.source.add_vm(vm(name, number % 200 + 20))
    order = live.order(a_wave(*names))
    live.world.hcx.rule(operation="StartGroups", cut_response_after=0, count=1)
    started = live.started(order)
    assert len({one.migration_id for one in started.servers}) == 100, "a lost answer is found again for all of them"
    live.world.hcx.reset_counters()
    followed = live.to_follow(started)
    with live.hcx() as hcx:
        for _ in range(3):
            assert follow(followed, hcx=hcx, ctx=live.ctx()) is None
    counted = live.world.hcx.counters()
    assert {name: each["calls"] for name, each in counted.items()} == {"hcx.Login": 1, "hcx.Query": 3}


# --- windows and cancel (HCX-04) ------------------------------------------------------------------------------------


def windowed(live: Live, *, begins: float, ends: float, type: MigrationType = "rav") -> LiveOrder:
    """A window by HCX's clock, in seconds from now."""
    now = datetime.fromtimestamp(live.world.hcx.clock()["now"], UTC)
    changes = {"window_start": now + timedelta(seconds=begins), "window_end": now + timedelta(seconds=ends)}
    return live.order(a_wave("app01", type=type), **changes)


@pytest.mark.parametrize("type", ["rav", "bulk"])
def test_hcx_04_the_switchover_waits_for_its_window(live: Live, type: MigrationType) -> None:
    started = live.started(windowed(live, begins=1000, ends=2000, type=type))
    order = live.to_follow(started)
    live.world.hcx.advance(500)
    with live.hcx() as hcx:
        assert follow(order, hcx=hcx, ctx=live.ctx()) is None
    (seen,) = live.world.hcx.migrations()
    assert seen["phase"] == "WAITING"
    live.world.hcx.advance(600)
    assert live.until_over(started).servers[0].phase == "complete"


def test_hcx_04_a_window_that_expired_switches_nothing_and_can_be_cancelled(live: Live) -> None:
    order = windowed(live, begins=20, ends=60)
    started = live.started(order)
    live.world.hcx.advance(5000)
    follows = live.to_follow(started)
    live.clock.sleep(3601)
    with live.hcx() as hcx:
        found = follow(follows, hcx=hcx, ctx=live.ctx())
    assert found is not None
    assert found.servers[0].phase == "waiting for its window"
    assert cancelled(live, live.to_cancel(order, started)) == {"app01": "cancelled"}
    assert live.until_over(started).servers[0].phase == "cancelled"
    assert live.there("app01", "source")


def test_hcx_04_cancel_ends_only_what_has_not_begun_to_switch(live: Live) -> None:
    live.world.source.add_vm(vm("app03", 23))
    order = live.order(a_wave("app01", "app02", "app03"))
    live.world.hcx.rule(kind="migration", key="app02", operation="base_sync", outcome="stuck")
    live.world.hcx.rule(kind="migration", key="app03", operation="base_sync", message="the disk broke")
    started = live.started(order)
    live.world.hcx.advance(105)
    phases = {each["vm"]: each["phase"] for each in live.world.hcx.migrations()}
    assert phases == {"app01": "SWITCHOVER", "app02": "BASE_SYNC", "app03": "FAILED"}
    told = cancelled(live, live.to_cancel(order, started))
    assert told == {"app01": "too_late", "app02": "cancelled", "app03": "over"}
    assert cancelled(live, live.to_cancel(order, started)) == told, "asked again, it is the same"
    ended = {one.server: one.phase for one in live.until_over(started).servers}
    assert ended == {"app01": "complete", "app02": "cancelled", "app03": "failed"}
    assert cancelled(live, live.to_cancel(order, started, "app01")) == {"app01": "too_late"}


def test_hcx_04_what_switches_between_the_question_and_the_order_is_too_late(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = live.order(a_wave("app01"))
    started = live.started(order)
    live.world.hcx.advance(90)
    with live.hcx() as hcx:
        send = hcx.send

        def tap(ask: Any, **where: object) -> Any:
            if ask.path.endswith("forceCancel"):
                live.world.hcx.advance(15)
            return send(ask, **where)

        monkeypatch.setattr(hcx, "send", tap)
        found = cancel(live.to_cancel(order, started), hcx=hcx, ctx=live.ctx())
    assert [one.outcome for one in found.servers] == ["too_late"]


def test_hcx_04_without_ids_cancel_finds_them_by_the_groups_name(live: Live) -> None:
    order = live.order(a_wave("app01", "app02"))
    assert cancelled(live, live.to_cancel(order, None)) == {"app01": "absent", "app02": "absent"}
    live.started(order)
    assert cancelled(live, live.to_cancel(order, None, "app02")) == {"app02": "cancelled"}
    phases = {each["vm"]: each["phase"] for each in live.world.hcx.migrations()}
    assert phases["app02"] == "CANCELLED"
    assert phases["app01"] != "CANCELLED"


def test_hcx_04_what_waits_for_its_turn_is_cancelled_too_and_a_draft_is_none(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HCX gives a migration that waits in its own queue no sign of having begun, as little as a draft."""
    live.world.hcx.settings(drafts_listed=True)
    order = live.order(a_wave("app01"))
    with live.hcx() as hcx:
        Mobility(hcx).make_group(order.group_name, migration_orders(order))
    assert cancelled(live, live.to_cancel(order, None)) == {"app01": "absent"}
    live.started(order)
    monkeypatch.setattr(Progress, "begun", property(lambda row: False))
    assert cancelled(live, live.to_cancel(order, None)) == {"app01": "cancelled"}
    assert [each["phase"] for each in live.world.hcx.migrations()] == ["CANCELLED"]


def test_hcx_04_a_slow_end_is_told_as_it_is(live: Live) -> None:
    live.world.hcx.settings(cancel_seconds=3600.0)
    order = live.order(a_wave("app01"))
    started = live.started(order)
    with live.hcx() as hcx:
        (one,) = cancel(live.to_cancel(order, started), hcx=hcx, ctx=live.ctx()).servers
    assert one.outcome == "asked", "until HCX has ended it, nobody may take it for free"


def test_hcx_04_a_refused_cancel_is_no_end(live: Live) -> None:
    order = live.order(a_wave("app01", "app02"))
    started = live.started(order)
    live.world.hcx.rule(operation="ForceCancel", status=400, message="not now", count=1)
    with live.hcx() as hcx, pytest.raises(WaveliftError, match=r"app01: .*not now"):
        cancel(live.to_cancel(order, started), hcx=hcx, ctx=live.ctx())
    assert {each["vm"]: each["phase"] == "CANCELLED" for each in live.world.hcx.migrations()} == {
        "app01": False,
        "app02": True,
    }
    assert set(cancelled(live, live.to_cancel(order, started)).values()) == {"cancelled"}


@pytest.mark.parametrize("of", ["storage", "placement", "card"])
def test_an_id_that_is_not_the_named_one_s_starts_nothing(live: Live, of: str) -> None:
    """Somebody edited what pre-flight left: an allowed name, over the id of another place."""
    order = live.order(a_wave("app01"))
    task = order.tasks[0]
    changes: dict[str, dict[str, Any]] = {
        "storage": {"storage": task.storage.model_copy(update={"id": task.placement[0].id})},
        "placement": {
            "placement": (task.placement[0].model_copy(update={"id": task.placement[1].id}), *task.placement[1:])
        },
        "card": {
            "cards": tuple(
                card.model_copy(update={"destination": card.destination.model_copy(update={"id": "other"})})
                for card in task.cards
            )
        },
    }
    edited = order.model_copy(update={"tasks": (task.model_copy(update=changes[of]),)})
    for call in (validate, start):
        act: Any = call
        with live.hcx() as hcx, pytest.raises(TamperedError, match="another name"):
            act(edited, hcx=hcx, ctx=live.ctx())
    assert live.world.hcx.migrations() == []
