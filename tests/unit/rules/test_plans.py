"""The plans that tasks get from a wave: selection, launch choice and binding to VMs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wavelift.base.errors import SpecError
from wavelift.rules.environment import Environment
from wavelift.rules.fields import parse_verify
from wavelift.rules.plans import Found, ServerPlan, WaveShape, bind, resolve, unique_names
from wavelift.rules.wave import Selector, Wave, twin

pytestmark = pytest.mark.unit


def test_plans_travel_as_json(plan: Any) -> None:
    one = plan(tags={"a": "b"}, private_ip="10.0.0.4", verify="sample:2.5")
    assert ServerPlan.load(one.dump()) == one
    with pytest.raises(ValidationError):
        ServerPlan.load({**one.dump(), "extra": 1})
    with pytest.raises(ValidationError):
        one.server = "other"


def test_a_server_goes_over_the_defaults_and_those_over_the_product(resolved: Any) -> None:
    wave = resolved(
        "a",
        {"name": "b", "quiesce": "never", "verify": "off", "tags": {"x": "own"}},
        defaults={"quiesce": "require", "boot_mode": "uefi", "tags": {"x": "default", "y": "z"}},
        min_free_pct=25,
        max_mbit_s=80.5,
    )
    a, b = wave.servers
    assert (a.quiesce, b.quiesce, a.verify, b.verify) == ("require", "never", "sample:1", "off")
    assert (a.boot_mode, b.boot_mode, a.license_type, a.source_power, a.launch) == (
        "uefi",
        "uefi",
        "auto",
        "leave_running",
        "none",
    )
    assert (a.tags, b.tags) == ({"x": "default", "y": "z"}, {"x": "own", "y": "z"})
    assert (a.guards.min_free_pct, a.guards.max_snapshot_hours, a.guards.max_mbit_s) == (25, 24, 80.5)


def test_resolve_refuses_what_is_wrong(wave: Any, environment: Any) -> None:
    with pytest.raises(SpecError) as caught:
        resolve(wave({"name": "a", "subnet": "subnet-bbbb0001"}, "a"), environment(kms_key="alias/x"))
    assert "kms_key: a KMS key has no effect" in str(caught.value)
    assert "servers[1].name: name 'a' is already servers[0]" in str(caught.value)
    assert "servers[0].subnet: environment 'prod' does not allow 'subnet-bbbb0001'" in str(caught.value)
    with pytest.raises(SpecError, match="was checked against 'test'"):
        resolve(wave(), environment(environment="test"))


def test_a_plan_is_made_only_of_a_source_that_the_environment_names(wave: Any, environment: Any) -> None:
    here = environment(sources=[{"connection": "vc", "connectors": ["a", "b"]}])
    assert resolve(wave(source={"connection": "vc", "connector": "b"}), here).connector == "b"
    with pytest.raises(SpecError, match="takes no servers of 'vc' through connector 'default'; allowed: a, b"):
        resolve(wave(), here)
    with pytest.raises(SpecError, match="takes no servers of connection 'else'; allowed: vc"):
        resolve(wave(source={"connection": "else", "connector": "b"}), here)


def test_choose_servers_of_the_form(resolved: Any) -> None:
    wave = resolved("a", {"path": "/DC0/vm/x/b"}, {"folder": "/DC0/vm/y"})
    assert [plan.server for plan in wave.choose(None).servers] == ["a", "b", "/DC0/vm/y"]
    assert [plan.server for plan in wave.choose(["/DC0/vm/y", "a"]).servers] == ["a", "/DC0/vm/y"]
    with pytest.raises(SpecError, match="no server 'c'") as caught:
        wave.choose(["a", "c"])
    assert "allowed: a, b, /DC0/vm/y" in str(caught.value)
    with pytest.raises(SpecError, match="an empty list"):
        wave.choose([])


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({}, "allow_twin"),
        ({"allow_twin": True}, ""),
        ({"source_power": "require_off"}, ""),
    ],
)
def test_invariant_12_the_form_cannot_launch_a_twin_either(plan: Any, settings: dict[str, Any], refused: str) -> None:
    one = plan(**settings)
    if refused:
        with pytest.raises(SpecError, match=refused):
            one.with_launch("running")
    else:
        assert one.with_launch("running").launch == "running"
    assert one.with_launch("none").launch == "none"


def test_the_form_cannot_launch_what_lacks_something(wave: Any, environment: Any) -> None:
    one = resolve(wave({"name": "a", "allow_twin": True}, defaults={}), environment())
    assert one.servers[0].instance_type is None
    with pytest.raises(SpecError, match="Launching needs instance_type") as caught:
        one.with_launch("running")
    assert caught.value.next_step
    assert one.with_launch(None) is one


@given(
    launch=st.sampled_from(["none", "running"]),
    power=st.sampled_from(["leave_running", "require_off"]),
    allow=st.booleans(),
)
def test_a_twin_is_never_an_accident(launch: str, power: str, allow: bool) -> None:
    assert twin(launch, power, allow) == (launch == "running" and power == "leave_running" and not allow)


@pytest.mark.parametrize("many", [{"folder": "/DC0/vm/y"}, {"tag": "wave:y"}], ids=["folder", "tag"])
def test_a_folder_or_tag_becomes_its_vms_and_an_entry_of_its_own_wins(resolved: Any, many: dict[str, str]) -> None:
    wave = resolved({**many, "verify": "off"}, {"name": "b", "verify": "full"})
    a, b = Found("a", "/DC0/vm/y/a"), Found("b", "/DC0/vm/y/b")
    plans = bind(wave.servers, [[a, b], [b]]).plans
    assert {plan.server: plan.verify for plan in plans} == {"a": "off", "b": "full"}
    assert {plan.selector for plan in plans} == {
        Selector(kind="path", value="/DC0/vm/y/a"),
        Selector(kind="path", value="/DC0/vm/y/b"),
    }


def test_two_entries_of_one_rank_cannot_take_one_vm(resolved: Any) -> None:
    """It alone stays out: the others need not wait until somebody mends the file."""
    vm, other = Found("a", "/DC0/vm/y/a"), Found("b", "/DC0/vm/y/b")
    for servers in (
        [{"folder": "/DC0/vm"}, {"folder": "/DC0/vm/y"}],
        [{"folder": "/DC0/vm"}, {"tag": "a:b"}],
        ["a", {"path": "/DC0/vm/y/a"}],
    ):
        wave = resolved(*servers)
        bound = bind(wave.servers, [[vm, other], [vm]])
        assert [plan.server for plan in bound.plans] == ["b"]
        (clash,) = bound.clashes
        assert (clash.server, clash.next_step) == ("a", "Remove one of them from the wave's file")
        assert "Two entries select the same VM /DC0/vm/y/a" in clash.what


def test_a_vm_that_two_entries_name_is_not_left_to_a_folder(resolved: Any) -> None:
    vm = Found("a", "/DC0/vm/y/a")
    bound = bind(resolved("a", {"path": "/DC0/vm/y/a"}, {"folder": "/DC0/vm/y"}).servers, [[vm], [vm], [vm]])
    assert (bound.plans, [clash.server for clash in bound.clashes]) == ((), ["a"])


def test_two_vms_at_one_path_stop_only_themselves(resolved: Any) -> None:
    wave = resolved({"folder": "/DC0/vm/y"})
    twins = [Found("a", "/DC0/vm/y/a", "vm-1"), Found("a", "/DC0/vm/y/a", "vm-2"), Found("b", "/DC0/vm/y/b", "vm-3")]
    bound = bind(wave.servers, [twins])
    assert [plan.server for plan in bound.plans] == ["b"]
    assert "Two VMs have the path /DC0/vm/y/a: vm-1 and vm-2" in bound.clashes[0].what


def test_vms_of_one_name_are_told_apart(resolved: Any) -> None:
    wave = resolved({"path": "/DC0/vm/a/web"}, {"path": "/DC0/vm/b/web"}, "db")
    names = ["web@DC0:vm:a", "web@DC0:vm:b", "db"]
    assert [plan.server for plan in wave.servers] == names
    found = [[Found("web", "/DC0/vm/a/web")], [Found("web", "/DC0/vm/b/web")], [Found("db", "/DC0/vm/db")]]
    assert [plan.server for plan in bind(wave.servers, found).plans] == names


folders = st.lists(st.text("abc/", min_size=1, max_size=4), min_size=1, max_size=8)


@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(["/D/vm", "/D/vm/a", "/D/vm/b", "/E/vm"])), unique=True)
)
def test_names_are_unique_and_without_slash(vms: list[tuple[str, str]]) -> None:
    names = unique_names([(name, f"{folder}/{name}") for name, folder in vms])
    assert len(set(names)) == len(vms)
    assert not any("/" in name for name in names)
    count = Counter(name for name, _ in vms)
    assert [name for name in names if "@" not in name] == [name for name, _ in vms if count[name] == 1]


@given(st.floats(0.0001, 100).map(lambda share: round(share, 4)))
def test_verify_levels(share: float) -> None:
    text = f"{share:.4f}"
    assert parse_verify(f"sample:{text}") == float(text)
    assert (parse_verify("full"), parse_verify("off")) == (100, 0)


@pytest.mark.parametrize(
    "text", ["", "sample", "sample:", "sample:0", "sample:101", "sample:-1", "sample:1e1", "Full", "sample:1%"]
)
def test_verify_levels_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: full, sample:<pct>"):
        parse_verify(text)


def test_a_fallback_shape_has_only_a_name() -> None:
    assert WaveShape.fallback("erp") == WaveShape(
        wave="erp", method="any", retries=3, connector="default", replicates=True, cuts_over=True
    )


def test_a_wave_without_servers_or_with_too_many_is_none() -> None:
    for servers in ([], [f"s{n}" for n in range(501)]):
        with pytest.raises(ValidationError):
            Wave.load({"wave": "a", "source": {"connection": "v"}, "environment": "e", "servers": servers})


def test_defaults_of_one_environment_do_not_leak_into_another(environment: Any) -> None:
    first, second = environment(), environment()
    assert isinstance(first, Environment)
    first.tags["x"] = "y"
    assert second.tags == {}
