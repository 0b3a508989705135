"""What EC2 tells of an instance that is to be exported, and of the image that it was launched from (VIE-03)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.checks import AccountChecks
from wavelift.adapters.aws.ec2 import GONE_STATES
from wavelift.adapters.aws.errors import aws_errors
from wavelift.adapters.aws.tagging import from_aws
from wavelift.base.errors import NotFoundError, PermanentError
from wavelift.base.names import TAG_RUN
from wavelift.base.units import GIB, MIB
from wavelift.rules.export_facts import ImageFacts, InstanceFacts, NicFacts, SnapshotFacts, VolumeFacts

INSTANCE_ID: Final = re.compile(r"i-(?:[0-9a-f]{8}|[0-9a-f]{17})")
IMPORTED_NAME: Final = "import-ami-"
"""What VM Import calls the images that it makes."""
GONE_IMAGES: Final = frozenset({"deregistered", "error", "failed", "invalid"})
LAUNCH_SPAN: Final = timedelta(seconds=5)
"""EC2 attaches the volumes of a launch at once; AttachVolume wants an instance that runs already."""
AUTOMATIC_STORE: Final = "required"
"""``NvmeSupport`` of instance types whose instance store is there without any mapping."""


class ExportInstances:
    """Instances of one account and region, as the check of an export sees them."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access

    def facts(self, instance_id: str, *, now: datetime) -> InstanceFacts:
        """Six calls at most, all of them reading.

        :raises PermanentError: it is no id, or the instance is terminated.
        :raises NotFoundError: this account has no such instance in this region.
        :raises MissingPrivilegeError: these credentials may not look; the action is named.
        """
        if not INSTANCE_ID.fullmatch(instance_id):
            raise PermanentError(
                f"{instance_id!r} is no id of an instance", next_step="It is i- and 17 (or 8) hexadecimal digits"
            )
        caller = AccountChecks(self._access).account_id()
        owner, instance = self._instance(instance_id, caller)
        image_id = str(instance.get("ImageId", ""))
        image = self._image(image_id)
        kind = self._kind(str(instance.get("InstanceType", "")))
        facts = self._image_facts(image_id, image, caller)
        told = _processors(instance) or int(kind.get("VCpuInfo", {}).get("DefaultVCpus") or 0)
        return InstanceFacts(
            instance_id=instance_id,
            region=self._access.region,
            account=owner,
            caller=caller,
            state=instance["State"]["Name"],
            name=from_aws(instance.get("Tags", [])).get("Name", ""),
            platform=str(instance.get("Platform") or ""),
            platform_details=str(instance.get("PlatformDetails") or ""),
            usage_operation=str(instance.get("UsageOperation") or ""),
            product_codes=_codes(instance),
            instance_type=str(instance.get("InstanceType", "")),
            vcpus=told,
            memory=int(kind.get("MemoryInfo", {}).get("SizeInMiB") or 0) * MIB,
            architecture=str(instance.get("Architecture") or "x86_64"),
            boot_mode=str(instance.get("CurrentInstanceBootMode") or instance.get("BootMode") or ""),
            root_device=str(instance.get("RootDeviceName") or ""),
            root_device_type=str(instance.get("RootDeviceType") or "ebs"),
            volumes=_volumes(instance, self._volumes_of(instance_id), _devices(image)),
            nics=_nics(instance),
            image=facts,
            instance_store=(*facts.instance_store, *_store_of(kind)),
            seen_at=now,
        )

    def _instance(self, instance_id: str, account: str) -> tuple[str, Mapping[str, Any]]:
        """Owner and description. An id does not tell its region, so another region's is one that this one lacks."""
        region = self._access.region
        found = self._described("describe_instances", "Reservations", [("instance-id", [instance_id])])
        rows = [(str(row.get("OwnerId", "")), one) for row in found for one in row["Instances"]]
        if not rows:
            raise NotFoundError(
                f"account {account} has no such instance in {region}",
                next_step=f"Check the id. Only instances of {region} are exported by this environment: for one of "
                "another region or account ask an environment that lies there",
                instance=instance_id,
            )
        owner, instance = rows[0]
        if instance["State"]["Name"] in GONE_STATES:
            raise PermanentError(
                f"the instance is {instance['State']['Name']}: its volumes may be gone already",
                next_step="Export an instance that runs or is stopped; of a terminated one restore a backup first",
                instance=instance_id,
            )
        return owner, instance

    def _image(self, image_id: str) -> Mapping[str, Any] | None:
        """None: deregistered, or not shared with this account any more."""
        if not image_id:
            return None
        chosen = [("image-id", [image_id])]
        found = self._described("describe_images", "Images", chosen, IncludeDeprecated=True, IncludeDisabled=True)
        return next((one for one in found if one.get("State") not in GONE_IMAGES), None)

    def _image_facts(self, image_id: str, image: Mapping[str, Any] | None, caller: str) -> ImageFacts:
        if image is None:
            return ImageFacts(image_id=image_id, exists=False)
        owner, name = str(image.get("OwnerId", "")), str(image.get("Name", ""))
        return ImageFacts(
            image_id=image_id,
            owner=owner,
            name=name,
            product_codes=_codes(image),
            snapshots=self._snapshots(image, own=owner == caller),
            instance_store=tuple(
                str(one["DeviceName"])
                for one in image.get("BlockDeviceMappings", [])
                if one.get("VirtualName", "").startswith("ephemeral") and "NoDevice" not in one
            ),
            root_device_type=str(image.get("RootDeviceType") or "ebs"),
            imported=name.startswith(IMPORTED_NAME) or TAG_RUN in from_aws(image.get("Tags", [])),
        )

    def _snapshots(self, image: Mapping[str, Any], *, own: bool) -> tuple[SnapshotFacts, ...]:
        """Those of the image's mapping. Of another account's image EC2 need not show them: they count as there."""
        mapped = {
            str(one["Ebs"]["SnapshotId"]): bool(one["Ebs"].get("Encrypted"))
            for one in image.get("BlockDeviceMappings", [])
            if one.get("Ebs", {}).get("SnapshotId")
        }
        rows: list[Mapping[str, Any]] = []
        if mapped and own:
            chosen = [("snapshot-id", list(mapped))]
            rows = self._described("describe_snapshots", "Snapshots", chosen, OwnerIds=["self"])
        found = {str(one["SnapshotId"]): one for one in rows}
        return tuple(
            SnapshotFacts(
                snapshot_id=snapshot_id,
                exists=snapshot_id in found or not own,
                encrypted=encrypted or bool(found.get(snapshot_id, {}).get("Encrypted")),
            )
            for snapshot_id, encrypted in mapped.items()
        )

    def _volumes_of(self, instance_id: str) -> list[Mapping[str, Any]]:
        return self._described("describe_volumes", "Volumes", [("attachment.instance-id", [instance_id])])

    def _kind(self, instance_type: str) -> Mapping[str, Any]:
        """The instance type; empty: the region does not offer it any more."""
        found = self._described("describe_instance_types", "InstanceTypes", [("instance-type", [instance_type])])
        return found[0] if found else {}

    def _described(
        self, operation: str, field: str, chosen: Iterable[tuple[str, Sequence[str]]], **options: Any
    ) -> list[Mapping[str, Any]]:
        filters = [{"Name": name, "Values": list(values)} for name, values in chosen]
        pages = self._access.client("ec2").get_paginator(operation).paginate(Filters=filters, **options)
        with aws_errors(f"could not call {operation}", service="ec2"):
            return [one for page in pages for one in page[field]]


def _codes(described: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(one.get("ProductCodeId", "")) for one in described.get("ProductCodes", []))


def _processors(instance: Mapping[str, Any]) -> int:
    """As it was launched: it may have fewer than its type."""
    told = instance.get("CpuOptions") or {}
    return int(told.get("CoreCount") or 0) * int(told.get("ThreadsPerCore") or 0)


def _store_of(kind: Mapping[str, Any]) -> tuple[str, ...]:
    """The instance-store disks that every instance of the type has. Older types have them only by a mapping."""
    store = kind.get("InstanceStorageInfo") or {}
    if store.get("NvmeSupport") != AUTOMATIC_STORE:
        return ()
    return tuple(
        f"{one.get('Count', 1)} x {one.get('SizeInGB', 0)} GB {one.get('Type', '')} of {kind.get('InstanceType', '')}"
        for one in store.get("Disks", [])
    )


def _devices(image: Mapping[str, Any] | None) -> frozenset[str]:
    rows = image.get("BlockDeviceMappings", []) if image is not None else []
    return frozenset(str(one["DeviceName"]) for one in rows if one.get("Ebs"))


def _nics(instance: Mapping[str, Any]) -> tuple[NicFacts, ...]:
    found = [
        NicFacts(
            interface_id=str(one.get("NetworkInterfaceId", "")),
            index=int(one.get("Attachment", {}).get("DeviceIndex") or 0),
            mac=str(one.get("MacAddress", "")),
            subnet_id=str(one.get("SubnetId", "")),
        )
        for one in instance.get("NetworkInterfaces", [])
    ]
    return tuple(sorted(found, key=lambda nic: nic.index))


def _volumes(
    instance: Mapping[str, Any], described: Iterable[Mapping[str, Any]], mapped: frozenset[str]
) -> tuple[VolumeFacts, ...]:
    root = str(instance.get("RootDeviceName") or "")
    attached = {str(row["Ebs"]["VolumeId"]): row for row in instance.get("BlockDeviceMappings", []) if row.get("Ebs")}
    began = next((row["Ebs"].get("AttachTime") for row in attached.values() if row["DeviceName"] == root), None)
    found = []
    for one in described:
        row = attached.get(str(one["VolumeId"]))
        if row is None:  # it is being attached or detached
            continue
        device = str(row["DeviceName"])
        found.append(
            VolumeFacts(
                volume_id=one["VolumeId"],
                device=device,
                size=int(one["Size"]) * GIB,
                encrypted=bool(one.get("Encrypted")),
                boot=device == root,
                launched=device == root or was_launched(row, began, mapped),
                snapshot_id=str(one.get("SnapshotId") or ""),
                multi_attach=bool(one.get("MultiAttachEnabled")),
            )
        )
    return tuple(sorted(found, key=lambda volume: (not volume.boot, device_order(volume.device))))


def device_order(device: str) -> tuple[int, str]:
    """The key by which devices stand in their true order: ``/dev/sdz`` before ``/dev/sdaa``."""
    return len(device.rstrip("0123456789")), device


def was_launched(row: Mapping[str, Any], began: datetime | None, mapped: frozenset[str]) -> bool:
    """Whether a data volume came with the launch, so that VM Export takes it.

    EC2 does not tell it. A volume that was attached later than the root volume did not, whatever its device. One of the
    same instant did if the image's mapping has its device. A launch may add devices of its own: such a volume is
    deleted with the instance unless somebody said otherwise, and one that AttachVolume attached is not. Where the two
    can't be told apart the answer is no: a volume that VM Export leaves out in silence is worse than a needless word.

    :param began: when the root volume was attached: at the launch, however often the instance was started since, or
        when somebody replaced it. :param mapped: devices of the image; none: it is gone.
    """
    device, attached = str(row["DeviceName"]), row["Ebs"].get("AttachTime")
    if began is None or attached is None:
        return device in mapped
    if attached - began > LAUNCH_SPAN:
        return False
    if device in mapped:
        return True
    return began - attached <= LAUNCH_SPAN and bool(row["Ebs"].get("DeleteOnTermination"))
