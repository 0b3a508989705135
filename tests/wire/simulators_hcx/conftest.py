"""Two sites, each a vCenter and an NSX, and the manager between them, each a process of its own."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.gateways import GatewayAlarm
from tests.vcenters import Processes

from wavelift.simulators import hcx, nsx
from wavelift.simulators.hcx.launcher import HcxSimulator
from wavelift.simulators.hcx.sessions import TOKEN_HEADER
from wavelift.simulators.nsx import NsxSimulator
from wavelift.simulators.vcenter import SimDisk, SimNic, SimVm, VCenterSimulator

TIER = "/infra/tier-1s/cgw"
HERE = "/infra/segments/VLAN-100"
PREFIX = "10.1.2.0/24"
MIB = 1 << 20
UUIDS = ("0f7eee74-f50c-5dfd-a8c1-000000000001", "0f7eee74-f50c-5dfd-a8c1-000000000002")
"""Of the two vCenters."""


def vm(name: str, number: int, **fields: Any) -> SimVm:
    nic = SimNic((f"10.1.2.{number}",), network="VLAN-100", network_kind="nsx", mac=f"00:50:56:01:02:{number:02x}")
    return SimVm(name, [SimDisk(capacity=MIB)], nics=(nic,), **{"folder": "shop", **fields})


@dataclass
class Sites:
    """``call`` is a call of a logged-in client."""

    source: VCenterSimulator
    destination: VCenterSimulator
    here: NsxSimulator
    there: NsxSimulator
    hcx: HcxSimulator
    token: str = ""

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json", TOKEN_HEADER: self.token}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.hcx.url}/hybridity/api{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(
                request, timeout=60, context=ssl.create_default_context(cafile=str(self.hcx.ca_file))
            ) as answer:
                self.token = answer.headers.get(TOKEN_HEADER, self.token)
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ask(self, path: str, **body: Any) -> Any:
        status, found = self.call("POST", path, body)
        assert status in (200, 202), found
        return found

    def inventory(self, kind: str, *, local: bool) -> dict[str, dict[str, Any]]:
        """By name."""
        cloud = {"local": local, "remote": not local}
        found = self.ask(f"/service/inventory/{kind}", filter={"cloud": cloud})["data"]["items"]
        return {each["name"]: each for each in found}

    def intent(self, name: str, kind: str, **options: Any) -> dict[str, Any]:
        machine = self.inventory("virtualmachines", local=True)[name]
        places = self.inventory("containers", local=False)
        store = next(iter(self.inventory("datastores", local=False).values()))
        target = self.inventory("networks", local=False)["L2E_VLAN-100"]
        one, other = self.ask("/service/inventory/resourcecontainer/list")["data"]["items"]
        ends = [
            {"endpointId": each["endpoint"]["endpointId"], "computeResourceId": each["vcuuid"]} for each in (one, other)
        ]
        replicated = kind in ("RAV", "vSphereReplication")
        return {
            "migrationType": kind,
            "entity": {"entityId": machine["entity_id"], "entityName": name, "entityType": "VirtualMachine"},
            "source": ends[0],
            "destination": ends[1],
            "transferParams": {"transferType": "vSphereReplication" if replicated else "NO_OP"},
            "switchoverParams": {"switchoverType": kind, "options": {"retainMac": True, **options}},
            "placement": [
                {"id": places["Compute"]["entity_id"], "type": "resourcePool"},
                {"id": places["Workloads"]["entity_id"], "type": "folder"},
            ],
            "storage": {"defaultStorage": {"id": store["entity_id"], "type": "datastore", "diskProvisionType": "thin"}},
            "networkParams": {
                "networkMappings": [
                    {"macAddress": card["macAddress"], "srcNetworkId": card["network"], "destNetworkId": target["id"]}
                    for card in machine["networkDevices"]
                ]
            },
        }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    owned = Processes(tmp_path_factory.mktemp("vcenters"))
    with owned.lend() as take:
        source, destination = take([]), take([])
        with (
            nsx.start(tmp_path_factory.mktemp("here")) as here,
            nsx.start(tmp_path_factory.mktemp("there")) as there,
            hcx.start(
                tmp_path_factory.mktemp("hcx"),
                source=hcx.site(source, here, name="HCX-CONN"),
                destination=hcx.site(destination, there, name="HCX-CLOUD"),
                base_sync_seconds=100.0,
                switchover_seconds=10.0,
                unextend_seconds=60.0,
            ) as manager,
        ):
            yield Sites(source, destination, here, there, manager)
    owned.close()


@pytest.fixture
def sites(running: Sites) -> Iterator[Sites]:
    """Anew for each test, with one extended network; the alarm listens."""
    for each in (running.here, running.there, running.hcx):
        each.reset()
    running.source.reset(
        [
            vm("app01", 11),
            vm("app02", 12),
            vm("cold", 13, power="poweredOff", tools="not_running"),
        ],
        task_seconds=0.01,
        instance_uuid=UUIDS[0],
    )
    running.destination.reset([], task_seconds=0.01, instance_uuid=UUIDS[1])
    running.destination.add_folder("Workloads")
    running.destination.add_pool("Compute")
    running.here.put_segment(
        HERE, display_name="VLAN-100", gateway="10.1.2.1/24", connectivity_path="/infra/tier-1s/cgw"
    )
    for name in ("app01", "app02", "cold"):
        running.here.add_port(HERE, name)
    alarm = GatewayAlarm([running.here, running.hcx], [running.there])
    running.token = ""
    running.ask("/sessions", username=running.hcx.username, password=running.hcx.password)
    running.hcx.extend("VLAN-100", gateway="10.1.2.1/24", tier=TIER)
    yield running
    alarm.check()
