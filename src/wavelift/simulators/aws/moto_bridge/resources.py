"""Our snapshots and images as moto resources. A snapshot reads its state from our store.

A subclass of moto's base model must be in a module with a dotted name, else moto's instance tracker fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final

from moto.ec2.models.amis import Ami
from moto.ec2.models.elastic_block_store import Snapshot as MotoSnapshot

from wavelift.simulators.aws.ebs.snapshot import COMPLETED, ERROR, Snapshot
from wavelift.simulators.aws.invented import DEVICE_NAMES
from wavelift.simulators.aws.settings import ACCOUNT
from wavelift.simulators.aws.vmimport.tasks import ImportTask

ARBITRARY_VOLUME: Final = "vol-ffffffff"
"""The volume id that AWS shows for a snapshot that was made without a volume."""


class SimSnapshot(MotoSnapshot):  # type: ignore[misc]
    """``state_of`` returns the state as of now."""

    def __init__(self, ec2_backend: Any, snapshot: Snapshot, state_of: Callable[[Snapshot], str]) -> None:
        self.ec2_backend = ec2_backend
        self.sim, self._state_of = snapshot, state_of
        self.id = snapshot.id
        self.volume = SimpleNamespace(
            id=snapshot.origin if snapshot.origin.startswith("vol-") else ARBITRARY_VOLUME, size=snapshot.size
        )
        self.description = snapshot.description
        self.start_time = datetime.fromtimestamp(snapshot.started, UTC)
        self.create_volume_permission_groups: set[str] = set()
        self.create_volume_permission_userids: set[str] = set()
        self.encrypted, self.kms_key_id = snapshot.encrypted, snapshot.kms_key or None
        self.owner_id = ACCOUNT
        self.storage_tier = "standard"
        self.product_codes: list[dict[str, str]] = []
        self.add_tags(snapshot.tags)

    @property
    def status(self) -> str:
        return self._state_of(self.sim)

    @property
    def state_message(self) -> str | None:
        return "The snapshot was cancelled for inactivity" if self.status == ERROR else None

    @property
    def progress(self) -> str:
        return "100%" if self.status == COMPLETED else "0%"

    @property
    def from_ami(self) -> str | None:
        """An image that uses this snapshot, which therefore can't be deleted."""
        for image in self.ec2_backend.amis.values():
            if any(item.get("Ebs", {}).get("SnapshotId") == self.id for item in image.block_device_mappings):
                return str(image.id)
        return None


@dataclass(frozen=True, slots=True)
class Billing:
    """How an image's instances are billed."""

    platform: str | None
    details: str
    usage_operation: str


LINUX: Final = Billing(None, "Linux/UNIX", "RunInstances")


class SimAmi(Ami):  # type: ignore[misc]
    """An image with everything that RegisterImage was given. moto's own keeps the name and the description only."""

    def __init__(
        self,
        ec2_backend: Any,
        image_id: str,
        *,
        values: Mapping[str, Any],
        mappings: Sequence[Mapping[str, Any]],
        terms: Billing = LINUX,
    ) -> None:
        self.ec2_backend = ec2_backend
        self.id, self.state, self.owner_id, self.owner_alias = image_id, "available", ACCOUNT, None
        self.name, self.description = values["Name"], values.get("Description") or ""
        self.image_type, self.hypervisor, self.root_device_type = "machine", "xen", "ebs"
        self.image_location = f"{ACCOUNT}/{self.name}"
        self.virtualization_type = values.get("VirtualizationType") or "paravirtual"
        self.architecture = values.get("Architecture") or "i386"
        self.kernel_id, self.ramdisk_id = values.get("KernelId"), values.get("RamdiskId")
        self.root_device_name = values.get("RootDeviceName") or ""
        self.sriov_net_support = self.sriov = values.get("SriovNetSupport")
        self.ena_support = bool(values.get("EnaSupport"))
        self.boot_mode, self.tpm_support = values.get("BootMode"), values.get("TpmSupport")
        self.imds_support, self.uefi = values.get("ImdsSupport"), values.get("UefiData")
        self.platform, self.platform_details = terms.platform, terms.details
        self.usage_operation = terms.usage_operation
        self.creation_date = datetime.now(UTC)
        self.product_codes: list[dict[str, str]] = []
        self.instance_id = None
        self.launch_permissions: list[dict[str, str]] = []
        self.mappings = [dict(item) for item in mappings]

    @property
    def public(self) -> bool:
        return bool(self.is_public)

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        return self.mappings

    def get_filter_value(self, filter_name: str, method_name: str | None = None) -> Any:
        if filter_name == "product-code":
            return [one["ProductCodeId"] for one in self.product_codes]
        return super().get_filter_value(filter_name, method_name)


def image_values(task: ImportTask) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Parameters and mappings, as of RegisterImage, of the image that an import makes."""
    request = task.request
    values = {
        "Name": task.id,
        "Description": f"AWS-VMImport service: {request.get('Description') or task.id}",
        "Architecture": request.get("Architecture") or "x86_64",
        "VirtualizationType": "hvm",
        "RootDeviceName": DEVICE_NAMES[0],
        "EnaSupport": True,
        "BootMode": request.get("BootMode"),
    }
    mappings = []
    for disk in task.disks:
        assert disk.snapshot is not None
        mappings.append(
            {
                "DeviceName": disk.device,
                "Ebs": {
                    "SnapshotId": disk.snapshot.id,
                    "VolumeSize": disk.snapshot.size,
                    "VolumeType": "gp2",
                    "DeleteOnTermination": True,
                    "Encrypted": disk.snapshot.encrypted,
                },
            }
        )
    return values, mappings


def billing(request: Mapping[str, Any], windows: bool) -> Billing:
    """The billing of the image that an import makes, by platform and licence."""
    if request.get("Platform") != "Windows" and not windows:
        return LINUX
    if request.get("LicenseType") == "BYOL":
        return Billing("windows", "Windows BYOL", "RunInstances:0800")
    return Billing("windows", "Windows", "RunInstances:0002")
