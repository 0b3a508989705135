"""Network extensions: list, end, make again from a record, Mobility Optimized Networking (HCX-06, HCX-07).

Two generations of the API: ``l2Extensions`` answers with a job, ``networkExtensions`` with nothing to follow. So a job
is only ever a hint, and the list decides: an extension that is not listed any more is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from wavelift.adapters.hcx import guesses
from wavelift.adapters.hcx.loose import flag, messages, once, record, text
from wavelift.adapters.hcx.transport import RefusedRequestError
from wavelift.base.rest import Answer, Ask, RestClient, UnreadableError, segment

Generation = Literal["l2", "network"]
_PATHS: Final[Mapping[Generation, str]] = {
    "l2": guesses.L2_EXTENSIONS.value,
    "network": guesses.NETWORK_EXTENSIONS.value,
}
NO_SUCH_CALL: Final = frozenset({404, 405})


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """One extended network, as the list has it. None or empty: HCX did not say.

    :param raw: the whole item: the record from which it can be made again.
    :param state: HCX's word, for people. Its values are not documented: decide nothing by it.
    """

    id: str
    gateway: str
    netmask: str
    source_id: str
    source_name: str
    source_type: str = ""
    source_endpoint: str = ""
    source_vcenter: str = ""
    destination_id: str = ""
    destination_name: str = ""
    destination_gateway: str = ""
    destination_endpoint: str = ""
    mon: bool | None = None
    state: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)


class Extensions:
    """The extensions of one manager."""

    def __init__(self, client: RestClient) -> None:
        self._client = client

    def list(self) -> tuple[Extension, ...]:
        """:raises UnreadableError: the answer has no list. An unreadable one must not look like an empty one."""
        answer = self._client.send(Ask("GET", _PATHS["l2"], accept=NO_SUCH_CALL))
        if not answer.ok:  # the older call is gone
            answer = self._client.send(Ask("GET", _PATHS["network"]))
        told = answer.object()
        listed = told.get("items", record(told.get("data")).get("items"))
        if not isinstance(listed, list):
            raise UnreadableError("the answer to the list of extensions has no items", next_step="")
        if not all(isinstance(item, Mapping) for item in listed):
            raise UnreadableError("the list of extensions has items that are none", next_step="")
        return tuple(read_extension(item) for item in listed)

    def find(self, extension_id: str) -> Extension | None:
        """None: it is gone."""
        return next((each for each in self.list() if each.id == extension_id), None)

    def unextend(self, extension_id: str, *, connect: bool) -> str | None:
        """End an extension. Never forced. One that HCX does not know (any more) is no error: the list decides.

        :param connect: *connect cloud network to cloud edge gateway after unextending*.
        :returns: the job's id. None: there is no job, watch the list.
        :raises RefusedRequestError: HCX refuses it. :raises LostAnswerError: the list tells what it did.
        """
        for generation in ("l2", "network"):
            path = f"{_PATHS[generation]}/{segment(extension_id)}"
            query = {guesses.CONNECT_TO_GATEWAY.value: "true" if connect else "false"}
            answer = self._client.send(Ask("DELETE", path, query=query, accept=NO_SUCH_CALL), extension=extension_id)
            if answer.ok:
                return _job(answer, extension_id)
        return None

    def create(self, record_of: Mapping[str, Any]) -> str | None:
        """Make an extension again from an item of the list (:attr:`Extension.raw`), for the way back. It gets a new id.

        :returns: the job's id, if there is one; else watch the list.
        :raises LostAnswerError: the list tells what it did.
        """
        body = creation(record_of)
        where = {"network": text(record(body.get("sourceNetwork")).get("networkName")) or None}
        answer = self._client.send(Ask("POST", _PATHS["l2"], body=body, accept=NO_SUCH_CALL), **where)
        if not answer.ok:
            answer = self._client.send(Ask("POST", _PATHS["network"], body=body), **where)
        return _job(answer, where["network"] or "")


def read_extension(item: Mapping[str, Any]) -> Extension:
    """One of the list's items."""
    source, there = record(item.get("sourceNetwork")), record(item.get("destinationNetwork"))
    return Extension(
        id=text(item.get("stretchId")) or text(item.get("id")),
        gateway=text(item.get("gateway")),
        netmask=text(item.get("netmask")),
        source_id=text(source.get("networkId")),
        source_name=text(source.get("networkName")),
        source_type=text(source.get("networkType")),
        source_endpoint=text(record(item.get("source")).get("endpointId")),
        source_vcenter=text(record(item.get("source")).get("resourceId")) or text(item.get("vcGuid")),
        destination_id=text(there.get("networkId")),
        destination_name=text(there.get("networkName")),
        destination_gateway=text(there.get("gatewayId")),
        destination_endpoint=text(record(item.get("destination")).get("endpointId")),
        mon=flag(record(item.get("features")).get(guesses.MON.value)),
        state=text(record(item.get("operationStatus")).get("state")),
        raw=dict(item),
    )


def creation(item: Mapping[str, Any]) -> dict[str, Any]:
    """The body that makes the extension of a listed item again."""

    def of(name: str, fields: tuple[str, ...]) -> dict[str, Any]:
        found = record(item.get(name))
        return {each: found[each] for each in fields if found.get(each) is not None}

    return {
        "vcGuid": item.get("vcGuid", ""),
        "gateway": item.get("gateway", ""),
        "netmask": item.get("netmask", ""),
        "dns": item.get("dns") or [],
        "destination": of(
            "destination", ("endpointId", "endpointName", "endpointType", "resourceId", "resourceName", "resourceType")
        ),
        "destinationNetwork": of("destinationNetwork", ("gatewayId",)),
        "features": of("features", ("egressOptimization", guesses.MON.value)),
        "sourceAppliance": of("sourceAppliance", ("applianceId",)),
        "sourceNetwork": of("sourceNetwork", ("networkId", "networkName", "networkType")),
    }


def _job(answer: Answer, what: str) -> str | None:
    """The id of the job, if the answer names one: then the job says how it ends, whatever errors stand beside it.

    :raises RefusedRequestError: it names errors and no job, whatever its status says.
    """
    fields = answer.object()
    job = text(fields.get("id")) or text(fields.get("jobId"))
    if job:
        return job
    errors = once((*messages(fields.get("errors")), *messages(record(fields.get("data")).get("errors"))))
    if errors:
        raise RefusedRequestError(
            f"HCX refuses it: {'; '.join(errors)}", next_step="Correct what HCX names", extension=what or None
        )
    return None
