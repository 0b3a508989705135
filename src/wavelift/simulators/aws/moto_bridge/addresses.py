"""Network interfaces and addresses: each private address of a subnet has one owner."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from moto.core.responses import ActionResult

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.invented import ENI_WITH_OTHERS_MESSAGE, NOT_ATTACHED_TWICE_MESSAGE
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.actions import check_tagged, plain
from wavelift.simulators.aws.tags import check_client_token

RESERVED_ADDRESSES: Final = 4
"""AWS reserves the first four addresses of a subnet, and the last one."""
OF_NEW_ONES: Final = {
    "SubnetId": "a subnet ID",
    "Groups": "security groups",
    "PrivateIpAddress": "a private IP address",
    "PrivateIpAddresses": "private IP addresses",
    "SecondaryPrivateIpAddressCount": "private IP addresses",
    "AssociatePublicIpAddress": "a public IP address",
}
"""Members of an interface in RunInstances that apply "only if creating a network interface" (EC2's service model)."""
OF_THE_INSTANCE: Final = {
    "SubnetId": "subnet ID",
    "PrivateIpAddress": "private IP address",
    "SecurityGroupIds": "security groups",
    "SecurityGroups": "security groups",
}


def owners(ec2: Any, subnet: Any) -> dict[str, Any]:
    """The interface of each held address of a subnet. Those of stopped instances hold theirs."""
    return {
        str(item["PrivateIpAddress"]): eni
        for eni in ec2.enis.values()
        if eni.subnet.id == subnet.id
        for item in eni.private_ip_addresses
    }


def tell_moto(ec2: Any, subnet: Any) -> None:
    """moto gives a new instance addresses of interfaces that no instance has, so it is told of them."""
    held = owners(ec2, subnet)
    reserved = [str(subnet.cidr[at]) for at in range(RESERVED_ADDRESSES)]
    subnet._subnet_ips = {**dict.fromkeys(reserved), **held}
    subnet._unused_ips -= set(held)


def check_free(ec2: Any, subnet: Any, addresses: Iterable[str]) -> None:
    """Raises AwsError if an address is not of the subnet, or is another's."""
    held, seen = owners(ec2, subnet), set[str]()
    for address in addresses:
        check_inside(subnet, address)
        if address in held or address in seen:
            raise AwsError("InvalidIPAddress.InUse", f"Address {address} is in use.", 400)
        seen.add(address)


def check_inside(subnet: Any, address: str) -> None:
    wanted, network = ipaddress.ip_address(address), subnet.cidr
    reserved = int(wanted) - int(network.network_address) < RESERVED_ADDRESSES
    if wanted not in network or reserved or wanted == network.broadcast_address:
        raise AwsError(
            "InvalidParameterValue", f"Address {address} does not fall within the subnet's address range", 400
        )


def free_addresses(ec2: Any, subnet: Any, count: int, taken: Iterable[str] = ()) -> list[str]:
    """So many free addresses. Raises AwsError if there are fewer."""
    held = {*owners(ec2, subnet), *taken}
    network = subnet.cidr
    candidates = (str(network[at]) for at in range(RESERVED_ADDRESSES, network.num_addresses - 1))
    found = [address for _, address in zip(range(count), (one for one in candidates if one not in held), strict=False)]
    if len(found) < count:
        raise AwsError(
            "InsufficientFreeAddressesInSubnet",
            f"There are not enough free addresses in subnet '{subnet.id}' to satisfy the requested number of "
            "instances.",
            400,
        )
    return found


def asked_addresses(spec: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The primary address that a request asks for, or "", and the others."""
    listed = spec.get("PrivateIpAddresses") or []
    primary = spec.get("PrivateIpAddress") or next(
        (one["PrivateIpAddress"] for one in listed if one.get("Primary")), ""
    )
    return primary, [one["PrivateIpAddress"] for one in listed if one["PrivateIpAddress"] != primary]


def known_groups(ec2: Any, ids: Iterable[str]) -> list[Any]:
    """Raises AwsError for a security group that does not exist; moto would make it."""
    found = {one: ec2.get_security_group_from_id(one) for one in ids}
    for one, group in found.items():
        if group is None:
            raise AwsError("InvalidGroup.NotFound", f"The security group '{one}' does not exist", 400)
    return list(found.values())


def check_cards(ec2: Any, params: dict[str, Any]) -> None:
    """The interfaces of RunInstances. Raises AwsError."""
    specs = params.get("NetworkInterfaces") or []
    for name, text in OF_THE_INSTANCE.items():
        if specs and params.get(name):
            raise AwsError(
                "InvalidParameterCombination",
                f"Network interfaces and an instance-level {text} may not be specified on the same request",
                400,
            )
    for spec in specs:
        if spec.get("NetworkInterfaceId"):
            _check_existing(ec2, params, spec)
        else:
            _check_new(ec2, spec)
    if not specs:
        _check_new(ec2, params)
    elif all(spec.get("NetworkInterfaceId") for spec in specs):
        kinds = {item.get("ResourceType") for item in params.get("TagSpecifications") or []}
        if "network-interface" in kinds:
            raise AwsError(
                "InvalidParameterValue",
                "You cannot specify tags for network interfaces if there are no network interfaces being created by "
                "the request.",
                400,
            )


def _check_existing(ec2: Any, params: dict[str, Any], spec: Mapping[str, Any]) -> None:
    eni = ec2.get_network_interface(spec["NetworkInterfaceId"])
    for name, text in OF_NEW_ONES.items():
        if spec.get(name) not in (None, "", []):
            raise AwsError("InvalidParameterCombination", ENI_WITH_OTHERS_MESSAGE.format(name=text), 400)
    if spec.get("DeleteOnTermination"):
        message = ENI_WITH_OTHERS_MESSAGE.format(name="deletion on termination")
        raise AwsError("InvalidParameterCombination", message, 400)
    if int(params.get("MaxCount") or 1) > 1:
        raise AwsError("InvalidParameterCombination", "An interface can be attached to one instance only", 400)
    check_unattached(eni)
    params["Placement"] = {**(params.get("Placement") or {}), "AvailabilityZone": eni.availability_zone}


def check_unattached(eni: Any) -> None:
    if eni.instance is not None:
        raise AwsError("InvalidNetworkInterface.InUse", NOT_ATTACHED_TWICE_MESSAGE.format(interface=eni.id), 400)


def _check_new(ec2: Any, spec: Mapping[str, Any]) -> None:
    if not spec.get("SubnetId"):
        return
    subnet = ec2.get_subnet(spec["SubnetId"])
    tell_moto(ec2, subnet)
    known_groups(ec2, [*(spec.get("Groups") or []), *(spec.get("SecurityGroupIds") or [])])
    primary, others = asked_addresses(spec)
    check_free(ec2, subnet, [one for one in (primary, *others) if one])
    if not primary:
        free_addresses(ec2, subnet, 1, others)


class AddressActions:
    """A mixin of moto's EC2Response."""

    account: Account

    if TYPE_CHECKING:
        params: dict[str, Any]
        ec2_backend: Any

        def _get_param(self, name: str, default: Any = None) -> Any: ...
        def _filters_from_querystring(self) -> dict[str, list[str]]: ...
        def error_on_dryrun(self) -> None: ...

    def create_network_interface(self) -> ActionResult:
        values, ec2 = plain(self.params), self.ec2_backend
        token = values.get("ClientToken") or ""
        check_client_token(token)
        check_tagged(values, {"network-interface"})
        fingerprint = json.dumps(values, sort_keys=True, default=str)
        known = self.account.repeated("CreateNetworkInterface", token, fingerprint)
        if known is not None:
            return ActionResult({"NetworkInterface": known, "ClientToken": token})
        subnet = ec2.get_subnet(values.get("SubnetId"))
        known_groups(ec2, values.get("Groups") or [])
        primary, others = asked_addresses(values)
        check_free(ec2, subnet, [one for one in (primary, *others) if one])
        more = int(values.get("SecondaryPrivateIpAddressCount") or 0)
        chosen = free_addresses(ec2, subnet, more + (not primary), [primary, *others])
        primary = primary or chosen.pop()
        self.params["PrivateIpAddress"] = primary
        self.params["PrivateIpAddresses"] = [
            {"Primary": one == primary, "PrivateIpAddress": one} for one in (primary, *others, *chosen)
        ]
        self.params.pop("SecondaryPrivateIpAddressCount", None)
        result: ActionResult = super().create_network_interface()  # type: ignore[misc]
        if token:
            made: Any = result.result
            self.account.made["CreateNetworkInterface", token] = (fingerprint, made["NetworkInterface"])
        return result

    def describe_network_interfaces(self) -> ActionResult:
        """moto's filter looks at the first address of an interface only."""
        filters = self._filters_from_querystring()
        wanted = filters.pop("addresses.private-ip-address", None)
        self.error_on_dryrun()
        found = self.ec2_backend.get_all_network_interfaces(self._get_param("NetworkInterfaceIds", []), filters)
        if wanted is not None:
            has = {one.id: {item["PrivateIpAddress"] for item in one.private_ip_addresses} for one in found}
            found = [one for one in found if has[one.id] & set(wanted)]
        return ActionResult({"NetworkInterfaces": found})

    def delete_network_interface(self) -> ActionResult:
        eni = self.ec2_backend.get_network_interface(self._get_param("NetworkInterfaceId"))
        if eni.instance is not None:
            raise AwsError("InvalidParameterValue", f"Network interface '{eni.id}' is currently in use.", 400)
        result: ActionResult = super().delete_network_interface()  # type: ignore[misc]
        return result

    def attach_network_interface(self) -> ActionResult:
        check_unattached(self.ec2_backend.get_network_interface(self._get_param("NetworkInterfaceId")))
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        index = int(self._get_param("DeviceIndex"))
        if index in instance.nics:
            raise AwsError(
                "InvalidParameterValue", f"Instance already has an interface attached at device index '{index}'.", 400
            )
        result: ActionResult = super().attach_network_interface()  # type: ignore[misc]
        return result

    def assign_private_ip_addresses(self) -> ActionResult:
        ec2, values = self.ec2_backend, plain(self.params)
        eni = ec2.get_network_interface(values.get("NetworkInterfaceId"))
        asked = [one for one in values.get("PrivateIpAddresses") or [] if owners(ec2, eni.subnet).get(one) is not eni]
        if values.get("AllowReassignment"):
            for address in asked:
                _take_away(ec2, eni.subnet, address)
        check_free(ec2, eni.subnet, asked)
        more = free_addresses(ec2, eni.subnet, int(values.get("SecondaryPrivateIpAddressCount") or 0), asked)
        self.error_on_dryrun()
        added = [*asked, *more]
        eni.private_ip_addresses.extend({"Primary": False, "PrivateIpAddress": one} for one in added)
        return ActionResult(
            {
                "NetworkInterfaceId": eni.id,
                "AssignedPrivateIpAddresses": [{"PrivateIpAddress": one} for one in added],
            }
        )

    def modify_network_interface_attribute(self) -> ActionResult:
        eni = self.ec2_backend.get_network_interface(self._get_param("NetworkInterfaceId"))
        groups = known_groups(self.ec2_backend, self._get_param("Groups", []))
        attachment = self._get_param("Attachment") or {}
        self.error_on_dryrun()
        if attachment.get("AttachmentId"):
            if attachment["AttachmentId"] != eni.attachment_id:
                text = f"The networkInterface attachment '{attachment['AttachmentId']}' does not exist"
                raise AwsError("InvalidAttachmentID.NotFound", text, 400)
            eni.delete_on_termination = bool(attachment.get("DeleteOnTermination"))
        result: ActionResult = super().modify_network_interface_attribute()  # type: ignore[misc]
        if groups and eni.instance is not None and eni.device_index == 0:
            eni.instance.security_groups = list(groups)  # else moto adds the old ones of the instance
        return result

    def associate_address(self) -> ActionResult:
        """Without AllowReassociation an Elastic IP moves ("Reassociation is automatic", EC2's service model)."""
        ec2, values = self.ec2_backend, plain(self.params)
        if values.get("AllocationId"):
            (address,) = ec2.address_by_allocation([values["AllocationId"]])
        else:
            (address,) = ec2.address_by_ip([values.get("PublicIp")])
        if values.get("NetworkInterfaceId"):
            card = ec2.get_network_interface(values["NetworkInterfaceId"])
        else:
            card = ec2.get_instance(values.get("InstanceId")).nics[0]
        if address.eni is card:
            return ActionResult({"AssociationId": address.association_id})
        self.error_on_dryrun()
        other = next((one for one in ec2.addresses if one.eni is card), None)
        if values.get("AllowReassociation") is False and (address.eni is not None or other is not None):
            text = f"resource {values.get('AllocationId') or address.public_ip} is already associated with address"
            raise AwsError("Resource.AlreadyAssociated", text, 400)
        for one in (address, other):
            if one is not None and one.eni is not None:
                ec2.disassociate_address(association_id=one.association_id)
        ec2.associate_address(eni=card, allocation_id=address.allocation_id)
        address.instance = card.instance
        return ActionResult({"AssociationId": address.association_id})


def _take_away(ec2: Any, subnet: Any, address: str) -> None:
    """From the interface that has it as a secondary one: a primary address can't move."""
    owner = owners(ec2, subnet).get(address)
    if owner is not None and owner.private_ip_address != address:
        owner.private_ip_addresses[:] = [
            item for item in owner.private_ip_addresses if item["PrivateIpAddress"] != address
        ]
