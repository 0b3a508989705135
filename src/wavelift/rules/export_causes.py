"""What keeps an instance from being exported by one method, cause by cause (VIE-03). Pure.

The causes of ``instance`` are those of AWS's page on the export of instances. ``image`` is exported by the same
service: what the page says of volumes, snapshots and buckets holds for it, too. ``CreateImage`` maps every volume that
is attached, also later ones; and what ExportImage does with several disks, no page says, so it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wavelift.base.units import GIB, TIB
from wavelift.rules.export_facts import ExportFormat, ExportMethod, ExportTarget, InstanceFacts, VolumeFacts
from wavelift.rules.export_licences import in_licences
from wavelift.rules.export_plan import format_problem
from wavelift.rules.findings import Findings, listed
from wavelift.rules.limits import LIMITS

ABLE: Final = ("running", "stopped")
"""States in which an instance can be exported, imaged, and have its volumes snapshotted."""
GONE: Final = ("shutting-down", "terminated")
SERVICE_ARCHITECTURES: Final = ("i386", "x86_64")
"""Those of VM Import/Export."""
OVA_ARCHITECTURE: Final = "x86_64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What an export is asked for, beside its method.

    :param environment: name of the environment; so is ``account``, its number, with which that of the connection is
        compared. Empty: it is not.
    :param format: None: the default of the method for the target.
    :param may_reboot: the instance may be restarted; with method ``image``, it is (``CreateImage`` without NoReboot).
    """

    environment: str = ""
    account: str = ""
    target: ExportTarget = "vmware"
    format: ExportFormat | None = None
    may_reboot: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """One method, with the wish.

    :param named: a person chose the method by name, and reads what it leaves out. ``auto`` leaves no volume out.
    """

    method: ExportMethod
    wish: Wish
    named: bool = False

    @property
    def by_service(self) -> bool:
        """VM Import/Export writes the object, and not wavelift."""
        return self.method != "direct"


def causes(facts: InstanceFacts, asked: Asked) -> Findings:
    """The findings of one method, each with what the person can do about it except choosing another method."""
    found = Findings(facts.instance_id)
    _state(facts, found)
    _owner(facts, asked, found)
    in_licences(facts, found, by_service=asked.by_service)
    _format(asked, found)
    _architecture(facts, asked, found)
    _disks(facts, asked, found)
    _attached_later(facts, asked, found)
    _instance_store(facts, asked, found)
    _sizes(facts, asked, found)
    _encrypted(facts, asked, found)
    if asked.method == "instance":
        _image(facts, found)
        _interfaces(facts, found)
    _boot_loader(facts, asked, found)
    _instant(facts, asked, found)
    return found


def _state(facts: InstanceFacts, found: Findings) -> None:
    if facts.state in GONE:
        found.error(
            "export.terminated",
            f"the instance is {facts.state}",
            why="its volumes are deleted with it, or are no longer attached",
            do="Choose another instance; a snapshot or image of this one can be launched again",
            row="VIE-03",
        )
    elif facts.state not in ABLE:
        found.error(
            "export.state",
            f"the instance is {facts.state}",
            why="only a running or a stopped instance can be exported",
            do="Wait until it is running or stopped, and start the export again",
            row="VIE-03",
        )


def _owner(facts: InstanceFacts, asked: Asked, found: Findings) -> None:
    if asked.wish.account and facts.caller != asked.wish.account:
        found.error(
            "account.number",
            f"the AWS connection is of account {facts.caller}, the environment of {asked.wish.account}",
            why="the rights of the environment hold for its own account only",
            do="Correct the connection, or 'account' in the environment",
            row="VIE-03",
        )
    if facts.account != facts.caller:
        found.error(
            "export.shared",
            f"the instance belongs to account {facts.account}, which shares it with {facts.caller}",
            why="an instance is exported only by the account that owns it",
            do=f"Export it with an environment of account {facts.account}",
            row="VIE-03",
        )


def _format(asked: Asked, found: Findings) -> None:
    if problem := format_problem(asked.method, asked.wish.target, asked.wish.format):
        found.error(
            "export.format",
            problem,
            why="each method writes formats of its own",
            do="Choose another format or target",
            row="VIE-03",
        )


def _architecture(facts: InstanceFacts, asked: Asked, found: Findings) -> None:
    if facts.architecture not in SERVICE_ARCHITECTURES:
        found.error(
            "export.architecture",
            f"the instance's processor is {facts.architecture}",
            why="VM Import/Export and the targets know x86 only",
            do="Install a machine for x86 there, and move the data",
            row="VIE-03",
        )
    elif not asked.by_service and facts.architecture != OVA_ARCHITECTURE:
        found.error(
            "export.architecture",
            f"the instance's processor is {facts.architecture}",
            why=f"the OVA of method direct describes a machine of {OVA_ARCHITECTURE}",
            do="Choose another method",
            row="VIE-03",
        )


def _disks(facts: InstanceFacts, asked: Asked, found: Findings) -> None:
    if facts.root_device_type != "ebs":
        found.error(
            "export.instance_store",
            f"the instance boots from {facts.root_device_type}, not from EBS",
            why="such a disk can be neither snapshotted nor exported",
            do="Copy the guest to an instance that boots from EBS",
            row="VIE-03",
        )
        return
    if not any(volume.boot for volume in facts.volumes):
        found.error(
            "export.no_boot_disk",
            f"no volume is attached as {facts.root_device or 'root device'}",
            why="a machine without its boot disk would be exported",
            do="Attach the boot volume, and start the export again",
            row="VIE-03",
        )
    taken = _taken(facts, asked)
    if asked.by_service and len(taken) > 1:
        why = (
            "AWS exports instances with one disk only"
            if asked.method == "instance"
            else "an image holds all attached volumes, and what AWS's export of images does with several is not known"
        )
        found.error(
            "export.disks", f"the instance has {len(taken)} disks: {_names(taken)}", why=why, do="", row="VIE-03"
        )
    if shared := [volume for volume in taken if volume.multi_attach]:
        found.warning(
            "export.multi_attach",
            f"other instances may write to {_names(shared)} at the same time",
            why="a snapshot of it is consistent for none of them",
            do="Stop the other writers during the export",
            row="VIE-03",
        )


def _taken(facts: InstanceFacts, asked: Asked) -> list[VolumeFacts]:
    """The volumes that a method exports."""
    return [volume for volume in facts.volumes if volume.launched or asked.method != "instance"]


def _attached_later(facts: InstanceFacts, asked: Asked, found: Findings) -> None:
    later = [volume for volume in facts.volumes if not volume.launched]
    if not later:
        return
    what = f"attached after launch: {_names(later)}"
    if asked.method != "instance":
        found.info(
            "export.attached_later",
            what,
            why="a snapshot or image is taken of all attached volumes: they are exported, too",
            do="Detach before the export what should stay here",
            row="VIE-03",
        )
        return
    why = "AWS exports only the volumes in the block device mapping of the instance's image"
    if asked.named and not any(volume.boot for volume in later):
        found.warning(
            "export.later",
            f"{what}: left out of the export",
            why=why,
            do="Choose method image or direct: they take such volumes",
            row="VIE-03",
        )
        return
    found.error(
        "export.attached_later",
        what,
        why=f"{why}: these would be missing",
        do="Detach them before the export, or make an image of the instance and launch that",
        row="VIE-03",
    )


def _instance_store(facts: InstanceFacts, asked: Asked, found: Findings) -> None:
    if facts.root_device_type != "ebs":
        return
    if asked.by_service and facts.image.instance_store:
        found.error(
            "export.instance_store",
            f"the image of the instance maps instance store: {listed(facts.image.instance_store)}",
            why="AWS exports no instance whose block device mapping has such disks",
            do="Launch it again from an image whose mapping has none",
            row="VIE-03",
        )
    elif store := (facts.instance_store or facts.image.instance_store):
        found.warning(
            "export.instance_store",
            f"what is on its instance store ({listed(store)}) is not exported",
            why="instance store can't be snapshotted, and is empty after each stop",
            do="Copy what you need to an EBS volume before the export",
            row="VIE-03",
        )


def _sizes(facts: InstanceFacts, asked: Asked, found: Findings) -> None:
    taken = _taken(facts, asked)
    limit = LIMITS["export_volume_bytes" if asked.by_service else "ova_volume_bytes"]
    if large := [volume for volume in taken if limit.exceeded(volume.size)]:
        found.error(
            "export.size",
            f"too large: {_sized(large)}",
            why=f"method {asked.method} exports volumes of at most {limit.value // TIB} TiB",
            do="Move the data to smaller volumes",
            row="VIE-03",
        )
        return
    if asked.by_service:
        return
    content, whole = LIMITS["stream_content_bytes"], LIMITS["object_bytes"]
    if full := [volume for volume in taken if content.exceeded(volume.size)]:
        found.warning(
            "export.stream",
            f"nearly too large: {_sized(full)}",
            why=f"a stream-optimised disk holds at most {content.value // GIB} GiB of data that do not compress",
            do="Nothing, if the volume is not full",
            row="VIE-03",
        )
    if whole.exceeded(total := sum(volume.size for volume in taken)):
        found.error(
            "export.object_size",
            f"all volumes together have {total // GIB} GiB",
            why=f"an OVA is one object of at most {whole.value // TIB} TiB, and nobody knows before how well it "
            "compresses",
            do="Detach volumes that can be moved in another way",
            row="VIE-03",
        )


def _encrypted(facts: InstanceFacts, asked: Asked, found: Findings) -> None:
    names = [volume.volume_id for volume in _taken(facts, asked) if volume.encrypted]
    if asked.method == "instance":
        names += [each.snapshot_id for each in facts.image.snapshots if each.encrypted]
    if not names:
        return
    if asked.by_service:
        found.error(
            "export.encrypted",
            f"encrypted: {listed(names)}",
            why="AWS exports no encrypted EBS snapshots",
            do="Copy the data to volumes that are not encrypted",
            row="VIE-03",
        )
    else:
        found.warning(
            "export.encrypted",
            f"encrypted: {listed(names)}; the OVA is protected by the bucket alone",
            why="reading the snapshots decrypts them, for which the connection needs kms:Decrypt on their key",
            do="Decide who may read the bucket before the export",
            row="VIE-03",
        )


def _image(facts: InstanceFacts, found: Findings) -> None:
    """Snapshots of an image of another account can't be seen, which is no sign that they are gone."""
    image = facts.image
    if not image.exists:
        what = f"the image {image.image_id} that it was launched from does not exist any more"
    elif gone := _gone_snapshots(facts):
        what = f"the image {image.image_id} that it was launched from lacks {listed(gone)}"
    else:
        return
    found.error(
        "export.image_gone",
        what,
        why="AWS exports an instance only while its image and the image's snapshots exist",
        do="Make an image of the instance, and launch that",
        row="VIE-03",
    )


def _gone_snapshots(facts: InstanceFacts) -> list[str]:
    image = facts.image
    own = image.imported or image.owner in ("", facts.account)
    return [each.snapshot_id for each in image.snapshots if not each.exists] if own else []


def _interfaces(facts: InstanceFacts, found: Findings) -> None:
    if len(facts.nics) > 1:
        found.error(
            "export.interfaces",
            f"the instance has {len(facts.nics)} network interfaces: "
            f"{listed([nic.interface_id for nic in facts.nics])}",
            why="AWS exports instances with one network interface only",
            do="Detach the others",
            row="VIE-03",
        )


def _boot_loader(facts: InstanceFacts, asked: Asked, found: Findings) -> None:
    if asked.by_service and not facts.windows:
        found.info(
            "export.hybrid_boot",
            "whether GRUB2 is set up for both BIOS and UEFI can't be seen from outside the guest",
            why="AWS's export does not support a hybrid configuration, and the task fails",
            do="Look in the guest: GRUB2 must be enabled for one of them only",
            row="VIE-03",
        )


def _instant(facts: InstanceFacts, asked: Asked, found: Findings) -> None:
    if facts.state != "running":
        return
    if asked.method == "instance" or (asked.method == "image" and asked.wish.may_reboot):
        why = (
            "AWS may restart an instance while it exports it"
            if asked.method == "instance"
            else "AWS shuts the guest down for the image, and starts it again"
        )
        if asked.wish.may_reboot:
            found.warning(
                "export.reboot",
                "the running instance may be restarted",
                why=why,
                do="Start the export when a restart is acceptable",
                row="VIE-05",
            )
        else:
            found.error(
                "export.reboot",
                "the running instance may be restarted, and nobody said that it may",
                why=why,
                do="Allow it ('May reboot', --may-reboot) at a time when a restart is acceptable, or stop the instance",
                row="VIE-05",
            )
    else:
        found.info(
            "export.crash_consistent",
            "the disks are exported as of one instant of a running guest",
            why="they are as after a power failure: file systems and databases recover at the first boot",
            do="Stop the instance before the export if a program in it does not survive that",
            row="VIE-05",
        )


def _names(volumes: list[VolumeFacts]) -> str:
    return listed([f"{volume.volume_id} ({volume.device})" for volume in volumes])


def _sized(volumes: list[VolumeFacts]) -> str:
    return listed([f"{volume.volume_id} ({volume.device}) has {volume.size // GIB} GiB" for volume in volumes])
