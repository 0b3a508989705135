"""The staging bucket: disks and manifests between the export and the import."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Final
from urllib.parse import quote, urlencode

from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError

from wavelift.adapters.aws import s3_read, texts
from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.bulk import BulkClient
from wavelift.adapters.aws.errors import aws_errors, error_code
from wavelift.adapters.aws.multipart import OpenUpload, S3PartSink, StoredPart, abort_upload, composite_checksum
from wavelift.adapters.aws.s3_read import S3Stream, StoredObject
from wavelift.adapters.aws.sigv4 import encode_query
from wavelift.base.domain import ObjectVersion
from wavelift.base.errors import CorruptStreamError, PermanentError, WaveliftError
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag
from wavelift.transfer.throttle import Pace

__all__ = ["ObjectInfo", "S3PartSink", "S3Staging", "S3Stream", "UploadInfo", "composite_checksum"]

DELETE_BATCH: Final = 1000
"""S3's limit of keys in one DeleteObjects."""
NO_VERSION: Final = ("", "null")
"""What S3 says of an object that was written while the bucket kept no versions: the next one replaces it."""
LATEST: Final = ObjectVersion()
"""Whatever lies under the key when it is read."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as S3 describes it; ``checksum`` is base64 SHA-256, with ``-n`` when it was made of n parts.

    :ivar version_id: empty in a bucket that never had versioning.
    :ivar modified: ISO 8601.
    """

    key: str
    size: int
    etag: str
    checksum: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    version_id: str = ""
    modified: str = ""

    @property
    def version(self) -> ObjectVersion:
        return ObjectVersion(checksum=self.checksum, etag=self.etag, version_id=self.version_id, modified=self.modified)


@dataclass(frozen=True, slots=True)
class UploadInfo:
    """A multipart upload that was neither completed nor aborted."""

    key: str
    upload_id: str
    initiated: datetime


class S3Staging:
    """One bucket. Control calls go through boto3, bytes through our own signed client.

    :param kms_key: id, ARN or alias; objects are encrypted with it.
    :param sse: how, in S3's words; without it ``aws:kms`` where there is a key, else what the bucket does by default.
        Saying what the bucket would do anyway satisfies policies that demand the header.
    :param tags: of every object that is made here (needs ``s3:PutObjectTagging``); S3 takes ten, the first ones.
    :param policy: how long a part or a read is worth trying, ``SlowDown`` patience included.
    """

    def __init__(
        self,
        access: AwsAccess,
        bucket: str,
        kms_key: str | None = None,
        *,
        sse: str = "",
        tags: Mapping[str, str] | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        self.bucket = bucket
        self._access = access
        self._kms_key = kms_key
        self._tags = dict(tags or {})
        self._sse = sse or ("aws:kms" if kms_key else "")
        self._bulk = BulkClient(access, "s3", policy=policy)
        self._base_url = ""

    @property
    def _client(self) -> Any:
        return self._access.client("s3")

    def close(self) -> None:
        """Close idle connections."""
        self._bulk.close()

    def url(self, key: str) -> str:
        """Where an object lives; botocore decides (partition, FIPS, dual-stack, virtual host or path)."""
        if not self._base_url:
            with aws_errors("could not find the bucket's address", service="s3", bucket=self.bucket):
                self._base_url = _address(self._client, self.bucket)
        return self._base_url + quote(key, safe="/-_.~")

    # -- multipart ------------------------------------------------------------------------------------------------

    def multipart(
        self,
        key: str,
        *,
        metadata: Mapping[str, str],
        previous_upload_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        cancel: CancelFlag | None = None,
        throttle: Pace | None = None,
    ) -> S3PartSink:
        """Begin the upload of ``key``, or continue ``previous_upload_id`` if S3 still knows it.

        Continue only an upload of the *same* frozen disk (invariant 6); parts whose bytes differ are overwritten.

        :param metadata: user metadata of the object; other than ASCII is percent-encoded.
        :param tags: of this object, before those of the whole staging; characters that S3 refuses become ``_``.
        :param throttle: paces the bytes of parts on the wire, sent again or not; parts that S3 has cost nothing.
        """
        stored = self._stored_parts(key, previous_upload_id) if previous_upload_id else None
        if stored is None:
            upload_id, stored = self._create_upload(key, metadata, tags or {}), {}
        else:
            upload_id = previous_upload_id or ""
        return S3PartSink(
            client=self._client,
            bulk=self._bulk,
            upload=OpenUpload(self.bucket, key, self.url(key), upload_id),
            stored=stored,
            cancel=cancel or CancelFlag(),
            throttle=throttle,
        )

    def _create_upload(self, key: str, metadata: Mapping[str, str], tags: Mapping[str, str]) -> str:
        options: dict[str, Any] = {**self._encryption(), **self._tagging(tags)}
        with aws_errors("could not begin the upload", service="s3", bucket=self.bucket, key=key):
            answer = self._client.create_multipart_upload(
                Bucket=self.bucket,
                Key=key,
                ChecksumAlgorithm="SHA256",
                ChecksumType="COMPOSITE",
                Metadata=texts.metadata(metadata),
                **options,
            )
        return str(answer["UploadId"])

    def _tagging(self, tags: Mapping[str, str]) -> dict[str, str]:
        found = texts.object_tags({**tags, **self._tags})
        return {"Tagging": urlencode(found)} if found else {}

    def _encryption(self) -> dict[str, Any]:
        if not self._sse:
            return {}
        told: dict[str, Any] = {"ServerSideEncryption": self._sse}
        if self._sse != "AES256" and self._kms_key:
            told["SSEKMSKeyId"] = self._kms_key
        if self._sse == "aws:kms":
            told["BucketKeyEnabled"] = (
                True  # one call of KMS for many objects; double-layer encryption knows no such key
            )
        return told

    def _stored_parts(self, key: str, upload_id: str) -> dict[int, StoredPart] | None:
        """What S3 has of an upload; None when it is gone. Parts without a SHA-256 prove nothing and are left out."""
        stored: dict[int, StoredPart] = {}
        pages = self._client.get_paginator("list_parts").paginate(Bucket=self.bucket, Key=key, UploadId=upload_id)
        with aws_errors("could not list the stored parts", service="s3", bucket=self.bucket, key=key):
            try:
                for page in pages:
                    for part in page.get("Parts", []):
                        if part.get("ChecksumSHA256"):
                            digest = base64.b64decode(part["ChecksumSHA256"])
                            stored[part["PartNumber"]] = StoredPart(part["ETag"], part["Size"], digest)
            except ClientError as error:
                if error_code(error) in ("NoSuchUpload", "404"):
                    return None
                raise
        return stored

    def list_uploads(self, prefix: str) -> list[UploadInfo]:
        """Open uploads below a prefix, oldest first."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
        with aws_errors("could not list the open uploads", service="s3", bucket=self.bucket, prefix=prefix):
            found = [
                UploadInfo(upload["Key"], upload["UploadId"], upload["Initiated"])
                for page in pages
                for upload in page.get("Uploads", [])
            ]
        return sorted(found, key=lambda upload: upload.initiated)

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Drop an upload and its parts; safe to repeat."""
        abort_upload(self._client, self.bucket, key, upload_id)

    # -- small objects --------------------------------------------------------------------------------------------

    def put_object(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        """Store a small object (a manifest); S3 accepts it under its SHA-256."""
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        with aws_errors("could not store the object", service="s3", bucket=self.bucket, key=key):
            answer = self._client.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=data,
                ChecksumSHA256=checksum,
                Metadata=texts.metadata(metadata or {}),
                **self._tagging({}),
                **self._encryption(),
            )
        return ObjectInfo(key, len(data), answer.get("ETag", ""), checksum, dict(metadata or {}))

    def get_object(self, key: str, *, at_most: int) -> bytes:
        """A small object, whole.

        :param at_most: bytes that it may have: whoever may write to the bucket chooses its size.
        :raises NotFoundError: there is none. :raises CorruptStreamError: it is larger.
        """
        with self.open_stream(key, at_most=at_most) as stream:
            return stream.readall() or b""

    def head(self, key: str) -> ObjectInfo | None:
        """What S3 says about an object; None when there is none."""
        with aws_errors("could not look at the object", service="s3", bucket=self.bucket, key=key):
            try:
                answer = self._client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
            except ClientError as error:
                if error_code(error) in ("404", "NoSuchKey"):
                    return None
                raise
        version_id = answer.get("VersionId", "")
        return ObjectInfo(
            key,
            answer["ContentLength"],
            answer.get("ETag", ""),
            answer.get("ChecksumSHA256", ""),
            answer.get("Metadata", {}),
            # S3 begins to say ``null`` of an older object once its bucket keeps versions: it is no other object then.
            "" if version_id in NO_VERSION else version_id,
            answer["LastModified"].isoformat(),
        )

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects below a prefix, by key; without checksum and metadata."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        with aws_errors("could not list the objects", service="s3", bucket=self.bucket, prefix=prefix):
            for page in pages:
                for item in page.get("Contents", []):
                    yield ObjectInfo(item["Key"], item["Size"], item.get("ETag", ""))

    def delete(self, *keys: str) -> None:
        """Delete objects; one that is already gone is fine."""
        for start in range(0, len(keys), DELETE_BATCH):
            batch = keys[start : start + DELETE_BATCH]
            with aws_errors("could not delete objects", service="s3", bucket=self.bucket, key=batch[0]):
                answer = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
                )
            self._check_deleted(answer.get("Errors", []))

    def _check_deleted(self, errors: Sequence[Mapping[str, str]]) -> None:
        if errors:
            first = errors[0]
            raise WaveliftError(
                f"{len(errors)} objects were not deleted: {first.get('Code')} ({first.get('Message')})",
                next_step="Check s3:DeleteObject and object locks, then run wavelift cleanup",
                bucket=self.bucket,
                key=first.get("Key"),
            )

    def delete_prefix(self, prefix: str) -> int:
        """Delete every object of a folder; how many there were. A bucket root is refused."""
        if not prefix.strip("/"):
            raise PermanentError("an empty prefix would delete the whole bucket", bucket=self.bucket)
        folder = prefix if prefix.endswith("/") else f"{prefix}/"
        return self.delete_each(item.key for item in self.list(folder))

    def delete_each(self, keys: Iterable[str]) -> int:
        """Delete objects while they are listed, however many there are; how many there were."""
        count, rest = 0, iter(keys)
        while batch := list(islice(rest, DELETE_BATCH)):
            self.delete(*batch)
            count += len(batch)
        return count

    # -- bytes back -----------------------------------------------------------------------------------------------

    def open_stream(
        self,
        key: str,
        *,
        at_most: int | None = None,
        version: ObjectVersion = LATEST,
        cancel: CancelFlag | None = None,
    ) -> S3Stream:
        """The object as a raw stream with ``readinto``; it survives cut connections.

        :param at_most: bytes that the object may have.
        :param version: read these bytes and no others.
        :raises NotFoundError: there is none. :raises ObjectChangedError: other bytes lie there.
        :raises CorruptStreamError: it is larger.
        """
        stream = S3Stream(self._bulk, self._object(key, version), cancel or self._access.cancel)
        if at_most is not None and stream.size > at_most:
            stream.close()
            raise CorruptStreamError(
                f"the object has {stream.size} bytes where it may have {at_most}",
                next_step="Another process may have replaced it: look who may write to the bucket",
                bucket=self.bucket,
                key=key,
            )
        return stream

    def read_range(
        self,
        key: str,
        offset: int,
        length: int,
        *,
        version: ObjectVersion = LATEST,
        cancel: CancelFlag | None = None,
    ) -> bytes:
        """``length`` bytes from ``offset``, all of them.

        :param version: read these bytes and no others.
        :raises CorruptStreamError: the object is shorter. :raises ObjectChangedError: other bytes lie there.
        """
        stored = self._object(key, version)
        return s3_read.read_range(self._bulk, stored, offset, length, cancel or self._access.cancel)

    def _object(self, key: str, version: ObjectVersion) -> StoredObject:
        url = self.url(key)
        if version.version_id not in NO_VERSION:
            url += f"?{encode_query({'versionId': version.version_id})}"
        return StoredObject(url, self.bucket, key, version.etag)


def _address(client: Any, bucket: str) -> str:
    """URL of a bucket, with a trailing slash, as botocore's endpoint rules find it; nothing is sent.

    A presigned URL won't do: botocore gives those the global host name, which redirects for young buckets.
    """

    def answer_with_url(params: Mapping[str, Any], **_: object) -> tuple[AWSResponse, dict[str, Any]]:
        return AWSResponse(params["url"], 200, {}, None), {"Url": params["url"]}

    # The operation is one that we never call, so the answer that is made up here meets nobody else.
    client.meta.events.register("before-call.s3.GetObjectTorrent", answer_with_url, unique_id="wavelift-address")
    answer = client.get_object_torrent(Bucket=bucket, Key="k")
    return str(answer["Url"]).partition("?")[0].removesuffix("k")
