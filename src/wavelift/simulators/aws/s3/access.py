"""Who may use a bucket beside its owner: object ownership, ACLs, and the block of public access.

S3 user guide, "Controlling ownership of objects and disabling ACLs", "Access control list (ACL) overview" and "Blocking
public access". A new bucket has no ACLs and no public access (since April 2023).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from wavelift.simulators.aws.canonical import OWNER_ID
from wavelift.simulators.aws.errors import AwsError

ENFORCED: Final = "BucketOwnerEnforced"
OWNERSHIPS: Final = (ENFORCED, "BucketOwnerPreferred", "ObjectWriter")
PERMISSIONS: Final = ("FULL_CONTROL", "WRITE", "WRITE_ACP", "READ", "READ_ACP")
GROUPS: Final = "http://acs.amazonaws.com/groups/"
EVERYBODY: Final = (f"{GROUPS}global/AllUsers", f"{GROUPS}global/AuthenticatedUsers")
KNOWN_GROUPS: Final = (*EVERYBODY, f"{GROUPS}s3/LogDelivery")
HEADERS: Final = {
    "x-amz-grant-full-control": "FULL_CONTROL",
    "x-amz-grant-read": "READ",
    "x-amz-grant-read-acp": "READ_ACP",
    "x-amz-grant-write": "WRITE",
    "x-amz-grant-write-acp": "WRITE_ACP",
}
GRANTEE: Final = re.compile(r"\s*(id|uri|emailAddress)\s*=\s*(?:\"([^\"]*)\"|([^\",\s]+))\s*", re.IGNORECASE)
CANNED: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "private": (),
    "public-read": ((EVERYBODY[0], "READ"),),
    "public-read-write": ((EVERYBODY[0], "READ"), (EVERYBODY[0], "WRITE")),
    "authenticated-read": ((EVERYBODY[1], "READ"),),
    "log-delivery-write": ((KNOWN_GROUPS[2], "WRITE"), (KNOWN_GROUPS[2], "READ_ACP")),
}
"""Of buckets: what is granted beside the owner's full control."""
OBJECT_CANNED: Final = frozenset(
    {
        *("private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read"),
        *("bucket-owner-read", "bucket-owner-full-control"),
    }
)
BLOCKS: Final = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
MAX_GRANTS: Final = 100


@dataclass(frozen=True, slots=True)
class Grant:
    """``grantee`` is a canonical id, or a group's address."""

    grantee: str
    permission: str

    @property
    def public(self) -> bool:
        return self.grantee in EVERYBODY


FULL: Final = Grant(OWNER_ID, "FULL_CONTROL")


@dataclass(slots=True)
class Access:
    """``ownership`` is empty, and ``blocks`` None, if somebody deleted them."""

    ownership: str = ENFORCED
    grants: tuple[Grant, ...] = (FULL,)
    blocks: dict[str, bool] | None = field(default_factory=lambda: dict.fromkeys(BLOCKS, True))

    @property
    def acls(self) -> bool:
        """Whether ACLs have an effect."""
        return self.ownership != ENFORCED

    def blocked(self, name: str) -> bool:
        return bool(self.blocks and self.blocks.get(name))

    def allows(self, grantee: str, permission: str) -> bool:
        """Whether the ACL gives another account a right on the bucket."""
        found = {one.permission for one in self.grants if one.grantee == grantee}
        return self.acls and bool(found & {permission, "FULL_CONTROL"})


def not_supported() -> AwsError:
    return AwsError("AccessControlListNotSupported", "The bucket does not allow ACLs", 400)


def not_with_enforced() -> AwsError:
    text = "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting"
    return AwsError("InvalidBucketAclWithObjectOwnership", text, 400)


def header_grants(headers: Mapping[str, str], known: Container[str]) -> tuple[Grant, ...] | None:
    """The bucket's ACL that a request's headers describe; None: they describe none. Raises AwsError."""
    canned = headers.get("x-amz-acl", "")
    given = {name: permission for name, permission in HEADERS.items() if name in headers}
    if canned and given:
        raise AwsError("InvalidRequest", "Specifying both Canned ACLs and Header Grants is not allowed", 400)
    if canned:
        if canned not in CANNED:
            raise AwsError("InvalidArgument", "", 400, {"ArgumentName": "x-amz-acl", "ArgumentValue": canned})
        return (FULL, *(Grant(grantee, permission) for grantee, permission in CANNED[canned]))
    if not given:
        return None
    found = [
        Grant(grantee, permission) for name, permission in given.items() for grantee in grantees(headers[name], known)
    ]
    return checked(found)


def grantees(text: str, known: Container[str]) -> list[str]:
    """The value of a header ``x-amz-grant-…``: ``id="…", uri="…"``. Raises AwsError."""
    found = []
    for part in text.split(","):
        match = GRANTEE.fullmatch(part)
        if match is None:
            raise AwsError("InvalidArgument", f"Argument format not recognized ({part.strip()})", 400)
        kind, quoted, plain = match.groups()
        found.append(grantee(kind.lower(), quoted if quoted is not None else plain, known))
    return found


def grantee(kind: str, value: str, known: Container[str]) -> str:
    """Raises AwsError for a grantee that S3 does not know. E-mail addresses are no grantees any more (October 2025)."""
    if kind == "id" and value in known:
        return value
    if kind == "uri" and value in KNOWN_GROUPS:
        return value
    argument = {"id": "CanonicalUser/ID", "uri": "Group/URI"}.get(kind, "AmazonCustomerByEmail")
    text = {"id": "Invalid id", "uri": "Invalid group uri"}.get(kind, "E-mail addresses are not supported")
    raise AwsError("InvalidArgument", text, 400, {"ArgumentName": argument, "ArgumentValue": value})


def checked(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """Raises AwsError for too many, and for what a bucket's ACL cannot say."""
    found = tuple(dict.fromkeys(grants))
    if len(found) > MAX_GRANTS or any(one.permission not in PERMISSIONS for one in found):
        text = "The XML you provided was not well-formed or did not validate against our published schema"
        raise AwsError("MalformedACLError", text, 400)
    return found


def new_access(headers: Mapping[str, str], known: Container[str]) -> Access:
    """The access of a bucket that CreateBucket's headers describe. Raises AwsError."""
    ownership = headers.get("x-amz-object-ownership", ENFORCED)
    if ownership not in OWNERSHIPS:
        raise AwsError("InvalidArgument", f"Invalid x-amz-object-ownership header: {ownership}", 400)
    access, grants = Access(ownership), header_grants(headers, known)
    if grants is None:
        return access
    if not access.acls:
        if {one.grantee for one in grants} != {OWNER_ID}:
            raise not_with_enforced()
        return access
    if any(one.public for one in grants):  # the block comes with the bucket
        text = "Bucket cannot have public ACLs set with BlockPublicAccess enabled"
        raise AwsError("InvalidBucketAclWithBlockPublicAccessError", text, 400)
    access.grants = grants
    return access


def set_acl(access: Access, grants: tuple[Grant, ...]) -> None:
    """PutBucketAcl. Raises AwsError."""
    if not access.acls:
        raise not_supported()
    if access.blocked("BlockPublicAcls") and any(one.public for one in grants):
        raise AwsError("AccessDenied", "Access Denied", 403)
    access.grants = grants


def set_ownership(access: Access, ownership: str) -> None:
    """PutBucketOwnershipControls. Raises AwsError while the ACL gives others anything."""
    if ownership == ENFORCED and any(one.grantee != OWNER_ID for one in access.grants):
        raise not_with_enforced()
    access.ownership = ownership


def check_object_acl(headers: Mapping[str, str], access: Access) -> None:
    """The ACL headers of a new object. Raises AwsError. Where ACLs are off, only one that says nothing new may."""
    canned, grants = headers.get("x-amz-acl", ""), any(name in headers for name in HEADERS)
    if canned and canned not in OBJECT_CANNED:
        raise AwsError("InvalidArgument", "", 400, {"ArgumentName": "x-amz-acl", "ArgumentValue": canned})
    if not access.acls and (grants or canned not in {"", "bucket-owner-full-control"}):
        raise not_supported()
    if access.blocked("BlockPublicAcls") and canned.startswith(("public", "authenticated")):
        raise AwsError("AccessDenied", "Access Denied", 403)
