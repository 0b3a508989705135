"""The simulated account: it connects the services, and passes each request to the right one."""

from __future__ import annotations

import base64
import json
import re
import uuid
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from wavelift.simulators.aws import state
from wavelift.simulators.aws.credentials import Credential, Credentials
from wavelift.simulators.aws.ebs.api import EbsApi, route
from wavelift.simulators.aws.ebs.store import EbsStore
from wavelift.simulators.aws.errors import AwsError, render
from wavelift.simulators.aws.evidence import EXPORTS, FLIPS, IMPORTS, OBJECTS, RAW, Flip, KeptImport, KeptObject
from wavelift.simulators.aws.faults import Rule, failure
from wavelift.simulators.aws.held import Held
from wavelift.simulators.aws.keys import import_key_problem
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.app import MotoApp
from wavelift.simulators.aws.moto_bridge.backends import Backends
from wavelift.simulators.aws.moto_bridge.cases import amend
from wavelift.simulators.aws.moto_bridge.export_world import ExportWorld
from wavelift.simulators.aws.policy import Use, check_policy, uses_of
from wavelift.simulators.aws.rights import Rights
from wavelift.simulators.aws.s3 import routes
from wavelift.simulators.aws.s3.api import S3Api
from wavelift.simulators.aws.s3.store import S3Store, StoredObject
from wavelift.simulators.aws.settings import ACCOUNT, Settings
from wavelift.simulators.aws.sigv4 import Verifier, parse
from wavelift.simulators.aws.sts import StsApi
from wavelift.simulators.aws.tags import check_ec2_tags
from wavelift.simulators.aws.vmexport.tasks import ExportTasks
from wavelift.simulators.aws.vmimport import vmdk
from wavelift.simulators.aws.vmimport.convert import looks_like_windows
from wavelift.simulators.aws.vmimport.tasks import ImportTask, ImportTasks
from wavelift.simulators.kit import faults
from wavelift.simulators.kit.message import BodyBroken, Request, Response
from wavelift.simulators.kit.world import Refusal, Routes, World

FORM: Final = "application/x-www-form-urlencoded"
FLIP: Final = 0x01
STREAMING_TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
"""Value of x-amz-content-sha256: the body is in chunk framing (aws-chunked) inside of HTTP's own framing."""


class AwsWorld(World[Settings]):
    """One simulated account in one region."""

    rules = Rule
    evidence_kinds = (OBJECTS, IMPORTS, FLIPS, EXPORTS)

    def __init__(self, folder: Path, settings: Settings, *, access_key: str, secret_key: str) -> None:
        super().__init__(folder, settings)
        self.credentials = Credentials(access_key, secret_key, self.clock, settings)
        self.verifier = Verifier(self.credentials, self.clock)
        self.s3 = S3Store(folder / "s3", self.clock)
        self.ebs = EbsStore(folder / "ebs", self.clock, settings, self.counters)
        self.imports = ImportTasks(
            folder / "imports", store=self.ebs, clock=self.clock, settings=settings, surroundings=self
        )
        backends = Backends(settings)
        self.exports = ExportTasks(folder / "exports", s3=self.s3, clock=self.clock, settings=settings)
        self.account = Account(
            settings, self.clock, backends, self.s3, self.ebs, self.imports, self.exports, self.faults
        )
        self.exports.surroundings = ExportWorld(self.account, self.evidence, self.object_done)
        self.ebs.on_new = self.account.show_snapshot
        self.ebs.encrypts = lambda: bool(backends.ec2.ebs_encryption_by_default)
        self.ebs.default_key = lambda: backends.key_arn(self.account.ebs_key)
        self._moto = MotoApp(self.account)
        self._s3 = S3Api(
            self.s3,
            settings=settings,
            counters=self.counters,
            watcher=self,
            find_key=backends.find_key,
            check_caller=self._check_use,
        )
        self._ebs = EbsApi(self.ebs, self.clock, settings, backends.find_key)
        self._rights = Rights(self.account)
        self._sts = StsApi(self.credentials, settings, backends.role)

    def close(self) -> None:
        self.imports.close()
        self.exports.close()

    def state(self) -> dict[str, Any]:
        return state.of(self.account)

    def hello(self) -> dict[str, Any]:
        return {"region": self.settings.region, "access_key": self.credentials.permanent.access_key}

    def routes(self) -> Routes:
        return {
            ("GET", "addresses"): lambda _: self._address_log(),
            ("POST", "credentials"): lambda values: {"expired": self.credentials.expire(values.get("access_key", ""))},
            ("GET", "credentials"): lambda _: self.credentials.sessions(),
            ("POST", "volumes"): self._write_volume,
            ("POST", "volume/write"): self._write_at,
            ("POST", "resources"): self._amend,
            ("POST", "buckets"): self._make_bucket,
            ("DELETE", "buckets"): lambda values: self.s3.drop_bucket(values["name"]),
            ("POST", "identities"): self._hold,
            ("GET", "identities"): lambda _: {
                key: held.listing() for key, held in sorted(self.credentials.held().items())
            },
            ("DELETE", "identities"): lambda values: {
                "forgotten": self.credentials.let_go(values.get("access_key", ""))
            },
        }

    def _address_log(self) -> list[dict[str, Any]]:
        account = self.account
        with account.backends.lock:
            account.catch_up()
            account.address_log.look(account.backends.ec2)
            return list(account.address_log.rows)

    def _write_volume(self, values: dict[str, Any]) -> dict[str, Any]:
        try:
            volume = self.account.volume(values["volume"])
        except AwsError as error:
            raise ValueError(str(error)) from None
        volume.write(int(values["block"]), base64.b64decode(values["data"]))
        return {"written": len(volume.written)}

    def _write_at(self, values: dict[str, Any]) -> dict[str, Any]:
        """The guest writes bytes at an offset of a volume."""
        try:
            volume = self.account.volume(values["volume"])
        except AwsError as error:
            raise ValueError(str(error)) from None
        volume.write_at(int(values["offset"]), base64.b64decode(values["data"]))
        return {"written": len(volume.written)}

    def _make_bucket(self, values: dict[str, Any]) -> dict[str, Any]:
        """A bucket that is elsewhere: of another account, or in another region."""
        name, region = str(values["name"]), str(values.get("region") or self.settings.region)
        try:
            self.s3.create_bucket(name, region, account=str(values.get("account") or ACCOUNT))
        except AwsError as error:
            raise ValueError(str(error)) from None
        return {"name": name, "region": region}

    def _amend(self, values: dict[str, Any]) -> dict[str, Any]:
        with self.account.backends.lock:
            self.account.catch_up()
            return amend(self.account, values)

    # answers

    def failure(self, rule: faults.Rule, service: str) -> AwsError:
        return failure(rule, service)

    def render(self, error: Refusal, request: Request) -> Response:
        assert isinstance(error, AwsError)
        return render(error, service=request.service, request_id=request.request_id, head=request.method == "HEAD")

    def headers(self, request: Request) -> dict[str, str]:
        server = "AmazonS3" if request.service == "s3" else "simulator"
        return {"Server": server, "x-amz-request-id": request.request_id}

    def identify(self, request: Request) -> None:
        if request.headers.get("x-amz-content-sha256", "") == STREAMING_TRAILER:
            request.body.unframe()
        authorization = parse(request.headers.get("authorization", ""))
        request.service = authorization.service if authorization else _guess_service(request)
        naming = {"s3": _name_s3, "ebs": _name_ebs, "route53": _name_route53}.get(request.service, _name_other)
        naming(request)

    def handle(self, request: Request) -> Response:
        caller = self.verifier.verify(request)
        request.caller = caller.role_arn or f"arn:{self.settings.partition}:iam::{ACCOUNT}:user/{caller.user}"
        if caller.held:
            self._check_caller(request, caller.held)
        check_policy(self.settings.organisation_policy, uses_of(request, self.settings.region), request.service)
        if request.service == "s3":
            self._check_region(request)
            return self._s3.handle(request)
        if request.service == "ebs":
            return self._ebs.handle(request)
        if request.service == "sts":
            return self._sts.handle(request, caller)
        return self._control(request, caller)

    def _check_caller(self, request: Request, held: Held) -> None:
        """Raises AwsError if the policies of the access key do not allow the request."""
        uses = self._rights.of(request, request.caller)
        free = [use for use in uses if self._rights.is_free(use)]
        for use in free:
            held.note(use)
        held.check((use for use in uses if use not in free), service=request.service, arn=request.caller)

    def _check_use(self, request: Request, use: Use) -> None:
        """The same for one part of a request that is answered part by part."""
        authorization = parse(request.headers.get("authorization", ""))
        credential = self.credentials.find(authorization.access_key) if authorization else None
        if credential is not None and credential.held:
            held = credential.held
            held.check([use], service=request.service, arn=request.caller)

    def _hold(self, values: dict[str, Any]) -> dict[str, Any]:
        held = Held(values["user"], values["policies"])
        self.credentials.hold(values["access_key"], values["secret_key"], held)
        return held.listing()

    def _control(self, request: Request, caller: Credential) -> Response:
        try:
            if request.service == "kms":
                _check_key_region(request, self.settings.region)
            elif request.service == "ec2":
                check_ec2_tags(uses_of(request, self.settings.region))
            return self._moto.handle(request)
        except BodyBroken as error:
            raise AwsError("MalformedInput", f"The body is incomplete: {error}", 400) from error

    def _check_region(self, request: Request) -> None:
        """The region of the signature is that of the bucket, if it exists. One endpoint stands for all regions: a
        request that is signed for the bucket's region has come to the right one."""
        authorization = parse(request.headers.get("authorization", ""))
        name = routes.address(request)[0]
        bucket = self.s3.peek_bucket(name) if request.operation != "CreateBucket" else None
        there = bucket.region if bucket is not None else self.settings.region
        if authorization is None or authorization.region == there:
            return
        if authorization.region == self.settings.region:
            raise AwsError(
                "PermanentRedirect",
                "The bucket you are attempting to access must be addressed using the specified endpoint. Please send "
                "all future requests to this endpoint.",
                301,
                {"Endpoint": f"{name}.s3.{there}.amazonaws.com", "Bucket": name},
                {"x-amz-bucket-region": there},
            )
        raise AwsError(
            "AuthorizationHeaderMalformed",
            f"The authorization header is malformed; the region '{authorization.region}' is wrong; expecting '{there}'",
            400,
            {"Region": there},
        )

    # called by the stores and by import tasks

    def object_done(self, bucket: str, stored: StoredObject, *, multipart: bool) -> None:
        if multipart:
            target = f"{bucket}/{stored.key}"
            for _ in self.faults.take("flip", service="s3", operation="CompleteMultipartUpload", key=target):
                self._flip(bucket, stored)
        if self.settings.evidence:
            name = f"{uuid.uuid4().hex[:12]}-{Path(stored.key).name}"
            path = self.evidence.keep_file(stored.path, OBJECTS, name)
            kept = KeptObject(bucket, stored.key, str(path), stored.size, stored.etag, multipart)
            self.evidence.keep(OBJECTS, kept)

    def _flip(self, bucket: str, stored: StoredObject) -> None:
        """Change one byte in the middle of a grain's compressed data, and tell nobody."""
        grain = vmdk.middle_grain(stored.path)
        offset = grain.offset + grain.size // 2
        with stored.path.open("r+b") as file:
            file.seek(offset)
            before = file.read(1)[0]
            file.seek(offset)
            file.write(bytes((before ^ FLIP,)))
        self.evidence.keep(FLIPS, Flip(bucket, stored.key, offset, grain.disk_offset, before, before ^ FLIP))

    def register_import(self, task: ImportTask) -> str:
        boot = task.disks[0].snapshot
        image = self.account.register_import(task, windows=boot is not None and looks_like_windows(boot))
        if self.settings.evidence:
            for number, disk in enumerate(task.disks):
                raw = self.evidence.path(RAW, _raw_name(task, number))
                self.evidence.keep(
                    IMPORTS,
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
                    ),
                )
        return image

    def fault(self, phase: str, target: str) -> Rule | None:
        rules = self.faults.take("import", service="ec2", operation=phase, key=target)
        return rules[0] if rules else None

    def in_force(self, rule: Rule) -> bool:
        return self.faults.has(rule.id)

    def staged(self, bucket: str, key: str) -> Path | None:
        stored = self.s3.peek(bucket, key)
        return stored.path if stored is not None else None

    def import_key_problem(self, task: ImportTask) -> str:
        key = str(task.request.get("KmsKeyId") or "")
        return import_key_problem(key, self.account.backends.find_key) if key else ""

    def keep_raw(self, task: ImportTask, number: int, raw: Path) -> None:
        if self.settings.evidence:
            self.evidence.keep_file(raw, RAW, _raw_name(task, number))


def _raw_name(task: ImportTask, number: int) -> str:
    return f"{task.id}-{number}.raw"


def _check_key_region(request: Request, region: str) -> None:
    """KMS refuses an ARN of another region."""
    parts = str(json.loads(request.body.content or b"{}").get("KeyId") or "").split(":")
    if parts[0] == "arn" and parts[3:4] != [region]:
        raise AwsError("NotFoundException", f"Invalid arn {parts[3]}", 400)


def _guess_service(request: Request) -> str:
    """For an unsigned request, so that it is refused in the right protocol."""
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


def _name_route53(request: Request) -> None:
    for method, pattern, operation in ROUTE53_CALLS:
        match = pattern.fullmatch(request.path) if method == request.method else None
        if match is not None:
            request.operation, request.target = operation, "/".join(match.groups())
            return


def _name_other(request: Request) -> None:
    if target := request.headers.get("x-amz-target"):
        request.operation = target.rpartition(".")[2]
    elif request.headers.get("content-type", "").startswith(FORM):
        form = dict(parse_qsl(request.body.content.decode("utf-8", "replace"), keep_blank_values=True))
        request.operation = form.get("Action", "")
        request.target = next((form[name] for name in TARGET_FIELDS if name in form), "")
    else:
        request.operation = f"{request.method} {request.path}"


ROUTE53_CALLS: Final = tuple(
    (method, re.compile(rf"/2013-04-01/{path}/?"), operation)
    for method, path, operation in (
        ("GET", "hostedzonesbyname", "ListHostedZonesByName"),
        ("GET", "hostedzone", "ListHostedZones"),
        ("POST", "hostedzone", "CreateHostedZone"),
        ("GET", "hostedzone/([^/]+)", "GetHostedZone"),
        ("DELETE", "hostedzone/([^/]+)", "DeleteHostedZone"),
        ("GET", "hostedzone/([^/]+)/rrset", "ListResourceRecordSets"),
        ("POST", "hostedzone/([^/]+)/rrset", "ChangeResourceRecordSets"),
        ("GET", "change/([^/]+)", "GetChange"),
    )
)
TARGET_FIELDS: Final = (
    "ImageId",
    "InstanceId.1",
    "InstanceId",
    "NetworkInterfaceId",
    "SubnetId",
    "AllocationId",
    "RouteTableId",
    "TransitGatewayRouteTableId",
    "TargetGroupArn",
    "LaunchTemplateId",
    "LaunchTemplateName",
    "SnapshotId",
    "VolumeId",
    "InstanceSpecification.InstanceId",
    "ExportTaskId",
    "ExportTaskId.1",
    "ExportImageTaskId.1",
    "ImportTaskId",
    "ImportTaskId.1",
    "RoleName",
    "RoleArn",
)
