"""RegisterImage: an AMI straight from EBS snapshots, with no conversion and no billing data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import aws_errors
from wavelift.adapters.aws.tagging import specification
from wavelift.base.errors import PermanentError

ROOT_DEVICE: Final = "/dev/sda1"
MAX_DISKS: Final = 22
"""The root, and /dev/sdf to /dev/sdz: what EC2 recommends for volumes of HVM images."""


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """One image.

    :ivar name: unique in account and region: a repeated request finds the image by it.
    :ivar snapshot_ids: in true order, boot disk first (invariant 11).
    :ivar boot_mode: ``legacy-bios``, ``uefi`` or empty for AWS's choice.
    """

    name: str
    snapshot_ids: Sequence[str]
    boot_mode: str = ""
    description: str = ""
    architecture: str = "x86_64"
    tags: Mapping[str, str] = field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """:raises PermanentError: for more disks than there are device names."""
        if not 1 <= len(self.snapshot_ids) <= MAX_DISKS:
            raise PermanentError(
                f"an image takes 1 to {MAX_DISKS} disks, not {len(self.snapshot_ids)}",
                next_step="Use 'ami: import', or attach the other disks as volumes",
            )
        names = [ROOT_DEVICE, *(f"/dev/sd{letter}" for letter in ascii_lowercase[5:])]
        mappings = [
            {"DeviceName": name, "Ebs": {"SnapshotId": id, "DeleteOnTermination": True}}
            for name, id in zip(names, self.snapshot_ids, strict=False)
        ]
        return {
            "Name": self.name,
            "Description": self.description,
            "Architecture": self.architecture,
            "RootDeviceName": ROOT_DEVICE,
            "BlockDeviceMappings": mappings,
            "VirtualizationType": "hvm",
            "EnaSupport": True,
            "TagSpecifications": specification("image", self.tags),
            **({"BootMode": self.boot_mode} if self.boot_mode else {}),
        }


def register_image(access: AwsAccess, request: RegisterRequest) -> str:
    """The image's id; the one that an earlier call registered under this name (invariant 5)."""
    client = access.client("ec2")
    with aws_errors("could not register the image", service="ec2", image=request.name):
        known = client.describe_images(Owners=["self"], Filters=[{"Name": "name", "Values": [request.name]}])["Images"]
        if known:
            return str(known[0]["ImageId"])
        return str(client.register_image(**request.parameters())["ImageId"])
