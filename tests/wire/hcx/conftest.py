"""One simulated HCX manager between two simulated vCenters, with NSX at the destination. Each test leaves it empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from wavelift.adapters.hcx.guesses import MigrationType
from wavelift.adapters.hcx.intents import (
    CardMapping,
    MigrationOrder,
    Network,
    Options,
    Place,
    Storage,
    Vm,
    Window,
)
from wavelift.adapters.hcx.inventory import Inventory
from wavelift.adapters.hcx.mobility import Mobility, Started
from wavelift.adapters.hcx.transport import SYSTEM, HcxAccess
from wavelift.base.rest import RestClient, RestPlace
from wavelift.base.units import MIB
from wavelift.simulators import hcx, nsx, vcenter
from wavelift.simulators.hcx import HcxSimulator, Site
from wavelift.simulators.nsx import NsxSimulator
from wavelift.simulators.vcenter import SimDisk, SimNic, SimVm, VCenterSimulator

SOURCE_NETWORK: Final = "VLAN-100"
TIER: Final = "/infra/tier-1s/cgw"
SEGMENT: Final = "/infra/segments/app"
SEGMENT_NAME: Final = "app"
GATEWAY: Final = "10.1.2.1/24"
SOURCE: Final = "ep-source"
DESTINATION: Final = "ep-destination"


@dataclass
class Pair:
    """The sites, and what a test needs of them."""

    hcx: HcxSimulator
    source: VCenterSimulator
    destination: VCenterSimulator
    nsx: NsxSimulator

    def access(self, **changes: Any) -> HcxAccess:
        username, password = changes.pop("username", self.hcx.username), changes.pop("password", self.hcx.password)
        place = RestPlace(system=SYSTEM, host=self.hcx.host, port=self.hcx.port, ca_bundle=str(self.hcx.ca_file))
        return HcxAccess(place=replace(place, **changes), username=username, password=password)

    def calls(self, operation: str) -> int:
        return self.hcx.counters().get(f"hcx.{operation}", {}).get("calls", 0)

    def add_vm(self, name: str, **fields: Any) -> str:
        """A VM at the source, on the network that is extended; its id."""
        nics = (SimNic(network=SOURCE_NETWORK, network_kind="distributed"),)
        values: dict[str, Any] = {"disks": [SimDisk(capacity=8 * MIB)], "nics": nics, **fields}
        return str(self.source.add_vm(SimVm(name=name, **values))["moref"])

    def vm(self, name: str) -> dict[str, Any] | None:
        """At the destination."""
        found = [each for each in self.destination.state()["vms"] if each["name"] == name]
        return self.destination.get_vm(found[0]["moref"]) if found else None

    def orders(
        self,
        client: RestClient,
        names: Sequence[str],
        type: MigrationType = "rav",
        *,
        window: Window | None = None,
        options: Options | None = None,
    ) -> list[MigrationOrder]:
        """As the inventory of HCX gives them."""
        inventory = Inventory(client)
        (here,), (there,) = inventory.endpoints(local=True), inventory.endpoints(local=False)
        containers = {each.type: each for each in inventory.containers(there.endpoint_id) if each.type != "folder"}
        pool = containers["resourcePool"]
        folder = next(each for each in inventory.containers(there.endpoint_id) if each.type == "folder")
        store = inventory.datastores(there.endpoint_id)[0]
        target = next(each for each in inventory.networks(there.endpoint_id) if each.id == SEGMENT)
        source = next(each for each in inventory.networks(here.endpoint_id) if each.name == SOURCE_NETWORK)
        known = {each.name: each for each in inventory.vms(here.endpoint_id)}
        return [
            MigrationOrder(
                type=type,
                vm=Vm(id=known[name].id, name=name, summary=known[name].summary),
                source=here,
                destination=there,
                placement=(
                    Place(id=pool.id, name=pool.name, type="resourcePool"),
                    Place(id=folder.id, name=folder.name, type="folder"),
                ),
                storage=Storage(id=store.id, name=store.name),
                cards=tuple(
                    CardMapping(
                        mac=card["mac"],
                        source=Network(id=source.id, name=source.name, type=source.type),
                        destination=Network(id=target.id, name=target.name, type=target.type),
                    )
                    for card in self.source.get_vm(known[name].id)["nics"]
                ),
                options=options or Options(),
                window=window,
            )
            for name in names
        ]

    def started(self, client: RestClient, names: Sequence[str], **order: Any) -> tuple[str, tuple[Started, ...]]:
        """A group of these VMs that has begun: its id, and its migrations."""
        mobility = Mobility(client)
        group = mobility.make_group(f"wavelift {'+'.join(names)}", self.orders(client, names, **order))
        return group, mobility.start_group(group)

    def empty(self) -> None:
        """Take all VMs away, and let the manager forget everything."""
        self.hcx.reset()
        for vc in (self.source, self.destination):
            for each in vc.state()["vms"]:
                vc.remove_vm(each["moref"])
        for port in self.nsx.control("GET", f"ports?segment={SEGMENT}"):
            self.nsx.remove_port(SEGMENT, port["id"])


@contextmanager
def sites(folder: Path, **settings: Any) -> Iterator[Pair]:
    """Two vCenters, the destination's NSX, and the manager between them."""
    with (
        vcenter.start(folder / "source", []) as here,
        vcenter.start(folder / "destination", []) as there,
        nsx.start(folder / "nsx", realise_seconds=0.0, port_linger_seconds=0.0) as network,
    ):
        here.add_network(SOURCE_NETWORK, "distributed")
        network.put_tier("cgw")
        network.put_segment(
            SEGMENT, display_name=SEGMENT_NAME, gateway=GATEWAY, connectivity_path=TIER, connectivity="OFF"
        )
        there.add_network(SEGMENT_NAME, "nsx", segment=SEGMENT)
        source = Site(here.control_url, here.token, "HCX-CONN", SOURCE, "vc01.example")
        target = Site(
            there.control_url,
            there.token,
            "HCX-CLOUD",
            DESTINATION,
            "vc02.example",
            nsx=network.control_url,
            nsx_ca=str(network.ca_file),
        )
        with hcx.start(folder / "hcx", source=source, destination=target, **settings) as manager:
            yield Pair(manager, here, there, network)


@pytest.fixture(scope="session")
def _pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with sites(tmp_path_factory.mktemp("hcx")) as made:
        yield made


@pytest.fixture
def pair(_pair: Pair) -> Iterator[Pair]:
    yield _pair
    _pair.hcx.clear_rules()
    running = [each["vm"] for each in _pair.hcx.migrations() if not each["ended"]]
    _pair.empty()
    assert not running, "a test ends what it started"


@pytest.fixture
def client(pair: Pair) -> Iterator[RestClient]:
    with pair.access(patience_s=20.0).client() as made:
        yield made
