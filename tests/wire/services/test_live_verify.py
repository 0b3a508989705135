"""After HCX said complete: both vCenters are looked at, and nothing is assumed (HCX-05)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.live_journey import Live, a_wave
from tests.wire.simulators_hcx.conftest import Sites, running, sites, vm

from wavelift.adapters.vsphere import placement
from wavelift.rules.hcx_wave import MigrationType
from wavelift.services.dataplane import hcx_migrate
from wavelift.services.dataplane.live_messages import FoundThere, LiveOrder
from wavelift.simulators.vcenter import SimNic

pytestmark = pytest.mark.wire

__all__ = ["running", "sites"]

MAC = "00:50:56:01:02:0b"
SECONDS = 60.0
"""Between two looks."""


@pytest.fixture
def live(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> Live:
    monkeypatch.setattr(hcx_migrate, "LOOK_SECONDS", 0.01)
    return Live(sites)


def moved(live: Live, name: str = "app01", type: MigrationType = "rav", **wave: Any) -> LiveOrder:
    """HCX has migrated it."""
    order = live.order(a_wave(name, type=type, **wave))
    ended = live.until_over(live.started(order))
    assert [one.phase for one in ended.servers] == ["complete"]
    return order


def judged(live: Live, order: LiveOrder, side: str, **more: Any) -> tuple[FoundThere, float]:
    """The verdict, and after how many seconds of looking it came."""
    began = live.clock.monotonic()
    for _ in range(40):
        found = live.look(order, order.tasks[0].name, side, **more)
        if found is not None:
            return found, live.clock.monotonic() - began
        live.clock.sleep(SECONDS)
    raise AssertionError("it looks for ever")


def anew(live: Live, ref: str, **changes: Any) -> None:
    """The destination's VM, lying elsewhere."""
    spec = live.world.destination.get_vm(ref)["spec"]
    live.world.destination.remove_vm(ref)
    live.world.destination.add_vm({**spec, **changes})


def other_folder(live: Live, ref: str) -> None:
    live.world.destination.add_folder("elsewhere")
    anew(live, ref, folder="elsewhere")


def other_pool(live: Live, ref: str) -> None:
    live.world.destination.add_pool("Small")
    anew(live, ref, pool="Small")


def other_network(live: Live, ref: str) -> None:
    live.world.destination.add_network("quarantine", "standard")
    live.world.destination.set_nic(ref, mac=MAC, network="quarantine")


def other_mac(live: Live, ref: str) -> None:
    live.world.destination.set_nic(ref, mac=MAC, remove=True)
    live.world.destination.add_nic(ref, SimNic(("10.1.2.11",), network="L2E_VLAN-100", network_kind="nsx"))


def a_twin(live: Live, ref: str) -> None:
    card = SimNic(network="L2E_VLAN-100", network_kind="nsx", mac=MAC)
    live.world.destination.add_vm(replace(vm("twin", 99, power="poweredOff", folder=""), nics=(card,)))


def disconnected(live: Live, ref: str) -> None:
    live.world.destination.set_nic(ref, mac=MAC, connected=False)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (other_folder, "in the folder '/dc1/vm/elsewhere'"),
        (other_pool, "in the pool 'Small'"),
        (other_network, f"{MAC} on 'quarantine', not L2E_VLAN-100"),
        (other_mac, f"not {MAC}"),
        (a_twin, "twin' has a MAC address of the server, too"),
        (disconnected, f"{MAC} is disconnected, and was not"),
    ],
)
def test_hcx_05_what_is_not_as_it_should_be_fails_at_once(
    live: Live, damage: Callable[[Live, str], None], words: str
) -> None:
    order = moved(live)
    damage(live, live.there("app01"))
    found, waited = judged(live, order, "destination")
    assert not found.passed
    assert any(words in each for each in found.wrong), found.wrong
    assert not waited, "no time cures it"


def test_hcx_05_off_or_absent_is_waited_for_and_fails(live: Live) -> None:
    order = moved(live)
    ref = live.there("app01")
    live.world.destination.set_vm(ref, power="poweredOff")
    found, waited = judged(live, order, "destination")
    assert "it is poweredOff, and should be poweredOn" in found.wrong
    assert 15 * 60 <= waited <= 16 * 60
    live.world.destination.set_vm(ref, power="poweredOn")
    found, waited = judged(live, order, "destination")
    assert found.passed, "asked again after a correction, it begins anew"
    assert not waited
    live.world.destination.remove_vm(ref)
    found, waited = judged(live, order, "destination")
    assert found.wrong == ("the destination's vCenter has no such VM",)
    assert waited >= 15 * 60


def test_hcx_05_addresses_may_come_minutes_later(live: Live) -> None:
    order = moved(live, type="bulk")
    ref = live.there("app01")
    live.world.destination.set_vm(ref, tools="not_running")
    assert live.look(order, "app01", "destination") is None
    live.clock.sleep(300)
    live.world.destination.set_nic(ref, mac=MAC, ips=[])
    live.world.destination.set_vm(ref, tools="running")
    assert live.look(order, "app01", "destination") is None
    live.clock.sleep(300)
    live.world.destination.set_nic(ref, mac=MAC, ips=["10.1.2.11", "10.1.2.12", "fe80::1"])
    found = live.look(order, "app01", "destination")
    assert found is not None
    assert found.passed, found


def test_hcx_05_another_address_fails(live: Live) -> None:
    order = moved(live, type="bulk")
    live.world.destination.set_nic(live.there("app01"), mac=MAC, ips=["10.1.2.77"])
    found, waited = judged(live, order, "destination")
    assert found.wrong == ("its IP addresses are 10.1.2.77, not 10.1.2.11",)
    assert waited >= 15 * 60


def test_hcx_05_a_guest_without_tools_is_not_verified(live: Live) -> None:
    live.world.source.set_vm(live.there("app01", "source"), tools="not_running")
    order = moved(live)
    found, waited = judged(live, order, "destination")
    assert not found.passed
    assert not found.wrong
    assert "VMware Tools did not run" in found.unverified[0]
    assert not waited, "nobody ever told its addresses"
    found, _ = judged(live, order, "destination", accept_no_tools=True)
    assert found.passed


def test_hcx_05_tools_that_stay_away_are_accepted_only_after_the_wait(live: Live) -> None:
    order = moved(live, type="bulk")
    live.world.destination.set_vm(live.there("app01"), tools="not_running")
    found, waited = judged(live, order, "destination", accept_no_tools=True)
    assert (found.passed, len(found.unverified)) == (True, 1)
    assert waited >= 15 * 60
    found, _ = judged(live, order, "destination")
    assert not found.passed


def test_hcx_05_new_mac_addresses_as_wanted(live: Live) -> None:
    order = live.order(a_wave("app01", type="bulk", options={"retain_mac": False}), accept_warnings=True)
    live.until_over(live.started(order))
    found, _ = judged(live, order, "destination")
    assert found.passed, found
    assert "on L2E_VLAN-100; new MAC addresses, as wanted" in found.verified


# --- the source -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["rav", "vmotion"])
def test_hcx_05_a_source_that_is_still_there_fails(live: Live, type: MigrationType) -> None:
    spec = live.world.source.get_vm(live.there("app01", "source"))["spec"]
    order = moved(live, type=type)
    live.world.source.add_vm({**spec, "power": "poweredOff"})
    found, waited = judged(live, order, "source")
    assert not found.passed
    assert "it is still at the source: '/dc1/vm/shop/app01'" in found.wrong[0]
    assert waited >= 15 * 60
    live.world.source.remove_vm(live.there("app01", "source"))
    found, _ = judged(live, order, "source")
    assert found.passed


def test_hcx_05_a_source_of_which_vcenter_tells_nothing_is_not_gone(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its datastore is away: it has neither instance UUID nor MAC address, and comes back with its datastore."""
    order = live.order(a_wave("app01"))
    monkeypatch.setattr(placement, "find_vms", lambda *_, **__: [()])
    found, _ = judged(live, order, "source")
    assert not found.passed
    assert "it is still at the source: '/dc1/vm/shop/app01'" in found.wrong[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("name", "the source is still called 'app01'"),
        ("power", "is poweredOn"),
        ("card", "cards of the source are connected"),
    ],
)
def test_hcx_05_a_bulk_source_must_not_come_back(live: Live, change: str, words: str) -> None:
    order = moved(live, type="bulk")
    (left,) = [each for each in live.world.source.state()["vms"] if each["name"].startswith("app01")]
    ref = left["moref"]
    if change == "name":
        live.world.source.rename_vm(ref, "app01")
    elif change == "power":
        live.world.source.set_vm(ref, power="poweredOn")
    else:
        live.world.source.add_nic(ref, SimNic(network="VLAN-100", network_kind="nsx"))
    found, waited = judged(live, order, "source")
    assert not found.passed
    assert any(words in each for each in found.wrong), found.wrong
    assert waited >= 15 * 60
