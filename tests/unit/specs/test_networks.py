"""Networks that are cut over: by line what is wrong, and the last valid shape of a broken file."""

from __future__ import annotations

from typing import Any

import pytest
from tests.specs import HCX_ENVIRONMENT, NETWORK

from wavelift.base.errors import SpecError
from wavelift.rules.network import NetworkSpec
from wavelift.rules.network_plans import NetworkShape, ResolvedNetwork
from wavelift.specs import (
    check_file,
    format_errors,
    load_folder,
    load_network,
    resolved_network,
    usable_networks,
)

pytestmark = pytest.mark.unit


def errors(hcx: Any, text: str, name: str = "web") -> list[str]:
    return format_errors(check_file(hcx.network(text, name), hcx.environments, hcx.networks)).splitlines()


def usable(hcx: Any, only: str | None = None) -> Any:
    return usable_networks(hcx.networks, hcx.environments, hcx.kept, only=only)


def other(text: str = NETWORK) -> str:
    """Another network with another extension."""
    return text.replace("network: web", "network: db").replace("VLAN-100", "VLAN-200")


def test_a_valid_network_resolves(hcx: Any) -> None:
    assert errors(hcx, NETWORK) == []
    found = load_network(hcx.networks / "web.yaml", hcx.environments).resolve()
    assert (found.network, found.prefix, found.environment.environment) == ("web", "10.1.2.0/24", "vmc")
    spec = found.spec
    assert (spec.on_failure, spec.soak_hours, spec.approve, spec.exceptions) == (
        "revert",
        24,
        "required",
        ("router01",),
    )
    assert spec.probes is not None
    assert [probe.kind for probe in spec.probes.checks] == ["tcp", "http", "dns"]
    assert ResolvedNetwork.load(found.dump()) == found
    assert resolved_network("web", hcx.networks, hcx.environments) == found


def test_a_person_disconnects_by_default() -> None:
    body = {"network": "L2E", "segment": "/infra/segments/x", "gateway": "10.0.0.1/24"}
    spec = NetworkSpec.load({"network": "n", "environment": "e", "source": {"network": "VLAN"}, "destination": body})
    assert (spec.source.disconnect.by, spec.source.segment, spec.probes) == ("person", None, None)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("network: L2E_VLAN-100\n", "network: L2E_VLAN-101\n"), "8: destination.network: environment 'vmc' does not "),
        (
            ("environment: vmc", "environment: prod"),
            "2: environment: environment 'prod' is of 'kind: aws', and a network",
        ),
        (("environment: vmc", "environment: nowhere"), "2: environment: there is no environments/nowhere.yaml"),
        (("  queue: office\n", ""), "11: probes.queue: is missing: Airflow queue of the worker that asks"),
        (
            ("by: nsx", "by: nxs"),
            "6: source.disconnect.by: no disconnection 'nxs' is installed (did you mean 'nsx'?); ",
        ),
        (("  segment: /infra/segments/VLAN-100\n", ""), "3: source.segment: a disconnection by 'nsx' needs the path"),
        (("by: nsx", "by: webhook"), "6: source.disconnect: a disconnection by 'webhook' needs its connection"),
        (
            ("by: nsx", "by: person, connection: x"),
            "6: source.disconnect: a disconnection by 'person' takes no connection",
        ),
        (
            ("10.1.2.1/24", "10.1.2.1"),
            "10: destination.gateway: '10.1.2.1' is not a gateway with the length of its pre",
        ),
        (("10.1.2.1/24", "10.1.2.0/24"), "10: destination.gateway: '10.1.2.0/24' is the network's own address or its"),
        (("10.1.2.1/24", "10.1.2.1/31"), "10: destination.gateway: '10.1.2.1/31': a prefix has a length from 8 to 30"),
        (
            ("/infra/tier-1s/cgw/segments/L2E_VLAN-100", "/infra/../x"),
            "9: destination.segment: '/infra/../x' is not the",
        ),
        (
            ("kind: http, to", "kind: htp, to"),
            "15: probes.checks[1]: a check of kind 'htp' takes no path; allowed: arg",
        ),
        (
            ("path: /health", "port: 80, name: a.b"),
            "15: probes.checks[1]: a check of kind 'http' takes no name; allowed",
        ),
        (("port: 22, accept", "accept"), "14: probes.checks[0]: a check of kind 'tcp' needs its port"),
        (("exceptions: [router01]", "exceptions: [a, a]"), "17: exceptions[1]: 'a' is listed twice; remove one"),
        (("rename_to", "renam_to"), "18: renam_to: unknown key 'renam_to' (did you mean 'rename_to'?)"),
        (
            ("exceptions: [router01]", "approve: two"),
            "17: approve: 'two' is not a valid value; allowed: required, four_",
        ),
        (
            ("exceptions: [router01]", "on_failure: undo"),
            "17: on_failure: 'undo' is not a valid value; allowed: revert,",
        ),
        (("network: web", "network: cutover_watch"), "1: network: 'cutover_watch' is reserved"),
        (("network: web", "network: instance_export"), "1: network: 'instance_export' is reserved"),
        (("network: web", "network: dmz"), "1: network: 'dmz' must equal the file's name: write 'network: web'"),
    ],
)
def test_bad_input_is_told_with_its_line(hcx: Any, change: tuple[str, str], expected: str) -> None:
    assert change[0] in NETWORK
    (found,) = errors(hcx, NETWORK.replace(*change))
    assert found.startswith(f"networks/web.yaml:{expected}"), found


def test_an_environment_without_nsx_can_cut_nothing_over(hcx: Any) -> None:
    text = HCX_ENVIRONMENT.replace(", nsx: nsx_dc1", "").replace(
        "  nsx: {connection: nsx_vmc, tier: /infra/tier-1s/cgw}\n", ""
    )
    hcx.environment(text, "vmc")
    assert errors(hcx, NETWORK) == [
        "networks/web.yaml:2: environment: environment 'vmc' has no 'nsx' under 'destination', and no network can be "
        "cut over without",
        "networks/web.yaml:5: source.segment: environment 'vmc' has no 'nsx' under 'source', where the segment could "
        "be read",
    ]


def test_two_networks_that_name_one_extension_are_told_in_both_files(hcx: Any) -> None:
    hcx.network(NETWORK.replace("network: web", "network: dmz"), "dmz")
    hcx.network(other(), "db")
    found = load_folder(hcx.waves, hcx.environments, hcx.networks)
    assert list(found.networks) == ["db"], "its extension is its own"
    words = "names 'VLAN-100', too: one extension has one file; remove one of them"
    assert f"networks/dmz.yaml:4: source.network: web.yaml {words}" in found.errors
    assert f"networks/web.yaml:4: source.network: dmz.yaml {words}" in found.errors
    assert len([line for line in found.errors if "destination.segment" in line]) == 2
    assert errors(hcx, NETWORK)[0] == f"networks/web.yaml:4: source.network: dmz.yaml {words}"
    with pytest.raises(SpecError, match=r"dmz\.yaml names 'VLAN-100'"):
        resolved_network("web", hcx.networks, hcx.environments)
    assert resolved_network("db", hcx.networks, hcx.environments).network == "db"


def test_a_broken_file_may_name_the_extension_too(hcx: Any) -> None:
    """Else the first of two would be cut over while the other is being corrected."""
    hcx.network(NETWORK.replace("network: web", "network: dmz").replace("soak", "soap") + "soap: 1\n", "dmz")
    assert "dmz.yaml names 'VLAN-100'" in errors(hcx, NETWORK)[0]


def test_one_source_network_in_two_environments_is_two_extensions(hcx: Any) -> None:
    hcx.environment(HCX_ENVIRONMENT.replace("environment: vmc", "environment: vmd"), "vmd")
    hcx.network(NETWORK.replace("network: web", "network: dmz").replace("environment: vmc", "environment: vmd"), "dmz")
    assert load_folder(hcx.waves, hcx.environments, hcx.networks).errors == ()


@pytest.mark.parametrize("only", [None, "web"])
@pytest.mark.parametrize("broken", ["", "network: [", "network: web\n"])
def test_a_broken_network_keeps_its_last_valid_shape(hcx: Any, only: str | None, broken: str) -> None:
    before = usable(hcx).shapes["web"]
    assert (before.source_queue, before.hcx_queue, before.destination_queue) == ("dc1", "dc1-hcx", "near-vmc")
    assert (before.probe_queue, before.disconnect_by) == ("office", "nsx")
    hcx.network(broken)
    after = usable(hcx, only)
    assert after.shapes == {"web": before}
    assert after.networks["web"].stale
    assert any(line.startswith("networks/web.yaml:") for line in after.errors)
    with pytest.raises(SpecError, match="The files of network 'web' do not allow a new run"):
        resolved_network("web", hcx.networks, hcx.environments)


def test_a_task_gets_a_shape_whatever_became_of_the_file(hcx: Any) -> None:
    (hcx.networks / "web.yaml").unlink()
    assert usable(hcx, "web").shapes == {"web": NetworkShape.fallback("web")}
    assert usable(hcx).shapes == {}
    assert usable(hcx, "../web").shapes == {}
    with pytest.raises(SpecError, match="there is no such file"):
        resolved_network("web", hcx.networks, hcx.environments)


def test_a_wave_and_a_network_of_one_name_keep_their_own_shapes(hcx: Any) -> None:
    from wavelift.specs import usable_waves

    hcx.network(NETWORK.replace("network: web", "network: erp"), "erp")
    (hcx.networks / "web.yaml").unlink()
    assert usable_waves(hcx.waves, hcx.environments, hcx.kept).shapes["erp"].wave == "erp"
    assert usable(hcx).shapes["erp"].network == "erp"
    hcx.wave("wave: [")
    assert usable_waves(hcx.waves, hcx.environments, hcx.kept).shapes["erp"].server_names == ("web01", "db01")


def test_no_folder_is_no_network(folders: Any) -> None:
    """An installation that was made before networks were there has no such folder."""
    assert usable(folders) == usable_networks(folders.networks, folders.environments, folders.kept)
    assert (usable(folders).shapes, usable(folders).errors) == ({}, ())
    assert load_folder(folders.waves, folders.environments, folders.networks).errors == ()
