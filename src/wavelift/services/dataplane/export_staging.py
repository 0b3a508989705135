"""Names of what an export of an instance has in S3, and the removal of what it left there (VIE-06, invariants 4, 5).

Beside the object ``<prefix>exp-….ova`` lie the manifests of its disks, ``<prefix>exp-…/disk-<n>.manifest``. What AWS
writes has AWS's name for it, ``<prefix>export-i-….<format>``, and nothing beside it.
"""

from __future__ import annotations

import logging
import re
from contextlib import closing
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.errors import NotFoundError, PermanentError
from wavelift.base.names import TAG_RUN, TAG_SERVER, TAG_WAVE
from wavelift.rules.export_flows import EXPORT, EXPORT_DAGS
from wavelift.services.dataplane.export_messages import ExportPlace, ExportPlan
from wavelift.services.dataplane.staging import MANIFEST_SUFFIX

log = logging.getLogger(__name__)

OVA_SUFFIX: Final = ".ova"
RUN_METADATA: Final = "wavelift-run"
"""Of an object: hash of the run that made it. Its tags say so too, but to read them is a right of its own."""
_MANIFEST: Final = re.compile(rf"disk-[0-9]{{1,3}}{re.escape(MANIFEST_SUFFIX)}")


def run_of(export: str) -> str:
    """The hash of an export's run, as it stands in tags and metadata.

    :param export: ``exp-…``.
    """
    return export.removeprefix(EXPORT.prefix)


def made_with(plan: ExportPlan) -> dict[str, str]:
    """The tags of everything that an export makes. No clean-up of a wave knows such a wave."""
    wave, server = f"{EXPORT_DAGS}{plan.place.environment}", plan.instance.instance_id
    return {TAG_RUN: run_of(plan.export), TAG_SERVER: server, TAG_WAVE: wave, "Name": f"{wave}/{server}"}


def metadata_of(export: str) -> dict[str, str]:
    """Of each object that an export makes itself."""
    return {RUN_METADATA: run_of(export)}


def direct_key(plan: ExportPlan) -> str:
    """Of the OVA that method ``direct`` writes."""
    return f"{plan.prefix}{plan.export}{OVA_SUFFIX}"


def is_named(key: str, own: str) -> bool:
    """Whether an object has the name of its export or task: ``<prefix><own>.<format>``. A prefix need not end with a
    slash."""
    name, _, form = key.rpartition(".")
    return bool(own) and "/" not in form and name.endswith(own)


def manifest_key(key: str, index: int) -> str:
    """:param key: of the OVA. :param index: of the disk."""
    return f"{_folder(key)}disk-{index}{MANIFEST_SUFFIX}"


def _folder(key: str) -> str:
    return f"{key.removesuffix(OVA_SUFFIX)}/"


def abort_uploads(s3: S3Staging, key: str, *, keep: str = "") -> int:
    """Abort the unfinished uploads of exactly this key, but for one; how many."""
    stale = [one for one in s3.list_uploads(key) if one.key == key and one.upload_id != keep]
    for upload in stale:
        s3.abort_upload(upload.key, upload.upload_id)
    return len(stale)


def discard_export(
    access: AwsAccess, place: ExportPlace, key: str, *, export: str, task_id: str = ""
) -> tuple[str, ...]:
    """Abort the uploads of an export without result, and delete its object and manifests; which went. May be called
    again.

    Who else may name them? Nobody reads them but the export's own tasks, which have ended: who calls knows that, and
    that no record names the object as a result. What lies under the key but was made by another run stays.

    :param key: of the object. :param export: ``exp-…``.
    :param task_id: AWS's, whose object has its name: such a name is given once.
    :raises PermanentError: the key is not that of this export.
    """
    own = task_id or export
    if not is_named(key, own):
        raise PermanentError(
            "The object that is to be deleted has not the name of this export",
            next_step="Look at the export's record (`wavelift export show`), and delete its object by hand",
            object=key,
            export=export,
        )
    gone = []
    with closing(S3Staging(access, place.bucket)) as s3:
        try:
            gone += ["upload"] * abort_uploads(s3, key)
            found = s3.head(key)
            if found is not None and (task_id or _is_own(s3, key, export)):
                s3.delete(key)
                gone.append(key)
            gone += [] if task_id else _discard_manifests(s3, key, export)
        except NotFoundError as error:
            log.warning("nothing of export %s is left: %s", export, error.what)
    return tuple(gone)


def _discard_manifests(s3: S3Staging, key: str, export: str) -> list[str]:
    folder = _folder(key)
    listed = [one.key for one in s3.list(folder) if _MANIFEST.fullmatch(one.key.removeprefix(folder))]
    own = [each for each in listed if _is_own(s3, each, export)]
    s3.delete(*own)
    return own


def _is_own(s3: S3Staging, key: str, export: str) -> bool:
    found = s3.head(key)
    if found is None:
        return False
    own = found.metadata.get(RUN_METADATA) == run_of(export)
    if not own:
        log.warning("s3://%s/%s stays: it is not of export %s", s3.bucket, key, export)
    return own
