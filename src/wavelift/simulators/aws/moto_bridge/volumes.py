"""Volumes that are made and attached after a launch, and who may use a snapshot."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from moto.core.responses import ActionResult

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.invented import ATTACHABLE_MESSAGE, DEVICE_TAKEN_MESSAGE
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.actions import check_tagged, plain


class VolumeActions:
    """A mixin of moto's EC2Response."""

    account: Account

    if TYPE_CHECKING:
        params: dict[str, Any]
        ec2_backend: Any

        def _get_param(self, name: str, default: Any = None) -> Any: ...

    def create_volume(self) -> ActionResult:
        check_tagged(plain(self.params), {"volume"})
        if source := self._get_param("SnapshotId"):
            snapshot = self.account.completed_snapshot(source)
            if int(self._get_param("Size") or snapshot.size) < snapshot.size:
                text = f"The size of a volume must be at least that of its snapshot, {snapshot.size} GiB"
                raise AwsError("InvalidParameterValue", text, 400)
        result: ActionResult = super().create_volume()  # type: ignore[misc]
        made: Any = result.result
        self.account.volume(made.id)  # its snapshot may be deleted later
        return result

    def attach_volume(self) -> ActionResult:
        """EC2 user guide, "Attach an Amazon EBS volume": to a running or stopped instance of the volume's zone."""
        ec2, device = self.ec2_backend, str(self._get_param("Device") or "")
        volume, instance = ec2.get_volume(self._get_param("VolumeId")), ec2.get_instance(self._get_param("InstanceId"))
        if volume.attachment is not None:
            raise AwsError("VolumeInUse", f"{volume.id} is already attached to an instance", 400)
        if instance.state not in {"running", "stopped"}:
            raise AwsError("IncorrectState", ATTACHABLE_MESSAGE.format(instance=instance.id), 400)
        if volume.availability_zone != instance.availability_zone:
            text = f"The volume '{volume.id}' is not in the same availability zone as instance '{instance.id}'"
            raise AwsError("InvalidVolume.ZoneMismatch", text, 400)
        if device in instance.block_device_mapping:
            raise AwsError("InvalidParameterValue", DEVICE_TAKEN_MESSAGE.format(device=device), 400)
        result: ActionResult = super().attach_volume()  # type: ignore[misc]
        now = datetime.fromtimestamp(self.account.clock.now(), UTC)
        made: Any = result.result
        instance.block_device_mapping[device].attach_time = made["AttachTime"] = now
        ec2.volumes[volume.id].attachment.attach_time = now
        self.account.volume(volume.id)
        return result

    def detach_volume(self) -> ActionResult:
        """The instance need not be named: a volume is attached to one."""
        volume = self.ec2_backend.get_volume(self._get_param("VolumeId"))
        if volume.attachment is None:
            raise AwsError("IncorrectState", f"Volume '{volume.id}' is in the 'available' state.", 400)
        self.params["InstanceId"] = self._get_param("InstanceId") or volume.attachment.instance.id
        result: ActionResult = super().detach_volume()  # type: ignore[misc]
        return result

    def describe_snapshot_attribute(self) -> ActionResult:
        if self._get_param("Attribute") != "productCodes":
            found: ActionResult = super().describe_snapshot_attribute()  # type: ignore[misc]
            return found
        snapshot = self.ec2_backend.get_snapshot(self._get_param("SnapshotId"))
        return ActionResult({"SnapshotId": snapshot.id, "ProductCodes": snapshot.product_codes})
