"""What RunInstances is asked for: one instance of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from wavelift.adapters.aws.tagging import specification
from wavelift.base.errors import PermanentError

INITIALIZATION_MIB_S: Final = range(100, 301)
"""EC2 API reference, EbsBlockDevice: VolumeInitializationRate."""


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """One instance.

    :ivar client_token: EC2 answers a repeated token with the instance that it started before.
    :ivar private_ip: empty lets the subnet choose.
    :ivar public_ip: only on request: a migrated server must not stand in the Internet by accident.
    :ivar network_interface: an interface that exists. It has a subnet, groups, an address and tags of its own, so those
        of the request are left out, and it stays when the instance is terminated.
    :ivar volume_initialization_mib_s: pace at which EBS fetches the volumes' blocks from their snapshots, 100 to 300
        MiB/s (EBS user guide, "Provisioned rate for volume initialization"); 0: as they are read.
    :ivar devices: of the image's volumes, which that pace is for; empty asks the image.
    """

    image_id: str
    instance_type: str
    subnet_id: str
    client_token: str
    security_groups: Sequence[str] = ()
    private_ip: str = ""
    public_ip: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    key_name: str = ""
    instance_profile: str = ""
    network_interface: str = ""
    volume_initialization_mib_s: int = 0
    devices: Sequence[str] = ()

    def parameters(self) -> dict[str, Any]:
        """The request as boto3 wants it. IMDSv2 is required: migrated software does not know the metadata service.

        :raises PermanentError: no such pace of initialization.
        """
        parameters: dict[str, Any] = {
            "ImageId": self.image_id,
            "InstanceType": self.instance_type,
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": self.client_token,
            "NetworkInterfaces": [self._interface()],
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
            "TagSpecifications": [
                *specification("instance", self.tags),
                *specification("volume", self.tags),
                # EC2 refuses tags for an interface that the launch does not make.
                *([] if self.network_interface else specification("network-interface", self.tags)),
            ],
        }
        if self.key_name:
            parameters["KeyName"] = self.key_name
        if self.instance_profile:
            parameters["IamInstanceProfile"] = {"Name": self.instance_profile}
        if self.volume_initialization_mib_s:
            parameters["BlockDeviceMappings"] = self._volumes()
        return parameters

    def _interface(self) -> dict[str, Any]:
        if self.network_interface:
            return {"DeviceIndex": 0, "NetworkInterfaceId": self.network_interface, "DeleteOnTermination": False}
        interface: dict[str, Any] = {
            "DeviceIndex": 0,
            "SubnetId": self.subnet_id,
            "AssociatePublicIpAddress": self.public_ip,
        }
        if self.security_groups:
            interface["Groups"] = list(self.security_groups)
        if self.private_ip:
            interface["PrivateIpAddress"] = self.private_ip
        return interface

    def _volumes(self) -> list[dict[str, Any]]:
        rate = self.volume_initialization_mib_s
        if rate not in INITIALIZATION_MIB_S:
            raise PermanentError(
                f"volumes can't be initialized at {rate} MiB/s: it is "
                f"{INITIALIZATION_MIB_S.start} to {INITIALIZATION_MIB_S.stop - 1}",
                next_step="Correct volume_initialization_mib_s",
                image=self.image_id,
            )
        return [{"DeviceName": device, "Ebs": {"VolumeInitializationRate": rate}} for device in self.devices]
