"""Multipart uploads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.keys import FindKey
from wavelift.simulators.aws.s3 import listing, xml
from wavelift.simulators.aws.s3.access import check_object_acl
from wavelift.simulators.aws.s3.receive import KNOWN_CHECKSUMS, object_info, receive
from wavelift.simulators.aws.s3.routes import address
from wavelift.simulators.aws.s3.store import MAX_PARTS, Bucket, S3Store, StoredObject, Upload
from wavelift.simulators.kit.counters import Counters
from wavelift.simulators.kit.message import Request, Response

CHECKSUM_TYPES: Final = ("COMPOSITE", "FULL_OBJECT")


class Watcher(Protocol):
    """Is told of each finished object."""

    def object_done(self, bucket: str, stored: StoredObject, *, multipart: bool) -> None: ...


class UploadCalls:
    """Counters under ``s3.parts``: ``stored``, ``bytes``, and ``repeated`` (a part with the same bytes existed)."""

    def __init__(self, store: S3Store, *, counters: Counters, watcher: Watcher, find_key: FindKey) -> None:
        self.store, self.counters, self.watcher, self.find_key = store, counters, watcher, find_key

    def upload_calls(self) -> dict[str, Callable[[Request], Response]]:
        return {
            "CreateMultipartUpload": self._create,
            "UploadPart": self._part,
            "ListParts": self._list_parts,
            "CompleteMultipartUpload": self._complete,
            "AbortMultipartUpload": self._abort,
        }

    def _upload(self, request: Request) -> Upload:
        bucket, key = address(request)
        return self.store.upload(bucket, key, request.query().get("uploadId", ""))

    def _create(self, request: Request) -> Response:
        bucket, key = address(request)
        algorithm = request.headers.get("x-amz-checksum-algorithm", "").upper()
        if algorithm and algorithm not in KNOWN_CHECKSUMS:
            raise AwsError("NotImplemented", f"This simulator does not compute {algorithm}", 501)
        kind = request.headers.get("x-amz-checksum-type", "").upper() or ("COMPOSITE" if algorithm else "")
        if kind and (kind not in CHECKSUM_TYPES or not algorithm):
            raise AwsError("InvalidRequest", "The checksum type needs a checksum algorithm", 400)
        if kind == "FULL_OBJECT":
            raise AwsError(
                "InvalidRequest",
                f"The FULL_OBJECT checksum type cannot be used with the {algorithm.lower()} checksum algorithm.",
                400,
            )
        check_object_acl(request.headers, self.store.bucket(bucket).access)
        info = object_info(request, self.store.bucket(bucket), self.find_key)
        upload = self.store.create_upload(bucket, key, info=info, algorithm=algorithm, checksum_type=kind)
        headers = {"x-amz-checksum-algorithm": algorithm, "x-amz-checksum-type": kind} if algorithm else {}
        headers |= {name: value for name, value in info.headers.items() if name.startswith("x-amz-server-side")}
        return xml.response(
            "InitiateMultipartUploadResult", {"Bucket": bucket, "Key": key, "UploadId": upload.id}, headers
        )

    def _part(self, request: Request) -> Response:
        upload = self._upload(request)
        if not 1 <= request.part <= MAX_PARTS:
            raise AwsError("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive", 400)
        _check_algorithm(request, upload)
        with self.store.incoming() as path:
            got = receive(request, path)
            old = upload.parts.get(request.part)
            self.store.put_part(upload, request.part, path, etag=got.etag, checksums=got.checksums)
        self.counters.add("s3.parts", "stored")
        self.counters.add("s3.parts", "bytes", got.size)
        if old is not None and (old.etag, old.size) == (got.etag, got.size):
            self.counters.add("s3.parts", "repeated")
        stated = {f"x-amz-checksum-{name.lower()}": value for name, value in got.checksums.items()}
        return Response(200, {"ETag": f'"{got.etag}"', **stated})

    def _list_parts(self, request: Request) -> Response:
        return listing.parts(self._upload(request), request.query())

    def _list_uploads(self, request: Request) -> Response:
        return listing.uploads(self.store.bucket(address(request)[0]), request.query())

    def _complete(self, request: Request) -> Response:
        upload = self._upload(request)
        stated = request.headers.get("x-amz-mp-object-size", "")
        stored = self.store.complete(upload, xml.parse_parts(request.body.content), stated_size=stated)
        self.watcher.object_done(upload.bucket, stored, multipart=True)
        return xml.response(
            "CompleteMultipartUploadResult",
            {
                "Location": f"/{upload.bucket}/{upload.key}",
                "Bucket": upload.bucket,
                "Key": upload.key,
                "ETag": f'"{stored.etag}"',
                **{f"Checksum{name}": value for name, value in stored.checksums.items()},
                "ChecksumType": stored.checksum_type or None,
            },
            version_header(self.store.bucket(upload.bucket), stored),
        )

    def _abort(self, request: Request) -> Response:
        self.store.abort(self._upload(request))
        return Response(204)


def version_header(bucket: Bucket, stored: StoredObject) -> dict[str, str]:
    """A bucket that never had versioning names no version."""
    return {"x-amz-version-id": stored.version} if bucket.versioning else {}


def _check_algorithm(request: Request, upload: Upload) -> None:
    """A part must state a checksum of the algorithm that its upload was created with."""
    trailer = request.headers.get("x-amz-trailer", "").lower()
    stated = [name for name in KNOWN_CHECKSUMS if f"x-amz-checksum-{name.lower()}" in {*request.headers, trailer}]
    if upload.algorithm and upload.algorithm not in stated:
        actual = stated[0].lower() if stated else "null"
        raise AwsError(
            "InvalidRequest",
            f"Checksum Type mismatch occurred, expected checksum Type: {upload.algorithm.lower()}, "
            f"actual checksum Type: {actual}",
            400,
        )
