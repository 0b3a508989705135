"""Everything behind the wire, put together, and the way of a request through it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from wavelift.simulators.kit.counters import Counters
from wavelift.simulators.aws.credentials import Credential, Credentials
from wavelift.simulators.aws.ebs.api import EbsApi, route
from wavelift.simulators.aws.ebs.snapshot import Snapshot
from wavelift.simulators.aws.ebs.store import EbsStore
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.evidence import Evidence, Flip, KeptImport
from wavelift.simulators.kit.faults import Faults
from wavelift.simulators.aws.keys import import_key_problem
from wavelift.simulators.kit.message import BodyBroken, Request, Response
from wavelift.simulators.aws.moto_bridge.app import MotoApp
from wavelift.simulators.aws.policy import check_policy, uses_of
from wavelift.simulators.aws.s3 import routes
from wavelift.simulators.aws.s3.api import S3Api
from wavelift.simulators.aws.s3.store import S3Store, StoredObject
from wavelift.simulators.aws.settings import MANAGED_EBS_KEY, Clock, Settings
from wavelift.simulators.aws.sigv4 import Verifier, parse
from wavelift.simulators.aws.sts import StsApi
from wavelift.simulators.aws.tags import check_ec2_tags
from wavelift.simulators.aws.vmimport import vmdk
from wavelift.simulators.aws.vmimport.convert import looks_like_windows
from wavelift.simulators.aws.vmimport.tasks import ImportTask, ImportTasks

FORM: Final = "application/x-www-form-urlencoded"
FLIP: Final = 0x01


class World:
    """One simulated account in one region."""

    def __init__(self, state: Path, *, access_key: str, secret_key: str, settings: Settings) -> None:
        self.folder, self.settings, self.clock = state, settings, Clock()
        self.faults, self.counters = Faults(), Counters()
        self.credentials = Credentials(access_key, secret_key, self.clock, settings)
        self.verifier = Verifier(self.credentials, self.clock)
        self.launches: dict[str, tuple[str, Any]] = {}
        self.starting: list[tuple[float, Any]] = []
        self.unseen: dict[str, float] = {}
        """Id of what EC2 does not show yet → when it will."""
        self.ebs_key = MANAGED_EBS_KEY
        """The account's default key, as EC2 names it: AWS's own by its alias, a customer's by its ARN."""
        self.evidence = Evidence(state / "evidence")
        self.moto = MotoApp(self)
        self.s3 = S3Store(state / "s3", self.clock)
        self.ebs = EbsStore(state / "ebs", self.clock, settings, self.counters)
        self.ebs.on_new = self.moto.show_snapshot
        self.ebs.encrypts = lambda: bool(self.moto.ec2.ebs_encryption_by_default)
        self.ebs.default_key = lambda: self.moto.key_arn(self.ebs_key)
        self.imports = ImportTasks(
            state / "imports",
            store=self.ebs,
            clock=self.clock,
            settings=settings,
            faults=self.faults,
            surroundings=self,
        )
        self._s3 = S3Api(self.s3, settings=settings, counters=self.counters, watcher=self, find_key=self.moto.find_key)
        self._ebs = EbsApi(self.ebs, self.clock, settings, self.moto.find_key)
        self._sts = StsApi(self)

    def reset(self) -> None:
        """As just started; evidence and credentials stay."""
        self.imports.reset()
        self.faults.clear()
        self.counters.clear()
        self.launches.clear()
        self.starting.clear()
        self.unseen.clear()
        self.ebs_key = MANAGED_EBS_KEY
        self.moto.reset()
        self.s3.reset()
        self.ebs.reset()

    def close(self) -> None:
        self.imports.close()

    # the way of a request

    def identify(self, request: Request) -> None:
        """Name the service, the operation and what it is about. Raises AwsError for a call to nobody."""
        authorization = parse(request.headers.get("authorization", ""))
        request.service = authorization.service if authorization else _guess_service(request)
        naming = {"s3": _name_s3, "ebs": _name_ebs}.get(request.service, _name_other)
        naming(request)

    def handle(self, request: Request) -> Response:
        """The answer to an identified request. Raises AwsError."""
        caller = self.verifier.verify(request)
        check_policy(self.settings.organisation_policy, uses_of(request, self.settings.region), request.service)
        if request.service == "s3":
            self._check_region(request)
            return self._s3.handle(request)
        if request.service == "ebs":
            return self._ebs.handle(request)
        if request.service == "sts":
            return self._sts.handle(request, caller)
        return self._control(request, caller)

    def _control(self, request: Request, caller: Credential) -> Response:
        try:
            if request.service == "kms":
                _check_key_region(request, self.settings.region)
            elif request.service == "ec2":
                check_ec2_tags(uses_of(request, self.settings.region))
            return self.moto.handle(request)
        except BodyBroken as error:
            raise AwsError("MalformedInput", f"The body is incomplete: {error}", 400) from error

    def _check_region(self, request: Request) -> None:
        authorization = parse(request.headers.get("authorization", ""))
        if authorization is not None and authorization.region != self.settings.region:
            raise AwsError(
                "AuthorizationHeaderMalformed",
                f"The authorization header is malformed; the region '{authorization.region}' is wrong; "
                f"expecting '{self.settings.region}'",
                400,
                {"Region": self.settings.region},
            )

    # what the stores and tasks tell

    def object_done(self, bucket: str, stored: StoredObject, *, multipart: bool) -> None:
        if multipart:
            target = f"{bucket}/{stored.key}"
            for _ in self.faults.take("flip", service="s3", operation="CompleteMultipartUpload", key=target):
                self._flip(bucket, stored)
        if self.settings.evidence:
            self.evidence.keep_object(
                bucket, stored.key, stored.path, size=stored.size, etag=stored.etag, multipart=multipart
            )

    def _flip(self, bucket: str, stored: StoredObject) -> None:
        """Change one byte in the middle of a grain's compressed data, behind everybody's back."""
        grain = vmdk.middle_grain(stored.path)
        offset = grain.offset + grain.size // 2
        with stored.path.open("r+b") as file:
            file.seek(offset)
            before = file.read(1)[0]
            file.seek(offset)
            file.write(bytes((before ^ FLIP,)))
        self.evidence.note_flip(Flip(bucket, stored.key, offset, grain.disk_offset, before, before ^ FLIP))

    def register_import(self, task: ImportTask) -> str:
        boot = task.disks[0].snapshot
        image = self.moto.register_import(task, windows=boot is not None and looks_like_windows(boot))
        if self.settings.evidence:
            for number, disk in enumerate(task.disks):
                raw = self.evidence.raw_path(task.id, number)
                self.evidence.keep_import(
                    KeptImport(
                        task=task.id,
                        number=number,
                        bucket=disk.bucket,
                        key=disk.key,
                        snapshot=disk.snapshot.id if disk.snapshot else "",
                        device=disk.device,
                        image=image,
                        raw=str(raw) if raw.exists() else "",
                        changed=[{"offset": item.offset, "length": item.length} for item in disk.changes],
                    )
                )
        return image

    def import_key_problem(self, task: ImportTask) -> str:
        key = str(task.request.get("KmsKeyId") or "")
        return import_key_problem(key, self.moto.find_key) if key else ""

    def keep_raw(self, task: ImportTask, number: int, raw: Path) -> None:
        if self.settings.evidence:
            self.evidence.keep_raw(task.id, number, raw)

    def ebs_for_ec2(self, snapshot_id: str) -> Snapshot:
        """A completed snapshot, or EC2's words for why not."""
        try:
            return self.ebs.readable(snapshot_id)
        except AwsError as error:
            if error.code == "ResourceNotFoundException":
                raise AwsError(
                    "InvalidSnapshot.NotFound", f"The snapshot '{snapshot_id}' does not exist.", 400
                ) from None
            raise AwsError("IncorrectState", f"Snapshot {snapshot_id} is not completed", 400) from None


def _check_key_region(request: Request, region: str) -> None:
    """KMS knows keys of its own region only, whatever ARN it is asked about."""
    parts = str(json.loads(request.body.content or b"{}").get("KeyId") or "").split(":")
    if parts[0] == "arn" and parts[3:4] != [region]:
        raise AwsError("NotFoundException", f"Invalid arn {parts[3]}", 400)


def _guess_service(request: Request) -> str:
    """Of an unsigned request, so that its refusal comes in the right protocol."""
    if request.headers.get("content-type", "").startswith(FORM):
        return "ec2"
    if request.path.startswith("/snapshots"):
        return "ebs"
    return "kms" if "x-amz-target" in request.headers else "s3"


def _name_s3(request: Request) -> None:
    request.operation = routes.operation(request)
    bucket, key = routes.address(request)
    request.target = f"{bucket}/{key}" if key else bucket
    number = request.query().get("partNumber", "")
    request.part = int(number) if number.isdigit() else 0


def _name_ebs(request: Request) -> None:
    request.operation, names = route(request)
    request.target = "/".join(names)


def _name_other(request: Request) -> None:
    if target := request.headers.get("x-amz-target"):
        request.operation = target.rpartition(".")[2]
    elif request.headers.get("content-type", "").startswith(FORM):
        form = dict(parse_qsl(request.body.content.decode("utf-8", "replace"), keep_blank_values=True))
        request.operation = form.get("Action", "")
        request.target = next((form[name] for name in TARGET_FIELDS if name in form), "")
    else:
        request.operation = f"{request.method} {request.path}"


TARGET_FIELDS: Final = (
    "ImageId",
    "InstanceId.1",
    "SnapshotId",
    "ImportTaskId",
    "ImportTaskId.1",
    "RoleName",
    "RoleArn",
)
