"""Two sites and the HCX manager between them for the running Airflow: waves that HCX migrates, networks that are cut
over after it. Each story has a VM or two and a network of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from tests.airflow.waves import MIB, PRINCIPALS
from tests.gateways import GatewayAlarm

from wavelift.simulators import hcx, nsx
from wavelift.simulators.vcenter import SimDisk, SimNic, SimVm
from wavelift.simulators.vcenter import start as start_vcenter

TIER: Final = "/infra/tier-1s/cgw"
UUIDS: Final = ("0f7eee74-0000-4000-8000-000000000001", "0f7eee74-0000-4000-8000-000000000002")
"""Of both vCenters."""
BASE_SYNC: Final = 15.0
SWITCHOVER: Final = 2.0
UNEXTEND: Final = 3.0
"""Seconds that the simulated HCX takes. The base sync is long enough to be seen under way on a busy machine."""
SECONDS: Final = {"base_sync_seconds": BASE_SYNC, "switchover_seconds": SWITCHOVER, "unextend_seconds": UNEXTEND}


@dataclass(frozen=True)
class Lan:
    """One extended network, the servers on it, and what the files of its wave and network say besides.

    :param number: third byte of its prefix, and its VLAN. :param segment: the source's network is one of its NSX; else
        it is a port group whose router nothing reads.
    """

    number: int
    servers: tuple[str, ...] = ()
    segment: bool = True
    disconnect: dict[str, Any] = field(default_factory=lambda: {"by": "nsx"})
    wave: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"VLAN-{self.number}"

    @property
    def there(self) -> str:
        """Name of the segment that HCX makes."""
        return f"L2E_{self.name}"

    @property
    def here(self) -> str:
        """Path of the source's segment."""
        return f"/infra/segments/{self.name}"

    @property
    def extended(self) -> str:
        """Path of the destination's."""
        return f"/infra/segments/{self.there}"

    @property
    def gateway(self) -> str:
        return f"10.9.{self.number}.1/24"

    @property
    def prefix(self) -> str:
        return f"10.9.{self.number}.0/24"

    def mac(self, index: int) -> str:
        return f"00:50:56:09:{self.number:02x}:{index + 11:02x}"

    def vm(self, index: int) -> SimVm:
        number = index + 11
        nic = SimNic(
            (f"10.9.{self.number}.{number}",),
            network=self.name,
            network_kind="nsx" if self.segment else "distributed",
            mac=self.mac(index),
        )
        return SimVm(self.servers[index], [SimDisk(capacity=MIB)], nics=(nic,), folder="shop")


BY_HAND: Final = {"by": "person", "ask": "Shut the interface of VLAN 22", "undo": "Open the interface of VLAN 22"}
LANS: Final[dict[str, Lan]] = {
    "crossed": Lan(21, ("crossed-a",)),
    "byhand": Lan(22, segment=False, disconnect=BY_HAND),
    "clinging": Lan(23),
    "done": Lan(24, network={"soak_hours": 0, "rename_to": "web-24"}),
    "again": Lan(25, network={"approve": "none"}),
    "partly": Lan(26, ("partly-a", "partly-b"), wave={"approve": "none"}),
    "remote": Lan(27, ("remote-a",), wave={"approve": "none", "environment": "far"}),
    "shown": Lan(28, ("shown-a",)),
}
"""By the name of its wave and of its network. An appliance of HCX extends nine."""


@dataclass
class Sites:
    """What runs, and the alarm over both sides."""

    source: Any
    destination: Any
    here: Any
    there: Any
    hcx: Any
    alarm: GatewayAlarm
    lans: Mapping[str, Lan]

    def connections(self) -> dict[str, str]:
        """Airflow connections as environment variables."""
        named = {
            "VSPHERE_HERE": ("vsphere", self.source),
            "VSPHERE_THERE": ("vsphere", self.destination),
            "NSX_HERE": ("nsx", self.here),
            "NSX_THERE": ("nsx", self.there),
            "HCX_HERE": ("hcx", self.hcx),
        }
        return {f"AIRFLOW_CONN_{name}": _connection(*each) for name, each in named.items()}

    def vms(self, side: str) -> dict[str, dict[str, Any]]:
        """By name."""
        return {one["name"]: one for one in getattr(self, side).state()["vms"]}

    def lay_out(self, dags: Path) -> None:
        """The files of both environments, of the waves and of the networks."""
        (dags / "networks").mkdir(exist_ok=True)
        for name, reach in (("cloud", "control"), ("far", "connector")):
            _write(dags / "environments" / f"{name}.yaml", self._environment(name, reach))
        for name, lan in self.lans.items():
            if lan.servers:
                _write(dags / "waves" / f"{name}.yaml", _wave(name, lan))
            _write(dags / "networks" / f"{name}.yaml", self._network(name, lan))

    def _environment(self, name: str, reach: str) -> dict[str, Any]:
        users = [f"user:{name}" for name in PRINCIPALS]
        return {
            "environment": name,
            "kind": "hcx",
            "may": {"migrate": users, "cut_over": users},
            "hcx": {"connection": "hcx_here", "queue": "dc1", "reach": reach},
            "source": {"connection": "vsphere_here", "queue": "dc1", "nsx": "nsx_here"},
            "destination": {
                "connection": "vsphere_there",
                "queue": "dc2",
                "nsx": {"connection": "nsx_there", "tier": TIER},
            },
            "pools": ["Compute"],
            "folders": ["Workloads"],
            "datastores": ["datastore1"],
            "networks": [lan.there for lan in self.lans.values()],
        }

    def _network(self, name: str, lan: Lan) -> dict[str, Any]:
        # Nothing of the simulated prefixes can be reached: what answers here stands for a machine of the network.
        check = {"kind": "tcp", "to": self.destination.host, "port": self.destination.port}
        return {
            "network": name,
            "environment": "cloud",
            "source": {
                "network": lan.name,
                **({"segment": lan.here} if lan.segment else {}),
                "disconnect": lan.disconnect,
            },
            "destination": {"network": lan.there, "segment": lan.extended, "gateway": lan.gateway},
            "probes": {"queue": "office", "checks": [check]},
            "retries": 2,
            "retry_delay_s": 1,
            **lan.network,
        }


def _wave(name: str, lan: Lan) -> dict[str, Any]:
    return {
        "wave": name,
        "method": "hcx",
        "environment": "cloud",
        "target": {"networks": {lan.name: lan.there}},
        "servers": list(lan.servers),
        "retries": 2,
        "retry_delay_s": 1,
        **lan.wave,
    }


def _write(path: Path, spec: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(spec, sort_keys=False))


def _connection(kind: str, simulator: Any) -> str:
    told = {"host": simulator.host, "port": simulator.port, "login": simulator.username, "password": simulator.password}
    return json.dumps({"conn_type": kind, **told, "extra": {"ca_bundle": str(simulator.ca_file)}})


def start(stack: ExitStack, folder: Path, lans: Mapping[str, Lan] = LANS, **settings: Any) -> Sites:
    """Both sites with all of ``lans``; they end with ``stack``.

    :param settings: of the simulated HCX.
    """
    vms = [lan.vm(index) for lan in lans.values() for index in range(len(lan.servers))]
    source = stack.enter_context(start_vcenter(folder / "here", vms, instance_uuid=UUIDS[0]))
    destination = stack.enter_context(start_vcenter(folder / "there", [], instance_uuid=UUIDS[1]))
    destination.add_pool("Compute")
    destination.add_folder("Workloads")
    here, there = (stack.enter_context(nsx.start(folder / f"nsx-{site}")) for site in ("here", "there"))
    for lan in lans.values():
        if not lan.servers:
            source.add_network(lan.name, "nsx" if lan.segment else "distributed")
        if lan.segment:
            here.put_segment(lan.here, display_name=lan.name, gateway=lan.gateway, connectivity_path=TIER)
            for name in lan.servers:
                here.add_port(lan.here, name)
    manager = stack.enter_context(
        hcx.start(
            folder / "hcx",
            source=hcx.site(source, here, name="HCX-CONN"),
            destination=hcx.site(destination, there, name="HCX-CLOUD"),
            **{**SECONDS, **settings},
        )
    )
    for lan in lans.values():
        manager.extend(lan.name, gateway=lan.gateway, tier=TIER)
        if not lan.segment:
            manager.route(lan.prefix, routed=True)
    return Sites(source, destination, here, there, manager, GatewayAlarm([here, manager], [there]), lans)
