"""Pre-flight of a VM's disks and what hangs on them (SMS-11, AMP-06, VM Import/Export limitations)."""

from __future__ import annotations

from collections.abc import Mapping

from wavelift.base.domain import DiskFacts, ServerFacts
from wavelift.base.names import SNAPSHOT_PREFIX
from wavelift.base.units import human_bytes
from wavelift.rules import flows
from wavelift.rules.findings import Findings
from wavelift.rules.limits import Limit

RDM_BACKING = "VirtualDiskRawDiskMappingVer1BackingInfo"
SESPARSE_BACKING = "VirtualDiskSeSparseBackingInfo"


def check_disks(
    facts: ServerFacts, limits: Mapping[str, Limit], found: Findings, *, replicates: bool = False, vddk: bool = False
) -> None:
    """Every disk, their number, and the snapshots under them.

    :param replicates: into EBS snapshots, through EBS direct. :param vddk: disks are read at any place.
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


REPLICATE = (
    f"replicate it instead ('replication' in the wave, then its '{flows.REPLICATE.suffix}' DAG): the disk goes "
    "straight into an EBS snapshot"
)


def _empty(disk: DiskFacts, found: Findings) -> None:
    found.error(
        "disk.empty",
        f"{disk.label} has a capacity of {disk.capacity} bytes",
        why="there is nothing to read, and no volume is that small; vCenter says so of a disk that it can't look at",
        do="Bring its file or device back in vCenter, or detach it",
        row="SMS-11",
        part=disk.address,
    )


def _content(disk: DiskFacts) -> int:
    """The most bytes that may have to be sent: never more than the files of a thin disk take."""
    return min(disk.capacity, disk.allocated) if disk.thin and disk.allocated else disk.capacity


def _for_import(disk: DiskFacts, limits: Mapping[str, Limit], found: Findings) -> None:
    """As one stream-optimised VMDK in S3, which ImportImage converts."""
    size, part = human_bytes(disk.capacity), disk.address
    image, plain = limits["image_bytes"], limits["image_bytes_without_manifest"]
    stream, content = limits["stream_content_bytes"], _content(disk)
    if image.exceeded(disk.capacity):
        found.error(
            "disk.too_large",
            f"{disk.label} has {size}; VM Import takes less than {human_bytes(image.value)}",
            why=f"the limit of one disk image ({image.source})",
            do=f"Shrink or split the disk, or {REPLICATE}, of which 'ami: register' makes the image",
            part=part,
        )
    elif plain.exceeded(disk.capacity):
        found.error(
            "disk.needs_manifest",
            f"{disk.label} has {size}; above {human_bytes(plain.value)} VM Import wants a manifest file",
            why=f"a single image file is refused at this size ({plain.source})",
            do=f"Split the disk, or {REPLICATE}",
            part=part,
        )
    elif stream.exceeded(content):
        found.error(
            "disk.stream_too_large",
            f"{disk.label} may hold {human_bytes(content)}; what can't be compressed fits up to "
            f"{human_bytes(stream.value)}",
            why=f"the transfer would fail after that many bytes were uploaded ({stream.source})",
            do=f"{REPLICATE.capitalize()}; or, when you know that its data compress, raise 'limits: "
            "{stream_content_bytes: …}' in the environment",
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


def _for_replication(disk: DiskFacts, limits: Mapping[str, Limit], found: Findings, *, vddk: bool) -> None:
    """Block by block in an EBS snapshot; how it is read depends on the run."""
    size, part = human_bytes(disk.capacity), disk.address
    image, volume = limits["image_bytes"], limits["volume_bytes"]
    stream, content = limits["stream_content_bytes"], _content(disk)
    if volume.exceeded(disk.capacity):
        found.error(
            "disk.too_large",
            f"{disk.label} has {size}; an EBS snapshot takes up to {human_bytes(volume.value)}",
            why=f"the limit of one volume ({volume.source})",
            do="Split the disk, or detach it and move its data another way",
            part=part,
        )
    elif image.exceeded(disk.capacity):
        found.warning(
            "disk.image_size",
            f"{disk.label} has {size}; VM Import takes less than {human_bytes(image.value)}",
            why=f"with 'ami: import' the image may be refused after the transfer ({image.source})",
            do="Set 'ami: register' for this server where its guest allows that",
            part=part,
        )
    if stream.exceeded(content) and not vddk:
        found.warning(
            "disk.stream_end",
            f"{disk.label} may hold {human_bytes(content)}; a stream of vCenter ends with what compresses to 2 TiB",
            why="a running VM on VMFS 6 or vSAN is read as such a stream, and the run would fail after that many bytes",
            do="Set VDDK up for the connection, or replicate with the VM off, on VMFS or NFS: any place is read then",
            part=part,
        )


def _size(disk: DiskFacts, facts: ServerFacts, limits: Mapping[str, Limit], found: Findings) -> None:
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
    if disk.capacity % limits["volume_unit_bytes"].value:
        _rounded(disk, facts, limits, found)


def _rounded(disk: DiskFacts, facts: ServerFacts, limits: Mapping[str, Limit], found: Findings) -> None:
    """The volume is larger than the disk. A GPT keeps its second header in the disk's last sector."""
    unit = limits["volume_unit_bytes"].value
    gib = -(-disk.capacity // unit)
    becomes = f"{disk.label} has {disk.capacity} bytes: its volume becomes {gib} GiB"
    if not (disk.boot and facts.firmware == "efi") and not limits["mbr_boot_disk_bytes"].exceeded(disk.capacity):
        found.info(
            "disk.rounded",
            becomes,
            why="EBS volumes come in whole GiB, the rest reads as zeros; a GPT's second header will not lie at the end",
            do=f"Nothing for an MBR; of a GPT move the second header: {_MOVE}",
            part=disk.address,
        )
        return
    found.warning(
        "disk.gpt_backup",
        f"{becomes}, and its GPT's second header will lie {human_bytes(gib * unit - disk.capacity)} before the end",
        why="systems start by the first header, but tools that check both refuse or repair the table, and nothing is "
        "documented of VM Import here; EBS volumes come in whole GiB",
        do=f"Grow the disk to {gib} GiB in vSphere and move the header before the wave ({_MOVE}), or do that in the "
        "instance before anything is repartitioned",
        part=disk.address,
    )


_MOVE = "'sgdisk --move-second-header DISK' on Linux, 'Rescan disks' of the disk management on Windows"


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
