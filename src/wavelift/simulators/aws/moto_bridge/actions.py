"""Our own EC2 actions, in front of moto's: images, instances, snapshots. Imports are in :mod:`.imports`."""

from __future__ import annotations

import ipaddress
import json
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.exceptions import InvalidInstanceTypeError

from wavelift.simulators.aws.ebs.snapshot import COMPLETED
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.resources import SimAmi
from wavelift.simulators.aws.settings import MANAGED_EBS_KEY
from wavelift.simulators.aws.tags import IMAGE_NAME, check_client_token, check_description

PENDING: Final = ("pending", 0)
RESERVED_ADDRESSES: Final = 4
"""AWS reserves the first four addresses of a subnet, and the last one."""


def plain(value: Any) -> Any:
    """Parsed parameters as plain dicts and lists, which can be compared and written as JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def check_tagged(values: Mapping[str, Any], kinds: set[str]) -> None:
    """A call can only tag the kinds of resources that it creates. Raises AwsError."""
    for item in values.get("TagSpecifications") or []:
        if item.get("ResourceType") not in kinds:
            raise AwsError(
                "InvalidParameterValue", f"'{item.get('ResourceType')}' is not a valid taggable resource type", 400
            )


class Ec2Actions:
    """A mixin of moto's EC2Response. ``account`` is set when it is put in."""

    account: Account

    if TYPE_CHECKING:
        params: dict[str, Any]
        ec2_backend: Any

        def _get_param(self, name: str, default: Any = None) -> Any: ...
        def _filters_from_querystring(self) -> dict[str, list[str]]: ...
        def error_on_dryrun(self) -> None: ...
        def _parse_tag_specification(self) -> dict[str, dict[str, str]]: ...

    # images

    def register_image(self) -> ActionResult:
        values = plain(self.params)
        self._check_registration(values)
        self.error_on_dryrun()
        image_id = f"ami-0{uuid.uuid4().hex[:16]}"
        image = SimAmi(self.ec2_backend, image_id, values=values, mappings=self._with_sizes(values))
        self.ec2_backend.amis[image_id] = image
        image.add_tags(self._parse_tag_specification().get("image", {}))
        return ActionResult({"ImageId": image_id})

    def _check_registration(self, values: Mapping[str, Any]) -> None:
        name = values.get("Name") or ""
        if not IMAGE_NAME.fullmatch(name):
            raise AwsError(
                "InvalidAMIName.Malformed",
                "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, "
                "'(', ')', '.', '-', '/' and '_'",
                400,
            )
        check_description(values.get("Description") or "")
        check_tagged(values, {"image"})
        if any(image.name == name for image in self.ec2_backend.amis.values()):
            raise AwsError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use", 400)
        devices = [item.get("DeviceName") for item in values.get("BlockDeviceMappings") or []]
        if not devices or values.get("RootDeviceName") not in devices:
            raise AwsError(
                "InvalidBlockDeviceMapping", "Missing or unknown root device in the block device mapping", 400
            )
        if len(set(devices)) != len(devices):
            raise AwsError("InvalidBlockDeviceMapping", "A device name is given twice", 400)

    def _with_sizes(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Mappings as DescribeImages shows them: sizes and encryption from the snapshots."""
        mappings = []
        for item in values["BlockDeviceMappings"]:
            ebs = dict(item.get("Ebs") or {})
            if snapshot_id := ebs.get("SnapshotId"):
                snapshot = self.ec2_backend.snapshots.get(snapshot_id)
                if snapshot is None:
                    raise AwsError("InvalidSnapshot.NotFound", f"The snapshot '{snapshot_id}' does not exist.", 400)
                if snapshot.status != COMPLETED:
                    raise AwsError("InvalidSnapshot.State", f"Snapshot {snapshot_id} is {snapshot.status}", 400)
                if ebs.setdefault("VolumeSize", snapshot.volume.size) < snapshot.volume.size:
                    raise AwsError("InvalidBlockDeviceMapping", "Volume smaller than its snapshot", 400)
                ebs["Encrypted"] = snapshot.encrypted
            ebs.setdefault("DeleteOnTermination", True)
            ebs.setdefault("VolumeType", "gp2")
            mappings.append({**item, "Ebs": ebs} if "Ebs" in item else dict(item))
        return mappings

    # snapshots

    def delete_snapshot(self) -> ActionResult:
        snapshot_id = self._get_param("SnapshotId")
        self.error_on_dryrun()
        self.ec2_backend.delete_snapshot(snapshot_id)
        self.account.ebs.delete(snapshot_id)
        return EmptyResult()

    # the account's key

    def get_ebs_default_kms_key_id(self) -> ActionResult:
        return ActionResult({"KmsKeyId": self.account.ebs_key})

    def modify_ebs_default_kms_key_id(self) -> ActionResult:
        self.account.ebs_key = self.account.backends.key_arn(self._get_param("KmsKeyId"))
        return self.get_ebs_default_kms_key_id()

    def reset_ebs_default_kms_key_id(self) -> ActionResult:
        self.account.ebs_key = MANAGED_EBS_KEY
        return self.get_ebs_default_kms_key_id()

    # instances

    def run_instances(self) -> ActionResult:
        account = self.account
        token = self._get_param("ClientToken") or ""
        check_client_token(token)
        fingerprint = json.dumps(plain(self.params), sort_keys=True, default=str)
        if token in account.launches:
            known, reservation = account.launches[token]
            if known != fingerprint:
                raise AwsError(
                    "IdempotentParameterMismatch",
                    "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
                    400,
                )
            if all(instance.state == "terminated" for instance in reservation.instances):
                raise AwsError("IdempotentInstanceTerminated", "The instance of this token was terminated.", 400)
            return ActionResult(reservation)
        image = self._launch_image()
        self._check_address()
        self.params["BlockDeviceMappings"] = _merged(image, plain(self._get_param("BlockDeviceMappings") or []))
        try:
            result: ActionResult = super().run_instances()  # type: ignore[misc]
        except InvalidInstanceTypeError:
            wrong = self._get_param("InstanceType")
            raise AwsError("InvalidParameterValue", f"Invalid value '{wrong}' for InstanceType.", 400) from None
        reservation = result.result
        for instance in reservation.instances:
            self._finish_instance(instance, image)
        if token:
            account.launches[token] = (fingerprint, reservation)
        return result

    def _launch_image(self) -> Any:
        image_id = self._get_param("ImageId") or ""
        image = self.ec2_backend.amis.get(image_id)
        if image is None:
            raise AwsError("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist", 400)
        return image

    def _check_address(self) -> None:
        address, subnet_id = self._get_param("PrivateIpAddress"), self._get_param("SubnetId")
        for nic in self._get_param("NetworkInterfaces") or []:
            if nic.get("DeviceIndex") in {0, "0", None}:
                address, subnet_id = address or nic.get("PrivateIpAddress"), subnet_id or nic.get("SubnetId")
        if not subnet_id:
            return
        subnet = self.ec2_backend.get_subnet(subnet_id)
        held = self._held_addresses(subnet)
        if not address:
            if subnet.available_ip_address_count < 1:
                raise AwsError(
                    "InsufficientFreeAddressesInSubnet",
                    f"There are not enough free addresses in subnet '{subnet_id}' to satisfy the requested number of "
                    "instances.",
                    400,
                )
            return
        network = subnet.cidr
        wanted = ipaddress.ip_address(address)
        reserved = int(wanted) - int(network.network_address) < RESERVED_ADDRESSES
        if wanted not in network or reserved or wanted == network.broadcast_address:
            raise AwsError(
                "InvalidParameterValue", f"Address {address} does not fall within the subnet's address range", 400
            )
        if address in held:
            raise AwsError("InvalidIPAddress.InUse", f"Address {address} is in use.", 400)

    def _held_addresses(self, subnet: Any) -> set[str]:
        """The addresses of the interfaces in a subnet. moto gives a new instance addresses of interfaces that no
        instance has, so it is told of them."""
        held = {
            str(item["PrivateIpAddress"]): eni
            for eni in self.ec2_backend.enis.values()
            if eni.subnet.id == subnet.id
            for item in eni.private_ip_addresses
        }
        network = subnet.cidr
        reserved = [str(network[at]) for at in range(RESERVED_ADDRESSES)]
        subnet._subnet_ips = {**dict.fromkeys(reserved), **held}
        subnet._unused_ips -= set(held)
        return set(held)

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

    def _finish_instance(self, instance: Any, image: Any) -> None:
        """Set the attributes that moto's instances lack, and the state ``pending``."""
        instance._state.name, instance._state.code = PENDING
        self.account.hide(instance.id)
        self.account.starting.append(
            (self.account.clock.now() + self.account.settings.instance_pending_seconds, instance)
        )
        boot_mode = getattr(image, "boot_mode", None)
        instance.boot_mode = boot_mode
        instance.current_instance_boot_mode = "uefi" if boot_mode in {"uefi", "uefi-preferred"} else "legacy-bios"
        instance.ena_support = getattr(image, "ena_support", True)
        instance.platform_details = getattr(image, "platform_details", "Linux/UNIX")
        instance.usage_operation = getattr(image, "usage_operation", "RunInstances")
        for nic in instance.nics.values():
            nic.delete_on_termination = True

    def terminate_instances(self) -> ActionResult:
        ids = self._get_param("InstanceIds") or []
        for instance in self.ec2_backend.get_multi_instances_by_id(ids):
            for nic in instance.nics.values():
                nic.subnet.del_subnet_ip(nic.private_ip_address)
        result: ActionResult = super().terminate_instances()  # type: ignore[misc]
        return result


def _merged(image: Any, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The image's mappings, overridden by the request's, as RunInstances does."""
    merged = {item["DeviceName"]: json.loads(json.dumps(item)) for item in image.block_device_mappings}
    for item in asked:
        if "NoDevice" in item:
            merged.pop(item["DeviceName"], None)
            continue
        known = merged.setdefault(item["DeviceName"], {"DeviceName": item["DeviceName"], "Ebs": {}})
        known["Ebs"] = {**known.get("Ebs", {}), **(item.get("Ebs") or {})}
    return [item for item in merged.values() if "Ebs" in item]
