"""What is in the way of a cutover, its window, its digest, and what an approval is worth."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.base.domain import Severity
from wavelift.base.errors import SpecError
from wavelift.rules.cutover_places import HighTtl, Places, RecordPlace
from wavelift.rules.cutover_plan import (
    Answered,
    Case,
    Opening,
    digest_of_steps,
    in_the_way,
    opening,
    refuse_unapproved,
)
from wavelift.rules.forecast import Forecast
from wavelift.rules.wave_cutover import Check, CutoverPlan, Window

pytestmark = pytest.mark.unit

NOW = datetime(2026, 12, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
FORECAST = Forecast(
    reachable_p50_s=300, reachable_p90_s=600, full_speed_p50_s=900, full_speed_p90_s=1200, runs=3, cutovers=1, basis=""
)
RECORD = RecordPlace("Z1", "app01.corp.example", "A", "")
LATER = FORECAST.model_copy(update={"before_s": 7000.0})
FINE = Case(
    server="web01",
    plan=CutoverPlan(),
    instance_profile=None,
    now=NOW,
    opening=Opening(),
    forecast=FORECAST,
    last_run="run-1",
    last_at=NOW - HOUR,
    tested_run="run-1",
)


def test_nothing_is_in_the_way_of_a_server_that_was_tested_and_replicated() -> None:
    assert in_the_way(FINE) == []


@pytest.mark.parametrize(
    ("changes", "code", "severity"),
    [
        ({"has_job": False}, "cutover.no_job", Severity.ERROR),
        ({"deleting": True}, "cutover.no_job", Severity.ERROR),
        ({"last_run": "", "last_at": None}, "cutover.no_run", Severity.ERROR),
        ({"quarantine": "EBS differs"}, "cutover.quarantined", Severity.WARNING),
        ({"last_at": NOW - 25 * HOUR}, "cutover.old_run", Severity.WARNING),
        ({"tested_run": ""}, "cutover.untested", Severity.WARNING),
        ({"tested_run": "run-0"}, "cutover.untested", Severity.WARNING),
        ({"other": "cut-1 is going"}, "cutover.open", Severity.ERROR),
        ({"unlowered": [HighTtl("app01.corp.example A")]}, "cutover.ttl", Severity.WARNING),
        ({"unlowered": [HighTtl("app01.corp.example A", 3600)]}, "cutover.ttl", Severity.WARNING),
        ({"old_answers_until": NOW + HOUR}, "cutover.ttl_late", Severity.WARNING),
        (
            {"places": Places(groups={"arn:aws:elb:targetgroup/a": "no listener"})},
            "cutover.target_group",
            Severity.ERROR,
        ),
        ({"places": Places(records={RECORD: "there is no zone"})}, "cutover.record", Severity.ERROR),
        ({"places": Places(elastic_ips={"eipalloc-1": "eni-1 has it"})}, "cutover.elastic_ip", Severity.ERROR),
        ({"plan": CutoverPlan(checks=(Check(kind="ssm", command="true"),))}, "cutover.no_profile", Severity.ERROR),
        ({"plan": CutoverPlan(downtime_minutes=5)}, "cutover.downtime", Severity.WARNING),
        ({"opening": Opening(NOW, NOW + timedelta(minutes=9))}, "cutover.window", Severity.ERROR),
        ({"opening": Opening(NOW, NOW + 2 * HOUR), "forecast": LATER}, "cutover.window_short", Severity.WARNING),
        ({"asleep": ["cutover_upkeep"]}, "cutover.watch_asleep", Severity.WARNING),
        ({"opening": Opening(NOW + 25 * HOUR)}, "cutover.approval_short", Severity.WARNING),
    ],
)
def test_each_thing_in_the_way_is_one_finding(changes: dict[str, Any], code: str, severity: Severity) -> None:
    (found,) = in_the_way(replace(FINE, **changes))
    assert (found.code, found.severity, found.subject) == (code, severity, "web01")
    assert found.next_action


def test_a_ttl_that_was_lowered_in_time_and_a_group_with_a_listener_are_fine() -> None:
    late = replace(FINE, old_answers_until=NOW + HOUR, opening=Opening(NOW + 2 * HOUR))
    fine = Places(groups={"arn:a": None}, records={RECORD: None}, elastic_ips={"eipalloc-1": None})
    late = replace(late, places=fine)
    assert in_the_way(late) == []


def test_a_high_ttl_says_when_no_cache_has_it_any_more() -> None:
    (found,) = in_the_way(replace(FINE, unlowered=[HighTtl("app01.corp.example A", 7200)]))
    assert "the TTL of app01.corp.example A is 7200 s and was not lowered" in found.what
    assert "from 2026-12-01 12:00 UTC on" in found.next_action


def test_the_conf_s_window_overrides_the_file_s_on_each_side() -> None:
    spec = Window(start=NOW + HOUR, end=NOW + 3 * HOUR)
    assert opening(None, None, spec, NOW) == Opening(spec.start, spec.end)
    assert opening((NOW + 2 * HOUR).isoformat(), None, spec, NOW) == Opening(NOW + 2 * HOUR, spec.end)
    assert opening(None, "2026-12-01T12:00:00+01:00", None, NOW) == Opening(None, NOW + HOUR)
    assert opening(None, None, None, NOW) == Opening()


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        ("tomorrow", None, "window_start 'tomorrow' is not a time with an offset"),
        (None, "2026-12-05T22:00:00", "window_end '2026-12-05T22:00:00' is not a time with an offset"),
        ("2026-12-05T22:00:00Z", "2026-12-05T21:00:00Z", "and begins only at"),
        (None, "2026-12-01T09:59:00Z", "was over at"),
    ],
)
def test_a_window_that_is_none_is_refused(start: str | None, end: str | None, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        opening(start, end, None, NOW)


@given(st.integers(-600, 600), st.integers(1, 600), st.floats(0, 36_000))
def test_what_ends_before_the_window_does_ends_inside_wherever_it_begins(start: int, length: int, takes: float) -> None:
    window = Opening(NOW + start * timedelta(minutes=1), NOW + (start + length) * timedelta(minutes=1))
    assert window.start is not None
    assert window.end is not None
    ends = max(NOW, window.start) + timedelta(seconds=takes)
    assert window.ends_before(NOW, takes) == (ends > window.end)
    if window.over(NOW):
        assert window.ends_before(NOW, takes + 1)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=4))
def test_a_digest_does_not_depend_on_the_order_of_keys(servers: list[dict[str, Any]]) -> None:
    turned = [dict(reversed(list(each.items()))) for each in servers]
    assert digest_of_steps(servers) == digest_of_steps(turned)
    assert digest_of_steps(servers) != digest_of_steps([*servers, {"server": "one more"}])


YES = Answered("approve", "ben", NOW + HOUR)


@pytest.mark.parametrize(
    ("answered", "approval", "words"),
    [
        (None, "required", "marked a success has approved nothing"),
        (replace(YES, answer="reject"), "required", "ben rejected"),
        (replace(YES, valid_until=NOW), "required", "counted until"),
        (replace(YES, by="ana"), "four_eyes", "another person"),
    ],
)
def test_what_is_no_approval(answered: Answered | None, approval: str, words: str) -> None:
    why = refuse_unapproved(answered, approval=approval, requested_by="ana", now=NOW)
    assert why is not None
    assert words in why[0]


@pytest.mark.parametrize(
    ("answered", "approval"),
    [(YES, "required"), (replace(YES, by="ana"), "required"), (YES, "four_eyes"), (None, "none")],
)
def test_what_is_one(answered: Answered | None, approval: str) -> None:
    assert refuse_unapproved(answered, approval=approval, requested_by="ana", now=NOW) is None
