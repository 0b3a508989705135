"""Migrations against the simulated manager: validate, group, start, query, cancel."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.wire.hcx.conftest import Pair

from wavelift.adapters.hcx.intents import Options, Window
from wavelift.adapters.hcx.mobility import Mobility, query_many
from wavelift.adapters.hcx.phases import Phase, Progress
from wavelift.adapters.hcx.transport import RefusedRequestError
from wavelift.base.rest import LostAnswerError, RestClient

pytestmark = pytest.mark.wire

LONG: dict[str, Any] = {"prepare_seconds": 10.0, "base_sync_seconds": 100.0, "switchover_seconds": 50.0}


def one(client: RestClient, migration_id: str) -> Progress:
    return query_many(client, [migration_id])[migration_id]


def follow(pair: Pair, client: RestClient, migration_id: str, step: float = 25.0) -> list[Progress]:
    """Everything that a query shows until the migration is over."""
    seen = [one(client, migration_id)]
    for _ in range(40):
        if seen[-1].phase.over:
            return seen
        pair.hcx.advance(step)
        seen.append(one(client, migration_id))
    raise AssertionError(f"it never ended: {seen[-1].words}")


def soon(seconds: float = 3600.0) -> Window:
    """A window that begins in an hour."""
    start = int(1000 * (time.time() + seconds))
    return Window(start_ms=start, end_ms=start + 3_600_000)


# --- validate (HCX-02) ---------------------------------------------------------------------------------------------


def test_hcx_02_a_good_order_passes(pair: Pair, client: RestClient) -> None:
    pair.add_vm("app01")
    verdict = Mobility(client).validate(pair.orders(client, ["app01"], window=soon()))
    assert verdict.passes(accept_warnings=False)
    assert not pair.hcx.migrations()


def test_hcx_02_errors_and_warnings_are_told_per_vm(pair: Pair, client: RestClient) -> None:
    good, bad = pair.add_vm("app01"), pair.add_vm("app02")
    pair.hcx.rule(kind="warning", key="app01", message="app01: slow line")
    pair.hcx.rule(kind="error", key="app02", message="app02: no licence")
    verdict = Mobility(client).validate(pair.orders(client, ["app01", "app02"]))
    told = {each.entity_id: (each.errors, each.warnings) for each in verdict.items}
    assert told[good] == ((), ("app01: slow line",))
    assert told[bad][0][0].startswith("app02: no licence")
    assert verdict.has_errors
    assert not verdict.passes(accept_warnings=True), "any error stops all"


@pytest.mark.parametrize("status", [202, 400])
def test_hcx_02_warnings_alone_need_a_yes(pair: Pair, client: RestClient, status: int) -> None:
    pair.add_vm("app01")
    pair.hcx.settings(warnings_status=status)
    pair.hcx.rule(kind="warning", key="app01", message="slow line")
    verdict = Mobility(client).validate(pair.orders(client, ["app01"]))
    assert not verdict.has_errors
    assert not verdict.passes(accept_warnings=False)
    assert verdict.passes(accept_warnings=True)


@pytest.mark.parametrize("xml", [True, False])
def test_hcx_02_a_400_that_names_no_vm_stops_all(pair: Pair, client: RestClient, xml: bool) -> None:
    pair.add_vm("app01")
    pair.hcx.rule(operation="Validate", status=400, message="Nobody knows", xml=xml)
    verdict = Mobility(client).validate(pair.orders(client, ["app01"]))
    assert not verdict.passes(accept_warnings=True)
    assert "Nobody knows" in verdict.errors[0]


@pytest.mark.parametrize(
    ("fields", "type", "word"),
    [
        ({"hardware": "vmx-08"}, "rav", "hardware"),
        ({"power": "poweredOff"}, "rav", "poweredOff"),
        ({"tools": "not_running"}, "bulk", "Tools"),
        ({"snapshots": ["before"]}, "rav", "snapshots"),
        ({}, "cold", "poweredOn"),
    ],
)
def test_hcx_02_what_hcx_refuses_is_an_error(
    pair: Pair, client: RestClient, fields: dict[str, Any], type: Any, word: str
) -> None:
    pair.add_vm("app01", **fields)
    verdict = Mobility(client).validate(pair.orders(client, ["app01"], type))
    assert verdict.has_errors
    assert word in " ".join(verdict.items[0].errors)


# --- start ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["rav", "bulk", "vmotion"])
def test_hcx_01_a_started_vm_arrives(pair: Pair, client: RestClient, type: Any) -> None:
    pair.hcx.settings(**LONG)
    vm = pair.add_vm("app01")
    mac = pair.source.get_vm(vm)["nics"][0]["mac"]
    _, (started,) = pair.started(client, ["app01"], type=type)
    assert started.entity_id == vm
    assert not started.errors
    seen = follow(pair, client, started.migration_id)
    assert seen[-1].phase is Phase.COMPLETE
    assert {each.phase for each in seen} >= {Phase.REPLICATING, Phase.SWITCHOVER}
    shares = [each.percent for each in seen if each.percent is not None]
    assert shares == sorted(shares)
    arrived = pair.vm("app01")
    assert arrived is not None
    assert [card["mac"] for card in arrived["nics"]] == [mac]


def test_hcx_01_a_powered_off_vm_goes_cold(pair: Pair, client: RestClient) -> None:
    pair.hcx.settings(**LONG)
    pair.add_vm("app01", power="poweredOff")
    _, (started,) = pair.started(client, ["app01"], type="cold")
    assert follow(pair, client, started.migration_id)[-1].phase is Phase.COMPLETE


def test_a_group_that_exists_is_found_by_its_name(pair: Pair, client: RestClient) -> None:
    pair.add_vm("app01")
    orders = pair.orders(client, ["app01"])
    mobility = Mobility(client)
    assert mobility.find_group("wavelift w1") is None
    for status in (400, 202):
        pair.hcx.settings(duplicate_status=status)
        made = {mobility.make_group("wavelift w1", orders) for _ in range(2)}
        assert made == {mobility.find_group("wavelift w1")}


def test_a_group_whose_answer_is_lost_is_made_once(pair: Pair, client: RestClient) -> None:
    pair.add_vm("app01")
    orders = pair.orders(client, ["app01"])
    pair.hcx.rule(operation="MakeGroups", cut_response_after=0, count=1)
    mobility = Mobility(client)
    assert mobility.make_group("wavelift w1", orders) == mobility.find_group("wavelift w1")
    assert pair.hcx.state()["drafts"] == ["wavelift w1"]


@pytest.mark.parametrize("drafts", [True, False])
def test_a_start_whose_answer_is_lost_is_found_again(pair: Pair, client: RestClient, drafts: bool) -> None:
    pair.hcx.settings(drafts_listed=drafts, **LONG)
    pair.add_vm("app01"), pair.add_vm("app02")
    mobility = Mobility(client)
    group = mobility.make_group("wavelift w1", pair.orders(client, ["app01", "app02"]))
    pair.hcx.rule(operation="StartGroups", cut_response_after=0, count=1)
    started = mobility.start_group(group)
    assert {each.migration_id for each in started} == {each["id"] for each in pair.hcx.migrations()}
    assert {each.entity_id for each in started} == {order.vm.id for order in pair.orders(client, ["app01", "app02"])}
    assert pair.calls("StartGroups") == 1
    end(pair, client, group)


def test_a_large_group_is_found_again_whole(pair: Pair, client: RestClient) -> None:
    """A page of the query has 50 rows where nothing else is asked for (of the older form of the call)."""
    names = [f"app{number:02}" for number in range(60)]
    for name in names:
        pair.add_vm(name)
    pair.hcx.settings(**LONG)
    pair.hcx.rule(operation="StartGroups", cut_response_after=0, count=1)
    group, started = pair.started(client, names)
    assert len({each.migration_id for each in started}) == 60
    end(pair, client, group)


def test_a_task_that_was_killed_starts_nothing_twice(pair: Pair, client: RestClient) -> None:
    pair.hcx.settings(**LONG)
    pair.add_vm("app01")
    group, first = pair.started(client, ["app01"])
    with pair.access().client() as other:
        again, second = pair.started(other, ["app01"])
    assert (again, [each.migration_id for each in second]) == (group, [each.migration_id for each in first])
    assert len(pair.hcx.migrations()) == 1
    end(pair, client, group)


def test_a_start_that_never_arrived_may_be_tried_again(pair: Pair, client: RestClient) -> None:
    pair.hcx.settings(drafts_listed=True, **LONG)
    pair.add_vm("app01")
    mobility = Mobility(client)
    group = mobility.make_group("wavelift w1", pair.orders(client, ["app01"]))
    pair.hcx.rule(operation="StartGroups", cut_request_after=0, count=1)
    with pytest.raises(LostAnswerError):
        mobility.start_group(group)
    assert not pair.hcx.migrations()
    (started,) = mobility.start_group(group)
    assert started.migration_id
    end(pair, client, group)


def test_one_vm_that_cannot_start_stops_no_other(pair: Pair, client: RestClient) -> None:
    pair.hcx.settings(**LONG)
    pair.add_vm("app01")
    bad = pair.add_vm("app02")
    mobility = Mobility(client)
    group = mobility.make_group("wavelift w1", pair.orders(client, ["app01", "app02"]))
    pair.hcx.rule(kind="error", key="app02", message="no licence")
    found = {each.entity_id: each for each in mobility.start_group(group)}
    assert [bool(each.migration_id) for id, each in found.items() if id != bad] == [True]
    assert not found[bad].migration_id
    assert found[bad].errors[0].startswith("no licence")
    end(pair, client, group)


def test_a_group_of_which_none_can_start_says_why(pair: Pair, client: RestClient) -> None:
    pair.add_vm("app01")
    mobility = Mobility(client)
    group = mobility.make_group("wavelift w1", pair.orders(client, ["app01"]))
    pair.hcx.rule(kind="error", key="app01", message="no licence")
    (found,) = mobility.start_group(group)
    assert not found.migration_id
    assert found.errors[0].startswith("no licence")
    with pytest.raises(RefusedRequestError, match="does not exist"):
        mobility.start_group("nowhere")


# --- query (HCX-03) ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"other_words": True},
        {"flags": "booleans"},
        {"flags": "integers", "absent_when_false": True},
        {"absent_every": 2},
        {"total_as_text": True, "times_as_text": True},
        {"other_words": True, "absent_when_false": True, "absent_every": 3},
    ],
    ids=lambda settings: "+".join(settings) or "documented",
)
def test_hcx_03_no_invented_name_and_no_form_of_a_flag_decides(
    pair: Pair, client: RestClient, settings: dict[str, Any]
) -> None:
    pair.hcx.settings(**LONG, **settings)
    pair.add_vm("app01")
    _, (started,) = pair.started(client, ["app01"])
    seen = follow(pair, client, started.migration_id)
    assert seen[-1].phase is Phase.COMPLETE
    assert all(each.phase is not Phase.COMPLETE for each in seen[:-1])
    assert Phase.REPLICATING in {each.phase for each in seen}
    assert not any(each.known for each in seen[:-1]), "the simulator's words for what runs are invented"


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize(
    ("outcome", "phase"), [("failed", Phase.FAILED), ("unnamed", Phase.FAILED), ("ended", Phase.ENDED)]
)
@pytest.mark.parametrize("where", ["base_sync", "switchover"])
def test_hcx_03_every_bad_end_stops(
    pair: Pair, client: RestClient, words: bool, outcome: str, phase: Phase, where: str
) -> None:
    pair.hcx.settings(other_words=words, **LONG)
    pair.add_vm("app01")
    pair.hcx.rule(kind="migration", operation=where, outcome=outcome, message="the line broke")
    _, (started,) = pair.started(client, ["app01"])
    found = follow(pair, client, started.migration_id)[-1]
    assert found.phase is phase
    if outcome == "failed":
        assert "the line broke" in found.words


def test_hcx_04_it_waits_for_its_window(pair: Pair, client: RestClient) -> None:
    pair.hcx.settings(**LONG)
    pair.add_vm("app01")
    _, (started,) = pair.started(client, ["app01"], window=soon())
    pair.hcx.advance(150)
    waiting = one(client, started.migration_id)
    assert waiting.phase is Phase.WAITING_FOR_WINDOW
    assert waiting.percent == 100
    assert waiting.reschedulable
    pair.hcx.advance(3600 - 150 + 10)
    assert one(client, started.migration_id).phase is Phase.SWITCHOVER
    assert follow(pair, client, started.migration_id)[-1].phase is Phase.COMPLETE


def test_hcx_04_a_window_that_passes_leaves_it_waiting(pair: Pair, client: RestClient) -> None:
    pair.hcx.settings(manager_limit=1, **LONG)
    pair.add_vm("app01"), pair.add_vm("app02")
    pair.hcx.rule(kind="migration", operation="base_sync", key="app01", outcome="stuck")
    first, rest = pair.started(client, ["app01"])
    second, (late,) = pair.started(client, ["app02"], window=soon())
    pair.hcx.advance(3 * 3600)
    assert not Mobility(client).force_cancel(rest, first)
    pair.hcx.advance(150)
    waiting = one(client, late.migration_id)
    assert waiting.phase is Phase.WAITING_FOR_WINDOW
    assert waiting.reschedulable
    assert "expired" in waiting.words
    end(pair, client, second)


def test_hcx_03_one_query_for_all(pair: Pair, client: RestClient) -> None:
    pair.hcx.settings(**LONG)
    names = [f"app{number:02}" for number in range(12)]
    for name in names:
        pair.add_vm(name)
    group, started = pair.started(client, names)
    before = pair.calls("Query")
    found = query_many(client, [each.migration_id for each in started])
    assert len(found) == 12
    assert pair.calls("Query") - before == 1
    assert query_many(client, ["nobody"]) == {}, "what HCX does not list has no outcome"
    end(pair, client, group)


def test_a_session_that_ends_while_it_waits_is_no_trouble(pair: Pair, client: RestClient) -> None:
    pair.hcx.settings(token_seconds=30.0, **LONG)
    pair.add_vm("app01")
    _, (started,) = pair.started(client, ["app01"])
    before = pair.calls("Login")
    assert follow(pair, client, started.migration_id)[-1].phase is Phase.COMPLETE
    assert pair.calls("Login") - before > 1


# --- cancel ---------------------------------------------------------------------------------------------------------


def test_hcx_04_what_has_not_begun_to_switch_can_be_cancelled(pair: Pair, client: RestClient) -> None:
    pair.hcx.settings(**LONG)
    pair.add_vm("app01"), pair.add_vm("app02")
    group, started = pair.started(client, ["app01", "app02"])
    pair.hcx.advance(120)  # one switches over, the other waits: RAV's switchovers are serial
    rows = query_many(client, [each.migration_id for each in started])
    switching = [id for id, row in rows.items() if row.phase is Phase.SWITCHOVER]
    assert len(switching) == 1
    refused = Mobility(client).force_cancel(started, group)
    assert list(refused) == switching
    assert refused[switching[0]]
    (other,) = set(rows) - set(switching)
    assert one(client, other).phase is Phase.CANCELLED
    assert follow(pair, client, switching[0])[-1].phase is Phase.COMPLETE
    assert pair.vm("app02" if rows[other].entity_name == "app02" else "app01") is None


def test_a_refused_cancellation_without_words_is_still_refused(pair: Pair, client: RestClient) -> None:
    pair.hcx.settings(**LONG)
    pair.add_vm("app01")
    group, (started,) = pair.started(client, ["app01"])
    pair.hcx.rule(operation="ForceCancel", status=400, message="Not now", xml=True, count=1)
    refused = Mobility(client).force_cancel([started], group)
    assert "Not now" in refused[started.migration_id][0]
    end(pair, client, group)


def test_options_are_sent(pair: Pair, client: RestClient) -> None:
    pair.add_vm("app01", snapshots=["before"])
    verdict = Mobility(client).validate(pair.orders(client, ["app01"], options=Options(remove_snapshots=True)))
    assert verdict.passes(accept_warnings=False)


def end(pair: Pair, client: RestClient, group: str) -> None:
    """Cancel what runs."""
    mobility = Mobility(client)
    assert not mobility.force_cancel(mobility.query_group(group), group)
