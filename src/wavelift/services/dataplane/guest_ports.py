"""Checks whether a guest's SSH or RDP port accepts a connection from the connector (SMS-11).

A guest can report any address to VMware Tools, so this check must not become a network scan. It opens one connection
per server, to one port (22 or 3389, by guest id) of the primary address. It sends and reads nothing. It never contacts
an address that could be the connector itself, a metadata service or a multicast group.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from wavelift.base.domain import ServerFacts
from wavelift.base.run import CancelFlag
from wavelift.rules.guests import guest
from wavelift.rules.vsphere_facts import GuestPort

SSH: Final = 22
RDP: Final = 3389
TIMEOUT_S: Final = 3.0
"""A firewall that drops costs this; a guest in the same data centre answers within milliseconds."""
AT_ONCE: Final = 16
DOCUMENTATION: Final = tuple(map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")))
"""RFC 5737: nobody's. The guests of the demo have such addresses."""


def look_at_ports(servers: Sequence[ServerFacts], cancel: CancelFlag) -> dict[str, GuestPort]:
    """Managed object id → what was found, some at a time."""
    if not servers:
        return {}
    with ThreadPoolExecutor(min(AT_ONCE, len(servers)), thread_name_prefix="guest-port") as pool:
        found = list(pool.map(lambda facts: _look(facts, cancel), servers))
    return {facts.moref: port for facts, port in zip(servers, found, strict=True)}


def _look(facts: ServerFacts, cancel: CancelFlag) -> GuestPort:
    row = guest(facts.guest_id)
    if not row.windows and row.family != "linux":
        return GuestPort(0, not_asked="the guest id says neither Linux nor Windows")
    port = RDP if row.windows else SSH
    if facts.power != "poweredOn":
        return GuestPort(port, not_asked="the VM is off")
    if not facts.tools_running or not facts.ip_addresses:
        return GuestPort(port, not_asked="VMware Tools reports no address")
    address = facts.ip_addresses[0]
    why = unfit(address)
    if why or cancel.is_set():
        return GuestPort(port, address, not_asked=why or "the run was stopped")
    return GuestPort(port, address, failed=connect(address, port))


def unfit(address: str) -> str:
    """Why this can't be a guest's address in a network; empty when it can."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return f"VMware Tools reports {address!r}, which is no address"
    inner = getattr(found, "ipv4_mapped", None) or found
    if (
        inner.is_loopback
        or inner.is_link_local
        or inner.is_multicast
        or inner.is_unspecified
        or inner.is_reserved
        or any(inner in network for network in DOCUMENTATION if network.version == inner.version)
    ):
        return f"VMware Tools reports {address}, which no other machine reaches"
    return ""


def connect(address: str, port: int, *, timeout: float = TIMEOUT_S) -> str:
    """Why the port does not answer; empty when it does."""
    try:
        socket.create_connection((address, port), timeout=timeout).close()
    except TimeoutError:
        return f"no answer within {timeout:g} s"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""
