"""Names and choices of an instance export: bucket, prefix, and which formats each method writes (VIE-01, VIE-02).

Pure. AWS takes a prefix as it stands: ``vms/`` gives ``vms/export-i-….ova``, and ``vms`` gives ``vmsexport-i-….ova``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import AfterValidator, WithJsonSchema

from wavelift.base.errors import SpecError
from wavelift.rules.export_facts import METHODS, ExportFormat, ExportMethod, ExportTarget, MethodChoice
from wavelift.rules.fields import parse_verify
from wavelift.rules.problem import allowed, quoted

BUCKET_LEAD: Final = "export-to-s3-"
"""AMP-10, as the original document: ``export-to-s3-<name>-<region>``, one bucket per region."""
BUCKET_MAX: Final = 63
"""Characters of an S3 bucket's name."""
NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
"""No dot: HTTPS names the bucket in the host, where AWS's certificate stands for one label only."""
PREFIX_MAX: Final = 512
"""Characters of the prefix of an object, that of the environment included. S3 takes 1,024 bytes for a whole key."""
PREFIX_PATTERN: Final = r"^[A-Za-z0-9!_.*'()/-]*$"
"""The characters that S3's page on object keys calls safe."""
DEFAULT_VERIFY: Final = "sample:1"

FORMATS: Final[Mapping[ExportMethod, Mapping[ExportTarget, tuple[ExportFormat, ...]]]] = {
    "instance": {"vmware": ("ova", "vmdk"), "citrix": ("vhd",), "microsoft": ("vhd",)},
    "image": {"vmware": ("vmdk", "raw"), "citrix": ("vhd", "raw"), "microsoft": ("vhd", "raw")},
    "direct": {"vmware": ("ova",), "citrix": (), "microsoft": ()},
}
"""What each method writes for a target, its default first: CreateInstanceExportTask for the target environment,
ExportImage by disk format, and an OVA of our own."""


def bucket_name(name: str, region: str) -> str:
    """The bucket of a region's exports: ``export-to-s3-acme-eu-central-1``."""
    return f"{BUCKET_LEAD}{name}-{region}"


def bucket_problem(name: str, region: str) -> str:
    """Why a name makes no bucket name in this region; empty: it does."""
    longest = BUCKET_MAX - len(bucket_name("", region))
    if re.fullmatch(NAME_PATTERN, name) is None:
        return (
            f"{quoted(name)} makes no bucket name: write 1 to {longest} of a-z, 0-9 and '-', of which the first and "
            "the last is none of '-'"
        )
    if len(name) > longest:
        return (
            f"'{bucket_name(name, region)}' has {len(name) + len(bucket_name('', region))} characters, and a bucket's "
            f"name at most {BUCKET_MAX}: take at most {longest} for {quoted(name)}"
        )
    return ""


def _prefix(value: str) -> str:
    if len(value) > PREFIX_MAX:
        raise ValueError(f"{quoted(value)} is too long: a prefix has at most {PREFIX_MAX} characters")
    if re.fullmatch(PREFIX_PATTERN, value) is None:
        raise ValueError(f"{quoted(value)} is not an S3 prefix (letters, digits, and ! - _ . * ' ( ) /)")
    if value.startswith(("/", "./")) or any(part in value for part in ("//", "..", "/./")):
        raise ValueError(f"{quoted(value)} is not an S3 prefix: no '..', no '.' between '/', no '/' first or twice")
    return value


ObjectPrefix = Annotated[
    str,
    AfterValidator(_prefix),
    WithJsonSchema({"type": "string", "pattern": PREFIX_PATTERN, "maxLength": PREFIX_MAX}),
]
"""What the keys of exported objects begin with, as it stands."""


def joined_prefix(environment: str, own: str | None) -> str:
    """The prefix of an export: that of its environment, and the one that was asked for after it.

    So nobody writes beside the objects of the own environment: environments of one account and region share a bucket.

    :raises SpecError: both together are no prefix.
    """
    joined = f"{environment}{own or ''}"
    try:
        return _prefix(joined)
    except ValueError as error:
        raise SpecError(str(error), next_step="Choose another prefix", prefix=joined) from None


def default_format(choice: MethodChoice, target: ExportTarget) -> ExportFormat | None:
    """What is written for a target if nobody asks for a format. None: the method writes nothing for this target.

    With ``auto``, what its first method writes: an OVA for VMware, a VHD for the others.
    """
    written = FORMATS[METHODS[0] if choice == "auto" else choice][target]
    return written[0] if written else None


def format_problem(choice: MethodChoice, target: ExportTarget, asked: ExportFormat | None) -> str:
    """Why a method writes nothing of this format for this target, or with ``auto`` no method; empty: one does."""
    methods = METHODS if choice == "auto" else (choice,)
    written = list(dict.fromkeys(each for method in methods for each in FORMATS[method][target]))
    wanted = asked or default_format(choice, target)
    if wanted in written:
        return ""
    who = "no method" if choice == "auto" else f"method {choice}"
    if not written:
        others = [method for method in METHODS if FORMATS[method][target]]
        return f"{who} writes nothing for target {target}; {allowed(others)}"
    verb = "writes" if choice == "auto" else "writes no"
    return f"{who} {verb} {wanted} for target {target}; {allowed(written)}"


def verify_level(text: str) -> str:
    """How an object of ``direct`` is compared with its manifests: ``full`` or ``sample:<pct>``.

    :raises ValueError: it is neither. An export is always verified: ``off`` is refused, too.
    """
    if text == "off":
        raise ValueError("an export is always verified; allowed: full, sample:<pct> with 0 < pct <= 100")
    try:
        parse_verify(text)
    except ValueError:
        raise ValueError(
            f"{quoted(text)} is not a verify level; allowed: full, sample:<pct> with 0 < pct <= 100"
        ) from None
    return text
