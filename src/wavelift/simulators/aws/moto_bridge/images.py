"""CreateImage and CreateSnapshot: from the blocks of the volumes, and in time."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from moto.core.responses import ActionResult

from wavelift.simulators.aws.ebs.snapshot import Snapshot
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.actions import check_image_name, check_tagged, plain
from wavelift.simulators.aws.moto_bridge.instances import reboot
from wavelift.simulators.aws.moto_bridge.resources import Billing, SimAmi
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
        snapshots = {
            device: self._snapshot(block.volume_id, said, tags.get("snapshot", {})) for device, block in blocks.items()
        }
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
        made = self._snapshot(volume.id, values.get("Description") or "", tags)
        return ActionResult(self.ec2_backend.snapshots[made.id])

    def _snapshot(self, volume_id: str, description: str, tags: dict[str, str]) -> Snapshot:
        made = self.account.ebs.snapshot_of(self.account.volume(volume_id), description, tags)
        self.account.hide(made.id)
        return made


def _blocks(instance: Any, asked: list[dict[str, Any]]) -> dict[str, Any]:
    """The devices to take, by name: all but those that the request leaves out."""
    left_out = {item["DeviceName"] for item in asked if "NoDevice" in item}
    if any("VolumeInitializationRate" in (item.get("Ebs") or {}) for item in asked):
        raise AwsError("InvalidParameterValue", "VolumeInitializationRate is not supported by CreateImage", 400)
    return {device: block for device, block in instance.block_device_mapping.items() if device not in left_out}


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
