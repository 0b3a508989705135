"""One connection to the guest's SSH or RDP, and no way to look at anything else (SMS-11)."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from wavelift.base.domain import ServerFacts
from wavelift.base.run import CancelFlag
from wavelift.rules.vsphere_facts import GuestPort
from wavelift.services.dataplane import guest_ports
from wavelift.services.dataplane.guest_ports import connect, look_at_ports, unfit

pytestmark = pytest.mark.unit


def facts(moref: str = "vm-1", guest_id: str = "debian12_64Guest", **changes: object) -> ServerFacts:
    values: dict[str, object] = {
        "name": moref,
        "moref": moref,
        "instance_uuid": "u",
        "path": f"/dc/vm/{moref}",
        "power": "poweredOn",
        "tools_running": True,
        "ip_addresses": ("10.0.0.5", "10.9.9.9"),
        "guest_id": guest_id,
    }
    return ServerFacts.model_validate(values | changes)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    seen: list[tuple[str, int]] = []

    def connect(address: str, port: int) -> str:
        seen.append((address, port))
        return "" if port == 22 else "connection refused"

    monkeypatch.setattr(guest_ports, "connect", connect)
    return seen


def test_sms_11_only_the_primary_address_and_the_port_of_its_kind_are_asked(asked: list[tuple[str, int]]) -> None:
    windows = facts("vm-2", "windows2019srv_64Guest", ip_addresses=("2001:db8:1::5",))
    assert look_at_ports([facts(), windows], CancelFlag()) == {
        "vm-1": GuestPort(22, "10.0.0.5"),
        "vm-2": GuestPort(3389, "2001:db8:1::5", failed="connection refused"),
    }
    assert sorted(asked) == [("10.0.0.5", 22), ("2001:db8:1::5", 3389)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"power": "poweredOff"}, "the VM is off"),
        ({"tools_running": False}, "VMware Tools reports no address"),
        ({"ip_addresses": ()}, "VMware Tools reports no address"),
        ({"guest_id": "otherGuest64"}, "the guest id says neither Linux nor Windows"),
        ({"ip_addresses": ("169.254.169.254",)}, "no other machine reaches"),
    ],
)
def test_what_is_not_asked_says_why(asked: list[tuple[str, int]], changes: dict[str, object], why: str) -> None:
    (found,) = look_at_ports([facts(**changes)], CancelFlag()).values()  # type: ignore[arg-type]
    assert why in found.not_asked
    assert asked == []


def test_a_stopped_run_asks_nobody(asked: list[tuple[str, int]]) -> None:
    cancel = CancelFlag()
    cancel.set()
    (found,) = look_at_ports([facts()], cancel).values()
    assert found.not_asked
    assert asked == []
    assert look_at_ports([], cancel) == {}


NOBODY = "127.0.0.1 ::1 0.0.0.0 169.254.169.254 fe80::1 224.0.0.1 ff02::1 255.255.255.255 192.0.2.11"
MADE_UP = "::ffff:127.0.0.1 ::ffff:169.254.169.254 localhost 10.0.0.5:22"


@pytest.mark.parametrize("address", [*NOBODY.split(), *MADE_UP.split(), ""])
def test_an_address_that_a_guest_made_up_is_not_asked(address: str) -> None:
    assert unfit(address)


@pytest.mark.parametrize("address", ["10.0.0.5", "192.168.1.7", "172.16.0.1", "100.64.0.9", "fd00::7", "8.8.8.8"])
def test_an_address_of_a_network_is_fit(address: str) -> None:
    assert unfit(address) == ""


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_connection_tells_whether_a_port_answers(listening: int) -> None:
    assert connect("127.0.0.1", listening) == ""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert connect("127.0.0.1", port) == "connection refused"


def test_a_port_behind_a_wall_costs_the_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def drop(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", drop)
    assert connect("10.0.0.5", 22) == "no answer within 3 s"
