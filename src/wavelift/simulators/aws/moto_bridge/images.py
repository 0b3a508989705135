"""CreateImage, CreateSnapshot and CreateSnapshots: from the blocks of the volumes, and in time."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from moto.core.responses import ActionResult

from wavelift.simulators.aws.ebs.snapshot import PENDING, Snapshot
from wavelift.simulators.aws.ebs.store import NewSnapshot
from wavelift.simulators.aws.ebs.volume import Volume
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.invented import NO_SNAPSHOTS_MESSAGE, NO_VOLUMES_MESSAGE, NOT_LEFT_OUT_MESSAGE
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.actions import check_image_name, check_tagged, plain
from wavelift.simulators.aws.moto_bridge.instances import reboot
from wavelift.simulators.aws.moto_bridge.resources import Billing, SimAmi
from wavelift.simulators.aws.settings import ACCOUNT
from wavelift.simulators.aws.tags import check_description


class ImageActions:
    """A mixin of moto's EC2Response."""

    account: Account

    if TYPE_CHECKING:
        params: dict[str, Any]
        ec2_backend: Any

        def _get_param(self, name: str, default: Any = None) -> Any: ...
        def error_on_dryrun(self) -> None: ...
        def _parse_tag_specification(self) -> dict[str, dict[str, str]]: ...

    def create_image(self) -> ActionResult:
        values, ec2 = plain(self.params), self.ec2_backend
        check_image_name(ec2, values.get("Name") or "")
        check_description(values.get("Description") or "")
        check_tagged(values, {"image", "snapshot"})
        instance = ec2.get_instance(values.get("InstanceId"))
        if instance.state not in {"running", "stopping", "stopped"}:
            raise AwsError("IncorrectState", f"Instance '{instance.id}' is not 'running' or 'stopped'", 400)
        blocks = _blocks(instance, values.get("BlockDeviceMappings") or [])
        self.error_on_dryrun()
        tags = self._parse_tag_specification()
        image_id = f"ami-0{uuid.uuid4().hex[:16]}"
        said = f"Created by CreateImage({instance.id}) for {image_id}"
        volumes = {device: str(block.volume_id) for device, block in blocks.items()}
        made = self._snapshots(volumes.values(), said, {each: tags.get("snapshot", {}) for each in volumes.values()})
        snapshots = dict(zip(volumes, made, strict=True))
        mappings = [
            {
                "DeviceName": device,
                "Ebs": {
                    "SnapshotId": snapshots[device].id,
                    "VolumeSize": snapshots[device].size,
                    "VolumeType": ec2.volumes[block.volume_id].volume_type,
                    "DeleteOnTermination": bool(block.delete_on_termination),
                    "Encrypted": snapshots[device].encrypted,
                },
            }
            for device, block in blocks.items()
        ]
        image = SimAmi(ec2, image_id, values=_values(instance, values), mappings=mappings, terms=_terms(instance))
        image.state, image.instance_id = "pending", instance.id
        image.product_codes = list(instance.product_codes)
        ec2.amis[image_id] = image
        image.add_tags(tags.get("image", {}))
        self.account.hide(image_id)
        if not values.get("NoReboot") and instance.state == "running":
            reboot(self.account, instance)
        key = str(instance.id)
        failed = self.account.faults.take("failed_image", service="ec2", operation="CreateImage", key=key)
        end = partial(setattr, image, "state", "failed" if failed else "available")
        self.account.after(self.account.settings.image_seconds, end)
        return ActionResult({"ImageId": image_id})

    def create_snapshot(self) -> ActionResult:
        values = plain(self.params)
        check_tagged(values, {"snapshot"})
        volume = self.ec2_backend.volumes.get(values.get("VolumeId"))
        if volume is None:
            raise AwsError("InvalidVolume.NotFound", f"The volume '{values.get('VolumeId')}' does not exist.", 400)
        self.error_on_dryrun()
        tags = self._parse_tag_specification().get("snapshot", {})
        made = self._snapshots([volume.id], values.get("Description") or "", {volume.id: tags})[0]
        return ActionResult(self.ec2_backend.snapshots[made.id])

    def describe_snapshots(self) -> ActionResult:
        """As moto, but those of the owners that are asked for only."""
        result: ActionResult = super().describe_snapshots()  # type: ignore[misc]
        owners = {ACCOUNT if one == "self" else one for one in plain(self.params).get("OwnerIds") or []}
        if owners:
            found: Any = result.result
            found["Snapshots"] = [one for one in found["Snapshots"] if one.owner_id in owners]
        return result

    def create_snapshots(self) -> ActionResult:
        """Snapshots of an instance's volumes, all of one instant. With or without the boot volume and others."""
        values, ec2 = plain(self.params), self.ec2_backend
        check_tagged(values, {"snapshot"})
        description = values.get("Description") or ""
        instance = ec2.get_instance((values.get("InstanceSpecification") or {}).get("InstanceId"))
        if instance.state not in {"running", "stopping", "stopped"}:
            raise AwsError("IncorrectState", NO_SNAPSHOTS_MESSAGE.format(instance=instance.id), 400)
        volumes = _chosen(instance, values["InstanceSpecification"])
        self.error_on_dryrun()
        given = self._parse_tag_specification().get("snapshot", {})
        copied = values.get("CopyTagsFromSource") == "volume"
        tags = {one: {**(ec2.tags.get(one, {}) if copied else {}), **given} for one in volumes}
        made = self._snapshots(volumes, description, tags)
        return ActionResult({"Snapshots": [_info(snapshot) for snapshot in made]})

    def _snapshots(
        self, volumes: Iterable[str], description: str, tags: Mapping[str, Mapping[str, str]]
    ) -> list[Snapshot]:
        account = self.account

        def new(volume: Volume) -> NewSnapshot:
            return NewSnapshot(size=volume.size, description=description, tags=tags[volume.id])

        made = account.ebs.snapshots_of([account.volume(one) for one in volumes], new)
        for snapshot in made:
            account.hide(snapshot.id)
        return made


def _blocks(instance: Any, asked: list[dict[str, Any]]) -> dict[str, Any]:
    """The devices to take, by name: all but those that the request leaves out."""
    left_out = {item["DeviceName"] for item in asked if "NoDevice" in item}
    if any("VolumeInitializationRate" in (item.get("Ebs") or {}) for item in asked):
        raise AwsError("InvalidParameterValue", "VolumeInitializationRate is not supported by CreateImage", 400)
    return {device: block for device, block in instance.block_device_mapping.items() if device not in left_out}


def _chosen(instance: Any, specification: Mapping[str, Any]) -> list[str]:
    """The volumes that CreateSnapshots takes. Raises AwsError."""
    volumes = {str(block.volume_id): device for device, block in instance.block_device_mapping.items()}
    left_out = set(specification.get("ExcludeDataVolumeIds") or [])
    roots = {volume for volume, device in volumes.items() if device == instance.root_device_name}
    if wrong := left_out & roots or left_out - set(volumes):
        raise AwsError("InvalidParameterValue", NOT_LEFT_OUT_MESSAGE.format(volume=min(wrong)), 400)
    if specification.get("ExcludeBootVolume"):
        left_out |= roots
    chosen = [one for one in volumes if one not in left_out]
    if not chosen:
        raise AwsError("InvalidParameterValue", NO_VOLUMES_MESSAGE.format(instance=instance.id), 400)
    return chosen


def _info(snapshot: Snapshot) -> dict[str, Any]:
    """As CreateSnapshots shows it (SnapshotInfo in EC2's service model)."""
    return {
        "SnapshotId": snapshot.id,
        "VolumeId": snapshot.origin,
        "VolumeSize": snapshot.size,
        "State": PENDING,
        "Progress": "",
        "StartTime": datetime.fromtimestamp(snapshot.started, UTC),
        "Description": snapshot.description,
        "Encrypted": snapshot.encrypted,
        "OwnerId": ACCOUNT,
        "Tags": [{"Key": key, "Value": value} for key, value in snapshot.tags.items()],
        "SseType": "sse-kms" if snapshot.kms_key else "sse-ebs" if snapshot.encrypted else "none",
    }


def _values(instance: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Parameters, as of RegisterImage, of an image of an instance."""
    return {
        "Name": values["Name"],
        "Description": values.get("Description"),
        "Architecture": instance.architecture,
        "VirtualizationType": instance.virtualization_type,
        "RootDeviceName": instance.root_device_name,
        "EnaSupport": instance.ena_support,
        "BootMode": instance.boot_mode,
    }


def _terms(instance: Any) -> Billing:
    return Billing(instance.platform, instance.platform_details, instance.usage_operation)
