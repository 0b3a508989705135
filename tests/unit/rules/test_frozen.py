"""What came by XCom is compared with what the run froze: every changed field of a plan is found."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.rules.conftest import _environment, _facts, _wave

from wavelift.base.domain import ServerFacts
from wavelift.base.errors import TamperedError
from wavelift.rules.frozen import LOOKED_UP, FrozenPlan, check_plan, digest_of, same_key
from wavelift.rules.plans import ServerPlan, resolve

pytestmark = pytest.mark.unit

KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY = "arn:aws:kms:eu-central-1:999999999999:key/ffffffff-12ab-34cd-56ef-1234567890ab"
REGION = "eu-central-1"
ENTRIES: tuple[Any, ...] = (
    {"name": "web01", "subnet": "subnet-aaaa0001", "tags": {"cost": "42"}},
    {"path": "/DC0/vm/shop/db01", "verify": "full"},
    {"folder": "/DC0/vm/farm", "quiesce": "never", "replication": {"frequency_hours": 24}},
)


def _frozen(*entries: Any, **environment: Any) -> tuple[ServerPlan, ...]:
    return resolve(_wave(*(entries or ENTRIES)), _environment(**environment)).servers


def _check(plan: ServerPlan, frozen: tuple[ServerPlan, ...], **facts: Any) -> FrozenPlan:
    return check_plan(plan, _vm(plan.selector.value, **facts), frozen)


def _vm(at: str, **changes: Any) -> ServerFacts:
    return _facts(**{"name": at.rpartition("/")[2], "path": at, **changes})


def _refused(plan: ServerPlan, frozen: tuple[ServerPlan, ...], **facts: Any) -> str:
    with pytest.raises(TamperedError) as caught:
        _check(plan, frozen, **facts)
    return caught.value.field


FROZEN = _frozen()
BOUND = (
    FROZEN[0].bind("web01", "/DC0/vm/shop/web01"),
    FROZEN[1].bind("db01", "/DC0/vm/shop/db01"),
    FROZEN[2].bind("node1", "/DC0/vm/farm/node1"),
    FROZEN[2].bind("node1@DC0:vm:farm:deep", "/DC0/vm/farm/deep/node1"),
)


@pytest.mark.parametrize("plan", BOUND, ids=lambda plan: plan.server)
def test_what_pre_flight_makes_of_an_entry_passes(plan: ServerPlan) -> None:
    entry = FROZEN[min(BOUND.index(plan), 2)]
    settled = plan.model_copy(
        update={"target": plan.target.model_copy(update={"staging_sse": "aws:kms", "staging_key": KEY})}
    )
    found = _check(settled, FROZEN)
    assert found == FrozenPlan(plan, digest_of(entry)), "what the bucket encrypts with is not taken from an XCom"
    assert _check(found.plan, FROZEN) == found


@pytest.mark.parametrize(
    ("server", "path", "field"),
    [
        ("web02", "/DC0/vm/shop/web02", "selector.value"),
        ("web01", "/DC0/vm/shop/web02", "server"),
        ("web02", "/DC0/vm/shop/web01", "server"),
        ("db01", "/DC0/vm/other/db01", "selector.value"),
        ("node1", "/DC0/vm/farmer/node1", "selector.value"),
        ("node1@DC0:vm:shop", "/DC0/vm/farm/node1", "server"),
        ("farm", "/DC0/vm/farm", "selector.value"),
    ],
)
def test_another_vm_is_refused(server: str, path: str, field: str) -> None:
    assert _refused(BOUND[0].bind(server, path), FROZEN) == field


def test_the_settings_of_another_entry_are_refused() -> None:
    """A VM that is listed by name keeps its own settings, also if a folder selects it."""
    frozen = _frozen({"folder": "/DC0/vm/farm", "verify": "off"}, {"name": "node1", "verify": "full"})
    stolen = frozen[0].bind("node1", "/DC0/vm/farm/node1")
    assert _refused(stolen, frozen) == "verify"
    assert _check(frozen[1].bind("node1", "/DC0/vm/farm/node1"), frozen).plan.verify == "full"


def test_a_tag_may_select_any_vm_but_only_with_its_own_settings() -> None:
    frozen = _frozen({"tag": "plan:moves", "verify": "full"})
    plan = frozen[0].bind("any", "/DC0/vm/some/any")
    assert _check(plan, frozen).digest == digest_of(frozen[0])
    assert _check(plan, frozen).tags == ("plan:moves",), "the connector asks vCenter whether the VM has it"
    assert _refused(plan.model_copy(update={"verify": "off"}), frozen) == "verify"


def test_a_vm_that_its_place_selects_needs_no_tag() -> None:
    frozen = _frozen({"tag": "plan:moves"}, {"tag": "plan:later"}, {"folder": "/DC0/vm/farm"})
    assert _check(frozen[0].bind("node1", "/DC0/vm/farm/node1"), frozen).tags == ()
    assert _check(frozen[0].bind("any", "/DC0/vm/some/any"), frozen).tags == ("plan:moves", "plan:later")


def test_the_facts_are_of_the_vm_of_the_plan() -> None:
    assert _refused(BOUND[0], FROZEN, path="/DC0/vm/shop/db01") == "facts.path"
    assert _refused(FROZEN[0], FROZEN) == "selector.kind"


@pytest.mark.parametrize(
    ("written", "found", "same"),
    [
        (KEY, KEY, True),
        (KEY, OTHER_KEY, False),
        ("1234abcd-12ab-34cd-56ef-1234567890ab", KEY, True),
        ("1234abcd-12ab-34cd-56ef-1234567890ab", OTHER_KEY, False),
        ("1234abcd-12ab-34cd-56ef-1234567890ab", KEY.replace(REGION, "eu-west-1"), False),
        ("alias/moves", KEY, True),
        ("alias/moves", "alias/moves", True),
        ("alias/moves", "alias/other", False),
        ("alias/moves", KEY.replace(REGION, "eu-west-1"), False),
        ("arn:aws:kms:eu-central-1:111122223333:alias/moves", KEY, True),
        ("arn:aws:kms:eu-central-1:111122223333:alias/moves", OTHER_KEY, False),
        (KEY, "", False),
    ],
)
def test_a_key_is_that_of_the_environment(written: str, found: str, same: bool) -> None:
    assert same_key(written, found, REGION) is same


def test_a_key_is_taken_as_the_environment_names_it() -> None:
    frozen = _frozen(kms_key="alias/moves", encrypt=True)
    plan = frozen[0].bind("web01", "/DC0/vm/shop/web01")

    def keyed(**keys: Any) -> ServerPlan:
        return plan.model_copy(update={"target": plan.target.model_copy(update=keys)})

    assert _check(keyed(kms_key=KEY, staging_key=KEY, staging_sse="aws:kms"), frozen).plan == plan
    assert _refused(keyed(kms_key=KEY, staging_key=OTHER_KEY), frozen) == "target.staging_key"
    assert _refused(keyed(kms_key=None), frozen) == "target.kms_key"
    assert _refused(BOUND[0].model_copy(update={"target": keyed(kms_key=KEY).target}), FROZEN) != ""


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict) and value:
        return [leaf for key, each in value.items() for leaf in _leaves(each, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for index, each in enumerate(value) for leaf in _leaves(each, (*path, index))]
    return [path]


def _changed(value: Any, text: str, number: int) -> Any:
    """Another value; pydantic must not have to accept it: what was frozen is compared, not what is valid."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + number
    if isinstance(value, str):
        return value + text
    return text if value is None else [text] if isinstance(value, list) else {text: text}


@given(st.data(), st.sampled_from(BOUND), st.text(min_size=1, max_size=8), st.integers(1, 1000))
def test_any_single_changed_field_is_found(data: Any, plan: ServerPlan, text: str, number: int) -> None:
    dumped = plan.dump()
    leaf = data.draw(st.sampled_from(_leaves(dumped)))
    inner: Any = dumped
    for step in leaf[:-1]:
        inner = inner[step]
    inner[leaf[-1]] = _changed(inner[leaf[-1]], text, number)
    edited = _unchecked(dumped, plan)
    name = ".".join(str(step) for step in leaf)
    if name in ("target.staging_sse", "target.staging_key"):
        assert _check(edited, FROZEN).plan == plan, "it is looked up, and no step of the control plane uses it"
        return
    assert _refused(edited, FROZEN, path=plan.selector.value)


def _unchecked(dumped: dict[str, Any], like: ServerPlan) -> ServerPlan:
    """A plan with values that pydantic would refuse, as far as nested models go."""

    def made(model: Any, values: dict[str, Any]) -> Any:
        return type(model).model_construct(
            **{
                key: made(getattr(model, key), value)
                if isinstance(value, dict) and hasattr(getattr(model, key), "model_fields_set")
                else tuple(value)
                if isinstance(value, list)
                else value
                for key, value in values.items()
            }
        )

    found: ServerPlan = made(like, dumped)
    return found


def test_the_fields_that_pre_flight_sets_are_fields_of_a_plan() -> None:
    dumped = BOUND[0].dump()
    assert {".".join(leaf) for leaf in _leaves(dumped) if all(isinstance(step, str) for step in leaf)} >= LOOKED_UP


def test_a_field_that_a_later_version_adds_keeps_the_digest_of_a_run_under_way() -> None:
    """Else an upgrade would have every running server refused as edited."""

    class Later(ServerPlan):
        added: str = "as before"

    for plan in FROZEN:
        assert digest_of(Later.load(plan.dump())) == digest_of(plan)
    assert digest_of(Later.load({**FROZEN[0].dump(), "added": "x"})) != digest_of(FROZEN[0])
