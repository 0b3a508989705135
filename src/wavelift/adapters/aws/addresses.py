"""Network interfaces with a fixed address, their security groups, and Elastic IP addresses."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from botocore.exceptions import ClientError

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import aws_errors, error_code, is_missing
from wavelift.adapters.aws.tagging import filters, from_aws, specification
from wavelift.adapters.aws.texts import description
from wavelift.base.errors import NotFoundError, PermanentError

MAX_TOKENS: Final = 20
"""Interfaces of one token, all but the last deleted: more means that something deletes them."""
SEEN_WAIT_S: Final = 10.0
"""After that an interface that was just made, as EC2 says, is taken for one that was deleted."""
SEEN_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class InterfaceRequest:
    """A network interface that waits for its instance.

    :ivar address: empty lets the subnet choose. :ivar client_token: EC2 answers a repeated token with the first's.
    """

    subnet_id: str
    client_token: str
    address: str = ""
    security_groups: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    def parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "SubnetId": self.subnet_id,
            "ClientToken": self.client_token,
            "Description": description(self.description),
            "TagSpecifications": specification("network-interface", self.tags),
        }
        if self.address:
            parameters["PrivateIpAddress"] = self.address
        if self.security_groups:
            parameters["Groups"] = list(self.security_groups)
        return parameters


@dataclass(frozen=True, slots=True)
class Interface:
    """:ivar instance_id: of the instance that has it; empty when nobody has.
    :ivar dies_with_instance: terminating the instance deletes it."""

    interface_id: str
    subnet_id: str
    address: str
    status: str
    security_groups: tuple[str, ...] = ()
    instance_id: str = ""
    device_index: int = 0
    dies_with_instance: bool = False
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ElasticIp:
    """:ivar association_id: empty while nobody has the address."""

    allocation_id: str
    public_ip: str
    association_id: str = ""
    interface_id: str = ""
    private_ip: str = ""


class Addresses:
    """Interfaces and addresses of one account and region."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access

    @property
    def _client(self) -> Any:
        return self._access.client("ec2")

    # -- interfaces -----------------------------------------------------------------------------------------------

    def interface(self, interface_id: str) -> Interface:
        """:raises NotFoundError: there is no such interface."""
        found = self._interfaces(_filter("network-interface-id", interface_id))
        if not found:
            raise NotFoundError(
                "there is no such network interface", next_step="Check id, account and region", interface=interface_id
            )
        return found[0]

    def interfaces_at(self, subnet_id: str, address: str) -> list[Interface]:
        """Who has this private address, as first or further one."""
        return self._interfaces(_filter("subnet-id", subnet_id), _filter("addresses.private-ip-address", address))

    def interfaces_with(self, tags: Mapping[str, str]) -> list[Interface]:
        return self._interfaces(*filters(tags))

    def primary_of(self, instance_id: str) -> Interface:
        """The first interface of an instance. :raises NotFoundError: it has none, or there is no such instance."""
        found = self._interfaces(_filter("attachment.instance-id", instance_id))
        first = next((one for one in found if one.device_index == 0), None)
        if first is None:
            raise NotFoundError(
                "the instance has no network interface", next_step="Check whether it exists", instance=instance_id
            )
        return first

    def _interfaces(self, *chosen: Mapping[str, Any]) -> list[Interface]:
        pages = self._client.get_paginator("describe_network_interfaces").paginate(Filters=list(chosen))
        with aws_errors("could not look at the network interfaces", service="ec2"):
            return [_read_interface(one) for page in pages for one in page["NetworkInterfaces"]]

    def create(self, request: InterfaceRequest) -> Interface:
        """Make an interface, or find the one of this client token.

        EC2 remembers the token of an interface that was deleted, and answers with that: then the token gets a number.

        :raises PermanentError: the address is taken, or not of the subnet.
        :raises LimitReachedError: the subnet has none free.
        """
        for number in range(MAX_TOKENS):
            token = f"{request.client_token}-{number}" if number else request.client_token
            made = self._create(replace(request, client_token=token))
            if self._stands(made.interface_id):
                return made
        raise PermanentError(
            f"{MAX_TOKENS} network interfaces of this step were deleted, one after the other",
            next_step="Find out who deletes them, then begin again",
            subnet=request.subnet_id,
        )

    def _create(self, request: InterfaceRequest) -> Interface:
        with aws_errors(
            "could not make the network interface",
            service="ec2",
            subnet=request.subnet_id,
            address=request.address or None,
        ):
            return _read_interface(self._client.create_network_interface(**request.parameters())["NetworkInterface"])

    def _stands(self, interface_id: str) -> bool:
        """EC2 may not show a new interface for some seconds."""
        ends = time.monotonic() + SEEN_WAIT_S
        while not (found := self._interfaces(_filter("network-interface-id", interface_id))):
            if time.monotonic() >= ends:
                return False
            time.sleep(SEEN_POLL_S)
        return bool(found)

    def delete(self, interface_id: str) -> None:
        """One that is gone is fine. :raises BusyError: an instance has it."""
        with aws_errors("could not delete the network interface", service="ec2", interface=interface_id):
            try:
                self._client.delete_network_interface(NetworkInterfaceId=interface_id)
            except ClientError as error:
                if not is_missing(error_code(error)):
                    raise

    def set_groups(self, interface_id: str, security_groups: Sequence[str]) -> None:
        with aws_errors("could not set the security groups", service="ec2", interface=interface_id):
            self._client.modify_network_interface_attribute(
                NetworkInterfaceId=interface_id, Groups=list(security_groups)
            )

    # -- Elastic IP -----------------------------------------------------------------------------------------------

    def elastic_ip(self, allocation_id: str) -> ElasticIp:
        """:raises NotFoundError: there is no such allocation."""
        with aws_errors("could not look at the Elastic IP address", service="ec2", allocation=allocation_id):
            found = self._client.describe_addresses(Filters=[_filter("allocation-id", allocation_id)])["Addresses"]
        if not found:
            raise NotFoundError(
                "there is no such Elastic IP address", next_step="Check account and region", allocation=allocation_id
            )
        one = found[0]
        return ElasticIp(
            allocation_id=one["AllocationId"],
            public_ip=one.get("PublicIp", ""),
            association_id=one.get("AssociationId") or "",
            interface_id=one.get("NetworkInterfaceId") or "",
            private_ip=one.get("PrivateIpAddress") or "",
        )

    def associate(self, allocation_id: str, interface_id: str, private_ip: str = "") -> str:
        """Give the address to an interface; the association id.

        Never takes it from another: EC2 refuses that (``Resource.AlreadyAssociated``).
        """
        more = {"PrivateIpAddress": private_ip} if private_ip else {}
        with aws_errors(
            "could not associate the Elastic IP address",
            service="ec2",
            allocation=allocation_id,
            interface=interface_id,
        ):
            answer = self._client.associate_address(
                AllocationId=allocation_id, NetworkInterfaceId=interface_id, AllowReassociation=False, **more
            )
        return str(answer["AssociationId"])

    def disassociate(self, association_id: str) -> None:
        """One that has ended is fine: an association that is made later has another id."""
        with aws_errors("could not disassociate the Elastic IP address", service="ec2", association=association_id):
            try:
                self._client.disassociate_address(AssociationId=association_id)
            except ClientError as error:
                if not is_missing(error_code(error)):
                    raise


def _filter(name: str, value: str) -> dict[str, Any]:
    return {"Name": name, "Values": [value]}


def _read_interface(one: Mapping[str, Any]) -> Interface:
    attached = one.get("Attachment") or {}
    return Interface(
        interface_id=one["NetworkInterfaceId"],
        subnet_id=one.get("SubnetId", ""),
        address=one.get("PrivateIpAddress", ""),
        status=one.get("Status", ""),
        security_groups=tuple(group["GroupId"] for group in one.get("Groups", ())),
        instance_id=attached.get("InstanceId") or "",
        device_index=int(attached.get("DeviceIndex") or 0),
        dies_with_instance=bool(attached.get("DeleteOnTermination")),
        description=one.get("Description", ""),
        tags=from_aws(one.get("TagSet", [])),
    )
