"""Finds the S3 operation of a request."""

from __future__ import annotations

from typing import Final

from wavelift.simulators.kit.message import Request

SUBRESOURCES: Final = {
    "accelerate": "BucketAccelerateConfiguration",
    "acl": "BucketAcl",
    "cors": "BucketCors",
    "encryption": "BucketEncryption",
    "lifecycle": "BucketLifecycleConfiguration",
    "location": "BucketLocation",
    "logging": "BucketLogging",
    "object-lock": "ObjectLockConfiguration",
    "ownershipControls": "BucketOwnershipControls",
    "policy": "BucketPolicy",
    "publicAccessBlock": "PublicAccessBlock",
    "replication": "BucketReplication",
    "tagging": "BucketTagging",
    "versioning": "BucketVersioning",
    "website": "BucketWebsite",
}
VERBS: Final = {"GET": "Get", "PUT": "Put", "DELETE": "Delete"}
BUCKET_CALLS: Final = {"PUT": "CreateBucket", "DELETE": "DeleteBucket", "HEAD": "HeadBucket"}
OBJECT_CALLS: Final = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
UPLOAD_CALLS: Final = {
    "GET": "ListParts",
    "PUT": "UploadPart",
    "POST": "CompleteMultipartUpload",
    "DELETE": "AbortMultipartUpload",
}


def address(request: Request) -> tuple[str, str]:
    """Bucket and key of a path-style address; either may be empty."""
    bucket, _, key = request.path.removeprefix("/").partition("/")
    return bucket, key


def operation(request: Request) -> str:
    """The operation's name; empty if it is unknown."""
    bucket, key = address(request)
    query = request.query()
    if not bucket:
        return "ListBuckets" if request.method == "GET" else ""
    if key:
        return _of_object(request, query)
    return _of_bucket(request.method, query)


def _of_bucket(method: str, query: dict[str, str]) -> str:
    if method == "POST" and "delete" in query:
        return "DeleteObjects"
    if method == "GET" and "uploads" in query:
        return "ListMultipartUploads"
    if method == "GET" and "versions" in query:
        return "ListObjectVersions"
    for name, suffix in SUBRESOURCES.items():
        if name in query:
            return VERBS.get(method, "") + suffix if method in VERBS else ""
    if method == "GET":
        return "ListObjectsV2" if query.get("list-type") == "2" else "ListObjects"
    return BUCKET_CALLS.get(method, "")


def _of_object(request: Request, query: dict[str, str]) -> str:
    method = request.method
    if "uploads" in query:
        return "CreateMultipartUpload" if method == "POST" else ""
    if "uploadId" in query:
        copies = method == "PUT" and "x-amz-copy-source" in request.headers
        return "UploadPartCopy" if copies else UPLOAD_CALLS.get(method, "")
    if "tagging" in query:
        return f"{VERBS[method]}ObjectTagging" if method in VERBS else ""
    for name in ("acl", "attributes", "retention", "legal-hold", "restore", "select", "torrent"):
        if name in query:
            return f"Object:{name}"
    if method == "PUT" and "x-amz-copy-source" in request.headers:
        return "CopyObject"
    return OBJECT_CALLS.get(method, "")
