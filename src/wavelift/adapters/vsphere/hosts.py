"""The ESXi hosts and datastores under a VM, and whether the connector can reach them (AMP-11, SMS-15..17)."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from pyVmomi import vim

from wavelift.adapters.vsphere.esxi import esxi_context
from wavelift.adapters.vsphere.faults import TEXT_LONGEST, moref
from wavelift.adapters.vsphere.properties import Values, all_refs, collect
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession
from wavelift.base.errors import LoginError, TlsError, WaveliftError
from wavelift.base.net import CUTS, explained_tls_error, https_connection, unreachable
from wavelift.base.printable import printable
from wavelift.base.units import GIB

log = logging.getLogger(__name__)

HTTPS: Final = 443
AUTHD: Final = 902
"""The port that many vCenters report for a host: its authentication daemon's, beside which HTTPS is at 443."""

PORTS: Final = 65535
PROBE_TIMEOUT_S: Final = 10.0
PROBES: Final = 8
"""At one time."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One ESXi host as vCenter knows it."""

    moref: str
    name: str
    version: str
    build: str
    connection_state: str
    """``connected``, ``disconnected`` or ``notResponding``."""
    in_maintenance: bool
    thumbprint: str
    """SHA-1 of its certificate as vCenter reports it; empty when it doesn't."""
    port: int
    """Of its HTTPS server."""


@dataclass(frozen=True, slots=True)
class DatastoreFacts:
    """One datastore. Sizes in bytes."""

    moref: str
    name: str
    kind: str
    """``VMFS``, ``NFS``, ``vsan`` …"""
    capacity: int
    free: int
    accessible: bool

    @property
    def free_pct(self) -> float:
        return 100 * self.free / self.capacity if self.capacity else 0.0

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}, {self.free / GIB:.1f} GiB of {self.capacity / GIB:.1f} GiB free)"


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether the connector reaches a host by HTTPS and trusts its certificate."""

    host: str
    """As vCenter names it."""
    tried: str
    """The name after DNS suffixes were applied."""
    reachable: bool
    certificate_valid: bool
    error: WaveliftError | None = None

    @property
    def fully_qualified(self) -> bool:
        """False: the DNS search suffix may be what is missing."""
        return "." in self.host or ":" in self.host


_HOST: Final = (
    "name",
    "runtime.connectionState",
    "runtime.inMaintenanceMode",
    "summary.config.port",
    "summary.config.product.build",
    "summary.config.product.version",
    "summary.config.sslThumbprint",
)
_STORE: Final = ("summary.accessible", "summary.capacity", "summary.freeSpace", "summary.name", "summary.type")


def host_refs(session: VsphereSession) -> list[str]:
    """Every host that the account may see, as managed object ids."""
    return all_refs(session, vim.HostSystem)


def host_facts(session: VsphereSession, hosts: Iterable[str]) -> dict[str, HostFacts]:
    """Host's moref → facts, in one call per 500 hosts."""
    return {ref: _host(ref, values) for ref, values in collect(session, vim.HostSystem, hosts, _HOST).items()}


def _host(ref: str, values: Values) -> HostFacts:
    return HostFacts(
        moref=ref,
        name=str(values.get("name", "")),
        version=str(values.get("summary.config.product.version") or ""),
        build=str(values.get("summary.config.product.build") or ""),
        connection_state=printable(values.get("runtime.connectionState") or "", TEXT_LONGEST),
        in_maintenance=bool(values.get("runtime.inMaintenanceMode")),
        thumbprint=str(values.get("summary.config.sslThumbprint") or ""),
        port=_port(values.get("summary.config.port")),
    )


def _port(reported: int | None) -> int:
    return int(reported) if reported and 0 < reported <= PORTS and reported != AUTHD else HTTPS


def datastore_facts(session: VsphereSession, vms: Sequence[str]) -> dict[str, list[DatastoreFacts]]:
    """VM's moref → its datastores, in two calls per 500 and one per datastore: vCenter itself looks at their free space
    only every few minutes, in which a snapshot can fill one.
    """
    found = collect(session, vim.VirtualMachine, vms, ["datastore"])
    refs = {vm: [moref(store) for store in values.get("datastore") or ()] for vm, values in found.items()}
    for ref in dict.fromkeys(ref for mine in refs.values() for ref in mine):
        _refresh(session, ref)
    stores = {
        ref: DatastoreFacts(
            moref=ref,
            name=str(values.get("summary.name", "")),
            kind=str(values.get("summary.type", "")),
            capacity=int(values.get("summary.capacity") or 0),
            free=int(values.get("summary.freeSpace") or 0),
            accessible=bool(values.get("summary.accessible")),
        )
        for ref, values in collect(session, vim.Datastore, [r for s in refs.values() for r in s], _STORE).items()
    }
    return {vm: [stores[ref] for ref in mine if ref in stores] for vm, mine in refs.items()}


def _refresh(session: VsphereSession, datastore: str) -> None:
    """Have vCenter look; where it can't, what it saw last has to do."""
    try:
        session.read(session.managed(vim.Datastore, datastore).RefreshDatastore, datastore=datastore)
    except LoginError:
        raise
    except WaveliftError as error:
        log.info("the free space of datastore %s may be some minutes old: %s", datastore, error.what)


def probe(config: VsphereConfig, host: HostFacts, *, timeout: float = PROBE_TIMEOUT_S) -> Reach:
    """Connect to ``host`` by TCP and TLS under the connection's ``esxi_mode``; never raises, sends nothing."""
    port = host.port
    try:
        name = config.esxi_name(host.name)
    except WaveliftError as error:
        return Reach(host.name, host.name, reachable=False, certificate_valid=False, error=error)
    try:
        context = esxi_context(config, name, port, (host.thumbprint,), timeout=timeout)
        _handshake(config, name, port, context, timeout)
    except TlsError as error:
        return Reach(host.name, name, reachable=True, certificate_valid=False, error=error)
    except WaveliftError as error:
        return Reach(host.name, name, reachable=False, certificate_valid=False, error=error)
    return Reach(host.name, name, reachable=True, certificate_valid=True)


def probe_all(
    config: VsphereConfig, hosts: Mapping[str, HostFacts], *, timeout: float = PROBE_TIMEOUT_S
) -> dict[str, Reach]:
    """Host's moref → :class:`Reach`; each host once, some at a time: a firewall that drops costs the whole time-out."""
    if not hosts:
        return {}
    with ThreadPoolExecutor(min(PROBES, len(hosts)), thread_name_prefix="esxi-probe") as pool:
        return dict(
            zip(hosts, pool.map(lambda host: probe(config, host, timeout=timeout), hosts.values()), strict=True)
        )


def _handshake(config: VsphereConfig, host: str, port: int, context: ssl.SSLContext, timeout: float) -> None:
    proxy, address = config.http_proxy, config.esxi_address(host)
    connection = https_connection(host, port, context, timeout=timeout, proxy=proxy, address=address)
    try:
        connection.connect()
    except ssl.SSLError as error:
        if isinstance(error, CUTS):
            raise unreachable(error, host, port) from error
        raise explained_tls_error(
            error, host, port, timeout=timeout, proxy=proxy, override="esxi_mode", address=address
        ) from error
    except (OSError, *CUTS) as error:
        raise unreachable(error, host, port) from error
    finally:
        connection.close()
