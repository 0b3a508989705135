"""What is seen of an instance and of a bucket, for the checks of an export (VIE-02, VIE-03). Sizes are bytes."""

from __future__ import annotations

from typing import Final, Literal

from wavelift.base.domain import Instant, Message

ExportMethod = Literal["instance", "image", "direct"]
MethodChoice = Literal["auto", "instance", "image", "direct"]
ExportTarget = Literal["vmware", "citrix", "microsoft"]
ExportFormat = Literal["ova", "vmdk", "vhd", "raw"]
DiskController = Literal["lsilogic", "pvscsi", "sata"]
METHODS: Final[tuple[ExportMethod, ...]] = ("instance", "image", "direct")
"""In the order in which ``auto`` tries them."""


class VolumeFacts(Message):
    """An EBS volume of the instance."""

    volume_id: str
    device: str
    """As EC2 names it: ``/dev/sda1``."""
    size: int
    encrypted: bool = False
    boot: bool = False
    launched: bool = True
    """The image's mapping has its device: it was not attached after launch."""
    snapshot_id: str = ""
    """Of which it was made; empty: of none."""
    multi_attach: bool = False


class NicFacts(Message):
    """A network interface of the instance."""

    interface_id: str
    index: int
    """Of the device: 0 is the primary one."""
    mac: str = ""
    subnet_id: str = ""


class SnapshotFacts(Message):
    """A snapshot in the mapping of the instance's image."""

    snapshot_id: str
    exists: bool = True
    encrypted: bool = False


class ImageFacts(Message):
    """The image that the instance was launched from."""

    image_id: str
    exists: bool = True
    owner: str = ""
    """Number of the account; empty: not known."""
    name: str = ""
    product_codes: tuple[str, ...] = ()
    snapshots: tuple[SnapshotFacts, ...] = ()
    instance_store: tuple[str, ...] = ()
    """Devices of its mapping that are instance store."""
    root_device_type: str = "ebs"
    imported: bool = False
    """VM Import made it, or a wave of ours did."""


class InstanceFacts(Message):
    """An instance as EC2 describes it at one instant."""

    instance_id: str
    region: str
    account: str
    """That owns it (``OwnerId`` of its reservation)."""
    caller: str
    """Number of the account of the connection."""
    state: str
    """EC2's word: ``running``, ``stopped`` …"""
    name: str = ""
    """The tag ``Name``."""
    platform: str = ""
    """``windows``, or empty."""
    platform_details: str = ""
    usage_operation: str = ""
    product_codes: tuple[str, ...] = ()
    instance_type: str = ""
    vcpus: int = 0
    memory: int = 0
    architecture: str = "x86_64"
    boot_mode: str = ""
    """``uefi`` or ``legacy-bios``: what it was booted with."""
    root_device: str = ""
    root_device_type: str = "ebs"
    volumes: tuple[VolumeFacts, ...] = ()
    """The boot volume first, then by device."""
    nics: tuple[NicFacts, ...] = ()
    image: ImageFacts
    instance_store: tuple[str, ...] = ()
    """Devices or ephemeral disks that the instance has: of its image's mapping, or of its type."""
    seen_at: Instant

    @property
    def windows(self) -> bool:
        return self.platform.lower() == "windows" or "windows" in self.platform_details.lower()


EVERYBODY: Final = "*"


class GrantFacts(Message):
    """One grant of a bucket's access control list, or what its policy grants in its place."""

    grantee: str
    """Canonical id, or the URI of a group; of a policy also the number or the ARN of an account."""
    permission: str
    """S3's word: ``READ``, ``WRITE``, ``READ_ACP``, ``WRITE_ACP`` or ``FULL_CONTROL``. Of a policy: ``READ_ACP`` is
    ``s3:GetBucketAcl``, ``WRITE`` is ``s3:PutObject`` of all keys."""
    by: Literal["acl", "policy"] = "acl"


class DenialFacts(Message):
    """What one statement of a bucket's policy denies of that."""

    statement: str
    """Its ``Sid``, or which one it is."""
    actions: tuple[str, ...]
    grantees: tuple[str, ...]
    """To whom; ``*`` is everybody."""
    excepted: tuple[str, ...] = ()
    """But for these (``NotPrincipal``)."""
    conditional: bool = False


class BucketFacts(Message):
    """A bucket as S3 describes it at one instant."""

    name: str
    exists: bool
    owned: bool = True
    """By the account of the connection. False also where S3 refuses to tell."""
    region: str = ""
    ownership: str = ""
    """``BucketOwnerEnforced`` (no ACLs), ``BucketOwnerPreferred`` or ``ObjectWriter``."""
    grants: tuple[GrantFacts, ...] = ()
    denials: tuple[DenialFacts, ...] = ()
    encryption: str = ""
    """S3's word for its default: ``AES256``, ``aws:kms``, ``aws:kms:dsse``; empty: none."""
    public_access_blocked: bool = False
    unknown: tuple[str, ...] = ()
    """What could not be read and why, one line each."""

    @property
    def acls_enabled(self) -> bool:
        return self.ownership in ("BucketOwnerPreferred", "ObjectWriter")
