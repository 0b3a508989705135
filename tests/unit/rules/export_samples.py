"""An instance and a bucket that every method can export with, and changes of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from hypothesis import strategies as st

from wavelift.base.units import GIB, TIB
from wavelift.rules.export_accounts import export_account
from wavelift.rules.export_causes import Wish
from wavelift.rules.export_facts import (
    BucketFacts,
    GrantFacts,
    ImageFacts,
    InstanceFacts,
    NicFacts,
    SnapshotFacts,
    VolumeFacts,
)

ACCOUNT: Final = "111122223333"
REGION: Final = "eu-central-1"
ID: Final = "i-0123456789abcdef0"
SNAP: Final = "snap-00000001"
NICS: Final = (NicFacts(interface_id="eni-1", index=0), NicFacts(interface_id="eni-2", index=1))


def volume(number: int = 1, **changes: Any) -> VolumeFacts:
    """The boot volume is number 1."""
    values: dict[str, Any] = {
        "volume_id": f"vol-{number:08x}",
        "device": f"/dev/sd{'_abcdefghijklmnopqrstuvwxyz'[number]}",
        "size": 8 * GIB,
        "boot": number == 1,
        "snapshot_id": f"snap-{number:08x}",
    }
    return VolumeFacts(**{**values, **changes})


def image(**changes: Any) -> ImageFacts:
    values: dict[str, Any] = {
        "image_id": "ami-00000001",
        "owner": ACCOUNT,
        "snapshots": (SnapshotFacts(snapshot_id="snap-00000001"),),
        "imported": True,
    }
    return ImageFacts(**{**values, **changes})


def instance(**changes: Any) -> InstanceFacts:
    """Stopped, Linux, one disk, one network interface."""
    values: dict[str, Any] = {
        "instance_id": ID,
        "region": REGION,
        "account": ACCOUNT,
        "caller": ACCOUNT,
        "state": "stopped",
        "platform_details": "Linux/UNIX",
        "usage_operation": "RunInstances",
        "instance_type": "m6i.large",
        "root_device": "/dev/sda",
        "volumes": (volume(),),
        "nics": (NicFacts(interface_id="eni-1", index=0),),
        "image": image(),
        "seen_at": datetime(2026, 12, 1, 9, tzinfo=UTC),
    }
    return InstanceFacts(**{**values, **changes})


def grants(*permissions: str, region: str = REGION) -> tuple[GrantFacts, ...]:
    owner = GrantFacts(grantee="0" * 64, permission="FULL_CONTROL")
    return (owner, *(GrantFacts(grantee=export_account(region), permission=each) for each in permissions))


def bucket(**changes: Any) -> BucketFacts:
    values: dict[str, Any] = {
        "name": f"export-to-s3-acme-{REGION}",
        "exists": True,
        "region": REGION,
        "ownership": "BucketOwnerPreferred",
        "grants": grants("WRITE", "READ_ACP"),
        "encryption": "AES256",
        "public_access_blocked": True,
    }
    return BucketFacts(**{**values, **changes})


facts_changes = st.fixed_dictionaries(
    {
        "state": st.sampled_from(["running", "stopped", "pending", "terminated", "other"]),
        "platform_details": st.sampled_from(["Linux/UNIX", "Windows", "Windows BYOL", "SQL Server Web", ""]),
        "usage_operation": st.sampled_from(["RunInstances", "RunInstances:0002", "RunInstances:0800", "x", ""]),
        "product_codes": st.sampled_from([(), ("abc",)]),
        "architecture": st.sampled_from(["x86_64", "i386", "arm64"]),
        "account": st.sampled_from([ACCOUNT, "444455556666"]),
        "root_device_type": st.sampled_from(["ebs", "instance-store"]),
        "nics": st.sampled_from([NICS[:1], NICS, ()]),
        "instance_store": st.sampled_from([(), ("nvme1",)]),
        "volumes": st.lists(
            st.builds(
                lambda **changes: changes,
                size=st.sampled_from([GIB, TIB, TIB + GIB, 2 * TIB, 2 * TIB + GIB]),
                encrypted=st.booleans(),
                launched=st.booleans(),
                multi_attach=st.booleans(),
            ),
            max_size=4,
        ).map(lambda all: tuple(volume(number, **each) for number, each in enumerate(all, 1))),
        "image": st.builds(
            image,
            exists=st.booleans(),
            imported=st.booleans(),
            owner=st.sampled_from(["", ACCOUNT, "099720109477"]),
            instance_store=st.sampled_from([(), ("/dev/sdb",)]),
            snapshots=st.sampled_from([(), (SnapshotFacts(snapshot_id=SNAP, exists=False, encrypted=True),)]),
        ),
    }
)
wishes = st.builds(
    Wish,
    account=st.sampled_from(["", ACCOUNT]),
    target=st.sampled_from(["vmware", "citrix", "microsoft"]),
    format=st.sampled_from([None, "ova", "vmdk", "vhd", "raw"]),
    may_reboot=st.booleans(),
)
