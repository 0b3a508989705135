"""The EC2 actions of VM Export, over :mod:`..vmexport.tasks`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from moto.core.responses import ActionResult, EmptyResult

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.invented import NO_ROLE_MESSAGE, RAW_OF_INSTANCES
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.actions import check_tagged, plain
from wavelift.simulators.aws.moto_bridge.exportable import check_image, check_instance
from wavelift.simulators.aws.s3.store import Bucket
from wavelift.simulators.aws.tags import check_client_token, check_description
from wavelift.simulators.aws.vmexport.place import check_bucket, check_grants, check_role
from wavelift.simulators.aws.vmexport.tasks import ACTIVE, ENDED, ExportTask, NewExport

FORMATS: Final = {
    "vmware": {("VMDK", "ova"), ("VMDK", "")},
    "citrix": {("VHD", "")},
    "microsoft": {("VHD", "")},
}
"""User guide: OVA and stream-optimised VMDK are for vSphere, VHD for Xen and Hyper-V."""
OF_IMAGES: Final = ("VMDK", "VHD", "RAW")
DEFAULTS: Final = {"vmware": "VMDK", "citrix": "VHD", "microsoft": "VHD"}
PAGE: Final = 5
"""Tasks in one answer of DescribeExportImageTasks. AWS does not document how many it returns."""
MAX_PAGE: Final = 500
LIKE_A_KEY: Final = "0" * 17
"""The end of a task's id, which is in the key, before there is one."""


class ExportActions:
    """A mixin of moto's EC2Response."""

    account: Account

    if TYPE_CHECKING:
        params: dict[str, Any]

        def _get_param(self, name: str, default: Any = None) -> Any: ...
        def error_on_dryrun(self) -> None: ...
        def _parse_tag_specification(self) -> dict[str, dict[str, str]]: ...

    # instances

    def create_instance_export_task(self) -> ActionResult:
        """It has no client token: each call that succeeds makes a task."""
        request = plain(self.params)
        check_tagged(request, {"export-instance-task"})
        check_description(request.get("Description") or "")
        new = _of_instance(request, self._parse_tag_specification().get("export-instance-task", {}))
        instance = self.account.backends.ec2.get_instance(new.source)
        check_instance(self.account, instance)
        bucket = check_bucket(self.account.s3, new.bucket, _likely_key(new), self.account.settings.region)
        check_grants(bucket, _likely_key(new))
        return ActionResult({"ExportTask": _instance_task(self.account.exports.submit(new), self._other)})

    def describe_export_tasks(self) -> ActionResult:
        """No paging, and no filter that AWS names."""
        request, account = plain(self.params), self.account
        if request.get("Filters") and account.settings.export_filters != "ignored":
            name = request["Filters"][0].get("Name")
            raise AwsError("InvalidParameterValue", f"The filter '{name}' is invalid", 400)
        seen = account.clock.now() - account.settings.unseen_seconds
        ids = request.get("ExportTaskIds") or []
        tasks = [account.exports.find(one, "instance", started_by=seen) for one in ids]
        found = tasks if ids else account.exports.all("instance", started_by=seen)
        if account.settings.shuffled and not ids:
            found.reverse()
        return ActionResult({"ExportTasks": [_instance_task(task, self._other) for task in found]})

    def cancel_export_task(self) -> ActionResult:
        """Cancels both kinds."""
        self.account.exports.cancel(self._get_param("ExportTaskId") or "")
        return EmptyResult()

    @property
    def _other(self) -> bool:
        return self.account.settings.other_words

    # images

    def export_image(self) -> ActionResult:
        request = plain(self.params)
        check_tagged(request, {"export-image-task"})
        check_description(request.get("Description") or "")
        check_client_token(request.get("ClientToken") or "")
        new = _of_image(request, self._parse_tag_specification().get("export-image-task", {}))
        known = self.account.exports.repeated(new)
        if known is None:
            image = self.account.backends.ec2.amis.get(new.source)
            if image is None:
                raise AwsError("InvalidAMIID.NotFound", f"The image id '[{new.source}]' does not exist", 400)
            check_image(self.account, image)
            bucket = check_bucket(self.account.s3, new.bucket, _likely_key(new), self.account.settings.region)
            check_export_role(self.account, new, bucket, _likely_key(new))
        self.error_on_dryrun()
        task = known or self.account.exports.submit(new)
        answer = _image_task(task, self._other)
        answer |= {"DiskImageFormat": new.image_format, "RoleName": role_name(new)}
        return ActionResult(answer)

    def describe_export_image_tasks(self) -> ActionResult:
        request, account = plain(self.params), self.account
        self.error_on_dryrun()
        seen = account.clock.now() - account.settings.unseen_seconds
        if ids := request.get("ExportImageTaskIds") or []:
            tasks = [account.exports.find(one, "image", started_by=seen) for one in ids]
            return ActionResult({"ExportImageTasks": [_image_task(task, self._other) for task in tasks]})
        tasks = account.exports.all("image", started_by=seen)
        for item in request.get("Filters") or []:
            if item.get("Name") != "task-state":
                raise AwsError("InvalidParameterValue", f"The filter '{item.get('Name')}' is invalid", 400)
            tasks = [task for task in tasks if task.status in (item.get("Values") or [])]
        size = int(request.get("MaxResults") or PAGE)
        if not 1 <= size <= MAX_PAGE:
            raise AwsError("InvalidParameterValue", f"MaxResults is between 1 and {MAX_PAGE}", 400)
        start = _offset(request.get("NextToken") or "")
        page = tasks[start : start + size]
        answer: dict[str, Any] = {"ExportImageTasks": [_image_task(task, self._other) for task in page]}
        if start + size < len(tasks):
            answer["NextToken"] = base64.b64encode(str(start + size).encode()).decode()
        return ActionResult(answer)


def role_name(new: NewExport) -> str:
    return str(new.request.get("RoleName") or "vmimport")


def check_export_role(account: Account, new: NewExport, bucket: Bucket, key: str) -> None:
    """Raises AwsError if the service role can't be used for this export."""
    name = role_name(new)
    role = account.backends.role(name)
    if role is None:
        raise AwsError("InvalidParameter", NO_ROLE_MESSAGE.format(role=name), 400)
    check_role(name, role.arn, role.trust, role.policies, bucket=bucket, key=key)


def _of_instance(request: Mapping[str, Any], tags: Mapping[str, str]) -> NewExport:
    """Raises AwsError for a target and a format that do not fit."""
    target, place = str(request.get("TargetEnvironment") or ""), request.get("ExportToS3Task") or {}
    if target not in FORMATS:
        raise AwsError("InvalidParameterValue", f"Value ({target}) for parameter targetEnvironment is invalid.", 400)
    made = str(place.get("DiskImageFormat") or DEFAULTS[target]).upper()
    container = str(place.get("ContainerFormat") or "")
    allowed = FORMATS[target] | ({("RAW", "")} if RAW_OF_INSTANCES else set())
    if (made, container) not in allowed:
        text = f"The format {made}{' in ' + container if container else ''} is not supported for {target}."
        raise AwsError("InvalidParameterValue", text, 400)
    bucket, prefix = _place(place)
    return NewExport("instance", str(request.get("InstanceId")), request, bucket, prefix, made, container, tags)


def _of_image(request: Mapping[str, Any], tags: Mapping[str, str]) -> NewExport:
    made = str(request.get("DiskImageFormat") or "")
    if made.upper() not in OF_IMAGES:
        raise AwsError("InvalidParameterValue", f"Value ({made}) for parameter diskImageFormat is invalid.", 400)
    bucket, prefix = _place(request.get("S3ExportLocation") or {})
    token = request.get("ClientToken") or ""
    source = str(request.get("ImageId"))
    return NewExport("image", source, request, bucket, prefix, made.upper(), tags=tags, token=token)


def _place(place: Mapping[str, Any]) -> tuple[str, str]:
    if not place.get("S3Bucket"):
        raise AwsError("MissingParameter", "The request must contain the parameter S3Bucket", 400)
    return str(place["S3Bucket"]), str(place.get("S3Prefix") or "")


def _likely_key(new: NewExport) -> str:
    name = {"instance": "export-i-", "image": "export-ami-"}[new.kind]
    return f"{new.prefix}{name}{LIKE_A_KEY}.{(new.container or new.image_format).lower()}"


def _instance_task(task: ExportTask, other_words: bool) -> dict[str, Any]:
    new, request = task.new, task.new.request
    place: dict[str, Any] = {"DiskImageFormat": new.image_format.lower(), "S3Bucket": new.bucket, "S3Key": task.key}
    if new.container:
        place["ContainerFormat"] = new.container
    state, message, _ = _standing(task, other_words)
    # Seen of a cancelled task: github.com/aws/aws-cli/issues/8464.
    details = {"InstanceId": new.source, "TargetEnvironment": request.get("TargetEnvironment")}
    answer = {
        "ExportTaskId": task.id,
        "Description": request.get("Description") or "",
        "ExportToS3Task": place,
        "InstanceExportDetails": {} if task.status == ENDED["instance"] else details,
        "State": state,
        "Tags": [{"Key": key, "Value": value} for key, value in new.tags.items()],
    }
    return answer | ({"StatusMessage": message} if message else {})


def _image_task(task: ExportTask, other_words: bool) -> dict[str, Any]:
    new = task.new
    state, message, progress = _standing(task, other_words)
    answer: dict[str, Any] = {
        "ExportImageTaskId": task.id,
        "Description": new.request.get("Description") or "",
        "ImageId": new.source,
        "S3ExportLocation": {"S3Bucket": new.bucket, "S3Prefix": new.prefix},
        "Status": state,
        "Tags": [{"Key": key, "Value": value} for key, value in new.tags.items()],
    }
    if message:
        answer["StatusMessage"] = message
    if progress:
        answer["Progress"] = progress
    return answer


def _standing(task: ExportTask, other_words: bool) -> tuple[str, str, str]:
    """State, message and progress."""
    if task.status != ACTIVE:
        return task.status, task.message, ""
    if other_words:
        return task.phase.status.said(other_words=True), "", ""
    return ACTIVE, task.message, str(task.phase.progress)


def _offset(token: str) -> int:
    try:
        return int(base64.b64decode(token)) if token else 0
    except ValueError:
        raise AwsError("InvalidNextToken", "The token is not valid", 400) from None
