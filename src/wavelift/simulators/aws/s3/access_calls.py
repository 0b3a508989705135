"""The calls on a bucket's ownership controls, ACL, block of public access, and default encryption."""

from __future__ import annotations

import json
from collections.abc import Callable, Container
from typing import Any, Final
from xml.sax.saxutils import escape

from wavelift.simulators.aws.canonical import OWNER_ID
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.invented import FOREIGN_OWNER_CODE
from wavelift.simulators.aws.policy import canonical_users, statements_of
from wavelift.simulators.aws.s3 import access, xml
from wavelift.simulators.aws.s3.routes import address
from wavelift.simulators.aws.s3.store import Bucket, S3Store
from wavelift.simulators.kit.message import Request, Response

XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"
ALGORITHMS: Final = ("AES256", "aws:kms", "aws:kms:dsse")
KINDS: Final = {"CanonicalUser": ("id", "ID"), "Group": ("uri", "URI"), "AmazonCustomerByEmail": ("email", "")}


class AccessCalls:
    """``known`` are the canonical ids that exist."""

    def __init__(self, store: S3Store, known: Container[str]) -> None:
        self._store, self._known = store, known

    def calls(self) -> dict[str, Callable[[Request], Response]]:
        return {
            "GetBucketAcl": self._get_acl,
            "PutBucketAcl": self._put_acl,
            "GetBucketOwnershipControls": self._get_ownership,
            "PutBucketOwnershipControls": self._put_ownership,
            "DeleteBucketOwnershipControls": self._delete_ownership,
            "GetPublicAccessBlock": self._get_block,
            "PutPublicAccessBlock": self._put_block,
            "DeletePublicAccessBlock": self._delete_block,
            "PutBucketEncryption": self._put_encryption,
            "PutBucketPolicy": self._put_policy,
        }

    def _bucket(self, request: Request) -> Bucket:
        return self._store.bucket(address(request)[0])

    # ACL

    def _get_acl(self, request: Request) -> Response:
        """Can be read where ACLs are off, too."""
        rows = "".join(_grant(one) for one in self._bucket(request).access.grants)
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<AccessControlPolicy xmlns="{xml.NAMESPACE}">'
            f"<Owner><ID>{OWNER_ID}</ID></Owner><AccessControlList>{rows}</AccessControlList>"
            "</AccessControlPolicy>"
        )
        return Response(200, {"Content-Type": "application/xml"}, body.encode())

    def _put_acl(self, request: Request) -> Response:
        bucket, body = self._bucket(request), request.body.content
        _check_digest(request)
        by_headers = access.header_grants(request.headers, self._known)
        if by_headers is not None and body:
            raise AwsError("UnexpectedContent", "This request contains unsupported content.", 400)
        if by_headers is None and not body:
            raise AwsError("MissingSecurityHeader", "Your request was missing a required header", 400)
        access.set_acl(bucket.access, by_headers if by_headers is not None else self._grants(body))
        return Response(200)

    def _grants(self, body: bytes) -> tuple[access.Grant, ...]:
        owner, rows = xml.parse_acl(body)
        if owner != OWNER_ID:
            raise AwsError(FOREIGN_OWNER_CODE, "Access Denied", 403)
        found = []
        for kind, members, permission in rows:
            if kind not in KINDS:
                raise xml.malformed("MalformedACLError")
            name, member = KINDS[kind]
            found.append(access.Grant(access.grantee(name, members.get(member, ""), self._known), permission))
        return access.checked(found)

    # ownership

    def _get_ownership(self, request: Request) -> Response:
        bucket = self._bucket(request)
        if not bucket.access.ownership:
            extra = {"BucketName": bucket.name}
            text = "The bucket ownership controls were not found"
            raise AwsError("OwnershipControlsNotFoundError", text, 404, extra)
        return xml.response("OwnershipControls", {"Rule": {"ObjectOwnership": bucket.access.ownership}})

    def _put_ownership(self, request: Request) -> Response:
        bucket = self._bucket(request)
        _check_digest(request)
        rules = xml.parse_rows(request.body.content, "OwnershipControls", "Rule")
        if len(rules) != 1 or rules[0].get("ObjectOwnership") not in access.OWNERSHIPS:
            raise xml.malformed()
        access.set_ownership(bucket.access, rules[0]["ObjectOwnership"])
        return Response(200)

    def _delete_ownership(self, request: Request) -> Response:
        self._bucket(request).access.ownership = ""
        return Response(204)

    # public access

    def _get_block(self, request: Request) -> Response:
        bucket = self._bucket(request)
        if bucket.access.blocks is None:
            extra = {"BucketName": bucket.name}
            text = "The public access block configuration was not found"
            raise AwsError("NoSuchPublicAccessBlockConfiguration", text, 404, extra)
        return xml.response("PublicAccessBlockConfiguration", bucket.access.blocks)

    def _put_block(self, request: Request) -> Response:
        bucket = self._bucket(request)
        _check_digest(request)
        given = xml.parse_members(request.body.content, "PublicAccessBlockConfiguration")
        if not given or set(given) - set(access.BLOCKS) or set(given.values()) - {"true", "false"}:
            raise xml.malformed()
        bucket.access.blocks = {name: given.get(name) == "true" for name in access.BLOCKS}
        return Response(200)

    def _delete_block(self, request: Request) -> Response:
        self._bucket(request).access.blocks = None
        return Response(204)

    def _put_policy(self, request: Request) -> Response:
        bucket, body = self._bucket(request), request.body.content
        named = [one for each in statements_of(json.loads(body or b"{}")) for one in canonical_users(each)]
        if any(one not in self._known for one in named):
            raise AwsError("MalformedPolicy", "Invalid principal in policy", 400)
        if bucket.access.blocked("BlockPublicPolicy") and _is_public(body):
            text = (
                f"User: {request.caller} is not authorized to perform: s3:PutBucketPolicy on resource: {bucket.name} "
                "because public policies are blocked by the BlockPublicPolicy block public access setting."
            )
            raise AwsError("AccessDenied", text, 403)
        bucket.documents["policy"] = body
        return Response(200)

    # encryption

    def _put_encryption(self, request: Request) -> Response:
        bucket, body = self._bucket(request), request.body.content
        _check_digest(request)
        algorithm, key = xml.parse_encryption(body)
        if algorithm not in ALGORITHMS or not xml.parse_rows(body, "ServerSideEncryptionConfiguration", "Rule"):
            raise xml.malformed()
        if key and algorithm == "AES256":
            text = "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms or aws:kms:dsse"
            raise AwsError("InvalidArgument", text, 400, {"ArgumentName": "ApplyServerSideEncryptionByDefault"})
        bucket.documents["encryption"] = body
        return Response(200)


def _check_digest(request: Request) -> None:
    """S3 API reference: these calls require a checksum of the body."""
    if not any(name == "content-md5" or name.startswith("x-amz-checksum-") for name in request.headers):
        raise AwsError("InvalidRequest", "Missing required header for this request: Content-MD5", 400)


def _grant(one: access.Grant) -> str:
    kind, member = ("Group", "URI") if one.grantee in access.KNOWN_GROUPS else ("CanonicalUser", "ID")
    return (
        f'<Grant><Grantee xmlns:xsi="{XSI}" xsi:type="{kind}"><{member}>{escape(one.grantee)}</{member}></Grantee>'
        f"<Permission>{one.permission}</Permission></Grant>"
    )


def _is_public(body: bytes) -> bool:
    """Whether a policy allows something to everybody without a condition."""
    statements: Any = json.loads(body or b"{}").get("Statement") or []
    for one in statements if isinstance(statements, list) else [statements]:
        who = one.get("Principal")
        everybody = who == "*" or (isinstance(who, dict) and "*" in _listed(who.get("AWS")))
        if one.get("Effect") == "Allow" and everybody and not one.get("Condition"):
            return True
    return False


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
