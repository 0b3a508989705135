"""Our own EC2 actions, in front of moto's: images and snapshots. Each other group has a module beside this one."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moto.core.responses import ActionResult, EmptyResult

from wavelift.simulators.aws.ebs.snapshot import COMPLETED
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.resources import SimAmi
from wavelift.simulators.aws.settings import MANAGED_EBS_KEY
from wavelift.simulators.aws.tags import IMAGE_NAME, check_description


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


def check_image_name(ec2: Any, name: str) -> None:
    """Raises AwsError."""
    if not IMAGE_NAME.fullmatch(name):
        raise AwsError(
            "InvalidAMIName.Malformed",
            "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, "
            "'(', ')', '.', '-', '/' and '_'",
            400,
        )
    if any(image.name == name for image in ec2.amis.values()):
        raise AwsError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use", 400)


class Ec2Actions:
    """A mixin of moto's EC2Response. ``account`` is set when it is put in."""

    account: Account

    if TYPE_CHECKING:
        params: dict[str, Any]
        ec2_backend: Any

        def _get_param(self, name: str, default: Any = None) -> Any: ...
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
        check_image_name(self.ec2_backend, values.get("Name") or "")
        check_description(values.get("Description") or "")
        check_tagged(values, {"image"})
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
