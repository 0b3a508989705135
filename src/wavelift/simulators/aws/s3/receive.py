"""Receives a body: writes it to a file, hashes it, and refuses it if it does not match its headers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wavelift.simulators.aws.digests import Digests, b64
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.keys import FindKey
from wavelift.simulators.aws.s3.encryption import encryption
from wavelift.simulators.aws.s3.store import Bucket, ObjectInfo
from wavelift.simulators.aws.sigv4 import signed_payload
from wavelift.simulators.aws.tags import object_tags
from wavelift.simulators.kit.message import BodyBroken, Request

KNOWN_CHECKSUMS: Final = ("SHA256", "SHA1", "CRC32")
UNKNOWN_CHECKSUMS: Final = ("crc32c", "crc64nvme")
KEPT_HEADERS: Final = {
    "content-type": "Content-Type",
    "content-encoding": "Content-Encoding",
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
    "x-amz-storage-class": "x-amz-storage-class",
}
META: Final = "x-amz-meta-"
MAX_METADATA: Final = 2048
"""Bytes of names and values together."""


@dataclass(frozen=True, slots=True)
class Received:
    size: int
    etag: str
    checksums: dict[str, str]


def object_info(request: Request, bucket: Bucket, find_key: FindKey) -> ObjectInfo:
    """The new object's attributes, from the headers and the bucket's defaults. Raises AwsError."""
    headers = {kept: request.headers[name] for name, kept in KEPT_HEADERS.items() if name in request.headers}
    encoding = [part.strip() for part in headers.get("Content-Encoding", "").split(",")]
    encoding = [part for part in encoding if part and part != "aws-chunked"]
    headers.pop("Content-Encoding", None)
    if encoding:
        headers["Content-Encoding"] = ",".join(encoding)
    metadata = {name.removeprefix(META): value for name, value in request.headers.items() if name.startswith(META)}
    if sum(len(name) + len(value) for name, value in metadata.items()) > MAX_METADATA:
        raise AwsError("MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size", 400)
    headers |= encryption(request.headers, bucket, find_key)
    return ObjectInfo(metadata, headers, object_tags(request.headers.get("x-amz-tagging", "")))


def receive(request: Request, path: Path) -> Received:
    """Write the body to ``path``, and check it against all headers. Raises AwsError."""
    for name in UNKNOWN_CHECKSUMS:
        if f"x-amz-checksum-{name}" in {*request.headers, request.headers.get("x-amz-trailer", "").lower()}:
            raise AwsError("NotImplemented", f"This simulator does not compute {name}", 501)
    digests = Digests(request.headers)
    try:
        with path.open("wb", buffering=0) as out:
            for piece in request.body.chunks():
                digests.update(piece)
                out.write(piece)
    except BodyBroken as error:
        raise AwsError("IncompleteBody", f"You did not provide the number of bytes specified: {error}", 400) from error
    _check_size(request, digests)
    _check_signed(request, digests)
    return Received(digests.size, digests.sha256.hex()[:32], _check_stated(request, digests))


def _check_size(request: Request, digests: Digests) -> None:
    stated = request.headers.get("x-amz-decoded-content-length")
    if stated is not None and int(stated) != digests.size:
        raise AwsError("IncompleteBody", "You did not provide the number of bytes specified", 400)


def _check_signed(request: Request, digests: Digests) -> None:
    signed = signed_payload(request)
    if signed is not None and signed != digests.sha256.hex():
        raise AwsError(
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
            400,
            {"ClientComputedContentSHA256": signed, "S3ComputedContentSHA256": digests.sha256.hex()},
        )
    md5 = request.headers.get("content-md5")
    if md5 is not None and digests.md5 is not None and md5 != b64(digests.md5):
        raise AwsError("BadDigest", "The Content-MD5 you specified did not match what we received.", 400)


def _check_stated(request: Request, digests: Digests) -> dict[str, str]:
    """The checksums that the caller stated, in headers or trailers, after they were checked."""
    found = {}
    for name in KNOWN_CHECKSUMS:
        header = f"x-amz-checksum-{name.lower()}"
        stated = request.headers.get(header) or request.body.trailers.get(header)
        if stated is None:
            continue
        computed = digests.checksum(name)
        if computed is None or stated != b64(computed):
            raise AwsError("BadDigest", f"The {name} you specified did not match the calculated checksum.", 400)
        found[name] = stated
    return found
