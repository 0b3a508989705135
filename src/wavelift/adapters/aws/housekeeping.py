"""What of ours is left in an account, in one look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2, OurResources
from wavelift.adapters.aws.s3 import ObjectInfo, S3Staging, UploadInfo
from wavelift.adapters.aws.vmimport import ImportStatus, VmImport


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Everything that carries our tags or lies in our folder; ``imports`` are the running ones."""

    ec2: OurResources
    imports: tuple[ImportStatus, ...] = ()
    uploads: tuple[UploadInfo, ...] = ()
    objects: tuple[ObjectInfo, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.ec2 or self.imports or self.uploads or self.objects)


def find_ours(
    access: AwsAccess, tags: Mapping[str, str], *, staging: S3Staging | None = None, prefix: str = ""
) -> Leftovers:
    """Look for what carries all of ``tags`` (an empty value asks for the name only).

    :param staging: with it, objects and open uploads below ``prefix`` are listed: S3 finds by name, not by tag.
    """
    return Leftovers(
        ec2=Ec2(access).find_ours(tags),
        imports=tuple(status for status in VmImport(access).find(tags) if not status.finished),
        uploads=tuple(staging.list_uploads(prefix)) if staging else (),
        objects=tuple(staging.list(prefix)) if staging else (),
    )
