"""Who may do what: exact names, groups with an age, and nobody but who is listed (AMP-02, AMP-03)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wavelift.base.run import Requester
from wavelift.rules.authority import MEMORY, WHOAMI, Action, Denial, Groups, Link, cleanup_action, decide, granted
from wavelift.rules.environment import May
from wavelift.rules.principals import Principals, unknown_groups

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
NAMES = st.sampled_from(["ana", "Ana", "bo", "Anonymous", "admin"])
GROUPS = st.sampled_from(["erp-team", "Erp-team", "role/Op", "role/op", "role/Admin"])
ENTRIES = st.lists(st.one_of(NAMES.map("user:{}".format), GROUPS.map("group:{}".format)), max_size=4).map(tuple)
MAYS = st.builds(May, migrate=ENTRIES, cut_over=ENTRIES, administer=ENTRIES)
AGES = st.dictionaries(GROUPS, st.integers(-1, 48).map(lambda hours: NOW - timedelta(hours=hours)), max_size=3)
KNOWN = st.builds(Groups, listed=st.frozensets(GROUPS, max_size=2), seen=AGES)
KINDS = st.sampled_from(
    ["manual", "operator_triggered", "scheduled", "backfill", "asset_triggered", "asset_materialization", "unknown", ""]
)


def asked(name: str, may: May | None, action: Action = Action.MIGRATE, groups: Groups | None = None) -> Denial | None:
    return decide(Requester(name), groups or Groups(), may, action, now=NOW, environment="lab")


@given(NAMES, KINDS, KNOWN, MAYS, st.sampled_from(Action))
def test_amp_02_only_who_is_listed_by_name_or_by_a_believed_group_may(
    name: str, kind: str, groups: Groups, may: May, action: Action
) -> None:
    denial = decide(Requester(name, kind), groups, may, action, now=NOW, environment="lab")
    listed = {*getattr(may, action.value), *may.administer}
    fresh = {group for group, at in groups.seen.items() if NOW - at <= timedelta(hours=24)}
    right = f"user:{name}" in listed or any(f"group:{group}" in listed for group in groups.listed | fresh)
    by_name = kind in ("manual", "operator_triggered")
    assert (denial is None) == (right and by_name)
    if denial is not None:
        assert denial.link is (Link.ENVIRONMENT if by_name else Link.REQUESTER)
        assert denial.why
        assert denial.way_out


@given(KNOWN, MAYS, st.sampled_from(Action), KINDS)
def test_nobody_is_nobody_whatever_is_listed(groups: Groups, may: May, action: Action, kind: str) -> None:
    denial = decide(Requester("", kind), groups, may, action, now=NOW)
    assert denial is not None
    assert denial.link is Link.REQUESTER


@given(NAMES, KNOWN, MAYS)
def test_who_administers_may_do_all(name: str, groups: Groups, may: May) -> None:
    actions = granted(Requester(name), groups, may, now=NOW)
    assert (Action.ADMINISTER not in actions) or actions == tuple(Action)


@given(NAMES, KNOWN, MAYS, st.sampled_from(Action))
def test_more_entries_never_take_a_right_away(name: str, groups: Groups, may: May, action: Action) -> None:
    more = may.model_copy(update={"migrate": (*may.migrate, f"user:{name}")})
    before = granted(Requester(name), groups, may, now=NOW)
    assert set(before) <= set(granted(Requester(name), groups, more, now=NOW))
    assert decide(Requester(name), groups, more, Action.MIGRATE, now=NOW) is None


def test_an_environment_without_may_grants_nothing() -> None:
    denial = asked("ana", None)
    assert denial is not None
    assert (denial.link, "environments/lab.yaml" in denial.way_out) == (Link.ENVIRONMENT, True)


def test_names_are_compared_exactly_and_anonymous_is_a_name() -> None:
    may = May(migrate=("user:ana",))
    assert asked("ana", may) is None
    for other in ("Ana", "ana ", "an", "Anonymous", "user:ana", "group:ana"):
        assert asked(other, may) is not None, other
    assert asked("Anonymous", May(migrate=("user:Anonymous",))) is None


def test_a_group_is_no_user_and_a_user_no_group() -> None:
    assert asked("erp-team", May(migrate=("group:erp-team",))) is not None
    assert asked("bo", May(migrate=("user:role/Op",)), groups=Groups(seen={"role/Op": NOW})) is not None


@pytest.mark.parametrize(("hours", "may"), [(23.9, True), (24.0, True), (24.1, False)])
def test_a_role_is_believed_for_24_hours_and_the_refusal_names_the_command(hours: float, may: bool) -> None:
    groups = Groups(seen={"role/Op": NOW - timedelta(hours=hours)})
    denial = asked("ana", May(migrate=("group:role/Op",)), groups=groups)
    assert (denial is None) == may
    if denial is not None:
        assert f"`{WHOAMI}`" in denial.way_out
        assert "2026-11-29 11:5" in denial.way_out
    assert f"`{WHOAMI}`" in (asked("ana", May(migrate=("group:role/Op",))) or Denial(Link.GRANT, "", "")).way_out
    assert timedelta(hours=24) == MEMORY


def test_a_refusal_says_who_what_where() -> None:
    denial = asked("ana", May(cut_over=("user:bo",)), Action.CUT_OVER)
    assert denial == Denial(
        Link.ENVIRONMENT,
        "'ana' may not cut over in environment 'lab': neither the name nor a group of it is under 'may: cut_over or "
        "administer'",
        "An administrator adds 'user:ana' there",
    )


def test_removing_needs_an_administrator_looking_does_not() -> None:
    assert (cleanup_action(dry_run=True), cleanup_action(dry_run=False)) == (Action.MIGRATE, Action.ADMINISTER)


@pytest.mark.parametrize(
    ("requester", "kept"),
    [
        (Requester("ana"), "ana"),
        (Requester("schedule"), "schedule"),
        (Requester("", "scheduled"), "schedule"),
        (Requester(""), "nobody (manual run)"),
        (Requester("", "backfill"), "nobody (backfill run)"),
        (Requester("", "asset_triggered"), "nobody (asset_triggered run)"),
    ],
)
def test_a_run_is_kept_as_what_it_is(requester: Requester, kept: str) -> None:
    assert str(requester) == kept


# The file of groups


def test_a_vcenter_principal_is_the_listed_one_else_that_of_the_pattern() -> None:
    known = Principals.load({"vcenter": {"users": {"ana": "CORP\\a.kern"}, "pattern": "CORP\\{user}"}})
    assert known.vcenter_principal("ana") == "CORP\\a.kern"
    assert known.vcenter_principal("bo") == "CORP\\bo"
    assert known.vcenter_principal("{user}") == "CORP\\{user}", "a name is no pattern"
    assert known.vcenter_principal("") is None
    assert Principals().vcenter_principal("ana") is None


def test_groups_are_of_exact_names() -> None:
    known = Principals.load({"groups": {"erp-team": ["ana", "bo"], "all": ["ana"]}})
    assert known.groups_of("ana") == {"erp-team", "all"}
    assert known.groups_of("Ana") == frozenset()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"groups": {"role/Op": ["ana"]}}, "are the roles of Airflow's users"),
        ({"groups": {"a": [" ana"]}}, "no space at its ends"),
        ({"groups": {"a": [""]}}, "is no name"),
        ({"groups": {"a": ["ana\u202e"]}}, "visible"),
        ({"vcenter": {"pattern": "CORP\\ana"}}, "must have {user} once"),
        ({"vcenter": {"pattern": "{user}{user}"}}, "must have {user} once"),
        ({"vcenter": {"pattern": "CORP\\{user}{0}"}}, "no other brace"),
        ({"group": {}}, "group"),
    ],
)
def test_a_wrong_file_of_groups_is_refused(value: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Principals.load(value)
    assert said in str(caught.value)


def test_a_group_that_nobody_made_is_named_with_what_there_is() -> None:
    may = May(migrate=("user:x", "group:erp-teem"), administer=("group:role/Op",))
    (problem,) = unknown_groups(may, Principals.load({"groups": {"erp-team": ["ana"]}}))
    assert problem.path == ("may", "migrate", 1)
    assert "'erp-teem'" in problem.message
    assert "did you mean 'erp-team'?" in problem.message
