"""Simulated HCX and NSX: a source site, whose vCenter is the demo's, a destination, and the manager between them."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

NETWORK: Final = "VLAN-100"
"""The source's network, on which the demo's servers are."""
EXTENDED: Final = "L2E_VLAN-100"
"""What the simulated HCX calls the segment that it makes at the destination."""
GATEWAY: Final = "192.0.2.1/24"
PREFIX: Final = "192.0.2.0/24"
TIER: Final = "/infra/tier-1s/cgw"
POOL: Final = "Compute"
FOLDER: Final = "Workloads"
DESTINATION_UUID: Final = "5b1e7a3c-0000-4000-8000-0000000000d2"
"""Of the destination's vCenter: HCX tells vCenters apart by it, and all simulators have the same."""


@dataclass(frozen=True)
class Sites:
    """What runs of both sites, beside the source's vCenter."""

    destination: Any = None
    """A vCenter."""
    nsx: tuple[Any, ...] = ()
    """Of the source and of the destination, or none."""
    hcx: Any = None

    def connections(self) -> dict[str, str]:
        """Airflow connections as environment variables."""
        found = {}
        if self.destination is not None:
            found["AIRFLOW_CONN_VSPHERE_DEMO_DESTINATION"] = connection("vsphere", self.destination)
        for name, nsx in zip(("NSX_DEMO", "NSX_DEMO_DESTINATION"), self.nsx, strict=False):
            found[f"AIRFLOW_CONN_{name}"] = connection("nsx", nsx)
        if self.hcx is not None:
            found["AIRFLOW_CONN_HCX_DEMO"] = connection("hcx", self.hcx)
        return found

    def files(self, name: str, *, users: Collection[str]) -> dict[str, dict[str, Any]]:
        """An environment, a wave and a network of this name that fit what runs: path below the DAGs folder → content.

        :param users: who may do everything in the environment.
        """
        may = [f"user:{user}" for user in users]
        environment = {
            "environment": name,
            "kind": "hcx",
            "description": "Two simulated sites with HCX between them",
            "may": {"migrate": may, "cut_over": may},
            "hcx": {"connection": "hcx_demo"},
            "source": {"connection": "vsphere_demo", "nsx": "nsx_demo"},
            "destination": {
                "connection": "vsphere_demo_destination",
                "nsx": {"connection": "nsx_demo_destination", "tier": TIER},
            },
            "pools": [POOL],
            "folders": [FOLDER],
            "datastores": ["datastore1"],
            "networks": [EXTENDED],
        }
        wave = {
            "wave": name,
            "method": "hcx",
            "description": "Two running servers of the simulated source site",
            "environment": name,
            "type": "rav",
            "target": {"networks": {NETWORK: EXTENDED}},
            "servers": ["web01", "db01"],
        }
        network = {
            "network": name,
            "description": "Their network",
            "environment": name,
            "source": {
                "network": NETWORK,
                "segment": f"/infra/segments/{NETWORK}",
                "disconnect": {"by": "nsx"},
            },
            "destination": {"network": EXTENDED, "segment": f"/infra/segments/{EXTENDED}", "gateway": GATEWAY},
            "exceptions": ["win01"],
            "soak_hours": 0,
        }
        return {
            f"environments/{name}.yaml": environment,
            f"waves/{name}.yaml": wave,
            f"networks/{name}.yaml": network,
        }

    def addresses(self) -> list[tuple[str, str, str]]:
        """What it is, its address, its user."""
        named = [("vCenter (destination)", self.destination)]
        named += zip(("NSX (source)", "NSX (destination)"), self.nsx, strict=False)
        return [(name, each.url, each.username) for name, each in [*named, ("HCX", self.hcx)] if each is not None]


def connection(kind: str, simulator: Any) -> str:
    """The Airflow connection to a simulator with user and password."""
    return json.dumps(
        {
            "conn_type": kind,
            "host": simulator.host,
            "port": simulator.port,
            "login": simulator.username,
            "password": simulator.password,
            "extra": {"ca_bundle": str(simulator.ca_file)},
        }
    )


def on_network(servers: Collection[Any], *, segment: bool) -> list[Any]:
    """The same servers with their card on the network that HCX extends."""
    from wavelift.simulators.vcenter import SimNic

    kind: Literal["nsx", "distributed"] = "nsx" if segment else "distributed"
    return [
        replace(vm, nics=(SimNic([vm.ip] if vm.ip else (), network=NETWORK, network_kind=kind),), ip="")
        for vm in servers
    ]


def start_sites(stack: ExitStack, folder: Path, source: Any, *, hcx: bool, nsx: bool) -> Sites:
    """Start what is asked for; it ends with ``stack``. With NSX, the network is extended to the destination.

    :param source: the vCenter of the source site. It can be missing without HCX.
    """
    managers = _start_nsx(stack, folder) if nsx else ()
    if not hcx:
        return Sites(nsx=managers)
    from wavelift.simulators import hcx as simulator
    from wavelift.simulators.vcenter import start as start_vcenter

    destination = stack.enter_context(start_vcenter(folder / "destination", [], instance_uuid=DESTINATION_UUID))
    destination.add_pool(POOL)
    destination.add_folder(FOLDER)
    if not nsx:
        destination.add_network(NETWORK, "distributed")
    ends = [
        simulator.site(vcenter, managers[number] if managers else None, name=name)
        for number, (vcenter, name) in enumerate(((source, "HCX-CONN"), (destination, "HCX-CLOUD")))
    ]
    manager = stack.enter_context(simulator.start(folder / "hcx", source=ends[0], destination=ends[1]))
    if managers:
        manager.extend(NETWORK, gateway=GATEWAY, tier=TIER)
    else:
        manager.route(PREFIX, routed=True)
    return Sites(destination, managers, manager)


def _start_nsx(stack: ExitStack, folder: Path) -> tuple[Any, ...]:
    from wavelift.simulators.nsx import start

    source, destination = (stack.enter_context(start(folder / f"nsx-{site}")) for site in ("source", "destination"))
    source.put_segment(f"/infra/segments/{NETWORK}", display_name=NETWORK, gateway=GATEWAY, connectivity_path=TIER)
    return source, destination
