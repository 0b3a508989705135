"""The S3 calls: buckets and objects. Uploads are in :mod:`.uploads`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from email.utils import formatdate
from io import FileIO
from typing import Final

from wavelift.simulators.aws.canonical import OWNER_ID, known
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.keys import FindKey, key_for_object
from wavelift.simulators.aws.policy import Use, check_policy, object_use, uses_of
from wavelift.simulators.aws.s3 import encryption, listing, xml
from wavelift.simulators.aws.s3.access import check_object_acl, new_access
from wavelift.simulators.aws.s3.access_calls import AccessCalls
from wavelift.simulators.aws.s3.receive import object_info, receive
from wavelift.simulators.aws.s3.routes import SUBRESOURCES, address
from wavelift.simulators.aws.s3.store import Bucket, S3Store, StoredObject
from wavelift.simulators.aws.s3.uploads import UploadCalls, Watcher, version_header
from wavelift.simulators.aws.settings import ACCOUNT, Settings
from wavelift.simulators.kit.counters import Counters
from wavelift.simulators.kit.message import CHUNK, Request, Response

BUCKET_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
IP_ADDRESS: Final = re.compile(r"\d+\.\d+\.\d+\.\d+")
NO_CONSTRAINT: Final = "us-east-1"
RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
MISSING: Final = {
    "lifecycle": "NoSuchLifecycleConfiguration",
    "policy": "NoSuchBucketPolicy",
    "tagging": "NoSuchTagSet",
    "cors": "NoSuchCORSConfiguration",
    "object-lock": "ObjectLockConfigurationNotFoundError",
    "replication": "ReplicationConfigurationNotFoundError",
    "website": "NoSuchWebsiteConfiguration",
}
UNSERVED: Final = frozenset({"partNumber"})
EMPTY: Final = {
    "versioning": "VersioningConfiguration",
    "logging": "BucketLoggingStatus",
    "accelerate": "AccelerateConfiguration",
}


class S3Api(UploadCalls):
    def __init__(
        self,
        store: S3Store,
        *,
        settings: Settings,
        counters: Counters,
        watcher: Watcher,
        find_key: FindKey,
        check_caller: Callable[[Request, Use], None],
    ) -> None:
        """:param check_caller: raises AwsError if the caller's own policies do not allow a use."""
        super().__init__(store, counters=counters, watcher=watcher, find_key=find_key)
        self._settings, self._check_caller = settings, check_caller
        self._known_ids = known(settings.partition)
        self._calls: dict[str, Callable[[Request], Response]] = {
            "ListBuckets": self._list_buckets,
            "CreateBucket": self._create_bucket,
            "DeleteBucket": self._delete_bucket,
            "HeadBucket": self._head_bucket,
            "ListObjectsV2": self._list_objects,
            "ListObjects": self._list_objects,
            "ListObjectVersions": self._list_versions,
            "ListMultipartUploads": self._list_uploads,
            "PutObject": self._put_object,
            "GetObject": self._get_object,
            "HeadObject": self._get_object,
            "DeleteObject": self._delete_object,
            "DeleteObjects": self._delete_objects,
            "GetObjectTagging": self._get_tagging,
            "PutObjectTagging": self._put_tagging,
            **self.upload_calls(),
            **AccessCalls(store, self._known_ids).calls(),
        }

    def handle(self, request: Request) -> Response:
        self._check_owner(request)
        if request.headers.get("x-amz-expected-bucket-owner", ACCOUNT) != ACCOUNT:
            raise AwsError("AccessDenied", "Access Denied", 403)
        self._check_policy(request)
        call = self._calls.get(request.operation)
        if call is not None:
            return call(request)
        for name, suffix in SUBRESOURCES.items():
            if request.operation in {f"Get{suffix}", f"Put{suffix}", f"Delete{suffix}"}:
                return self._subresource(request, name)
        raise AwsError(
            "NotImplemented",
            f"A header you provided implies functionality that is not implemented ({request.operation or 'unknown'})",
            501,
        )

    def _check_owner(self, request: Request) -> None:
        """A bucket of another account answers nothing but where it is."""
        bucket = self.store.peek_bucket(address(request)[0])
        if bucket is not None and bucket.account != ACCOUNT and request.operation != "CreateBucket":
            raise AwsError("AccessDenied", "Access Denied", 403, headers={"x-amz-bucket-region": bucket.region})

    def _check_policy(self, request: Request) -> None:
        name, key = address(request)
        if key:
            bucket = self.store.bucket(name)
            check_policy(bucket.documents.get("policy", b""), uses_of(request, bucket.region), "s3")

    # buckets

    def _list_buckets(self, request: Request) -> Response:
        rows = [
            {"Name": bucket.name, "CreationDate": xml.iso(bucket.created)}
            for bucket in self.store.buckets()
            if bucket.account == ACCOUNT
        ]
        return xml.response("ListAllMyBucketsResult", {"Owner": {"ID": OWNER_ID}, "Buckets": {"Bucket": rows}})

    def _create_bucket(self, request: Request) -> Response:
        name, _ = address(request)
        region = self._settings.region
        if not BUCKET_NAME.fullmatch(name) or ".." in name or IP_ADDRESS.fullmatch(name):
            raise AwsError("InvalidBucketName", "The specified bucket is not valid.", 400, {"BucketName": name})
        _check_constraint(xml.parse_location(request.body.content), region)
        tags, known = xml.parse_bucket_tags(request.body.content), self.store.peek_bucket(name)
        self.store.create_bucket(name, region, new_access(request.headers, self._known_ids))
        if tags and known is None:
            self.store.bucket(name).documents["tagging"] = xml.tagging(tags)
        return Response(200, {"Location": f"/{name}"})

    def _delete_bucket(self, request: Request) -> Response:
        self.store.delete_bucket(address(request)[0])
        return Response(204)

    def _head_bucket(self, request: Request) -> Response:
        bucket = self.store.bucket(address(request)[0])
        return Response(200, {"x-amz-bucket-region": bucket.region})

    def _subresource(self, request: Request, name: str) -> Response:
        bucket = self.store.bucket(address(request)[0])
        if request.method == "PUT":
            if name == "versioning":
                xml.check_versioning(request.body.content)
            bucket.documents[name] = request.body.content
            return Response(200)
        if request.method == "DELETE":
            bucket.documents.pop(name, None)
            return Response(204)
        return self._read_subresource(bucket, name)

    def _read_subresource(self, bucket: Bucket, name: str) -> Response:
        if name in bucket.documents:
            kind = "application/json" if name == "policy" else "application/xml"
            return Response(200, {"Content-Type": kind}, bucket.documents[name])
        if name == "location":
            region = "" if bucket.region == "us-east-1" else bucket.region
            body = f'<LocationConstraint xmlns="{xml.NAMESPACE}">{region}</LocationConstraint>'
            return Response(200, {"Content-Type": "application/xml"}, body.encode())
        if name == "encryption":  # the default of every bucket since January 2023
            rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": "false"}
            return xml.response("ServerSideEncryptionConfiguration", {"Rule": [rule]})
        if name in EMPTY:
            return xml.response(EMPTY[name], {})
        raise AwsError(MISSING[name], f"The {name} of this bucket is not set", 404, {"BucketName": bucket.name})

    # objects

    def _list_objects(self, request: Request) -> Response:
        bucket = self.store.bucket(address(request)[0])
        return listing.objects(bucket, request.query(), version=2 if request.operation.endswith("V2") else 1)

    def _list_versions(self, request: Request) -> Response:
        return listing.versions(self.store.bucket(address(request)[0]), request.query())

    def _put_object(self, request: Request) -> Response:
        bucket, key = address(request)
        owner = self.store.bucket(bucket)
        check_object_acl(request.headers, owner.access)
        info = object_info(request, owner, self.find_key)
        if request.headers.get("if-none-match") == "*" and key in owner.objects:
            raise AwsError("PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412)
        with self.store.incoming() as path:
            got = receive(request, path)
            stored = self.store.put_object(bucket, key, path, etag=got.etag, info=info, checksums=got.checksums)
        self.watcher.object_done(bucket, stored, multipart=False)
        headers = {"ETag": f'"{stored.etag}"', **_encryption(stored), **_checksum_headers(stored)}
        return Response(200, headers | version_header(owner, stored))

    def _get_object(self, request: Request) -> Response:
        if unknown := UNSERVED & set(request.query()):
            raise AwsError("NotImplemented", f"Reading by {', '.join(sorted(unknown))} is not implemented", 501)
        bucket, name = address(request)
        stored = self.store.object(bucket, name, request.query().get("versionId", ""))
        if key := stored.info.headers.get(encryption.KEY, ""):
            key_for_object(key, self.find_key)  # reading needs the key too
        _check_conditions(request, stored)
        headers = _object_headers(stored) | version_header(self.store.bucket(bucket), stored)
        if request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED" and "range" not in request.headers:
            headers |= _checksum_headers(stored)
        first, last = 0, stored.size - 1
        status = 200
        if text := request.headers.get("range"):
            first, last = _range(text, stored.size)
            headers["Content-Range"] = f"bytes {first}-{last}/{stored.size}"
            status = 206
        length = last - first + 1
        if request.method == "HEAD":
            headers["Content-Length"] = str(length)
            return Response(status, headers)
        return Response(status, headers, stream=_read(self._open(stored), first, length), length=length)

    def _open(self, stored: StoredObject) -> FileIO:
        """Open the file before the answer starts, because another call may overwrite the object meanwhile."""
        try:
            return stored.path.open("rb", buffering=0)
        except FileNotFoundError:
            raise AwsError("NoSuchKey", "The specified key does not exist.", 404, {"Key": stored.key}) from None

    def _delete_object(self, request: Request) -> Response:
        bucket, key = address(request)
        version = request.query().get("versionId", "")
        gone = self.store.delete_object(bucket, key, version)
        headers = {}
        if gone is not None and self.store.bucket(bucket).versioning:
            headers = {"x-amz-version-id": gone.version, "x-amz-delete-marker": str(gone.marker).lower()}
        return Response(204, headers)

    def _delete_objects(self, request: Request) -> Response:
        bucket, _ = address(request)
        if not any(name == "content-md5" or name.startswith("x-amz-checksum-") for name in request.headers):
            raise AwsError("InvalidRequest", "Missing required header for this request: Content-MD5", 400)
        keys, quiet = xml.parse_delete(request.body.content)
        if len(keys) > listing.PAGE:
            raise AwsError("MalformedXML", "More than 1000 keys", 400)
        deleted: list[xml.Value] = []
        errors: list[xml.Value] = []
        owner = self.store.bucket(bucket)
        for key, version in keys:
            action = "s3:DeleteObjectVersion" if version else "s3:DeleteObject"
            use = object_use(request, action, f"{bucket}/{key}", owner.region)
            try:
                self._check_caller(request, use)
                check_policy(owner.documents.get("policy", b""), iter((use,)), "s3")
            except AwsError as error:
                errors.append({"Key": key, "Code": error.code, "Message": error.message})
                continue
            deleted.append(_deleted(key, version, self.store.delete_object(bucket, key, version)))
        return xml.response("DeleteResult", {"Deleted": None if quiet else deleted, "Error": errors})

    def _get_tagging(self, request: Request) -> Response:
        stored = self.store.object(*address(request))
        tags = [{"Key": key, "Value": value} for key, value in stored.info.tags.items()]
        return xml.response("Tagging", {"TagSet": {"Tag": tags}})

    def _put_tagging(self, request: Request) -> Response:
        stored = self.store.object(*address(request))
        stored.info.tags.clear()
        stored.info.tags.update(xml.parse_tags(request.body.content))
        return Response(200)


def _check_constraint(constraint: str, region: str) -> None:
    """Of CreateBucket: every region must be named, but us-east-1 must not."""
    if constraint == region == NO_CONSTRAINT:
        text = "The specified location-constraint is not valid"
        raise AwsError("InvalidLocationConstraint", text, 400, {"LocationConstraint": constraint})
    if (constraint or NO_CONSTRAINT) != region:
        raise AwsError(
            "IllegalLocationConstraintException",
            f"The {constraint or 'unspecified'} location constraint is incompatible for the region specific endpoint "
            "this request was sent to.",
            400,
        )


def _deleted(key: str, version: str, gone: StoredObject | None) -> dict[str, xml.Value]:
    marker = gone is not None and gone.marker
    return {
        "Key": key,
        "VersionId": version or None,
        "DeleteMarker": True if marker else None,
        "DeleteMarkerVersionId": gone.version if gone is not None and marker else None,
    }


def _range(text: str, size: int) -> tuple[int, int]:
    match = RANGE.fullmatch(text.strip())
    unsatisfiable = AwsError(
        "InvalidRange", "The requested range is not satisfiable", 416, {"ActualObjectSize": str(size)}
    )
    if match is None or match.group(0) == "bytes=-":
        return 0, size - 1
    start, end = match.groups()
    first = int(start) if start else max(0, size - int(end))
    last = min(int(end), size - 1) if start and end else size - 1
    if first >= size or first > last:
        raise unsatisfiable
    return first, last


def _check_conditions(request: Request, stored: StoredObject) -> None:
    wanted = request.headers.get("if-match")
    if wanted is not None and wanted != "*" and wanted.strip('"') != stored.etag:
        raise AwsError(
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
            412,
            {"Condition": "If-Match"},
        )
    unwanted = request.headers.get("if-none-match")
    if unwanted is not None and unwanted.strip('"') == stored.etag:
        raise AwsError("NotModified", "Not Modified", 304)


def _object_headers(stored: StoredObject) -> dict[str, str]:
    headers = {
        "Content-Type": "binary/octet-stream",
        "ETag": f'"{stored.etag}"',
        "Last-Modified": formatdate(stored.modified, usegmt=True),
        "Accept-Ranges": "bytes",
        **stored.info.headers,
        **_encryption(stored),
        **{f"x-amz-meta-{name}": value for name, value in stored.info.metadata.items()},
    }
    if stored.info.tags:
        headers["x-amz-tagging-count"] = str(len(stored.info.tags))
    return headers


def _encryption(stored: StoredObject) -> dict[str, str]:
    kept = {name: value for name, value in stored.info.headers.items() if name.startswith("x-amz-server-side")}
    return kept or {"x-amz-server-side-encryption": "AES256"}


def _checksum_headers(stored: StoredObject) -> dict[str, str]:
    if not stored.checksums:
        return {}
    values = {f"x-amz-checksum-{name.lower()}": value for name, value in stored.checksums.items()}
    return {**values, "x-amz-checksum-type": stored.checksum_type}


def _read(source: FileIO, first: int, length: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(CHUNK, length) or 1))
    with source:
        source.seek(first)
        while length:
            count = source.readinto(buffer[:length])
            if not count:
                raise OSError(f"{source.name!r} is shorter than it was")
            length -= count
            yield buffer[:count]
