"""EC2 instances, images and snapshots: launch, describe, tag, find ours, delete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from botocore.exceptions import ClientError

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import aws_errors, error_code, is_missing
from wavelift.adapters.aws.launch import LaunchRequest
from wavelift.adapters.aws.tagging import filters, from_aws, specification, to_aws
from wavelift.adapters.aws.texts import description
from wavelift.base.errors import NotFoundError, PermanentError, WaveliftError

GONE_STATES: Final = frozenset({"terminated", "shutting-down"})
BATCH: Final = 100
"""Ids in one describe, tag or terminate call."""
MAX_LAUNCHES: Final = 20
"""Instances for one client token, all but the last terminated: more means that something ends them."""
SEEN_WAIT_S: Final = 60.0
"""EC2 is consistent in the end: what was just made may be told not to exist for some seconds, rarely longer."""
SEEN_POLL_S: Final = 1.0

DEVICES: Final = ("/dev/sda1", *(f"/dev/sd{letter}" for letter in "fghijklmnopqrstuvwxyz"))
"""Root, then EC2's names for data volumes; they sort as the disks do. EC2 user guide, "Device names for volumes"."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """An image of snapshots as they are: RegisterImage converts nothing.

    Such an image carries no licence: its snapshots have no billing metadata. So Linux without a subscription only,
    unless somebody insists. Encryption follows the snapshots.

    :ivar name: unique in account and region, 3 to 128 characters: a repeated name finds the image made before.
    :ivar snapshot_ids: completed ones in disk order, the boot disk first.
    :ivar boot_mode: ``legacy-bios`` or ``uefi``, as the source boots.
    """

    name: str
    snapshot_ids: Sequence[str]
    boot_mode: str
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    architecture: str = "x86_64"
    ena_support: bool = True
    volume_type: str = "gp3"

    def parameters(self) -> dict[str, Any]:
        """The request as boto3 wants it.

        :raises PermanentError: no disk, or more than there are device names.
        """
        if not 1 <= len(self.snapshot_ids) <= len(DEVICES):
            raise PermanentError(
                f"an image of {len(self.snapshot_ids)} disks can't be made: it has 1 to {len(DEVICES)}",
                next_step="Leave disks out of this server's replication, or attach them as volumes yourself",
                image=self.name,
            )
        return {
            "Name": self.name,
            "Description": description(self.description),
            "Architecture": self.architecture,
            "VirtualizationType": "hvm",
            "RootDeviceName": DEVICES[0],
            "BootMode": self.boot_mode,
            "EnaSupport": self.ena_support,
            "BlockDeviceMappings": [
                {
                    "DeviceName": device,
                    "Ebs": {"SnapshotId": snapshot, "VolumeType": self.volume_type, "DeleteOnTermination": True},
                }
                for device, snapshot in zip(DEVICES, self.snapshot_ids, strict=False)
            ],
            "TagSpecifications": specification("image", self.tags),
        }


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as EC2 describes it."""

    instance_id: str
    state: str
    private_ip: str = ""
    public_ip: str = ""
    image_id: str = ""
    instance_type: str = ""
    subnet_id: str = ""
    client_token: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Image:
    """An AMI; ``snapshot_ids`` and ``devices`` by device, root device first."""

    image_id: str
    state: str
    name: str = ""
    root_device: str = ""
    boot_mode: str = ""
    snapshot_ids: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An EBS snapshot; ``volume_gib`` is the size of its volume."""

    snapshot_id: str
    state: str
    volume_gib: int
    tags: Mapping[str, str] = field(default_factory=dict)
    encrypted: bool = False
    kms_key: str = ""
    """ARN of the key; children keep it."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class OurResources:
    """What carries our tag in EC2. Imports: :meth:`VmImport.find`; objects and uploads: ``S3Staging``."""

    instances: tuple[Instance, ...] = ()
    images: tuple[Image, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.instances or self.images or self.snapshots)


class Ec2:
    """Instances, images and snapshots of one account and region."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access

    @property
    def _client(self) -> Any:
        return self._access.client("ec2")

    # -- instances ------------------------------------------------------------------------------------------------

    def launch(self, request: LaunchRequest) -> Instance:
        """Start an instance and return at once; its state is ``pending``.

        The same client token gives the same instance. EC2 forgets tokens in time; so it is looked for first. Where the
        token's instance was terminated, who asks again wants another one: its token has a number behind it.

        :raises LimitReachedError: the account's vCPU limit, the zone's capacity or the subnet's addresses are used up.
        """
        if request.volume_initialization_mib_s and not request.devices:
            request = replace(request, devices=_in_the_end(lambda: self._image(request.image_id)).devices)
        known: dict[str, list[Instance]] = {}
        for one in self._instances(Filters=[{"Name": "image-id", "Values": [request.image_id]}]):
            known.setdefault(one.client_token, []).append(one)
        for number in range(MAX_LAUNCHES):
            token = f"{request.client_token}-{number}" if number else request.client_token
            instance = next((one for one in known.get(token, ()) if one.state not in GONE_STATES), None)
            if instance is None and token not in known:
                instance = self._launched(replace(request, client_token=token))
            if instance is not None:
                return instance
        raise PermanentError(
            f"{MAX_LAUNCHES} instances of this launch were terminated, one after the other",
            next_step="Find out who terminates them, then trigger a new run",
            image=request.image_id,
        )

    def _launched(self, request: LaunchRequest) -> Instance | None:
        """The token's instance; None when EC2 remembers that it was terminated."""
        try:
            instance = _in_the_end(
                lambda: self._run(request), worth=lambda error: self._is_young(request.image_id, error)
            )
        except WaveliftError as error:
            said = error.__cause__
            if isinstance(said, ClientError) and error_code(said) == "IdempotentInstanceTerminated":
                return None
            raise
        return None if instance.state in GONE_STATES else instance

    def _run(self, request: LaunchRequest) -> Instance:
        with aws_errors(
            "could not launch the instance",
            service="ec2",
            image=request.image_id,
            subnet=request.subnet_id,
            type=request.instance_type,
        ):
            answer = self._client.run_instances(**request.parameters())
        return _read_instance(answer["Instances"][0])

    def _is_young(self, image_id: str, error: NotFoundError) -> bool:
        """RunInstances knows no such image, DescribeImages does."""
        said = error.__cause__
        named = isinstance(said, ClientError) and error_code(said).startswith("InvalidAMIID.")
        return named and image_id in self.images([image_id])

    def describe_instances(self, instance_ids: Iterable[str]) -> dict[str, Instance]:
        """Instances by id; unknown ids are left out (they are not asked for by id, so one can't fail the rest)."""
        found: dict[str, Instance] = {}
        for batch in _batches(instance_ids):
            for one in self._instances(Filters=[{"Name": "instance-id", "Values": batch}]):
                found[one.instance_id] = one
        return found

    def instances_of(self, image_ids: Iterable[str]) -> list[Instance]:
        """Instances that were launched from these images and are not terminated, whoever launched them."""
        found: list[Instance] = []
        for batch in _batches(image_ids):
            found += self._instances(Filters=[{"Name": "image-id", "Values": batch}])
        return [one for one in found if one.state not in GONE_STATES]

    def _instances(self, **selection: Any) -> list[Instance]:
        pages = self._client.get_paginator("describe_instances").paginate(**selection)
        with aws_errors("could not look at the instances", service="ec2"):
            return [
                _read_instance(one)
                for page in pages
                for reservation in page["Reservations"]
                for one in reservation["Instances"]
            ]

    def terminate(self, instance_ids: Iterable[str]) -> None:
        """Terminate instances; unknown and terminated ones are fine."""
        alive = [one.instance_id for one in self.describe_instances(instance_ids).values() if one.state != "terminated"]
        for batch in _batches(alive):
            with aws_errors("could not terminate instances", service="ec2", instance=batch[0]):
                self._client.terminate_instances(InstanceIds=batch)

    # -- images and snapshots -------------------------------------------------------------------------------------

    def images(self, image_ids: Iterable[str]) -> dict[str, Image]:
        """Images by id; unknown ids are left out."""
        found: dict[str, Image] = {}
        for batch in _batches(image_ids):
            for one in self._images(Filters=[{"Name": "image-id", "Values": batch}]):
                found[one.image_id] = one
        return found

    def _images(self, **selection: Any) -> list[Image]:
        pages = self._client.get_paginator("describe_images").paginate(Owners=["self"], **selection)
        with aws_errors("could not look at the images", service="ec2"):
            return [_read_image(one) for page in pages for one in page["Images"]]

    def snapshots(self, snapshot_ids: Iterable[str]) -> dict[str, Snapshot]:
        """Snapshots by id; unknown ids are left out."""
        found: dict[str, Snapshot] = {}
        for batch in _batches(snapshot_ids):
            for one in self._snapshots(Filters=[{"Name": "snapshot-id", "Values": batch}]):
                found[one.snapshot_id] = one
        return found

    def _snapshots(self, **selection: Any) -> list[Snapshot]:
        pages = self._client.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], **selection)
        with aws_errors("could not look at the snapshots", service="ec2"):
            return [
                Snapshot(
                    snapshot_id=one["SnapshotId"],
                    state=one["State"],
                    volume_gib=one.get("VolumeSize", 0),
                    tags=from_aws(one.get("Tags", [])),
                    encrypted=bool(one.get("Encrypted")),
                    kms_key=one.get("KmsKeyId") or "",
                    description=one.get("Description") or "",
                )
                for page in pages
                for one in page["Snapshots"]
            ]

    def tag(self, resource_ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Put tags on resources; repeating it changes nothing."""
        for batch in _batches(resource_ids):
            with aws_errors("could not tag", service="ec2", resource=batch[0]):
                self._client.create_tags(Resources=batch, Tags=to_aws(tags))

    def tag_image(self, image_id: str, tags: Mapping[str, str], *, snapshot_ids: Sequence[str] = ()) -> Image:
        """Tag an image and its snapshots: ImportImage tags neither. Waits up to :data:`SEEN_WAIT_S` for a young image.

        :param snapshot_ids: the import's own list, for snapshots that the image does not name.
        :raises NotFoundError: there is no such image of ours.
        """
        image = _in_the_end(lambda: self._image(image_id))
        resources = list(dict.fromkeys((image_id, *image.snapshot_ids, *snapshot_ids)))
        _in_the_end(lambda: self.tag(resources, tags))
        return image

    def _image(self, image_id: str) -> Image:
        found = self.images([image_id]).get(image_id)
        if found is None:
            raise NotFoundError("there is no such image", next_step="Check region and account", image=image_id)
        return found

    def register(self, request: ImageRequest) -> Image:
        """Make an image of snapshots, or find the one of that name (invariant 5).

        :raises PermanentError: the name is taken by an image of other snapshots.
        :raises NotFoundError: a snapshot does not exist.
        :raises BusyError: a snapshot is not completed yet.
        """
        known = self._named(request)
        if known is not None:
            return known
        try:
            with aws_errors("could not register the image", service="ec2", image=request.name):
                image_id = self._client.register_image(**request.parameters())["ImageId"]
        except WaveliftError as error:
            said = error.__cause__
            # Another try was quicker, or our first answer got lost on the way and botocore asked again.
            if isinstance(said, ClientError) and error_code(said) == "InvalidAMIName.Duplicate":
                return _in_the_end(lambda: self._seen(self._named(request), request.name))
            raise
        return _in_the_end(lambda: self._image(image_id))

    def image_named(self, name: str) -> Image | None:
        """Names are unique in account and region."""
        return next(iter(self._images(Filters=[{"Name": "name", "Values": [name]}])), None)

    def _named(self, request: ImageRequest) -> Image | None:
        found = self.image_named(request.name)
        if found is not None and found.snapshot_ids != tuple(request.snapshot_ids):
            raise PermanentError(
                "the name of the image is taken by one of other snapshots",
                next_step="Look at that image; when nobody needs it, deregister it and try again",
                image=found.image_id,
                name=request.name,
            )
        return found

    @staticmethod
    def _seen(image: Image | None, name: str) -> Image:
        if image is None:
            raise NotFoundError("EC2 knows the image's name but does not show it yet", image=name)
        return image

    def deregister(self, image_id: str, *, delete_snapshots: bool) -> None:
        """Take an image away, and its snapshots where asked for; what is already gone is fine."""
        image = self.images([image_id]).get(image_id)
        if image is None:
            return
        self._forgiving("could not deregister the image", "deregister_image", ImageId=image_id)
        if delete_snapshots:
            for snapshot_id in image.snapshot_ids:
                self.delete_snapshot(snapshot_id)

    def encryption_by_default(self) -> bool:
        """Whether the account encrypts every new volume and snapshot of the region."""
        with aws_errors("could not look at the EBS encryption default", service="ec2"):
            return bool(self._client.get_ebs_encryption_by_default().get("EbsEncryptionByDefault"))

    def default_key(self) -> str:
        """The key that encrypts EBS snapshots which name no other: its ARN, or ``alias/aws/ebs``."""
        with aws_errors("could not look at the account's default EBS key", service="ec2"):
            return str(self._client.get_ebs_default_kms_key_id().get("KmsKeyId") or "")

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot; one that is already gone is fine.

        :raises BusyError: an image still uses it.
        """
        self._forgiving("could not delete the snapshot", "delete_snapshot", SnapshotId=snapshot_id)

    def _forgiving(self, doing: str, operation: str, **parameters: str) -> None:
        """A removal that has happened before is one."""
        with aws_errors(doing, service="ec2", resource=next(iter(parameters.values()))):
            try:
                getattr(self._client, operation)(**parameters)
            except ClientError as error:
                if not is_missing(error_code(error)) and error_code(error) != "InvalidAMIID.Unavailable":
                    raise

    # -- housekeeping ---------------------------------------------------------------------------------------------

    def find_ours(self, tags: Mapping[str, str]) -> OurResources:
        """What carries all these tags (an empty value asks for the name only); terminated instances are left out."""
        chosen = {"Filters": filters(tags)}
        return OurResources(
            instances=tuple(one for one in self._instances(**chosen) if one.state not in GONE_STATES),
            images=tuple(self._images(**chosen)),
            snapshots=tuple(self._snapshots(**chosen)),
        )

    def snapshots_with(self, tags: Mapping[str, str]) -> list[Snapshot]:
        """Only the snapshots of :meth:`find_ours`: the connector may look at no instances and images."""
        return self._snapshots(Filters=filters(tags))


def _in_the_end(call: Callable[[], T], *, worth: Callable[[NotFoundError], bool] = lambda error: True) -> T:
    """Call again while EC2 says that something does not exist which was just made.

    :param worth: whether this answer may change. :raises NotFoundError: it did not in :data:`SEEN_WAIT_S`.
    """
    give_up = time.monotonic() + SEEN_WAIT_S
    while True:
        try:
            return call()
        except NotFoundError as error:
            if time.monotonic() >= give_up or not worth(error):
                raise
        time.sleep(SEEN_POLL_S)


def _batches(ids: Iterable[str]) -> Iterator[list[str]]:
    unique = [one for one in dict.fromkeys(ids) if one]
    for start in range(0, len(unique), BATCH):
        yield unique[start : start + BATCH]


def _read_instance(one: Mapping[str, Any]) -> Instance:
    return Instance(
        instance_id=one["InstanceId"],
        state=one["State"]["Name"],
        private_ip=one.get("PrivateIpAddress", ""),
        public_ip=one.get("PublicIpAddress", ""),
        image_id=one.get("ImageId", ""),
        instance_type=one.get("InstanceType", ""),
        subnet_id=one.get("SubnetId", ""),
        client_token=one.get("ClientToken", ""),
        tags=from_aws(one.get("Tags", [])),
    )


def _read_image(one: Mapping[str, Any]) -> Image:
    root = one.get("RootDeviceName", "")
    devices = [device for device in one.get("BlockDeviceMappings", []) if device.get("Ebs", {}).get("SnapshotId")]
    devices.sort(key=lambda device: (device.get("DeviceName") != root, device.get("DeviceName", "")))
    return Image(
        image_id=one["ImageId"],
        state=one.get("State", ""),
        name=one.get("Name", ""),
        root_device=root,
        boot_mode=one.get("BootMode", ""),
        snapshot_ids=tuple(device["Ebs"]["SnapshotId"] for device in devices),
        tags=from_aws(one.get("Tags", [])),
        devices=tuple(device.get("DeviceName", "") for device in devices),
    )
