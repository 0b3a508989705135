"""Buckets, objects with their versions, and uploads. Bodies are files below one folder; the rest is in memory."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from wavelift.simulators.aws.digests import b64
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.s3.access import Access
from wavelift.simulators.aws.settings import ACCOUNT
from wavelift.simulators.kit.clock import Clock

MIN_PART: Final = 5 << 20
"""Bytes; the last part may be smaller."""
MAX_PARTS: Final = 10_000
ENABLED: Final = "Enabled"
NULL_VERSION: Final = "null"
"""The version of what was written while versioning was not enabled. A newer one replaces it."""
AGAIN_REGION: Final = "us-east-1"
"""S3 API reference, CreateBucket: "For legacy compatibility, if you re-create an existing bucket that you already own
in us-east-1, Amazon S3 returns 200 OK and resets the bucket access control lists"."""
STATUS: Final = re.compile(rb"<Status>\s*(\w+)\s*</Status>")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """The attributes of an object, known before its bytes arrive."""

    metadata: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    """Content-Type, encryption and storage class, under the names of GetObject's headers."""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredObject:
    key: str
    path: Path
    size: int
    etag: str
    """Without quotes. It is no MD5, as in AWS with SSE-KMS."""
    modified: float
    info: ObjectInfo
    checksums: dict[str, str]
    """Algorithm (``SHA256``) → Base64, with ``-<parts>`` when composite."""
    checksum_type: str
    parts: int = 0
    version: str = NULL_VERSION
    marker: bool = False
    """A delete marker: there are no bytes."""


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    path: Path
    size: int
    etag: str
    modified: float
    checksums: dict[str, str]


@dataclass(slots=True)
class Upload:
    id: str
    bucket: str
    key: str
    started: float
    info: ObjectInfo
    algorithm: str
    checksum_type: str
    parts: dict[int, Part] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class Bucket:
    name: str
    region: str
    created: float
    objects: dict[str, StoredObject] = field(default_factory=dict)
    """The current version of each key, unless that is a delete marker."""
    history: dict[str, list[StoredObject]] = field(default_factory=dict)
    """All versions of each key, oldest first."""
    uploads: dict[str, Upload] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)
    """Subresources as received: tagging, encryption, policy, lifecycle …"""
    access: Access = field(default_factory=Access)
    account: str = ACCOUNT
    """Whose it is."""

    @property
    def versioning(self) -> str:
        """``Enabled``, ``Suspended``, or empty if it never was."""
        found = STATUS.search(self.documents.get("versioning", b""))
        return found.group(1).decode() if found else ""


@dataclass(frozen=True, slots=True)
class ClaimedPart:
    """A part as CompleteMultipartUpload lists it."""

    number: int
    etag: str
    checksums: dict[str, str]


class S3Store:
    """Thread safe. One lock guards the tables; bodies are written outside of it."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        self._lock = threading.Lock()
        self._buckets: dict[str, Bucket] = {}
        for name in ("objects", "parts", "incoming"):
            (folder / name).mkdir(parents=True)

    def buckets(self) -> list[Bucket]:
        with self._lock:
            return [self._buckets[name] for name in sorted(self._buckets)]

    def create_bucket(self, name: str, region: str, access: Access | None = None, account: str = ACCOUNT) -> None:
        """Raises AwsError for a name that exists. In us-east-1 the owner may make it again: that resets its ACL."""
        with self._lock:
            known = self._buckets.get(name)
            if known is None:
                self._buckets[name] = Bucket(
                    name, region, self._clock.now(), access=access or Access(), account=account
                )
                return
            if known.account != account:
                text = (
                    "The requested bucket name is not available. The bucket namespace is shared by all users of the "
                    "system. Please select a different name and try again."
                )
                raise AwsError("BucketAlreadyExists", text, 409, {"BucketName": name})
            if region == known.region == AGAIN_REGION:
                known.access.grants = access.grants if access else Access().grants
                return
            raise AwsError(
                "BucketAlreadyOwnedByYou",
                "Your previous request to create the named bucket succeeded and you already own it.",
                409,
                {"BucketName": name},
            )

    def peek_bucket(self, name: str) -> Bucket | None:
        with self._lock:
            return self._buckets.get(name)

    def delete_bucket(self, name: str) -> None:
        bucket = self.bucket(name)
        with self._lock:
            if bucket.history or bucket.uploads:
                message = "The bucket you tried to delete is not empty"
                if not bucket.objects and not bucket.uploads:
                    message += ". You must delete all versions in the bucket."
                raise AwsError("BucketNotEmpty", message, 409)
            self._buckets.pop(name, None)

    def drop_bucket(self, name: str) -> None:
        """Without a question: for a bucket that no caller may delete."""
        with self._lock:
            self._buckets.pop(name, None)

    def bucket(self, name: str) -> Bucket:
        with self._lock:
            bucket = self._buckets.get(name)
        if bucket is None:
            raise AwsError("NoSuchBucket", "The specified bucket does not exist", 404, {"BucketName": name})
        return bucket

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """A path for a body while it arrives. A file that is still there afterwards is removed."""
        path = self._folder / "incoming" / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def object(self, bucket: str, key: str, version: str = "") -> StoredObject:
        """The current version, or the one that is asked for."""
        owner = self.bucket(bucket)
        with self._lock:
            versions = list(owner.history.get(key, ()))
        if version:
            return _version(versions, key, version)
        if not versions or versions[-1].marker:
            headers = {"x-amz-delete-marker": "true", "x-amz-version-id": versions[-1].version} if versions else {}
            raise AwsError("NoSuchKey", "The specified key does not exist.", 404, {"Key": key}, headers)
        return versions[-1]

    def peek(self, bucket: str, key: str) -> StoredObject | None:
        """As :meth:`object`, but None if the object does not exist."""
        with self._lock:
            owner = self._buckets.get(bucket)
            return owner.objects.get(key) if owner is not None else None

    def put_object(
        self, bucket: str, key: str, body: Path, *, etag: str, info: ObjectInfo, checksums: dict[str, str]
    ) -> StoredObject:
        path = self._folder / "objects" / uuid.uuid4().hex
        size = body.stat().st_size
        body.rename(path)
        stored = StoredObject(key, path, size, etag, self._clock.now(), info, checksums, "FULL_OBJECT")
        return self._add(self.bucket(bucket), stored)

    def _add(self, owner: Bucket, stored: StoredObject) -> StoredObject:
        """Make it the current version. Only a bucket with versioning keeps what was current before."""
        with self._lock:
            if owner.versioning == ENABLED:
                stored = replace(stored, version=uuid.uuid4().hex)
            versions = owner.history.get(stored.key, [])
            gone = [one for one in versions if one.version == stored.version]
            self._settle(owner, stored.key, [*(one for one in versions if one not in gone), stored])
        _remove(gone)
        return stored

    def delete_object(self, bucket: str, key: str, version: str = "") -> StoredObject | None:
        """Delete one version for good. Without ``version``: in a bucket with versioning, add a delete marker.

        Returns the marker that was added or deleted, or the version that was deleted; None: there was nothing.
        """
        owner = self.bucket(bucket)
        if not version and owner.versioning:
            empty = StoredObject(key, Path(), 0, "", self._clock.now(), ObjectInfo(), {}, "", marker=True)
            return self._add(owner, empty)
        with self._lock:
            versions = owner.history.get(key, [])
            gone = [one for one in versions if one.version == (version or NULL_VERSION)]
            self._settle(owner, key, [one for one in versions if one not in gone])
        _remove(gone)
        return gone[0] if gone else None

    def _settle(self, owner: Bucket, key: str, versions: list[StoredObject]) -> None:
        owner.history[key] = versions
        if versions and not versions[-1].marker:
            owner.objects[key] = versions[-1]
        else:
            owner.objects.pop(key, None)
        if not versions:
            del owner.history[key]

    # uploads

    def create_upload(self, bucket: str, key: str, *, info: ObjectInfo, algorithm: str, checksum_type: str) -> Upload:
        owner = self.bucket(bucket)
        upload = Upload(
            uuid.uuid4().hex + uuid.uuid4().hex, bucket, key, self._clock.now(), info, algorithm, checksum_type
        )
        (self._folder / "parts" / upload.id).mkdir()
        with self._lock:
            owner.uploads[upload.id] = upload
        return upload

    def upload(self, bucket: str, key: str, upload_id: str) -> Upload:
        upload = self.bucket(bucket).uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise no_such_upload(upload_id)
        return upload

    def put_part(self, upload: Upload, number: int, body: Path, *, etag: str, checksums: dict[str, str]) -> Part:
        """Store a part that has been checked. It replaces an older one of the same number."""
        path = self._folder / "parts" / upload.id / f"{number:05d}-{uuid.uuid4().hex[:8]}"
        part = Part(number, path, body.stat().st_size, etag, self._clock.now(), checksums)
        with upload.lock:
            if upload.id not in self.bucket(upload.bucket).uploads:
                raise no_such_upload(upload.id)
            body.rename(path)
            old = upload.parts.get(number)
            upload.parts[number] = part
        if old is not None:
            old.path.unlink(missing_ok=True)
        return part

    def abort(self, upload: Upload) -> None:
        with upload.lock:
            self._forget(upload)

    def _forget(self, upload: Upload) -> None:
        with self._lock:
            owner = self._buckets.get(upload.bucket)
            if owner is None or owner.uploads.pop(upload.id, None) is None:
                raise no_such_upload(upload.id)
        shutil.rmtree(self._folder / "parts" / upload.id, ignore_errors=True)

    def complete(self, upload: Upload, claimed: Sequence[ClaimedPart], *, stated_size: str = "") -> StoredObject:
        """Join the claimed parts and drop the others. Raises S3's errors for a list that does not match."""
        with upload.lock:
            if upload.id not in self.bucket(upload.bucket).uploads:
                raise no_such_upload(upload.id)
            parts = _agreed(upload, claimed)
            if stated_size and stated_size != str(sum(part.size for part in parts)):
                raise AwsError("InvalidRequest", "x-amz-mp-object-size does not match what was computed.", 400)
            path = self._folder / "objects" / uuid.uuid4().hex
            size = _join(parts, path)
            stored = StoredObject(
                key=upload.key,
                path=path,
                size=size,
                etag=_multipart_etag(parts),
                modified=upload.started,  # S3 User Guide, "Working with object metadata": when the upload was initiated
                info=upload.info,
                checksums=_composite(upload, parts),
                checksum_type=upload.checksum_type,
                parts=len(parts),
            )
            stored = self._add(self.bucket(upload.bucket), stored)
            self._forget(upload)
        return stored


def _version(versions: Sequence[StoredObject], key: str, version: str) -> StoredObject:
    found = next((one for one in versions if one.version == version), None)
    if found is None:
        extra = {"Key": key, "VersionId": version}
        raise AwsError("NoSuchVersion", "The specified version does not exist.", 404, extra)
    if found.marker:
        headers = {"x-amz-delete-marker": "true", "x-amz-version-id": version, "Allow": "DELETE"}
        message = "The specified method is not allowed against this resource."
        raise AwsError("MethodNotAllowed", message, 405, {"Method": "GET", "ResourceType": "DeleteMarker"}, headers)
    return found


def _remove(versions: Sequence[StoredObject]) -> None:
    for one in versions:
        if not one.marker:
            one.path.unlink(missing_ok=True)


def no_such_upload(upload_id: str) -> AwsError:
    return AwsError(
        "NoSuchUpload",
        "The specified upload does not exist. The upload ID may be invalid, "
        "or the upload may have been aborted or completed.",
        404,
        {"UploadId": upload_id},
    )


def _agreed(upload: Upload, claimed: Sequence[ClaimedPart]) -> list[Part]:
    if not claimed:
        raise AwsError("MalformedXML", "The XML you provided was not well-formed or did not validate", 400)
    numbers = [part.number for part in claimed]
    if any(a >= b for a, b in pairwise(numbers)):
        raise AwsError("InvalidPartOrder", "The list of parts was not in ascending order.", 400)
    parts = []
    for claim in claimed:
        part = upload.parts.get(claim.number)
        _check_claim(upload, claim, part)
        if part is not None:
            parts.append(part)
    for part in parts[:-1]:
        if part.size < MIN_PART:
            raise AwsError(
                "EntityTooSmall",
                "Your proposed upload is smaller than the minimum allowed size",
                400,
                {"ProposedSize": str(part.size), "MinSizeAllowed": str(MIN_PART), "PartNumber": str(part.number)},
            )
    return parts


def _check_claim(upload: Upload, claim: ClaimedPart, part: Part | None) -> None:
    wrong = part is None or part.etag != claim.etag
    if part is not None:
        wrong = wrong or any(part.checksums.get(name) != value for name, value in claim.checksums.items())
    if wrong:
        raise AwsError(
            "InvalidPart",
            "One or more of the specified parts could not be found. The part may not have been uploaded, "
            "or the specified entity tag may not match the part's entity tag.",
            400,
            {"UploadId": upload.id, "PartNumber": str(claim.number), "ETag": claim.etag},
        )
    if upload.checksum_type == "COMPOSITE" and upload.algorithm not in claim.checksums:
        raise AwsError(
            "InvalidRequest",
            f"The upload was created using a {upload.algorithm.lower()} checksum. The complete request must include "
            f"the checksum for each part. It was missing for part {claim.number} in the request.",
            400,
        )


def _multipart_etag(parts: Sequence[Part]) -> str:
    joined = "".join(part.etag for part in parts).encode()
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _composite(upload: Upload, parts: Sequence[Part]) -> dict[str, str]:
    if upload.algorithm != "SHA256" or upload.checksum_type != "COMPOSITE":
        return {}
    joined = b"".join(base64.b64decode(part.checksums["SHA256"]) for part in parts)
    return {"SHA256": f"{b64(hashlib.sha256(joined).digest())}-{len(parts)}"}


def _join(parts: Sequence[Part], target: Path) -> int:
    """Join by copies in the kernel, which is fast. Returns the object's size."""
    if len(parts) == 1:
        parts[0].path.rename(target)
        return parts[0].size
    size = 0
    with target.open("wb") as out:
        for part in parts:
            with part.path.open("rb") as source:
                left = part.size
                while left:
                    copied = os.copy_file_range(source.fileno(), out.fileno(), left)
                    if not copied:
                        raise OSError(f"{part.path} is shorter than it was")
                    left -= copied
            part.path.unlink()
            size += part.size
    return size
