"""What HCX knows of both sites: everything that an order names by id (HCX-01)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from wavelift.adapters.hcx import guesses
from wavelift.adapters.hcx.intents import Endpoint
from wavelift.adapters.hcx.loose import record, text, whole
from wavelift.adapters.hcx.transport import items_of
from wavelift.base.errors import GuardError
from wavelift.base.rest import Ask, RestClient

PAGES_MOST: Final = 1000
"""Of one inventory. A manager that ignores the paging would otherwise be asked for ever."""
VCENTER: Final = "VC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manager:
    """One site's HCX, as ``cloudConfigs`` tells."""

    name: str
    endpoint_id: str
    version: str = ""
    build: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryVm:
    """:param summary: sent back in an intent. :param networks: names, where HCX tells them."""

    id: str
    name: str
    summary: Mapping[str, Any] = field(default_factory=dict, hash=False)
    networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A network, container or datastore: id, name and HCX's word for its type."""

    id: str
    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Appliance:
    """:param extensions: networks that it extends. None: HCX did not say."""

    id: str
    name: str
    type: str
    mesh_id: str
    extensions: int | None = None


class Inventory:
    """The inventory of one manager, of its own site and of the paired ones."""

    def __init__(self, client: RestClient) -> None:
        self._client = client

    def managers(self) -> tuple[Manager, ...]:
        """This manager and those that it is paired with."""
        answer = self._client.send(Ask("GET", guesses.CONFIGS.value))
        return tuple(
            Manager(
                name=text(item.get("cloudName")) or text(item.get("name")),
                endpoint_id=text(item.get("endpointId")),
                version=text(item.get("version")),
                build=text(item.get("buildNumber")),
                type=text(item.get("cloudType")),
            )
            for item in items_of(answer)
        )

    def endpoints(self, *, local: bool) -> tuple[Endpoint, ...]:
        """The vCenters of this site, or of the paired ones. ``resource_id`` is the vCenter's instance UUID."""
        body = {"filter": {"cloud": {"local": local, "remote": not local}}}
        found = (_endpoint(item) for item in self._items(guesses.CONTAINERS_OF_RESOURCES.value, body))
        return tuple(each for each in found if each.endpoint_id and each.resource_id)

    def vms(self, endpoint_id: str) -> tuple[InventoryVm, ...]:
        """All VMs of an endpoint, page by page."""
        return tuple(
            InventoryVm(
                id=_id(item),
                name=text(item.get("name")),
                summary=_summary(item.get("summary")),
                networks=_names(item.get("network")),
            )
            for item in self._paged(guesses.VIRTUAL_MACHINES.value, endpoint_id)
        )

    def networks(self, endpoint_id: str) -> tuple[Item, ...]:
        return self._things(guesses.NETWORKS.value, endpoint_id)

    def containers(self, endpoint_id: str) -> tuple[Item, ...]:
        """Resource pools, folders, clusters, hosts, data centres."""
        return self._things(guesses.CONTAINERS.value, endpoint_id)

    def datastores(self, endpoint_id: str) -> tuple[Item, ...]:
        return self._things(guesses.DATASTORES.value, endpoint_id)

    def appliances(
        self, endpoint_id: str, *, type: str = guesses.NETWORK_EXTENSION_APPLIANCE.value
    ) -> tuple[Appliance, ...]:
        """The appliances of a type. Each names its service mesh."""
        body = {"filter": {"applianceType": type, "endpointId": endpoint_id}}
        return tuple(
            Appliance(
                id=text(item.get("applianceId")),
                name=text(item.get("applianceName")) or text(item.get("name")),
                type=text(item.get("applianceType")) or type,
                mesh_id=text(item.get("serviceMeshId")),
                extensions=whole(item.get("networkExtensionCount")),
            )
            for item in self._items(guesses.APPLIANCES.value, body)
        )

    # --- pages ----------------------------------------------------------------------------------------------------

    def _things(self, path: str, endpoint_id: str) -> tuple[Item, ...]:
        body = {"filter": {"cloud": {"endpointId": endpoint_id}}}
        found = (
            Item(
                id=_id(item),
                name=text(item.get("name")),
                type=text(item.get("entityType")) or text(item.get("type")),
            )
            for item in self._items(path, body)
        )
        return tuple(each for each in found if each.id)

    def _items(self, path: str, body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return items_of(self._client.send(Ask("POST", path, body=dict(body), again=True)))

    def _paged(self, path: str, endpoint_id: str) -> Iterator[Mapping[str, Any]]:
        """Until a page brings nothing new: a manager may give fewer rows than asked for, or ignore the paging."""
        seen: set[str] = set()
        read = 0
        for _ in range(PAGES_MOST):
            body = {
                "filter": {"cloud": {"endpointId": endpoint_id}},
                "paging": {"skipCount": read, "pageSize": guesses.PAGE_SIZE.value},
            }
            page = self._items(path, body)
            new = {_id(item): item for item in page if _id(item) and _id(item) not in seen}
            if not new:
                return
            yield from new.values()
            seen |= set(new)
            read += len(page)
        raise GuardError(f"the inventory of HCX has more than {PAGES_MOST} pages", endpoint=endpoint_id)


def _id(item: Mapping[str, Any]) -> str:
    return text(item.get("entity_id")) or text(item.get("entityId")) or text(item.get("id"))


def _endpoint(item: Mapping[str, Any]) -> Endpoint:
    """Newer managers nest the endpoint, older ones do not."""
    inner = record(item.get("endpoint"))
    return Endpoint(
        endpoint_id=text(inner.get("endpointId")) or text(item.get("endpointId")),
        endpoint_name=text(inner.get("name")) or text(inner.get("endpointName")) or text(item.get("endpointName")),
        endpoint_type=text(item.get("endpointType")) or VCENTER,
        resource_id=text(item.get("vcuuid")) or text(item.get("resourceId")),
        resource_name=text(item.get("resourceName")) or text(item.get("name")),
        resource_type=text(item.get("resourceType")) or VCENTER,
    )


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    found = (text(one) or text(record(one).get("name")) or text(record(one).get("networkName")) for one in value)
    return tuple(one for one in found if one)


_SUMMARY: Final = ("guestFullName", "guestId", "guestHostName", "memorySizeMB", "numCpu", "diskSize", "memorySize")


def _summary(value: Any) -> dict[str, Any]:
    """The fields that an intent has (4.3); others could be refused."""
    found = record(value)
    return {name: found[name] for name in _SUMMARY if isinstance(found.get(name), str | int | float)}
