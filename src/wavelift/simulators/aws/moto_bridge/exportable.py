"""What VM Export refuses: considerations of the user guide for instances ("vmexport") and images ("vmexport_image")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.invented import IMAGES_OF_ONE_DISK, NOT_EXPORTABLE_CODE
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.settings import ACCOUNT

OWN_SOFTWARE: Final = ("RunInstances", "RunInstances:0800")
"""Usage operations without software of AWS's: Linux, and Windows with the customer's licence. RHEL, SUSE, Windows and
SQL Server have others (EC2 user guide, "AMI billing information fields")."""
MAX_GIB: Final = 1024
"""User guide: "VMs with volumes larger than 1 TiB are not supported"."""


def check_instance(account: Account, instance: Any) -> None:
    """Raises AwsError for the first thing that makes the instance not exportable."""
    if instance.state not in {"running", "stopped"}:
        raise AwsError("IncorrectInstanceState", f"Instance '{instance.id}' is not 'running' or 'stopped'", 400)
    for problem in _of_instance(account, instance):
        raise AwsError(NOT_EXPORTABLE_CODE, f"The instance {instance.id} can't be exported: {problem}", 400)


def check_image(account: Account, image: Any) -> None:
    """The same of an image."""
    if image.state != "available":
        raise AwsError("InvalidAMIID.Unavailable", f"The image ID '{image.id}' is not available", 400)
    for problem in _of_image(account, image):
        raise AwsError(NOT_EXPORTABLE_CODE, f"The image {image.id} can't be exported: {problem}", 400)


def exported_volumes(account: Account, instance: Any) -> list[str]:
    """Those of the launch that are still attached.

    User guide: only volumes of the block device mapping are exported, and none that were attached after the launch.
    """
    launched = account.launches[instance.id].volumes
    attached = [str(block.volume_id) for block in instance.block_device_mapping.values()]
    return [volume_id for volume_id in attached if volume_id in launched]


def _of_instance(account: Account, instance: Any) -> Iterator[str]:
    ec2 = account.backends.ec2
    if _owner(ec2, instance.id) != ACCOUNT:
        yield "it is shared from another account"
    yield from _software(instance)
    launch, exported = account.launches[instance.id], exported_volumes(account, instance)
    if launch.instance_store:
        yield f"it has instance store volumes ({', '.join(launch.instance_store)})"
    if len(exported) != 1:
        yield f"it has {len(exported)} virtual disks"
    if len(instance.nics) > 1:
        yield f"it has {len(instance.nics)} network interfaces"
    volumes = [ec2.volumes[volume_id] for volume_id in exported]
    if any(volume.encrypted or _encrypted(ec2, volume.snapshot_id) for volume in volumes):
        yield "its block device mapping has encrypted volumes or snapshots"
    if any(int(volume.size) > MAX_GIB for volume in volumes):
        yield "it has volumes larger than 1 TiB"
    yield from _origin(ec2, instance.image_id)


def _origin(ec2: Any, image_id: str) -> Iterator[str]:
    image = ec2.amis.get(image_id)
    if image is None:
        yield f"its image {image_id} does not exist any more"
        return
    if gone := [one for one in _snapshots(image) if one not in ec2.snapshots]:
        yield f"snapshots of its image do not exist any more ({', '.join(gone)})"


def _of_image(account: Account, image: Any) -> Iterator[str]:
    ec2 = account.backends.ec2
    if image.owner_id != ACCOUNT:
        yield "it is shared from another account"
    yield from _software(image)
    if any(item.get("VirtualName") for item in image.block_device_mappings):
        yield "it has instance store volumes"
    disks = [item["Ebs"] for item in image.block_device_mappings if "Ebs" in item]
    if len(disks) != 1 and IMAGES_OF_ONE_DISK:
        yield f"it has {len(disks)} virtual disks"
    if any(disk.get("Encrypted") or _encrypted(ec2, disk.get("SnapshotId")) for disk in disks):
        yield "it has encrypted snapshots"
    if any(int(disk.get("VolumeSize") or 0) > MAX_GIB for disk in disks):
        yield "it has volumes larger than 1 TiB"
    if gone := [one for one in _snapshots(image) if one not in ec2.snapshots]:
        yield f"its snapshots do not exist any more ({', '.join(gone)})"


def _software(row: Any) -> Iterator[str]:
    """Windows, SQL Server and others of AWS, or of AWS Marketplace."""
    if row.usage_operation not in OWN_SOFTWARE:
        yield f"it contains third-party software provided by AWS ({row.platform_details}, {row.usage_operation})"
    if row.product_codes:
        yield "it contains software of AWS Marketplace"


def _snapshots(image: Any) -> list[str]:
    mappings: list[Mapping[str, Any]] = image.block_device_mappings
    return [str(item["Ebs"]["SnapshotId"]) for item in mappings if item.get("Ebs", {}).get("SnapshotId")]


def _encrypted(ec2: Any, snapshot_id: str | None) -> bool:
    snapshot = ec2.snapshots.get(snapshot_id)
    return snapshot is not None and bool(snapshot.encrypted)


def _owner(ec2: Any, instance_id: str) -> str:
    rows = (row for row in ec2.reservations.values() if any(one.id == instance_id for one in row.instances))
    return next((str(row.owner_id) for row in rows), "")
