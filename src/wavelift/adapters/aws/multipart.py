"""Uploads one object to S3 in parts. S3 checks each part against its SHA-256 (invariants 1 and 6)."""

from __future__ import annotations

import base64
import hashlib
import threading
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from wavelift.adapters.aws.bulk import BulkClient, BulkRequest
from wavelift.adapters.aws.errors import aws_errors, error_code, from_library_error
from wavelift.adapters.aws.sigv4 import encode_query
from wavelift.base.errors import PermanentError, ProofError, UnreachableError
from wavelift.base.run import CancelFlag
from wavelift.transfer.throttle import Pace

MAX_PARTS: Final = 10_000
"""S3's limit of parts in one object."""
ABORT_ROUNDS: Final = 3
"""A part in flight can outlive an abort; S3 asks to abort again until ListParts knows nothing."""


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part as S3 has it."""

    etag: str
    size: int
    sha256: bytes


def composite_checksum(digests: list[bytes]) -> str:
    """S3's checksum of an object made of parts: base64 of SHA-256 over their digests, and their number."""
    joined = base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode()
    return f"{joined}-{len(digests)}"


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """A multipart upload that takes parts. ``url`` is the object's."""

    bucket: str
    key: str
    url: str
    upload_id: str


class S3PartSink:
    """Takes parts in any order, from several threads; the record of stored parts is S3's own.

    :ivar upload_id: to be remembered by the caller: a later try passes it as ``previous_upload_id``.
    :ivar parts_kept: parts that S3 already had with the same bytes; they were not sent again.
    :ivar parts_sent: parts that this try sent.
    :ivar bytes_sent: bytes of these parts.
    """

    def __init__(
        self,
        *,
        client: Any,
        bulk: BulkClient,
        upload: OpenUpload,
        stored: dict[int, StoredPart],
        cancel: CancelFlag,
        throttle: Pace | None = None,
    ) -> None:
        self.bucket = upload.bucket
        self.key = upload.key
        self.upload_id = upload.upload_id
        self.parts_kept = 0
        self.parts_sent = 0
        self.bytes_sent = 0
        self._client = client
        self._bulk = bulk
        self._url = upload.url
        self._cancel = cancel
        self._throttle = throttle
        self._stored = stored
        self._ours: dict[int, StoredPart] = {}
        self._lock = threading.Lock()

    @property
    def _where(self) -> dict[str, Any]:
        return {"bucket": self.bucket, "key": self.key, "upload": self.upload_id}

    def put_part(self, number: int, data: bytes | bytearray | memoryview, sha256: bytes) -> None:
        """Store part ``number`` (from 1), unless S3 has it already with this digest and size.

        :param sha256: digest of ``data``, raw; S3 checks it.
        :raises UploadGoneError: the upload was aborted under us.
        :raises ProofError: S3 got other bytes than the digest's.
        """
        if not 1 <= number <= MAX_PARTS:
            raise PermanentError(
                f"part {number} is outside 1..{MAX_PARTS}", next_step="Use larger parts", **self._where
            )
        size = memoryview(data).nbytes
        known = self._stored.get(number)
        if known is not None and known.sha256 == sha256 and known.size == size:
            self._remember(number, known, kept=True)
        else:
            self._remember(number, StoredPart(self._send(number, data, sha256), size, sha256), kept=False)

    def _remember(self, number: int, part: StoredPart, *, kept: bool) -> None:
        with self._lock:
            self._stored[number] = part
            self._ours[number] = part
            if kept:
                self.parts_kept += 1
            else:
                self.parts_sent += 1
                self.bytes_sent += part.size

    def _send(self, number: int, data: bytes | bytearray | memoryview, sha256: bytes) -> str:
        """Send one part; its ETag."""
        request = BulkRequest(
            method="PUT",
            url=f"{self._url}?{encode_query({'partNumber': str(number), 'uploadId': self.upload_id})}",
            doing=f"could not store part {number}",
            action="s3:PutObject",
            headers={"x-amz-checksum-sha256": base64.b64encode(sha256).decode()},
            body=data,
            sha256=sha256,
            throttle=self._throttle,
            where={**self._where, "part": number},
        )
        return self._bulk.send(request, self._cancel).headers.get("ETag", "")

    def complete(self) -> None:
        """Make the object of parts 1..n as this try gave them, and check what S3 made.

        Parts of an older try beyond the last number do not get in. Repeating it after a lost answer is safe.

        :raises ProofError: a part is missing, or S3's checksum of the whole is not ours.
        """
        parts = self._complete_list()
        expected = composite_checksum([part.sha256 for part in parts])
        size = sum(part.size for part in parts)
        said = ""
        try:
            said = self._complete_call(parts, size)
        except ClientError as error:
            # An earlier call of ours may have worked, its answer lost: then the object is there, with our checksum.
            if error_code(error) == "NoSuchUpload" and self._object_is(expected, size):
                return
            raise from_library_error(error, "could not complete the upload", service="s3", **self._where) from error
        except BotoCoreError as error:
            raise from_library_error(error, "could not complete the upload", service="s3", **self._where) from error
        if said != expected and not self._object_is(expected, size):
            raise ProofError(
                "S3 made another object than the one that was sent: its checksum differs",
                next_step="Export this disk again",
                expected=expected,
                got=said or "none",
                **self._where,
            )

    def checksum(self) -> str:
        """What S3 will say of the object that :meth:`complete` makes of the parts so far.

        :raises ProofError: a part is missing.
        """
        return composite_checksum([part.sha256 for part in self._complete_list()])

    def _complete_list(self) -> list[StoredPart]:
        with self._lock:
            numbers = sorted(self._ours)
            if not numbers or numbers != list(range(1, numbers[-1] + 1)):
                missing = sorted(set(range(1, (numbers or [1])[-1] + 1)) - set(numbers))
                raise ProofError(
                    f"the upload is incomplete: parts {missing[:5]} were never stored",
                    next_step="Export this disk again",
                    **self._where,
                )
            return [self._ours[number] for number in numbers]

    def _complete_call(self, parts: list[StoredPart], size: int) -> str:
        answer = self._client.complete_multipart_upload(
            Bucket=self.bucket,
            Key=self.key,
            UploadId=self.upload_id,
            ChecksumType="COMPOSITE",
            MpuObjectSize=size,
            MultipartUpload={
                "Parts": [
                    {
                        "PartNumber": number,
                        "ETag": part.etag,
                        "ChecksumSHA256": base64.b64encode(part.sha256).decode(),
                    }
                    for number, part in enumerate(parts, start=1)
                ]
            },
        )
        return str(answer.get("ChecksumSHA256", ""))

    def _object_is(self, expected: str, size: int) -> bool:
        """Does the object that stands under the key carry our checksum and size?"""
        try:
            head = self._client.head_object(Bucket=self.bucket, Key=self.key, ChecksumMode="ENABLED")
        except ClientError as error:
            if error_code(error) in ("404", "NoSuchKey"):
                return False
            raise from_library_error(error, "could not look at the object", service="s3", **self._where) from error
        except BotoCoreError as error:
            raise from_library_error(error, "could not look at the object", service="s3", **self._where) from error
        return bool(head.get("ChecksumSHA256") == expected and head["ContentLength"] == size)

    def abort(self) -> None:
        """Drop the upload and all its parts; safe to repeat."""
        abort_upload(self._client, self.bucket, self.key, self.upload_id)


def abort_upload(client: Any, bucket: str, key: str, upload_id: str) -> None:
    """Abort until S3 knows no part of it any more.

    :raises UnreachableError: parts keep appearing: another process still sends.
    """
    named = {"Bucket": bucket, "Key": key, "UploadId": upload_id}
    with aws_errors("could not abort the upload", service="s3", bucket=bucket, key=key, upload=upload_id):
        for _ in range(ABORT_ROUNDS):
            try:
                client.abort_multipart_upload(**named)
                client.list_parts(**named, MaxParts=1)
            except client.exceptions.NoSuchUpload:
                return
            except ClientError as error:
                if error_code(error) in ("404", "NoSuchUpload", "NoSuchBucket"):
                    return
                raise
    raise UnreachableError(
        "the upload still holds parts after it was aborted: another process keeps sending",
        next_step="Stop the other process, then run wavelift cleanup",
        bucket=bucket,
        key=key,
        upload=upload_id,
    )
