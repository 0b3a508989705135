"""The EC2 actions of VM Import, over :mod:`..vmimport.tasks`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlparse

from moto.core.responses import ActionResult

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.invented import NO_OBJECT_MESSAGE, NO_ROLE_MESSAGE
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.actions import check_tagged, plain
from wavelift.simulators.aws.s3 import encryption
from wavelift.simulators.aws.tags import check_client_token, check_description
from wavelift.simulators.aws.vmimport import roles
from wavelift.simulators.aws.vmimport.tasks import ACTIVE, COMPLETED, Disk, ImportTask

MAX_DISKS: Final = 21
"""AWS: "imports with more than 21 volumes fail"."""
ALLOWED: Final = {
    "BootMode": {"legacy-bios", "uefi"},
    "LicenseType": {"AWS", "BYOL"},
    "Architecture": {"i386", "x86_64"},
    "Platform": {"Windows", "Linux"},
}
PAGE: Final = 5
"""Tasks in one answer. AWS does not document how many it returns, so a client must follow the token."""
FILTERS: Final = frozenset({"task-state"})


class ImportActions:
    """A mixin of moto's EC2Response."""

    account: Account

    if TYPE_CHECKING:
        params: dict[str, Any]

        def _get_param(self, name: str, default: Any = None) -> Any: ...
        def error_on_dryrun(self) -> None: ...
        def _parse_tag_specification(self) -> dict[str, dict[str, str]]: ...

    def import_image(self) -> ActionResult:
        request = plain(self.params)
        _check_request(request)
        disks = [self._disk(item) for item in request.get("DiskContainers") or []]
        if not disks:
            raise AwsError("MissingParameter", "The request must contain the parameter DiskContainer", 400)
        self._check_role(request, disks)
        for disk in disks:
            self._find_image(disk)
        self.error_on_dryrun()
        tags = self._parse_tag_specification().get("import-image-task", {})
        task = self.account.imports.submit(request, disks, tags=tags, token=request.get("ClientToken") or "")
        return ActionResult(self._describe(task))

    def _disk(self, item: Mapping[str, Any]) -> Disk:
        disk = Disk(str(item.get("Format") or "").upper(), item.get("Description") or "")
        if snapshot_id := item.get("SnapshotId"):
            disk.snapshot_id = snapshot_id
            return disk
        if url := item.get("Url"):
            parsed = urlparse(url)
            disk.bucket, disk.key = parsed.netloc, parsed.path.removeprefix("/")
        else:
            place = item.get("UserBucket") or {}
            disk.bucket, disk.key = place.get("S3Bucket") or "", place.get("S3Key") or ""
        if not disk.bucket or not disk.key:
            raise AwsError("InvalidParameter", "A disk container needs UserBucket, Url or SnapshotId", 400)
        if not disk.image_format:
            disk.image_format = disk.key.rpartition(".")[2].upper()
        return disk

    def _check_role(self, request: Mapping[str, Any], disks: list[Disk]) -> None:
        name = request.get("RoleName") or "vmimport"
        refused = AwsError("InvalidParameter", NO_ROLE_MESSAGE.format(role=name), 400)
        role = self.account.backends.role(name)
        if role is None or not roles.trusts_vmie(role.trust):
            raise refused
        for disk in disks:
            if roles.missing(
                role.policies,
                bucket=disk.bucket,
                key=disk.key,
                kms_keys=self._keys(request, disk),
                partition=self.account.settings.partition,
            ):
                raise refused

    def _keys(self, request: Mapping[str, Any], disk: Disk) -> list[str]:
        """ARNs of the keys that the role must be allowed to use: for the volumes, and for the object or the snapshot.

        IAM compares ARNs, in whatever form the request names a key. The AWS managed key for S3 needs no permission.
        """
        find = self.account.backends.find_key
        volumes = find(str(request.get("KmsKeyId") or ""))
        stored = self.account.s3.peek(disk.bucket, disk.key)
        staged = find(stored.info.headers.get(encryption.KEY, "")) if stored is not None else None
        given = find(self.account.completed_snapshot(disk.snapshot_id).kms_key) if disk.snapshot_id else None
        return [key.arn for key in (volumes, staged, given) if key is not None and not key.service]

    def _find_image(self, disk: Disk) -> None:
        if disk.snapshot_id:
            self.account.completed_snapshot(disk.snapshot_id)
            return
        try:
            self.account.s3.object(disk.bucket, disk.key)
        except AwsError:
            message = NO_OBJECT_MESSAGE.format(bucket=disk.bucket, key=disk.key)
            raise AwsError("InvalidParameter", message, 400) from None

    def describe_import_image_tasks(self) -> ActionResult:
        request = plain(self.params)
        self.error_on_dryrun()
        seen = self.account.clock.now() - self.account.settings.unseen_seconds
        if ids := request.get("ImportTaskIds") or []:
            tasks = [self.account.imports.find(item, started_by=seen) for item in ids]
            return ActionResult({"ImportImageTasks": [self._describe(task) for task in tasks]})
        tasks = [task for task in self.account.imports.all() if task.started <= seen]
        for item in request.get("Filters") or []:
            if item.get("Name") not in FILTERS:
                raise AwsError("InvalidParameterValue", f"The filter '{item.get('Name')}' is invalid", 400)
            tasks = [task for task in tasks if task.status in (item.get("Values") or [])]
        start = _offset(request.get("NextToken") or "")
        size = int(request.get("MaxResults") or PAGE)
        answer: dict[str, Any] = {"ImportImageTasks": [self._describe(task) for task in tasks[start : start + size]]}
        if start + size < len(tasks):
            answer["NextToken"] = base64.b64encode(str(start + size).encode()).decode()
        return ActionResult(answer)

    def _describe(self, task: ImportTask) -> dict[str, Any]:
        settings = self.account.settings
        answer = _described(task, other_words=settings.other_words)
        if settings.shuffled:
            answer["SnapshotDetails"].reverse()
        return answer

    def cancel_import_task(self) -> ActionResult:
        task_id = self._get_param("ImportTaskId") or ""
        self.error_on_dryrun()
        previous, state = self.account.imports.cancel(task_id)
        return ActionResult({"ImportTaskId": task_id, "PreviousState": previous, "State": state})


def _offset(token: str) -> int:
    try:
        return int(base64.b64decode(token)) if token else 0
    except ValueError:
        raise AwsError("InvalidNextToken", "The token is not valid", 400) from None


def _check_request(request: Mapping[str, Any]) -> None:
    for name, allowed in ALLOWED.items():
        value = request.get(name)
        if value and value not in allowed:
            raise AwsError("InvalidParameterValue", f"Value ({value}) for parameter {name} is invalid.", 400)
    containers = request.get("DiskContainers") or []
    for text in (request.get("Description"), *(item.get("Description") for item in containers)):
        check_description(text or "")
    check_tagged(request, {"import-image-task"})
    check_client_token(request.get("ClientToken") or "")
    if len(containers) > MAX_DISKS:
        raise AwsError("InvalidParameter", f"No more than {MAX_DISKS} disks can be imported", 400)
    if request.get("LicenseType") and request.get("UsageOperation"):
        raise AwsError("InvalidParameterCombination", "LicenseType and UsageOperation exclude each other", 400)
    if request.get("LicenseType") == "AWS" and request.get("Platform") == "Linux":
        raise AwsError("InvalidParameter", "License type AWS is not available for Linux", 400)
    by_snapshot = any(item.get("SnapshotId") for item in containers)
    if by_snapshot and request.get("BootMode") == "uefi" and not request.get("Platform"):
        raise AwsError("InvalidParameter", "UEFI with an EBS snapshot requires Platform", 400)
    if request.get("KmsKeyId") and not request.get("Encrypted"):
        raise AwsError("InvalidParameterDependency", "KmsKeyId requires Encrypted", 400)


def _described(task: ImportTask, *, other_words: bool) -> dict[str, Any]:
    request = task.request
    kept = ("Description", "Hypervisor", "KmsKeyId", "LicenseType", "Platform", "UsageOperation", "BootMode")
    answer: dict[str, Any] = {name: request[name] for name in kept if request.get(name)}
    answer |= {
        "ImportTaskId": task.id,
        "Architecture": request.get("Architecture") or "x86_64",
        "Encrypted": bool(request.get("Encrypted")),
        "SnapshotDetails": [_detail(task, disk) for disk in task.disks],
        "Tags": [{"Key": key, "Value": value} for key, value in task.tags.items()],
        **_standing(task, other_words),
    }
    if task.image_id:
        answer["ImageId"] = task.image_id
    return answer


def _standing(task: ImportTask, other_words: bool) -> dict[str, str]:
    """Status, message and progress."""
    if other_words and task.status == ACTIVE:
        return {"Status": task.phase.status.said(other_words=True)}
    standing = {"Status": task.status}
    if task.message:
        standing["StatusMessage"] = task.message
    if task.active:
        standing["Progress"] = str(task.phase.progress)
    return standing


def _detail(task: ImportTask, disk: Disk) -> dict[str, Any]:
    detail: dict[str, Any] = {"Status": "completed" if task.status == COMPLETED else "active"}
    if disk.image_format:
        detail["Format"] = disk.image_format
    if disk.bucket:
        detail["UserBucket"] = {"S3Bucket": disk.bucket, "S3Key": disk.key}
    if disk.image_size:
        detail["DiskImageSize"] = float(disk.image_size)
    if disk.description:
        detail["Description"] = disk.description
    if task.status == COMPLETED and disk.snapshot is not None:
        detail |= {"SnapshotId": disk.snapshot.id, "DeviceName": disk.device}
    return detail
