"""Environments of ``kind: hcx`` and waves of ``method: hcx``: each is told by line what it does not take."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.specs import HCX_ENVIRONMENT, HCX_WAVE, NETWORK

from wavelift.base.errors import SpecError
from wavelift.console.answers import EnvironmentRow
from wavelift.rules.frozen import digest_of
from wavelift.rules.hcx_environment import HcxEnvironment, aws_only
from wavelift.rules.hcx_wave import SWITCHOVER_MINUTES
from wavelift.rules.live_plans import ResolvedLive
from wavelift.rules.plans import WaveShape
from wavelift.rules.problem import MAX_PROBLEMS
from wavelift.services.housekeeping.environments import check
from wavelift.specs import (
    Checker,
    LoadedLive,
    check_file,
    format_errors,
    load_environment,
    load_folder,
    load_granting,
    load_resolved,
    load_resolved_live,
    problem_of,
    resolved_live,
    resolved_wave,
    usable_waves,
)

pytestmark = pytest.mark.unit


def errors(hcx: Any, text: str) -> list[str]:
    return format_errors(check_file(hcx.wave(text, "live1"), hcx.environments)).splitlines()


def environment_errors(hcx: Any, text: str) -> list[str]:
    return format_errors(check_file(hcx.environment(text, "vmc"), hcx.environments)).splitlines()


def test_a_queue_near_hcx_follows_no_longer_than_its_grant(hcx: Any) -> None:
    near = HCX_ENVIRONMENT.replace("hcx: {", "hcx: {reach: connector, ")
    assert near != HCX_ENVIRONMENT
    hcx.environment(near, "vmc")
    long = HCX_WAVE.replace("method: hcx", "method: hcx\nmax_hours: 169")
    words = "3: max_hours: environment 'vmc' has 'reach: connector': its queue follows HCX for 168 hours at most"
    assert words in errors(hcx, long)[0]


def test_a_valid_wave_resolves(hcx: Any) -> None:
    wave = load_resolved_live(hcx.waves / "live1.yaml", hcx.environments)
    assert (wave.type, wave.environment.source.connection, wave.options.retain_mac) == ("rav", "vc1", True)
    first, second = wave.servers
    assert (first.server, first.target.pool, first.target.folder, first.target.datastore) == (
        "app01",
        "Compute",
        "Workloads",
        "vsan",
    )
    assert first.target.networks == {"VLAN-100": "L2E_VLAN-100"}
    assert (second.selector.value, second.target.pool) == ("/DC1/vm/shop/app02", "Gold")
    assert second.target.networks == {"VLAN-100": "L2E_VLAN-100", "VLAN-200": "L2E_VLAN-200"}, "its own are added"
    again = ResolvedLive.load(wave.dump())
    assert again == wave
    assert digest_of(again) == digest_of(wave) != digest_of(wave.choose(["app01"]))
    with pytest.raises(SpecError, match="no server 'app1' \\(did you mean 'app01'"):
        wave.choose(["app1"])


def test_the_method_decides_which_dags_there_are(hcx: Any) -> None:
    shapes = usable_waves(hcx.waves, hcx.environments, hcx.kept).shapes
    assert {name: shape.method for name, shape in shapes.items()} == {"erp": "ec2", "live1": "hcx"}
    live = shapes["live1"]
    assert (live.connector, live.hcx_queue, live.environment_queue) == ("dc1", "dc1-hcx", "near-vmc")
    assert live.server_names == ("app01", "app02")
    assert (live.replicates, live.cuts_over, live.approve_switchover) == (False, False, True)
    assert live.window_end == "2030-01-06T04:00:00+01:00"
    assert WaveShape.fallback("gone").method == "any"


def test_a_broken_wave_keeps_its_method(hcx: Any) -> None:
    before = usable_waves(hcx.waves, hcx.environments, hcx.kept).shapes["live1"]
    hcx.wave("method: hcx\nwave: [", "live1")
    assert usable_waves(hcx.waves, hcx.environments, hcx.kept).shapes["live1"] == before


def test_settings_of_ec2_are_told_one_by_one(hcx: Any) -> None:
    text = HCX_WAVE.replace("  - app01\n", "  - {name: app01, subnet: subnet-aaaa0001}\n  - folder: /DC1/vm\n")
    found = errors(hcx, f"{text}source: {{connection: vc1}}\ndefaults: {{launch: running}}\ncutover: {{}}\n")
    assert found == [
        "waves/live1.yaml:8: servers[0].subnet: 'subnet' belongs to a server that lands in EC2; here, a server has a "
        "name or a path, and a target",
        "waves/live1.yaml:9: servers[1].folder: 'folder' belongs to a server that lands in EC2; here, a server has a "
        "name or a path, and a target",
        "waves/live1.yaml:9: servers[1]: a server needs exactly one of name and path; this entry has neither",
        "waves/live1.yaml:14: source: 'source' belongs to a wave of 'method: ec2'; remove it",
        "waves/live1.yaml:15: defaults: 'defaults' belongs to a wave of 'method: ec2'; remove it",
        "waves/live1.yaml:16: cutover: 'cutover' belongs to a wave of 'method: ec2'; remove it",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("method: hcx", "method: HCX"),
            "2: method: 'HCX' is not a valid value (did you mean 'hcx'?); allowed: ec2, hcx",
        ),
        (("environment: vmc", "environment: prod"), "3: environment: environment 'prod' is of 'kind: aws', and a wave"),
        (("environment: vmc", "environment: vmd"), "3: environment: there is no environments/vmd.yaml (did you mean"),
        (
            ("VLAN-100: L2E_VLAN-100", "VLAN-100: L2E_VLAN-101"),
            "6: target.networks.VLAN-100: environment 'vmc' does not allow 'L2E_VLAN-101' (did you mean "
            "'L2E_VLAN-100'?); allowed: L2E_VLAN-100, L2E_VLAN-200",
        ),
        (
            ("VLAN-200: L2E_VLAN-200", "VLAN-200: x"),
            "10: servers[1].target.networks.VLAN-200: environment 'vmc' does not allow 'x'; allowed: L2E_VLAN-100",
        ),
        (("pool: Gold", "pool: Golf"), "10: servers[1].target.pool: environment 'vmc' does not allow 'Golf' (did you"),
        (("  pool: Compute\n", ""), "7: servers[0]: has no pool: set it under target, here or for the wave; allowed: "),
        (("  - app01", "  - /DC1/vm/a"), "8: servers[0]: '/DC1/vm/a' contains '/': write it as 'path: /DC1/vm/a'"),
        (("method: hcx", "method: hcx\ntype: fast"), "3: type: 'fast' is not a valid value; allowed: rav, bulk, "),
        (
            ("method: hcx", "method: hcx\ntype: vmotion"),
            "12: window: HCX can't schedule migrations of type 'vmotion': remove the window, or choose a type that has "
            "one; allowed: rav, bulk",
        ),
        (("method: hcx", "method: hcx\ntype: cold"), "12: window: HCX can't schedule migrations of type 'cold'"),
        (("end: '2030-01-06T04", "end: '2030-01-05T21"), "11: window: the end of a window must be after its start"),
        (
            ("end: '2030-01-06T04:00", "end: '2030-01-05T22:10"),
            "11: window.end: the window has 10 minutes, and a switchover needs 30: end it later",
        ),
        (
            ("window: {", "x-window: {"),
            "12: approve_switchover: a switchover of type 'rav' can be held back only until",
        ),
        (
            ("method: hcx", "method: hcx\noptions: {force_power_off: true}"),
            "3: options.force_power_off: a migration of type 'rav' powers nothing off; remove it, or choose",
        ),
        (("  - path: /DC1/vm/shop/app02", "  - name: app01"), "9: servers[1].name: name 'app01' is already servers[0]"),
    ],
)
def test_bad_input_is_told_with_its_line(hcx: Any, change: tuple[str, str], expected: str) -> None:
    assert change[0] in HCX_WAVE
    (found,) = errors(hcx, HCX_WAVE.replace(*change))
    assert found.startswith(f"waves/live1.yaml:{expected}"), found


def test_vmotion_may_ask_without_a_window(hcx: Any) -> None:
    text = HCX_WAVE.replace("window: {", "x-window: {").replace("method: hcx", "method: hcx\ntype: vmotion")
    assert errors(hcx, text) == []


def test_a_wave_for_ec2_names_no_hcx_environment(hcx: Any, wave_text: str) -> None:
    path = hcx.wave(wave_text.replace("environment: prod", "environment: vmc"))
    (found,) = format_errors(check_file(path, hcx.environments)).splitlines()
    assert found.startswith("waves/erp.yaml:4: environment: environment 'vmc' is of 'kind: hcx': a wave needs 'method")


def test_a_window_that_is_over_takes_no_dag_away(hcx: Any) -> None:
    """``validate`` warns, and ``admit`` refuses with the same rule."""
    path = hcx.waves / "live1.yaml"
    end = datetime.fromisoformat("2030-01-06T04:00:00+01:00")
    checker = Checker(hcx.environments)
    late = end - timedelta(minutes=SWITCHOVER_MINUTES)
    assert checker.check(path) == ()
    assert checker.warnings(path, now=late) == ()
    assert checker.warnings(hcx.waves / "erp.yaml", now=end) == ()
    (soon,) = checker.warnings(path, now=late + timedelta(seconds=1))
    (past,) = checker.warnings(path, now=end + timedelta(days=1))
    assert "waves/live1.yaml:11: window.end: the window ends in less than 30 minutes" in str(soon)
    assert "waves/live1.yaml:11: window.end: the window is over (2030-01-06T04:00:00+01:00)" in str(past)
    hcx.wave(HCX_WAVE.replace("2030-", "2020-"), "live1")
    assert usable_waves(hcx.waves, hcx.environments, hcx.kept).errors == ()
    assert resolved_live("live1", hcx.waves, hcx.environments).window is not None


def test_each_method_refuses_the_other_s_waves(hcx: Any) -> None:
    with pytest.raises(SpecError, match=r"method: hcx.*do not land in EC2"):
        resolved_wave("live1", hcx.waves, hcx.environments)
    with pytest.raises(SpecError, match=r"method: hcx.*do not land in EC2"):
        load_resolved(hcx.waves / "live1.yaml", hcx.environments)
    with pytest.raises(SpecError, match="not of 'method: hcx'"):
        resolved_live("erp", hcx.waves, hcx.environments)
    assert [problem_of(name, hcx.waves, hcx.environments) for name in ("erp", "live1")] == ["", ""]


def test_an_environment_has_no_field_of_aws(hcx: Any) -> None:
    found = environment_errors(hcx, f"{HCX_ENVIRONMENT}region: eu-central-1\nnetwork: {{}}\npool: x\n")
    assert found == [
        "environments/vmc.yaml:14: region: 'region' belongs to an environment of 'kind: aws'; remove it",
        "environments/vmc.yaml:15: network: 'network' (did you mean 'networks'?) belongs to an environment of "
        "'kind: aws'; remove it",
        "environments/vmc.yaml:16: pool: unknown key 'pool' (did you mean 'pools'?); allowed: datastores, "
        "description, destination, environment, folders, hcx, kind, limits, may, networks, pools, source, … "
        "(13 in all)",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("kind: hcx", "kind: vmc"), "2: kind: 'vmc' is not a valid value; allowed: aws, hcx"),
        (
            ("may: {migrate: ['user:ana'], cut_over: ['user:ben'], administer: []}", ""),
            "1: may: is missing: Who may do",
        ),
        (
            ("connection: vc_vmc", "connection: vc1"),
            "7: destination.connection: 'vc1' is the source, too: HCX migrates",
        ),
        (
            ("connection: nsx_vmc", "connection: nsx_dc1"),
            "9: destination.nsx.connection: 'nsx_dc1' is the source's NSX",
        ),
        (("[Workloads]", "[]"), "11: folders: must not be empty"),
        (("[vsan]", "[vsan, vsan]"), "12: datastores[1]: 'vsan' is listed twice; remove one"),
        (("/infra/tier-1s/cgw", "cgw"), "9: destination.nsx.tier: 'cgw' is not the path of a gateway in NSX such as"),
        (("['user:ana']", "['group:ops']"), "3: may.migrate[0]: there is no group 'ops' in principals.yaml"),
        (("kind: hcx", "kind: hcx\nlimits: {hcx_mesh: 9}"), "3: limits.hcx_mesh: unknown key 'hcx_mesh' (did you mean"),
    ],
)
def test_a_wrong_environment_is_told_with_its_line(hcx: Any, change: tuple[str, str], expected: str) -> None:
    assert change[0] in HCX_ENVIRONMENT
    (found,) = environment_errors(hcx, HCX_ENVIRONMENT.replace(*change))
    assert found.startswith(f"environments/vmc.yaml:{expected}"), found


def test_a_file_that_lacks_its_kind_is_told(hcx: Any) -> None:
    found = environment_errors(hcx, HCX_ENVIRONMENT.replace("kind: hcx\n", ""))
    words = "hcx: 'hcx' belongs to an environment of 'kind: hcx': add this line, or remove the key"
    assert any(words in line for line in found), found


def test_what_needs_an_account_refuses_it_in_words(hcx: Any) -> None:
    environment = load_environment(hcx.environments / "vmc.yaml")
    assert isinstance(environment, HcxEnvironment)
    with pytest.raises(SpecError, match=r"kind: hcx.*no AWS account"):
        aws_only(environment)
    assert aws_only(load_environment(hcx.environments / "prod.yaml")).environment == "prod"
    granting = load_granting("vmc", hcx.environments)
    assert granting.environment.may == environment.may
    with pytest.raises(SpecError, match=r"kind: hcx.*no AWS account"):
        check(lambda: pytest.fail("AWS is not asked"), granting, user="ana")
    row = EnvironmentRow.of(environment, name="vmc", actions=["migrate"])
    assert (row.kind, row.account, row.region) == ("hcx", "", "")


def _mangled(text: str) -> st.SearchStrategy[str]:
    """A file with one line gone, twice, cut or with another value."""
    lines = text.splitlines()
    values = st.sampled_from(
        ["", "x", "[]", "{}", "[a, {b: c}]", "~", "true", "-1", "1e9", "'2030-01-01'", "hcx", "&a [*a]"]
    )

    def change(number: int, how: str, value: str) -> str:
        line = lines[number]
        done = {
            "gone": [],
            "twice": [line, line],
            "cut": [line[: len(line) // 2]],
            "value": [f"{line.partition(':')[0]}: {value}"],
            "key": [f"{line.partition(':')[0]}x:{line.partition(':')[2]}"],
        }[how]
        return "\n".join([*lines[:number], *done, *lines[number + 1 :]]) + "\n"

    ways = st.sampled_from(["gone", "twice", "cut", "value", "key"])
    return st.builds(change, st.integers(0, len(lines) - 1), ways, values)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    wave=_mangled(HCX_WAVE), environment=_mangled(HCX_ENVIRONMENT), network=_mangled(NETWORK), which=st.integers(0, 2)
)
def test_a_mangled_file_is_its_own_trouble(hcx: Any, wave: str, environment: str, network: str, which: int) -> None:
    """Whatever one file says: nothing is raised, no fault of wavelift, and each spec is valid or has a line."""
    hcx.wave(wave if which == 0 else HCX_WAVE, "live1")
    hcx.environment(environment if which == 1 else HCX_ENVIRONMENT, "vmc")
    hcx.network(network if which == 2 else NETWORK)
    found = load_folder(hcx.waves, hcx.environments, hcx.networks)
    assert not any("fault in wavelift" in line or not line.isprintable() for line in found.errors), found.errors
    assert "erp" in found.waves, "another wave in another environment"
    assert ("live1" in found.waves and "web" in found.networks) or found.errors
    for loaded in found.waves.values():
        assert loaded.resolve().dump() is not None
    for loaded_network in found.networks.values():
        loaded_network.resolve().dump()
    live = found.waves.get("live1")
    assert live is None or isinstance(live, LoadedLive) or which == 0


HOSTILE: dict[str, tuple[str, str]] = {
    "many keys of EC2": (
        HCX_WAVE.partition("servers:")[0] + "servers:\n" + "- {subnet: a, launch: b, tags: {}, verify: c}\n" * 2_000,
        HCX_ENVIRONMENT,
    ),
    "many wrong networks": (
        HCX_WAVE.partition("servers:")[0]
        + "servers:\n"
        + "".join(
            f"- {{name: s{n}, target: {{networks: {{{', '.join(f'n{m}: x{m}' for m in range(18))}}}}}}}\n"
            for n in range(450)
        ),
        HCX_ENVIRONMENT.replace("[L2E_VLAN-100,", "[" + ", ".join(f"x-{n}" for n in range(1_900)) + ", L2E_VLAN-100,"),
    ),
    "a wrong pool for many": (
        HCX_WAVE.partition("servers:")[0].replace("Compute", "Golf")
        + "servers:\n"
        + "".join(f"- s{n}\n" for n in range(500)),
        HCX_ENVIRONMENT,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_costs_little(hcx: Any, name: str) -> None:
    wave, environment = HOSTILE[name]
    hcx.wave(wave, "live1")
    hcx.environment(environment, "vmc")
    began = time.process_time()
    found = load_folder(hcx.waves, hcx.environments, hcx.networks)
    assert time.process_time() - began < 2
    assert 0 < len(found.errors) <= MAX_PROBLEMS + 3
    assert {line.partition(":")[0] for line in found.errors} == {"waves/live1.yaml"}
