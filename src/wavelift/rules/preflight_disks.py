"""Pre-flight of a VM's disks and what hangs on them (SMS-11, AMP-06, VM Import/Export limitations)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from wavelift.base.domain import DiskFacts, ServerFacts
from wavelift.base.names import SNAPSHOT_PREFIX
from wavelift.base.units import human_bytes
from wavelift.rules.findings import Findings
from wavelift.rules.limits import Limit

RDM_BACKING = "VirtualDiskRawDiskMappingVer1BackingInfo"
SESPARSE_BACKING = "VirtualDiskSeSparseBackingInfo"


FILE_MARGIN: Final = 0.9
"""Of the largest file: what a disk's files hold may grow until the snapshot, and what can't be compressed grows."""


def check_disks(facts: ServerFacts, limits: Mapping[str, Limit], found: Findings, *, replicates: bool = False) -> None:
    """Every disk, their number, and the snapshots under them.

    :param replicates: the disks become EBS snapshots directly, not files in S3.
    """
    if not facts.disks:
        found.error(
            "disk.none",
            "the VM has no disk",
            why="there is nothing to migrate",
            do="Take it out of the wave, or attach its disks",
        )
    most = limits["volumes_per_image"]
    if most.exceeded(len(facts.disks)):
        found.error(
            "disk.too_many",
            f"the VM has {len(facts.disks)} disks; {most.value} are allowed",
            why="VM Import fails for VMs with more volumes",
            do=f"Detach disks until {most.value} remain and move the others by themselves (ImportSnapshot)",
            row="AMP-06",
        )
    for disk in facts.disks:
        _kind(disk, found)
        if disk.capacity <= 0:
            found.error(
                "disk.no_size",
                f"vCenter says that {disk.label} has {disk.capacity} bytes",
                why="there is nothing to read, and no volume of no size; a descriptor that is lost or damaged looks so",
                do="Look at the disk in vCenter: restore its file, or detach it",
                part=disk.address,
            )
            continue
        (_volume_size if replicates else _file_size)(disk, limits, found)
        _layout(disk, facts, limits, found)
    _snapshots(facts, found)


def _kind(disk: DiskFacts, found: Findings) -> None:
    part = disk.address
    if disk.rdm or disk.backing == RDM_BACKING:
        found.error(
            "disk.rdm",
            f"{disk.label} is a raw device mapping ({disk.rdm or 'mode not told'})",
            why="VM Import takes virtual disks only, and a physical-mode mapping has no snapshots",
            do="Convert it to a VMDK with Storage vMotion, or detach it and move its data another way",
            row="SMS-11",
            part=part,
        )
    if disk.mode != "persistent":
        found.error(
            "disk.independent",
            f"{disk.label} has disk mode '{disk.mode}'",
            why="snapshots leave such disks out: its content would not be frozen with the others'",
            do="Power the VM off and set the disk mode to 'Dependent'",
            part=part,
        )
    if disk.sharing != "sharingNone":
        found.error(
            "disk.shared",
            f"{disk.label} is shared with other VMs ({disk.sharing})",
            why="a shared disk can't be snapshotted, and another VM may write it at any moment",
            do="Take the VM out of its cluster and set sharing to 'none', or detach the disk",
            part=part,
        )
    if disk.encrypted:
        found.error(
            "disk.encrypted",
            f"{disk.label} is encrypted by vSphere",
            why="vCenter doesn't export encrypted disks, and VM Import can't read them",
            do="Decrypt it with a storage policy without encryption",
            row="SMS-11",
            part=part,
        )
    if disk.backing == SESPARSE_BACKING:
        found.warning(
            "disk.sesparse",
            f"{disk.label} is in the SEsparse format",
            why="VM Import refuses SEsparse files; wavelift re-encodes the disk, so only vCenter's export must cope",
            do="Consolidate the VM's snapshots if the export fails: deltas on VMFS6 are SEsparse",
            part=part,
        )


def _volume_size(disk: DiskFacts, limits: Mapping[str, Limit], found: Findings) -> None:
    """What EBS direct can take."""
    volume = limits["volume_bytes"]
    if volume.exceeded(disk.capacity):
        found.error(
            "disk.too_large",
            f"{disk.label} has {human_bytes(disk.capacity)}; a volume takes {human_bytes(volume.value)}",
            why=f"the limit of one EBS volume ({volume.source})",
            do="Shrink or split the disk, or detach it and move its data another way",
            part=disk.address,
        )


def _file_size(disk: DiskFacts, limits: Mapping[str, Limit], found: Findings) -> None:
    """What a file in S3 and VM Import can take."""
    size, part = human_bytes(disk.capacity), disk.address
    image, plain = limits["image_bytes"], limits["image_bytes_without_manifest"]
    file, volume = limits["vmdk_file_bytes"], limits["volume_bytes"]
    direct = f"Replicate the server: <wave>.replicate writes EBS snapshots directly, up to {human_bytes(volume.value)}"
    held = disk.capacity if disk.allocated is None else min(disk.capacity, disk.allocated)
    if image.exceeded(disk.capacity):
        found.error(
            "disk.too_large",
            f"{disk.label} has {size}; VM Import takes less than {human_bytes(image.value)}",
            why=f"the limit of one disk image ({image.source})",
            do="Shrink or split the disk, or detach it and move its data another way",
            part=part,
        )
    elif plain.exceeded(disk.capacity):
        found.error(
            "disk.needs_manifest",
            f"{disk.label} has {size}; above {human_bytes(plain.value)} VM Import wants a manifest file",
            why=f"a single image file is refused at this size ({plain.source})",
            do=f"{direct}. Or split the disk",
            part=part,
        )
    elif held > FILE_MARGIN * file.value:
        known = "how much of it is in use is not told" if disk.allocated is None else f"{human_bytes(held)} in use"
        found.error(
            "disk.exceeds_file",
            f"{disk.label} has {size}, {known}; its file in S3 ends at {human_bytes(file.value)}",
            why=f"the format's limit ({file.source}): data that can't be compressed would fail the export at its end",
            do=f"{direct}. Or split the disk",
            part=part,
        )
    compressed = limits["compressed_disk_bytes"]
    if compressed.exceeded(disk.capacity):
        found.warning(
            "disk.compressed_size",
            f"{disk.label} has {size}: compressed it may exceed {compressed.value / 10**9:.0f} GB",
            why="the old service's limit of a compressed disk; how well it compresses is only known afterwards",
            do="Nothing if the disk is mostly empty; otherwise plan hours for it, or split it",
            row="AMP-06",
            part=part,
        )


def _layout(disk: DiskFacts, facts: ServerFacts, limits: Mapping[str, Limit], found: Findings) -> None:
    """What partition tables have to say about the size."""
    size, part = human_bytes(disk.capacity), disk.address
    mbr = limits["mbr_boot_disk_bytes"]
    if disk.boot and facts.firmware != "efi" and mbr.exceeded(disk.capacity):
        found.warning(
            "disk.large_mbr_boot",
            f"the boot disk {disk.label} has {size} and the VM boots by BIOS",
            why=f"an MBR addresses {human_bytes(mbr.value)}: a BIOS instance can't use what lies behind",
            do="Check that no partition ends beyond it",
            part=part,
        )
    unit = limits["volume_unit_bytes"].value
    if not disk.capacity % unit:
        return
    whole = -(-disk.capacity // unit)
    # Nobody reads a disk before its snapshot: what boots by UEFI has a GPT, and so has what no MBR can address.
    if (disk.boot and facts.firmware == "efi") or mbr.exceeded(disk.capacity):
        found.warning(
            "disk.gpt_backup",
            f"{disk.label} has {disk.capacity} bytes and a GPT: its volume becomes {whole} GiB, larger than the disk",
            why="a GPT keeps its second header in the disk's last sector: on the volume it lies before the end, where "
            "tools report it as missing or damaged, and nothing can use the rest",
            do=f"Grow the disk to {whole} GiB in vSphere and have the guest move the header ('sgdisk -e' in Linux, "
            "'Rescan Disks' in Windows' disk management); or do so on the instance",
            part=part,
        )
    else:
        found.info(
            "disk.rounded",
            f"{disk.label} has {disk.capacity} bytes: its volume becomes {whole} GiB",
            why="EBS volumes come in whole GiB; the rest reads as zeros",
            do="Nothing; a GPT's second header, if it has one, must be moved to the new end ('sgdisk -e')",
            part=part,
        )


def _snapshots(facts: ServerFacts, found: Findings) -> None:
    ours = [name for name in facts.snapshots if name.startswith(SNAPSHOT_PREFIX)]
    others = [name for name in facts.snapshots if not name.startswith(SNAPSHOT_PREFIX)]
    if others:
        found.warning(
            "snapshot.existing",
            f"the VM has {len(others)} snapshot(s): {', '.join(others[:3])}{' …' if len(others) > 3 else ''}",
            why="reading through a chain is slower, and each snapshot grows the datastore; our own comes on top",
            do="Remove those that nobody needs before the wave",
        )
    if ours:
        found.warning(
            "snapshot.ours",
            f"the VM carries a snapshot of wavelift: {', '.join(ours)}",
            why="another run works on this VM, or a run was cut off; only one of ours may stand at a time",
            do="Wait for the other run, or run 'wavelift cleanup --dry-run' and then 'wavelift cleanup'",
        )
    left = facts.left_behind
    if left and not facts.consolidation_needed:
        found.warning(
            "snapshot.left_behind",
            "the VM runs on deltas although it has no snapshot: "
            + ", ".join(f"{disk.label} on {disk.file}" for disk in left),
            why="a removal whose merge failed leaves them, and vCenter may not say so: reads are slower, deltas grow, "
            "and change tracking that is turned on above them loses changes without an error",
            do="Consolidate the VM's disks in vCenter (Snapshots > Consolidate); if it refuses, take a snapshot and "
            "delete all snapshots",
        )
    if facts.consolidation_needed:
        found.error(
            "snapshot.consolidation",
            "vCenter says that the VM's disks need consolidation",
            why="a snapshot taken while disks consolidate can corrupt them (invariant 4)",
            do="Consolidate in vCenter (Snapshots > Consolidate), wait for it, then run pre-flight again",
        )
