"""Pre-flight of a VM's disks and snapshots (SMS-11, AMP-06, VM Import/Export limitations)."""

from __future__ import annotations

from collections.abc import Mapping

from wavelift.base.domain import DiskFacts, ServerFacts
from wavelift.base.names import SNAPSHOT_PREFIX
from wavelift.base.units import counted, human_bytes
from wavelift.rules import flows
from wavelift.rules.findings import Findings
from wavelift.rules.limits import Limit

RDM_BACKING = "VirtualDiskRawDiskMappingVer1BackingInfo"
SESPARSE_BACKING = "VirtualDiskSeSparseBackingInfo"


def check_disks(
    facts: ServerFacts, limits: Mapping[str, Limit], found: Findings, *, replicates: bool = False, vddk: bool = False
) -> None:
    """Check every disk, the number of disks, and the VM's snapshots.

    :param replicates: the disks go into EBS snapshots through the EBS direct APIs.
    :param vddk: VDDK is available, so any range of a disk can be read.
    """
    if not facts.disks:
        found.error(
            "disk.none",
            "the VM has no disk",
            why="there is nothing to migrate",
            do="Remove the VM from the wave, or attach its disks",
        )
    most = limits["volumes_per_image"]
    if most.exceeded(len(facts.disks)):
        found.error(
            "disk.too_many",
            f"the VM has {len(facts.disks)} disks; the limit is {most.value}",
            why="VM Import fails for VMs with more volumes",
            do=f"Detach disks until {most.value} remain and move the others separately (ImportSnapshot)",
            row="AMP-06",
        )
    for disk in facts.disks:
        _kind(disk, found)
        if disk.capacity <= 0:
            _empty(disk, found)
            continue
        if replicates:
            _for_replication(disk, limits, found, vddk=vddk)
        else:
            _for_import(disk, limits, found)
        _size(disk, facts, limits, found)
    _snapshots(facts, found)


def _kind(disk: DiskFacts, found: Findings) -> None:
    part = disk.address
    if disk.rdm or disk.backing == RDM_BACKING:
        found.error(
            "disk.rdm",
            f"{disk.label} is a raw device mapping ({disk.rdm or 'mode unknown'})",
            why="VM Import accepts virtual disks only, and a mapping in physical mode has no snapshots",
            do="Convert it to a VMDK with Storage vMotion, or detach it and move its data another way",
            row="SMS-11",
            part=part,
        )
    if disk.mode != "persistent":
        found.error(
            "disk.independent",
            f"{disk.label} has disk mode '{disk.mode}'",
            why="snapshots do not include such disks, so its content would not be frozen together with the other disks",
            do="Power the VM off and set the disk mode to 'Dependent'",
            part=part,
        )
    if disk.sharing != "sharingNone":
        found.error(
            "disk.shared",
            f"{disk.label} is shared with other VMs ({disk.sharing})",
            why="vSphere can't take a snapshot of a shared disk, and another VM may write to it at any time",
            do="Remove the VM from its cluster and set sharing to 'none', or detach the disk",
            part=part,
        )
    if disk.encrypted:
        found.error(
            "disk.encrypted",
            f"{disk.label} is encrypted by vSphere",
            why="vCenter doesn't export encrypted disks, and VM Import can't read them",
            do="Decrypt the disk: assign a storage policy without encryption",
            row="SMS-11",
            part=part,
        )
    if disk.backing == SESPARSE_BACKING:
        found.warning(
            "disk.sesparse",
            f"{disk.label} is in the SEsparse format",
            why="VM Import refuses SEsparse files. wavelift re-encodes the disk, so only vCenter's export must "
            "support it",
            do="If the export fails, consolidate the VM's snapshots: deltas on VMFS6 are SEsparse",
            part=part,
        )


REPLICATE = (
    f"replicate the server instead ('replication' in the wave, then its '{flows.REPLICATE.suffix}' DAG): replication "
    "writes the disk directly into an EBS snapshot"
)


def _empty(disk: DiskFacts, found: Findings) -> None:
    found.error(
        "disk.empty",
        f"{disk.label} has a capacity of {disk.capacity} bytes",
        why="there is nothing to read, and no volume is that small; vCenter reports this for a disk that it can't "
        "access",
        do="Restore the disk's file or device in vCenter, or detach the disk",
        row="SMS-11",
        part=disk.address,
    )


def _content(disk: DiskFacts) -> int:
    """The most bytes that may have to be sent. For a thin disk, this is at most the size of its files."""
    return min(disk.capacity, disk.allocated) if disk.thin and disk.allocated else disk.capacity


def _for_import(disk: DiskFacts, limits: Mapping[str, Limit], found: Findings) -> None:
    """Migration: the disk becomes one stream-optimised VMDK in S3, which ImportImage converts."""
    size, part = human_bytes(disk.capacity), disk.address
    image, plain = limits["image_bytes"], limits["image_bytes_without_manifest"]
    stream, content = limits["stream_content_bytes"], _content(disk)
    if image.exceeded(disk.capacity):
        found.error(
            "disk.too_large",
            f"{disk.label} has {size}; the limit of VM Import is {human_bytes(image.value)}",
            why=f"VM Import refuses a larger disk image ({image.source})",
            do=f"Shrink or split the disk, or {REPLICATE}, and 'ami: register' makes the image from it",
            part=part,
        )
    elif plain.exceeded(disk.capacity):
        found.error(
            "disk.needs_manifest",
            f"{disk.label} has {size}; above {human_bytes(plain.value)} VM Import requires a manifest file",
            why=f"VM Import refuses a single image file of this size ({plain.source})",
            do=f"Split the disk, or {REPLICATE}",
            part=part,
        )
    elif stream.exceeded(content):
        found.error(
            "disk.stream_too_large",
            f"{disk.label} may hold {human_bytes(content)}; a stream holds at most {human_bytes(stream.value)} of data "
            "that can't be compressed",
            why=f"the transfer would fail after that many bytes were uploaded ({stream.source})",
            do=f"{REPLICATE[0].upper()}{REPLICATE[1:]}; or, if you know that its data can be compressed, raise "
            "'limits: {stream_content_bytes: …}' in the environment",
            part=part,
        )
    compressed = limits["compressed_disk_bytes"]
    if compressed.exceeded(disk.capacity):
        found.warning(
            "disk.compressed_size",
            f"{disk.label} has {size}: it may exceed {compressed.value / 10**9:.0f} GB after compression",
            why="this was the old service's limit for a compressed disk; the compressed size is known only afterwards",
            do="Nothing if the disk is mostly empty; otherwise plan several hours for it, or split it",
            row="AMP-06",
            part=part,
        )


def _for_replication(disk: DiskFacts, limits: Mapping[str, Limit], found: Findings, *, vddk: bool) -> None:
    """Replication: the disk is written block by block into an EBS snapshot. How it is read depends on the run."""
    size, part = human_bytes(disk.capacity), disk.address
    image, volume = limits["image_bytes"], limits["volume_bytes"]
    stream, content = limits["stream_content_bytes"], _content(disk)
    if volume.exceeded(disk.capacity):
        found.error(
            "disk.too_large",
            f"{disk.label} has {size}; an EBS snapshot holds up to {human_bytes(volume.value)}",
            why=f"this is the limit of one volume ({volume.source})",
            do="Split the disk, or detach it and move its data another way",
            part=part,
        )
    elif image.exceeded(disk.capacity):
        found.warning(
            "disk.image_size",
            f"{disk.label} has {size}; the limit of VM Import is {human_bytes(image.value)}",
            why=f"with 'ami: import', VM Import may refuse the image after the transfer ({image.source})",
            do="Set 'ami: register' for this server if its guest allows that",
            part=part,
        )
    if stream.exceeded(content) and not vddk:
        found.warning(
            "disk.stream_end",
            f"{disk.label} may hold {human_bytes(content)}; a stream from vCenter can't exceed 2 TiB after compression",
            why="a running VM on VMFS 6 or vSAN is read as such a stream, and the run would fail at that size",
            do="Set up VDDK for the connection, or replicate while the VM is off, on VMFS or NFS: any range of the "
            "disk can be read then",
            part=part,
        )


def _size(disk: DiskFacts, facts: ServerFacts, limits: Mapping[str, Limit], found: Findings) -> None:
    size, part = human_bytes(disk.capacity), disk.address
    mbr = limits["mbr_boot_disk_bytes"]
    if disk.boot and facts.firmware != "efi" and mbr.exceeded(disk.capacity):
        found.warning(
            "disk.large_mbr_boot",
            f"the boot disk {disk.label} has {size} and the VM boots with BIOS",
            why=f"an MBR addresses {human_bytes(mbr.value)}: a BIOS instance can't use space beyond that",
            do="Check that no partition ends beyond that limit",
            part=part,
        )
    if disk.capacity % limits["volume_unit_bytes"].value:
        _rounded(disk, facts, limits, found)


def _rounded(disk: DiskFacts, facts: ServerFacts, limits: Mapping[str, Limit], found: Findings) -> None:
    """The volume is larger than the disk, but a GPT keeps its backup header in the disk's last sector."""
    unit = limits["volume_unit_bytes"].value
    gib = -(-disk.capacity // unit)
    becomes = f"{disk.label} has {human_bytes(disk.capacity)}, no whole number of GiB: its volume will have {gib} GiB"
    if not (disk.boot and facts.firmware == "efi") and not limits["mbr_boot_disk_bytes"].exceeded(disk.capacity):
        found.info(
            "disk.rounded",
            becomes,
            why="EBS volumes have whole GiB, and the added space reads as zeros; the backup header of a GPT will not "
            "be at the end",
            do=f"For an MBR: nothing. For a GPT: move the backup header: {_MOVE}",
            part=disk.address,
        )
        return
    found.warning(
        "disk.gpt_backup",
        f"{becomes}, and the backup header of its GPT will be {human_bytes(gib * unit - disk.capacity)} before the end",
        why="EBS volumes have whole GiB. Systems boot from the first header, but tools that check both headers refuse "
        "or repair the table. AWS does not document what VM Import does in this case",
        do=f"Grow the disk to {gib} GiB in vSphere and move the header before the wave ({_MOVE}), or move the header "
        "in the instance before you change its partitions",
        part=disk.address,
    )


_MOVE = "'sgdisk --move-second-header DISK' on Linux, 'Rescan Disks' in Disk Management on Windows"


def _snapshots(facts: ServerFacts, found: Findings) -> None:
    ours = [name for name in facts.snapshots if name.startswith(SNAPSHOT_PREFIX)]
    others = [name for name in facts.snapshots if not name.startswith(SNAPSHOT_PREFIX)]
    if others:
        found.warning(
            "snapshot.existing",
            f"the VM has {counted(len(others), 'snapshot')}: {', '.join(others[:3])}{' …' if len(others) > 3 else ''}",
            why="reading through a snapshot chain is slower, and each snapshot uses space of the datastore; wavelift "
            "adds one more",
            do="Before the wave, remove the snapshots that are no longer needed",
        )
    if ours:
        found.warning(
            "snapshot.ours",
            f"the VM has a snapshot made by wavelift: {', '.join(ours)}",
            why="another run is working on this VM, or a run was interrupted; a VM may have only one wavelift snapshot",
            do="Wait for the other run, or run 'wavelift cleanup --dry-run' and then 'wavelift cleanup'",
        )
    left = facts.left_behind
    if left and not facts.consolidation_needed:
        found.warning(
            "snapshot.left_behind",
            "the VM runs on deltas although it has no snapshot: "
            + ", ".join(f"{disk.label} on {disk.file}" for disk in left),
            why="a snapshot removal whose merge failed leaves such deltas, and vCenter may not report them: reads are "
            "slower, deltas grow, and change tracking that is enabled above them loses changes without an error",
            do="Consolidate the VM's disks in vCenter (Snapshots > Consolidate); if it refuses, take a snapshot and "
            "delete all snapshots",
        )
    if facts.consolidation_needed:
        found.error(
            "snapshot.consolidation",
            "vCenter reports that the VM's disks need consolidation",
            why="a snapshot taken while the disks consolidate can corrupt them",
            do="Consolidate in vCenter (Snapshots > Consolidate), wait until it is done, then run pre-flight again",
        )
