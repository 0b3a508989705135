"""What the words of a failed ImportImage mean and what to do: data with sources, matched top to bottom.

The vendor's words are few and group several causes (github.com/aws/aws-cli/issues/8873); our reading is added to
them, it never replaces them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_GUIDE: Final = "docs.aws.amazon.com/vm-import/latest/userguide/"
TROUBLESHOOTING: Final = f"{_GUIDE}vmimport-troubleshooting.html"
PREREQUISITES: Final = f"{_GUIDE}prerequisites.html"
PERMISSIONS: Final = f"{_GUIDE}required-permissions.html"
LIMITATIONS: Final = f"{_GUIDE}limitations-image-importing.html"
READ_ON: Final = "2026-11"
"""When the sources were last looked at."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Our reading of a failure.

    :ivar retry: the same import may succeed when it is simply submitted again.
    """

    code: str
    reading: str
    next_step: str
    source: str
    retry: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    pattern: re.Pattern[str]
    explanation: Explanation


def _known(pattern: str, code: str, reading: str, next_step: str, source: str, *, retry: bool = False) -> _Known:
    return _Known(re.compile(pattern, re.IGNORECASE), Explanation(code, reading, next_step, source, retry))


KNOWN_FAILURES: Final[tuple[_Known, ...]] = (
    _known(
        r"cancel+ed|user initiated|cancellation",
        "cancelled",
        "the import was cancelled, by us or by a person",
        "Clear the server's import task to submit it again",
        f"{_GUIDE}vmimport-image-import.html",
    ),
    _known(
        r"service role.*(does not exist|sufficient permissions)",
        "role.missing",
        "VM Import can't assume the service role, or the role's policy lacks an action",
        "Create or correct the role: wavelift iam show prints its trust policy and its policy",
        TROUBLESHOOTING,
    ),
    _known(
        r"does not have access to the s3 object|"
        r"(do not|don't) have access to the given resource|403 Forbidden|access ?denied.*(s3|bucket|object)",
        "role.bucket",
        "the service role can't read the staging object",
        "Allow s3:GetBucketLocation, s3:GetObject and s3:ListBucket on the staging bucket to the service role, and "
        "kms:Decrypt when its objects are encrypted with a key",
        "github.com/keithvassallomt/windows10-ec2/issues/3",
    ),
    _known(
        r"kms|encryption key|CreateGrant",
        "role.kms",
        "the service role can't use the KMS key",
        "Allow kms:CreateGrant, Decrypt, DescribeKey, Encrypt, GenerateDataKey* and ReEncrypt* on the key to the role",
        PERMISSIONS,
    ),
    _known(
        r"not local to the region|bucket .* is not in the .* region",
        "bucket.region",
        "the staging bucket is in another region than the import",
        "Use a staging bucket in the region of the environment",
        TROUBLESHOOTING,
    ),
    _known(
        r"invalid s3 source location|NoSuchKey|(s3 )?(object|key).*(not found|does not exist)|\b404\b",
        "object.missing",
        "the staging object is not there: it was deleted, or a life-cycle rule of the bucket removed it",
        "Clear the server from its export on",
        TROUBLESHOOTING,
    ),
    _known(
        r"uncompressed data has invalid length|unsupported compression|vmdk.*(invalid|corrupt|unsupported)"
        r"|footers not (identical|found)|incorrect disk size",
        "object.format",
        "VM Import can't read the disk image",
        "Run wavelift verify on the staging object; when it is sound, send AWS the task id, else export again",
        TROUBLESHOOTING,
    ),
    _known(
        r"unsupported kernel",
        "linux.kernel",
        "VM Import doesn't know this Linux kernel; it takes the distribution's default kernels only",
        "Install and boot the distribution's default kernel on the source, or import the disks as snapshots and "
        "register an image (the guest then needs ENA and NVMe drivers)",
        "github.com/hashicorp/packer/issues/6743, #8302",
    ),
    _known(
        r"default kernel|grub|\bbls\b|boot ?loader",
        "linux.grub",
        "VM Import could not find the default kernel in the boot loader's configuration",
        "Give /etc/default/grub a GRUB_DEFAULT that names an installed kernel, switch BLS off "
        "(GRUB_ENABLE_BLSCFG=false) and rewrite grub.cfg on the source",
        "github.com/wazuh/wazuh-packages/issues/2985",
    ),
    _known(
        r"could not read fstab|multiple (different )?directories|multi-?boot|multiple /etc",
        "linux.multiboot",
        "more than one Linux installation was found, or no readable /etc/fstab",
        "Leave one installation on the boot disk",
        TROUBLESHOOTING,
    ),
    _known(
        r"logical volume group activation|volume group",
        "linux.lvm",
        "a volume group could not be activated: one of its disks is missing, or damaged",
        "Check that every disk of the volume group is part of the server in the wave",
        TROUBLESHOOTING,
    ),
    _known(
        r"no bootable partition|no valid partition|not a valid volume|missing (os|boot) files|unknown os",
        "boot.missing",
        "VM Import found no operating system on the first disk: wrong disk order, an encrypted or unsupported file "
        "system, or the boot mode does not fit",
        "Check that the boot disk is the first, that its file system is on the supported list, and boot_mode "
        "(uefi or legacy-bios)",
        PREREQUISITES,
    ),
    _known(
        r"(u?efi).*(not supported|unsupported|detected)|boot mode",
        "boot.mode",
        "the boot mode of the import does not fit the disk",
        "Set boot_mode of the server to what its firmware is (uefi or legacy-bios)",
        LIMITATIONS,
    ),
    _known(
        r"FirstBootFailure|failed to boot and establish network|booter networking failure|instance not reachable",
        "boot.network",
        "the converted machine did not start or got no address by DHCP within AWS's patience",
        "On the source: enable DHCP and RDP or SSH, switch security software off, remove what hardening forbids "
        "driver installation, pending updates and failed start-ups; then export again",
        TROUBLESHOOTING,
    ),
    _known(
        r"activation|licen[cs]e|BYOL",
        "licence",
        "the licence type does not fit the operating system",
        "Windows clients and Linux take licence type BYOL only; leave it empty for AWS's choice",
        f"{_GUIDE}licensing.html",
    ),
    _known(
        r"unsupported (os|operating system|windows|linux|platform|configuration|architecture)|not supported",
        "os.unsupported",
        "the operating system, its version or its configuration is not on AWS's list",
        "Compare with the list in the source; otherwise import the disks as snapshots and register an image",
        PREREQUISITES,
    ),
    _known(
        r"(limit|quota).*(exceed|reach)|exceed.*(limit|quota)|too (large|big)|size .*exceed",
        "limit",
        "a limit of VM Import or of the account was exceeded",
        "Compare the disks with the limits in the source; raise the quota where it is one",
        LIMITATIONS,
    ),
    _known(
        r"ServerError|internal (error|failure)|service unavailable",
        "aws.internal",
        "AWS failed inside; the disks are not to blame",
        "Clear the server's import task to submit it again; the staging objects are still there",
        TROUBLESHOOTING,
        retry=True,
    ),
)

_UNKNOWN: Final = Explanation(
    "unknown",
    "AWS's words are not in our table",
    "Search the source for the message; the task id lets AWS support look into it",
    TROUBLESHOOTING,
)


def explain_import_failure(message: str) -> Explanation:
    """Our reading of the StatusMessage of an import that ended ``deleted`` (AMP-08)."""
    for known in KNOWN_FAILURES:
        if known.pattern.search(message):
            return known.explanation
    return _UNKNOWN
