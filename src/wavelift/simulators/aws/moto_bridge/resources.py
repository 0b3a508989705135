"""EC2's view of our snapshots and images: moto resources that read the truth from our stores.

A subclass of moto's base model must live in a dotted module, else its instance tracker fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final

from moto.ec2.models.amis import Ami
from moto.ec2.models.elastic_block_store import Snapshot as MotoSnapshot

from wavelift.simulators.aws.ebs.snapshot import COMPLETED, ERROR, Snapshot
from wavelift.simulators.aws.settings import ACCOUNT

ARBITRARY_VOLUME: Final = "vol-ffffffff"
"""What AWS shows for a snapshot that never was a volume."""


class SimSnapshot(MotoSnapshot):  # type: ignore[misc]
    """``state_of`` lets time pass for the snapshot before it is looked at."""

    def __init__(self, ec2_backend: Any, snapshot: Snapshot, state_of: Callable[[Snapshot], str]) -> None:
        self.ec2_backend = ec2_backend
        self.sim, self._state_of = snapshot, state_of
        self.id = snapshot.id
        self.volume = SimpleNamespace(id=ARBITRARY_VOLUME, size=snapshot.size)
        self.description = snapshot.description
        self.start_time = datetime.fromtimestamp(snapshot.started, UTC)
        self.create_volume_permission_groups: set[str] = set()
        self.create_volume_permission_userids: set[str] = set()
        self.encrypted, self.kms_key_id = snapshot.encrypted, snapshot.kms_key or None
        self.owner_id = ACCOUNT
        self.storage_tier = "standard"
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
        """An image that stands on this snapshot and keeps it from being deleted."""
        for image in self.ec2_backend.amis.values():
            if any(item.get("Ebs", {}).get("SnapshotId") == self.id for item in image.block_device_mappings):
                return str(image.id)
        return None


class SimAmi(Ami):  # type: ignore[misc]
    """An image with all that RegisterImage was told; moto's keeps the name and the description."""

    def __init__(
        self,
        ec2_backend: Any,
        image_id: str,
        *,
        values: Mapping[str, Any],
        mappings: Sequence[Mapping[str, Any]],
        platform: str | None = None,
        platform_details: str = "Linux/UNIX",
        usage_operation: str = "RunInstances",
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
        self.platform, self.platform_details, self.usage_operation = platform, platform_details, usage_operation
        self.creation_date = datetime.now(UTC)
        self.product_codes: set[str] = set()
        self.instance_id = None
        self.launch_permissions: list[dict[str, str]] = []
        self.mappings = [dict(item) for item in mappings]

    @property
    def public(self) -> bool:
        return bool(self.is_public)

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        return self.mappings
