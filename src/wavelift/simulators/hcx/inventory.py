"""The inventory calls, over both sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from wavelift.simulators.hcx.errors import answer
from wavelift.simulators.hcx.extensions import APPLIANCE_TYPE, Extensions
from wavelift.simulators.hcx.forms import ANY, NUMBER, TEXT, check_form, malformed
from wavelift.simulators.hcx.settings import Settings
from wavelift.simulators.hcx.sites import End, Thing, View, Vm
from wavelift.simulators.kit.message import Response

CLOUD: Final = {"local": bool, "remote": bool, "endpointId": TEXT}
BODY: Final = {
    "filter": {"cloud": CLOUD, "vcenterId": TEXT},
    "paging": {"skipCount": NUMBER, "pageSize": NUMBER},
    "options": ANY,
}
APPLIANCES: Final = {"filter": {"applianceType": TEXT, "endpointId": TEXT, "serviceMeshId": TEXT}}


class Inventories:
    def __init__(self, source: End, destination: End, *, settings: Settings, extensions: Extensions, mesh: str) -> None:
        self._source, self._destination, self._settings = source, destination, settings
        self._extensions, self._mesh = extensions, mesh

    def clouds(self) -> Response:
        """The remote site: this manager's own is not among its clouds."""
        site = self._destination.site
        item = {
            "cloudName": site.name,
            "cloudType": "VC",
            "endpointId": site.endpoint,
            "version": "4.10.0",
            "buildNumber": "24000000",
        }
        return answer({"data": {"items": [item]}})

    def resources(self, body: Any) -> Response:
        return answer({"data": {"items": [_resource(end.look()) for end in self._ends(body)]}})

    def virtual_machines(self, body: Any) -> Response:
        items = [self._vm(vm, end) for end in self._ends(body) for vm in end.vcenter.inventory().vms]
        paging = body.get("paging") or {}
        skip, size = int(paging.get("skipCount", 0)), int(paging.get("pageSize", len(items) or 1))
        if skip < 0 or size < 1:
            raise malformed("paging must be positive")
        limit = self._settings.inventory_page
        page = items[skip : skip + (min(size, limit) if limit else size)]
        return answer({"data": {"items": page, "paging": {"totalCount": len(items)}}})

    def networks(self, body: Any) -> Response:
        return answer(
            {"data": {"items": [self._thing(each, end) for end in self._ends(body) for each in end.look().networks()]}}
        )

    def containers(self, body: Any) -> Response:
        return self._things(body, "containers")

    def datastores(self, body: Any) -> Response:
        return self._things(body, "datastores")

    def _things(self, body: Any, name: str) -> Response:
        found = [(each, end) for end in self._ends(body) for each in getattr(end.vcenter.inventory(), name)]
        return answer({"data": {"items": [self._thing(each, end) for each, end in found]}})

    def appliances(self, body: Any) -> Response:
        check_form(body, APPLIANCES, "request")
        wanted = body.get("filter") or {}
        item = {
            "applianceId": f"{self._extensions.appliance}-I1",
            "applianceName": "SM-NE-I1",
            "applianceType": APPLIANCE_TYPE,
            "endpointId": self._source.site.endpoint,
            "serviceMeshId": self._mesh,
            "networkExtensionCount": self._extensions.count(),
        }
        fits = all(item[name] == value for name, value in wanted.items())
        return answer({"items": [item] if fits else []})

    def _ends(self, body: Any) -> list[End]:
        """Which sites the filter means; all without one."""
        check_form(body, BODY, "request")
        cloud: Mapping[str, Any] = (body.get("filter") or {}).get("cloud") or {}
        if "endpointId" in cloud:
            return [end for end in (self._source, self._destination) if end.site.endpoint == cloud["endpointId"]]
        found = [self._source] if cloud.get("local", not cloud) else []
        return found + ([self._destination] if cloud.get("remote", not cloud) else [])

    def _ids(self, ident: str) -> dict[str, str]:
        kind = self._settings.inventory_ids
        return {name: ident for name in ("id", "entity_id") if kind in (name, "both")}

    def _thing(self, each: Thing, end: End) -> dict[str, Any]:
        return {
            **self._ids(each.id),
            "name": each.name,
            "entityType": each.kind,
            "type": each.kind,
            "href": each.id,
            "_origin": {"endpointId": end.site.endpoint, "endpointName": end.site.name},
        }

    def _vm(self, vm: Vm, end: End) -> dict[str, Any]:
        return {
            **self._ids(vm.id),
            "name": vm.name,
            "entityType": "VirtualMachine",
            "summary": {
                "guestFullName": vm.guest_name,
                "guestId": vm.guest_id,
                "guestHostName": vm.host_name,
                "memorySizeMB": vm.memory_mb,
                "memorySize": vm.memory_mb << 20,
                "numCpu": vm.cpus,
                "diskSize": sum(vm.disks),
                "powerState": vm.power,
            },
            "network": [{"value": each.network.id, "name": each.network.name} for each in vm.nics],
            "networkDevices": [
                {"macAddress": each.mac, "network": each.network.id, "networkName": each.network.name}
                for each in vm.nics
            ],
            "_origin": {"endpointId": end.site.endpoint, "endpointName": end.site.name},
        }


def _resource(view: View) -> dict[str, Any]:
    site, uuid = view.end.site, view.inventory.uuid
    return {
        "url": f"https://{site.vcenter_name}",
        "vcuuid": uuid,
        "version": "8.0.3",
        "buildNumber": "24022510",
        "osType": "linux-x64",
        "name": site.vcenter_name,
        "resourceId": uuid,
        "resourceType": "VC",
        "resourceName": site.vcenter_name,
        "vimId": uuid,
        "vimServerUuid": uuid,
        "endpoint": {"endpointId": site.endpoint, "name": site.name, "cloudType": "VC"},
    }
